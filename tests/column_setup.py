"""What the tests of columns share: turns, files of rows, the form of a message."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq

from algorithms.common.data.records import FileData, Record

FORM = re.compile(r"(?P<path>[^\n]+?):(?P<line>\d+): (?P<field>[^:\n]+): found [^\n]+; expected [^\n]+; fix: [^\n]+")


def write(tmp_path, rows, name="a.jsonl"):
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(rows)
    return str(path)


def only(tmp_path, row, **options):
    """The one record of one row, without meta."""
    records, report = FileData(path=write(tmp_path, [row]), **options).records()
    assert (report.read, report.kept, len(records)) == (1, 1, 1)
    return Record(records[0].prompt, records[0].responses, records[0].scores)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


CHAT_PAIR = Record([user("p")], ["c", "r"], [1.0, 0.0])
