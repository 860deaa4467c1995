"""Every row that cannot be used is told: by reason in the message, itself in bad_rows.jsonl, with its whole group."""

import json
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from algorithms.common.data.records import BadRow, FileData, Record
from algorithms.common.data.records import groups as gathering
from algorithms.common.data.records.groups import Groups
from algorithms.common.data.records.lines import Row
from algorithms.common.data.records.loading import Loader
from algorithms.common.data.records.mixture import Mixture
from algorithms.common.data.records.refused import LONGEST, RefusedRows
from algorithms.common.support.errors import ConfigError, DataError
from algorithms.common.support.secrets import MASK
from command_line import invoke


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair(number, **changed):
    return {"prompt": f"p{number}", "chosen": "c", "rejected": "r", **changed}


def told(rows):
    return [(os.path.basename(row["path"]), row["line"], row["reason"], row["field"]) for row in rows]


# The rows of a group


def rated(group, number, **changed):
    return {"idx": group, "prompt": f"p{group}", "response": f"{group}.{number}", "score": number, **changed}


def ranking(rows):
    return Record(rows[0]["prompt"], [row["response"] for row in rows], [float(row["score"]) for row in rows])


BY_RUN = [rated(group, number) for number in range(3) for group in "abcd"]      # as three sampling runs write them
SETS = [(f"p{group}", [f"{group}.{number}" for number in range(3)], [0.0, 1.0, 2.0]) for group in "abcd"]


@pytest.mark.parametrize("options", [{}, {"mapper": ranking}], ids=["by columns", "by a mapper"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.csv"])
def test_rows_of_a_group_are_one_record_wherever_they_stand(tmp_path, options, name):
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.Table.from_pylist(BY_RUN), path)
    elif name == "a.csv":
        lines = [BY_RUN[0], *(row.values() for row in BY_RUN)]
        path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines) + "\n")
    else:
        path.write_text(json.dumps(BY_RUN) if name == "a.json" else "".join(json.dumps(row) + "\n" for row in BY_RUN))
    records, report = FileData(path=str(path), group="idx", **options).records()
    assert [(one.prompt, one.responses, one.scores) for one in records] == SETS
    assert [one.meta["line"] for one in records] == ([2, 3, 4, 5] if name == "a.csv" else [1, 2, 3, 4])
    assert (report.read, report.kept, report.dropped, report.ignored_columns) == (12, 4, {}, {})
    assert report.blank_lines == (name == "a.csv"), "though the file is read twice"


@pytest.mark.parametrize("options", [{}, {"mapper": ranking}], ids=["by columns", "by a mapper"])
def test_a_group_in_several_files_is_refused_and_the_fix_works(tmp_path, options):
    """As three sampling runs with a file of each would write them: no part of a group is kept as if whole."""
    files = [write(tmp_path / f"{number}.jsonl", BY_RUN[4 * number:][:4]) for number in range(3)]
    with pytest.raises(DataError, match=r"1\.jsonl:1: idx: found 'a', a group .*; fix: write the rows .* into one"):
        FileData(path=files, group="idx", on_bad_row="drop", **options).records()
    whole = tmp_path / "whole.jsonl"
    whole.write_text("".join(open(path).read() for path in files))
    other = write(tmp_path / "other.jsonl", [rated("e", number) for number in range(3)])
    records, _ = FileData(path=[str(whole), other], group="idx", **options).records()
    assert [(one.prompt, one.responses, one.scores) for one in records] == [
        *SETS, ("pe", ["e.0", "e.1", "e.2"], [0.0, 1.0, 2.0])]


def test_a_group_column_that_no_row_has_is_told_as_that(tmp_path):
    with pytest.raises(DataError, match="idy: found no such column .*; fix: name a column of the rows in data.group"):
        FileData(path=write(tmp_path / "a.jsonl", BY_RUN), group="idy").records()


def test_groups_are_read_in_parts_where_they_do_not_fit(monkeypatch):
    """Of 40 groups at most some five are held at once; each reading gives those that it could complete."""
    rows = [Row(line, {"g": line % 40, "text": "x" * 100}) for line in range(400)]
    monkeypatch.setattr(gathering, "HELD", 50 * gathering.extent(rows[0].value))
    groups, readings, met = Groups(), [], []
    for row in rows:
        groups.add(None if row.value["g"] == 39 else row.value["g"])

    def read():
        readings.append(None)
        return iter(rows)

    found = list(groups.gather(read, lambda row, grouped: met.append((row.line, grouped))))
    assert [[row.line for row in group] for group in found] == [list(range(first, 400, 40)) for first in range(39)]
    assert met == [(line, line % 40 != 39) for line in range(400)], "each row once"
    assert 4 < len(readings) <= 39


