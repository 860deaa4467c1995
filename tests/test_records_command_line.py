"""Columns and mappers as a user gives them on the command line, by what the errors say."""

import json
import re

from command_line import invoke



MAPPER = """
from algorithms.common.records import Record


def to_record(row):
    return Record(row["query"], [row["reply"]])
"""
ROWS = [{"query": f"q{i}", "reply": "r"} for i in range(4)]


def inspect(tmp_path, *overrides):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return invoke("task=inspect", "data=file", f"data.path={path}", f"hydra.run.dir={tmp_path}/run",
                  f"stages.folder={tmp_path}/stages", *overrides)


def test_the_columns_that_an_error_asks_for_are_given_as_it_says(tmp_path):
    refused = inspect(tmp_path)
    fix = re.search(r"fix: set data.columns, for example '(data.columns=[^']+)'", refused.err)
    assert refused.status == 2 and fix, refused.err
    ended = inspect(tmp_path, fix[1].replace("question", "query").replace("answer", "reply"))
    assert ended.status == 0 and "kept 4 records: {'demonstration': 4}" in ended.out, ended.err


def test_one_column_alone_says_how_it_is_added(tmp_path):
    refused = inspect(tmp_path, "data.columns.prompt=query")
    assert refused.status == 2
    assert refused.err.strip() == "data.columns.prompt: found no such key; data.columns is null; fix: +data.columns.prompt=…"
    assert inspect(tmp_path, "+data.columns.prompt=query", "+data.columns.response=reply").status == 0


def test_a_mapper_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "rows_of_mine.py").write_text(MAPPER)
    mapper = "data.mapper={_target_: rows_of_mine.to_record, _partial_: true}"
    refused = inspect(tmp_path, mapper)
    assert refused.status == 2 and refused.err.strip().endswith(
        "data.mapper._target_: found 'rows_of_mine.to_record', which cannot be imported (No module named 'rows_of_mine'); "
        "expected a function or a class, as MODULE.NAME; fix: correct the name, or put the module beside run.py or into a "
        "folder on PYTHONPATH")
    monkeypatch.syspath_prepend(tmp_path)
    ended = inspect(tmp_path, mapper)
    assert ended.status == 0 and "kept 4 records" in ended.out, ended.err
    refused = inspect(tmp_path, "data.mapper={_target_: rows_of_mine.to_record}")
    assert refused.status == 2 and refused.err.strip() == (
        "data.mapper._target_: found 'rows_of_mine.to_record', a function; expected a class; "
        "fix: +data.mapper._partial_=true, where a function is wanted")
    assert inspect(tmp_path, "data.mapper={_target_: rows_of_mine.to_record}", "+data.mapper._partial_=true").status == 0
    refused = inspect(tmp_path, "data.mapper={_target_: rows_of_mine, _partial_: true}")
    assert refused.status == 2 and refused.err.strip() == (
        "data.mapper._target_: found 'rows_of_mine', a module; expected a function or a class")
