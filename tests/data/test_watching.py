"""Reading says how far it has come: over all files, by their bytes, whatever their format; never backwards."""

import gzip
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from algorithms.common.data.records import FileData, readers
from algorithms.common.support import phases

ROWS = [{"prompt": f"question number {i}?", "chosen": "good", "rejected": "bad"} for i in range(1000)]


@pytest.fixture
def talkative(monkeypatch):
    monkeypatch.setattr(phases, "EVERY", 0.0)
    monkeypatch.setattr(readers, "WATCHED", 100)
    monkeypatch.setattr("algorithms.common.data.records.watching.MEGABYTE", 1024)


def said(caplog):
    found = re.findall(r"reading: ([\d.,]+) of ([\d.,]+) MB", caplog.text)
    return [float(done.replace(",", "")) / float(total.replace(",", "")) for done, total in found]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


WAYS = {"a.jsonl": lambda path: path.write_text(jsonl(ROWS)), "a.json": lambda path: path.write_text(json.dumps(ROWS)),
        "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(jsonl(ROWS).encode())),
        "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path)}


@pytest.mark.parametrize("name", WAYS)
def test_the_share_that_is_read_is_said_now_and_then(tmp_path, caplog, talkative, name):
    WAYS[name](tmp_path / name)
    with caplog.at_level("INFO"):
        FileData(path=str(tmp_path / name)).records()
    shares = said(caplog)
    if name.endswith("gz"):
        assert not shares, "a small packed file is read at once"
    else:
        assert len(shares) in (9, 10) and shares == sorted(shares) and shares[2] < 0.9 and shares[-1] > 0.85


def test_several_files_are_one_phase_and_groups_read_twice_do_not_go_back(tmp_path, caplog, talkative):
    for index in range(4):
        (tmp_path / f"{index}.jsonl").write_text(jsonl(ROWS[250 * index:250 * (index + 1)]))
    with caplog.at_level("INFO"):
        FileData(path=str(tmp_path)).records()
    shares = said(caplog)
    assert len(shares) == 8 and shares == sorted(shares) and shares[1] < 0.3 < 0.7 < shares[-1]
    caplog.clear()
    rows = [{"prompt": f"p{i // 2}", "response": f"r{i}", "score": i} for i in range(1000)]
    (tmp_path / "g.jsonl").write_text(jsonl(rows))
    with caplog.at_level("INFO"):
        FileData(path=str(tmp_path / "g.jsonl"), group="prompt").records()
    assert len(said(caplog)) == 9 and said(caplog) == sorted(said(caplog))


def test_nothing_is_said_of_what_is_quick(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_text(jsonl(ROWS))
    with caplog.at_level("INFO"):
        FileData(path=str(tmp_path / "a.jsonl")).records()
    assert not said(caplog)