class Shrinking:
    """A source that has fewer rows when it is read again."""

    path, named, blank_lines = "a.jsonl", "a.jsonl", 0

    def __init__(self):
        self.counts = [12, 5]

    def __iter__(self):
        yield from (Row(line, row) for line, row in enumerate(BY_RUN[:self.counts.pop(0)], 1))


def test_a_file_that_changes_between_its_readings_is_refused():
    with pytest.raises(DataError, match="a.jsonl:1: file: found other rows at the second reading; expected a file"):
        list(Loader({}, ranking, True, None, group="idx").records([Shrinking()]))


def judged(row):
    if row["score"] == "?":
        raise BadRow("no judgement", "score", "?", "a number")
    return row["score"] != 9


@pytest.mark.parametrize("options, bad, reason", [
    ({}, {"score": "high"}, "wrong type"), ({"mapper": ranking}, {"score": "high"}, "mapper error"),
    ({"filter": judged}, {"score": "?"}, "no judgement"),
    ({"mapper": ranking, "filter": judged}, {"score": "?"}, "no judgement"),
    ({}, {"prompt": "another"}, "prompt not shared"), ({}, {"response": " "}, "empty response")])
def test_a_row_that_cannot_be_used_takes_its_group_along(tmp_path, options, bad, reason):
    rows = [row | bad if row["response"] == "b.1" else row for row in BY_RUN]
    path = write(tmp_path / "a.jsonl", rows)
    records, report = FileData(path=path, group="idx", on_bad_row="drop", **options).records()
    assert [one.prompt for one in records] == ["pa", "pc", "pd"] and all(len(one.responses) == 3 for one in records)
    line = 6    # of a mapper's error too: without this row it can use the others
    assert report.dropped == {reason: 3} and report.lines == {reason: [f"{path}:{one}" for one in (2, 6, 10)]}
    found, rows = report.first[reason]["found"], list(report.refused)
    assert [row["line"] for row in rows] == [2, 6, 10] and {row["reason"] for row in rows} == {reason}
    beside = f"line {line} of the same group: {found}"
    assert [row["found"] for row in rows] == [found if row["line"] == line else beside for row in rows]
    with pytest.raises(DataError, match=f"a.jsonl:{line}: .* found .*\n3 of 12 rows cannot be used, each with its "
                                        f"whole group:\n  {reason}: 3 .lines 2, 6, 10.\n"):
        FileData(path=path, group="idx", **options).records()


def of_four(rows):
    """A mapper that needs the whole group, so that leaving one row out does not tell which is at fault."""
    if len(rows) != 3:
        raise ValueError("three rows are needed")
    return ranking(rows)


def test_a_mapper_that_needs_the_whole_group_has_it_blamed_as_a_whole(tmp_path):
    rows = [row | {"score": "high"} if row["response"] == "b.1" else row for row in BY_RUN]
    with pytest.raises(DataError) as error:
        FileData(path=write(tmp_path / "a.jsonl", rows), group="idx", mapper=of_four).records()
    first, count, listed = str(error.value).splitlines()[:3]
    assert "a.jsonl:2: row: found ValueError" in first and "(in the group of lines 2, 6, 10); expected" in first
    assert count == "3 of 12 rows cannot be used, each with its whole group:" and listed.endswith("3 (lines 2, 6, 10)")


def backwards(rows):
    """Its responses in another order than the rows, one of them changed."""
    made = ranking(rows)
    if len(rows) < 3:
        return made
    return Record(made.prompt, [made.responses[2].strip(), *made.responses[1::-1]], made.scores[::-1])


@pytest.mark.parametrize("options, lines", [({}, [1, 5, 9]), ({"mapper": backwards}, [9, 5, 1])])
def test_a_response_of_a_group_knows_its_own_line(tmp_path, options, lines):
    rows = [row | {"response": row["response"] + " " * row["score"]} for row in BY_RUN]
    records, _ = FileData(path=write(tmp_path / "a.jsonl", rows), group="idx", **options).records()
    assert records[0].meta["lines"] == [1, 5, 9] and records[0].meta["response_lines"] == lines
    moved = FileData(path=write(tmp_path / "b.jsonl", rows[::-1]), group="idx", **options).records()[0]
    assert moved[0].meta != records[3].meta and moved.meta_fingerprint == records.meta_fingerprint, "no content"


