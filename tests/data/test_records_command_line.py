"""Columns and mappers as a user gives them on the command line, by what the errors say."""

import json
import re

from command_line import invoke

MAPPER = """
from algorithms.common.data.records import Record


def to_record(row):
    return Record(row["query"], [row["reply"]])
"""
ROWS = [{"query": f"q{i}", "reply": "r"} for i in range(4)]


def inspect(tmp_path, *overrides, name="a.jsonl", content=None):
    path = tmp_path / name
    path.write_text(content or "".join(json.dumps(row) + "\n" for row in ROWS))
    return invoke("task=inspect", "data=file", f"data.path={path}", f"hydra.run.dir={tmp_path}/run",
                  f"stages.folder={tmp_path}/stages", *overrides)


def test_the_columns_that_an_error_asks_for_are_given_as_it_says(tmp_path):
    refused = inspect(tmp_path)
    fix = re.search(r"fix: set data.columns, for example '(data.columns=[^']+)'", refused.err)
    assert refused.status == 2 and fix, refused.err
    ended = inspect(tmp_path, fix[1].replace("question", "query").replace("answer", "reply"))
    assert ended.status == 0 and "kept 4 records: 4 demonstration" in ended.out, ended.err


def test_one_column_alone_says_how_it_is_added(tmp_path):
    refused = inspect(tmp_path, "data.columns.prompt=query")
    assert refused.status == 2
    assert refused.err.strip() == ("data.columns.prompt: found no such key; data.columns is null; "
                                   "fix: +data.columns.prompt=…")
    assert inspect(tmp_path, "+data.columns.prompt=query", "+data.columns.response=reply").status == 0


def test_a_mapper_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "rows_of_mine.py").write_text(MAPPER)
    mapper = "data.mapper={_target_: rows_of_mine.to_record, _partial_: true}"
    refused = inspect(tmp_path, mapper)
    assert refused.status == 2 and refused.err.strip().endswith(
        "data.mapper._target_: found 'rows_of_mine.to_record', which cannot be imported (No module named "
        "'rows_of_mine'); expected a function or a class, as MODULE.NAME; fix: correct the name, or put the module "
        "beside run.py or into a "
        "folder on PYTHONPATH")
    monkeypatch.syspath_prepend(tmp_path)
    ended = inspect(tmp_path, mapper)
    assert ended.status == 0 and "kept 4 records" in ended.out, ended.err
    refused = inspect(tmp_path, "data.mapper={_target_: rows_of_mine.to_record}")
    assert refused.status == 2 and refused.err.strip() == (
        "data.mapper._target_: found 'rows_of_mine.to_record', a function; expected a class; "
        "fix: +data.mapper._partial_=true, where a function is wanted")
    ended = inspect(tmp_path, "data.mapper={_target_: rows_of_mine.to_record}", "+data.mapper._partial_=true")
    assert ended.status == 0
    refused = inspect(tmp_path, "data.mapper={_target_: rows_of_mine, _partial_: true}")
    assert refused.status == 2 and refused.err.strip() == (
        "data.mapper._target_: found 'rows_of_mine', a module; expected a function or a class")


def test_the_delimiter_that_an_error_asks_for_is_given_as_it_says(tmp_path):
    file = {"name": "a.csv", "content": "query;reply\nq, 1;r\nq, 2;r\n"}
    columns = "data.columns={prompt: query, response: reply}"
    refused = inspect(tmp_path, columns, **file)
    fix = re.search(r"""fix: set '(data.delimiter=";")'; 'data.delimiter=","' if it is one column""", refused.err)
    assert refused.status == 2 and fix, refused.err
    ended = inspect(tmp_path, columns, fix[1], **file)
    assert ended.status == 0 and "kept 2 records: 2 demonstration" in ended.out, ended.err


def test_the_list_that_an_error_names_is_read(tmp_path):
    file = {"name": "a.json", "content": json.dumps({"note": ["x"], "my rows": ROWS}, indent=2)}
    columns = "data.columns={prompt: query, response: reply}"
    refused = inspect(tmp_path, columns, **file)
    fix = re.search(r"fix: name the list of rows: '(data.rows=my rows)'", refused.err)
    assert refused.status == 2 and fix, refused.err
    ended = inspect(tmp_path, columns, fix[1], **file)
    assert ended.status == 0 and "kept 4 records" in ended.out, ended.err
    refused = inspect(tmp_path, fix[1])
    assert refused.status == 2
    assert refused.err.strip().endswith("which is read as jsonl; expected a file of the format json; fix: leave it "
                                        "null")


def test_what_a_mapper_of_ones_own_raises_is_no_traceback(tmp_path, monkeypatch):
    (tmp_path / "rows_that_fail.py").write_text("def to_record(row):\n    return 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    refused = inspect(tmp_path, "data.mapper={_target_: rows_that_fail.to_record, _partial_: true}")
    assert refused.status == 2 and "Traceback" not in refused.err
    assert ("a.jsonl:1: row: found ZeroDivisionError: division by zero (rows_that_fail.py, line 2); expected "
            in refused.err)