def test_rows_of_no_group_and_filtered_rows_leave_the_groups_whole(tmp_path):
    rows = [*BY_RUN[:5], rated(None, 0), rated(1.5, 0), [], *BY_RUN[5:], rated("a", 9), rated("z", 9), rated(1, 0),
            rated(1.0, 2, prompt="p1"), rated("1", 1)]
    path = write(tmp_path / "a.jsonl", rows)
    records, report = FileData(path=path, group="idx", on_bad_row="drop", filter=judged).records()
    assert [(one.prompt, one.responses, one.scores) for one in list(records)[:4]] == SETS
    assert [one.responses for one in list(records)[4:]] == [["1.0", "1.0.2"], ["1.1"]], (
        "1 and '1' are two groups, 1 and 1.0 one")
    assert report.dropped == {"null": 1, "wrong type": 1, "filter error": 1} and report.filtered == {"judged": 2}
    assert report.read == len(rows) == sum(len(one.responses) for one in records) + 3 + 2


def test_a_group_by_the_prompt_itself_and_by_a_nested_name(tmp_path):
    nested = [{"prompt": row["prompt"], "response": row["response"], "score": row["score"], "meta": {"id": row["idx"]}}
              for row in BY_RUN]
    path = write(tmp_path / "a.jsonl", nested)
    for group in ("prompt", "meta.id"):
        records, report = FileData(path=path, group=group).records()
        assert [(one.prompt, one.responses, one.scores) for one in records] == SETS


def test_what_columns_cannot_group_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", [pair(0, g=1), pair(0, g=1)])
    with pytest.raises(DataError, match="found 2 responses in a row of a group; expected one in each; fix: leave"):
        FileData(path=path, group="g").records()
    two = [rated("a", 1), rated("a", 1, response="other")]
    (tied,), _ = FileData(path=write(tmp_path / "b.jsonl", two), group="idx").records()
    assert tied.scores == [1.0, 1.0], "what was judged the same is no error"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_cannot_be_grouped(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="found a pipe; expected a file, which data.group reads twice"):
        FileData(path=str(tmp_path / "a.jsonl"), group="g", mapper=ranking).records()


def test_a_limit_of_grouped_records(tmp_path):
    records, report = FileData(path=write(tmp_path / "a.jsonl", BY_RUN), group="idx", limit=2).records()
    assert [one.prompt for one in records] == ["pa", "pb"] and report.kept == 2


# Optional columns


SYSTEM = [{"role": "system", "content": "be brief"}]


@pytest.mark.parametrize("place", [0, 1, 99, 100, 150, 299])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_system_key_is_read_wherever_it_first_appears(tmp_path, place, name):
    """Rows without it are as those with null, whatever their order."""
    rows = [pair(number) for number in range(300)]
    rows[place]["system"] = "be brief"
    path = tmp_path / name
    path.write_text(json.dumps(rows) if name == "a.json" else "".join(json.dumps(row) + "\n" for row in rows))
    records, report = FileData(path=str(path)).records()
    expected = [[{"role": "user", "content": f"p{number}"}] for number in range(300)]
    expected[place] = SYSTEM + expected[place]
    assert [one.prompt for one in records] == expected and report.kinds == {"pair": 300}


def test_a_key_inside_a_row_or_a_text_is_no_column(tmp_path):
    rows = [pair(number, meta={"system": "s"}, chosen='say {"system": 1}') for number in range(150)]
    records, _ = FileData(path=write(tmp_path / "a.jsonl", rows)).records()
    assert records[149].prompt == "p149", "plain text, as in a file without that key"


@pytest.mark.parametrize("absent", [{}, {"input": None}, {"input": ""}])
def test_an_absent_input_is_an_empty_one(tmp_path, absent):
    rows = [*[{"instruction": "Add.", "output": "3", **absent}] * 120,
            {"instruction": "Add.", "input": "1 and 2", "output": "3"}]
    columns = {"prompt": ["instruction", "input"], "response": "output"}
    records, _ = FileData(path=write(tmp_path / "a.jsonl", rows), columns=columns).records()
    assert [records[0].prompt, records[120].prompt] == ["Add.", "Add.\n1 and 2"]
    with pytest.raises(DataError, match="fix: say where input belongs: 'data.columns="):
        FileData(path=write(tmp_path / "b.jsonl", rows)).records()


def test_a_column_of_ones_own_may_first_appear_late_but_must_be_there(tmp_path):
    rows = [{"q": "p", "a": "c"} for _ in range(120)] + [{"q": "p", "a": "c", "größe": "be brief"}]
    path, columns = write(tmp_path / "a.jsonl", rows), {"prompt": "q", "response": "a", "system": "größe"}
    assert FileData(path=path, columns=columns).records()[0][120].prompt[0] == SYSTEM[0]
    with pytest.raises(DataError, match="expected the columns of data.columns: 'grösse'"):
        FileData(path=path, columns={**columns, "system": "grösse"}).records()


@pytest.mark.parametrize("options", [{}, {"columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}},
                                     {"group": "idx"}], ids=str)
def test_a_late_column_that_nothing_reads_is_told(tmp_path, options):
    rows = [rated(number, 0) if "group" in options else pair(number) for number in range(130)]
    rows[120] |= {"margin": 2.0, "note": None}
    rows[125] |= {"note": "late", "margin": 1.0}
    path = write(tmp_path / "a.jsonl", rows)
    records, report = FileData(path=path, **options).records()
    assert len(records) == 130 and report.ignored_columns == {path: ["margin", "note"]}


def test_a_late_key_without_a_value_says_nothing(tmp_path):
    path = write(tmp_path / "a.jsonl", [pair(0)] * 100 + [pair(1, messages=None), pair(2, messages=[])])
    assert FileData(path=path, on_bad_row="drop").records()[1].dropped == {"unexpected column": 1}


# bad_rows.jsonl


BAD = [pair(0), pair(1, chosen=""), pair(2, rejected=None), pair(3, chosen=""), pair(4, chosen=7), pair(5)]
BAD_TOLD = [("a.jsonl", 2, "empty response", "chosen"), ("a.jsonl", 3, "null", "rejected"),
            ("a.jsonl", 4, "empty response", "chosen"), ("a.jsonl", 5, "wrong type", "chosen")]


def command(tmp_path, *overrides):
    ended = invoke("task=inspect", "data=file", f"hydra.run.dir={tmp_path}/run", f"stages.folder={tmp_path}/stages",
                   *overrides)
    path = tmp_path / "run/bad_rows.jsonl"
    return ended, [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else None


def test_all_bad_rows_are_in_the_runs_folder_in_both_modes(tmp_path):
    path = write(tmp_path / "a.jsonl", BAD)
    ended, rows = command(tmp_path, f"data.path={path}")
    assert ended.status == 2 and told(rows) == BAD_TOLD
    assert ended.err.rstrip().endswith("data.on_bad_row=drop would leave 2 records; the tokenizer and chat template "
                                       "of a run may refuse more\n"
                                       f"all of them: {tmp_path}/run/bad_rows.jsonl")
    assert rows[1] == {"path": path, "line": 3, "reason": "null", "field": "rejected", "found": "null",
                       "expected": "text", "fix": "correct the row"}
    for message in ("a.jsonl:2: chosen: found an empty response", "a.jsonl:3: rejected: found null",
                    "a.jsonl:5: chosen: found a number"):
        assert message in ended.err, "the first row of each reason"
    ended, rows = command(tmp_path, f"data.path={path}", "data.on_bad_row=drop")
    assert ended.status == 0 and told(rows) == BAD_TOLD
    assert f"all rows that cannot be used: {tmp_path}/run/bad_rows.jsonl" in ended.out
    assert "a.jsonl:5: chosen: found a number" in ended.out
    report = json.loads((tmp_path / "run/data.json").read_text())
    assert report["first"]["null"] == rows[1] and "refused" not in report
    ended, rows = command(tmp_path, f"data.path={write(tmp_path / 'b.jsonl', [pair(0), pair(1)])}")
    assert ended.status == 0 and rows is None, "those of the run before are gone"


def test_a_run_writes_them_too(tmp_path):
    path = write(tmp_path / "a.jsonl", BAD)
    ended = invoke("algorithm=sft", "data=file", f"data.path={path}", f"hydra.run.dir={tmp_path}/run",
                   f"stages.folder={tmp_path}/stages")
    assert ended.status == 2
    assert told(map(json.loads, (tmp_path / "run/bad_rows.jsonl").read_text().splitlines())) == BAD_TOLD


def test_what_is_told_is_short_without_secrets_and_cannot_forge_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("A_TOKEN", "s3cret-value")
    module = tmp_path / "told_rows.py"
    module.write_text("from algorithms.common.data.records import BadRow\n\n\ndef to_record(row, token):\n"
                      "    raise BadRow('bad', row['field'], row['found'], 'x', 'look')\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = ("s3cret-value", "\x1b[31m\u2028é\n{}", "x" * 5000)
    path = write(tmp_path / "a.jsonl", [{"field": "a\nb", "found": text} for text in found])
    mapper = "data.mapper={_target_: told_rows.to_record, _partial_: true, token: '${oc.env:A_TOKEN}'}"
    ended, rows = command(tmp_path, f"data.path={path}", mapper)
    text = (tmp_path / "run/bad_rows.jsonl").read_bytes()
    assert ended.status == 2 and text.count(b"\n") == len(rows) == 3 and text.isascii() and b"\x1b" not in text
    assert [row["found"] for row in rows] == [MASK, "\x1b[31m é {}", "x" * (LONGEST - 1) + "…"]
    assert {row["field"] for row in rows} == {"a b"}


def test_sources_of_a_mixture_tell_theirs(tmp_path):
    good = write(tmp_path / "good.jsonl", [pair(number) for number in range(20)])
    bad = write(tmp_path / "bad.jsonl", [*BAD, pair(9)])
    paths = {"good": good, "bad": bad, "again": bad}
    dropping = {name: {"data": FileData(path=path, on_bad_row="drop")} for name, path in paths.items()}
    report = Mixture(dropping).load(0).report
    assert [row["line"] for row in report.refused] == [2, 3, 4, 5] * 2 and report.first["null"]["line"] == 3
    assert report.dropped == {"empty response": 4, "null": 2, "wrong type": 2}
    with pytest.raises(DataError, match="in the source bad") as error:
        Mixture({"good": {"data": FileData(path=good)}, "bad": {"data": FileData(path=bad)}}).load(0)
    assert [row["line"] for row in error.value.refused] == [2, 3, 4, 5]


def test_a_million_take_no_memory():
    """Nothing of a row stays: the sizes of what is held do not grow with their number."""
    rows = RefusedRows()
    row = {"path": "p", "line": 1, "found": "x" * 100}
    for _ in range(10):
        rows.append(row)
    before = sum(map(sys.getsizeof, vars(rows).values()))
    for _ in range(5000):
        rows.append(row)
    assert sum(map(sys.getsizeof, vars(rows).values())) == before and len(rows) == 5010
    assert next(iter(rows)) == row
    rows.append({"line": 2})
    assert sum(1 for _ in rows) == 5011 and list(rows + RefusedRows())[-1] == {"line": 2}


def test_many_reasons_are_described_up_to_a_limit(tmp_path):
    def mapper(row):
        raise BadRow(f"reason {row['n']}", "n", "this", "that")

    path = write(tmp_path / "a.jsonl", [{"n": n} for n in range(30)])
    with pytest.raises(DataError) as error:
        FileData(path=path, mapper=mapper).records()
    assert str(error.value).count("found this") == 20 and len(error.value.refused) == 30


def test_a_row_is_dropped_after_reading_through_the_report(tmp_path):
    """What meets a record later, as a tokenizer does, tells of its row as the readers do."""
    records, report = FileData(path=write(tmp_path / "a.jsonl", [pair(0), pair(1)])).records()
    meta = records[1].meta
    report.refuse(meta["source"], meta["line"], BadRow("refused by the template", "prompt", "a system turn", "none"))
    assert report.dropped == {"refused by the template": 1} and told(report.refused) == [
        ("a.jsonl", 2, "refused by the template", "prompt")]
    assert report.messages()["refused by the template"].endswith(
        "a.jsonl:2: prompt: found a system turn; expected none; fix: correct the row")


def test_a_mixture_of_errors_keeps_its_kind(tmp_path):
    with pytest.raises(ConfigError, match="in the source a"):
        Mixture({"a": {"data": FileData(path=write(tmp_path / "a.jsonl", [pair(0)]), heldout=2.0)}}).load(0)
