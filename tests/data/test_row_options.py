"""What a file's rows go through besides columns: templates, filters, groups; which part of a hub dataset is read."""

import json
from functools import partial

import pytest

from algorithms.common.data.records import FileData, Record
from algorithms.common.data.records.filters import at_least, differ, equals
from algorithms.common.data.records.values import BadRow
from algorithms.common.support.errors import DataError


def write(tmp_path, rows, name="a.jsonl"):
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / name)


def plain(records):
    return [(record.prompt, record.responses, record.scores) for record in records]


# ---- template

FORM = "Question: {question}\n\nAnswer:"


@pytest.mark.parametrize("row, template, columns, record", [
    ({"question": "why {a}?", "yes": "c", "no": "r"}, FORM, {"chosen": "yes", "rejected": "no"},
     ("Question: why {a}?\n\nAnswer:", ["c", "r"], [1.0, 0.0])),
    ({"question": "q", "context": "", "yes": "c"}, "{{{context}}} {question}{question}", {"response": "yes"},
     ("{} qq", ["c"], None)),
    ({"question": "q", "good": [{"role": "assistant", "content": "c"}], "bad": "r", "s": [5, 4]}, "{question}",
     {"chosen": "good", "rejected": "bad", "scores": "s"},
     ([{"role": "user", "content": "q"}], ["c", "r"], [5.0, 4.0])),
    ({"q": {"text": "a"}, "yes": " c"}, "\n\nHuman: {q.text}\n\nAssistant:", {"response": "yes"},
     ([{"role": "user", "content": "a"}], ["c"], None)),
    ({"my question.x": "q", "yes": "c", "sys": "s"}, "> {my question.x}", {"response": "yes", "system": "sys"},
     ([{"role": "system", "content": "s"}, {"role": "user", "content": "> q"}], ["c"], None)),
])
def test_a_template_writes_the_prompt(tmp_path, row, template, columns, record):
    records, report = FileData(path=write(tmp_path, [row]), template=template, columns=columns).records()
    assert plain(records) == [record] and report.ignored_columns == {}


def test_columns_of_a_template_that_are_not_there(tmp_path):
    path = write(tmp_path, [{"ask": "q", "yes": "c"}])
    with pytest.raises(DataError,
                       match=r"a.jsonl:1: row: found the columns 'ask', 'yes'; expected the columns of data.columns "
                                        "and data.template: 'question'; fix: correct data.columns and data.template"):
        FileData(path=path, template=FORM, columns={"response": "yes"}).records()
    path = write(tmp_path, [{"question": "q", "yes": "c"}, {"yes": "c"}, {"question": None, "yes": "c"},
                            {"question": 3, "yes": "c"}])
    data = FileData(path=path, template=FORM, columns={"response": "yes"}, on_bad_row="drop")
    assert data.records()[1].dropped == {"missing column": 1, "null": 1, "wrong type": 1}
    with pytest.raises(DataError, match="one of the layouts"):
        FileData(path=path, template=FORM, columns={"messages": "yes"}).records()


# ---- filter


def test_what_a_filter_refuses_is_counted_and_nothing_else(tmp_path, caplog):
    rows = [{"prompt": f"p{i}", "completion": "c", "n": i} for i in range(6)]
    path = write(tmp_path,
                 [*rows, {"prompt": "", "completion": "c", "n": 9}, {"prompt": "", "completion": "c", "n": 0}])
    data = FileData(path=path, filter=partial(at_least, column="n", value=4), on_bad_row="drop")
    with caplog.at_level("INFO"):
        report = data.load(0).report
    assert (report.read, report.kept) == (8, 2)
    assert report.dropped == {"empty prompt": 1}, "a bad row that is refused is not bad"
    assert report.filtered == {"at_least(column='n', value=4)": 5} == report.to_dict()["filtered"]
    assert "filtered 5 rows: at_least(column='n', value=4)" in caplog.text
    records, _ = data.records()
    assert [(record.prompt, record.meta["line"]) for record in records] == [("p4", 5), ("p5", 6)]


def test_a_filter_works_with_a_mapper_and_counts_towards_no_limit(tmp_path):
    path = write(tmp_path, [{"n": i} for i in range(9)])
    records, report = FileData(path=path, mapper=lambda row: Record(f"p{row['n']}", ["x"]), limit=2,
                               filter=lambda row: row["n"] % 2 == 1).records()
    assert [record.prompt for record in records] == ["p1", "p3"] and report.filtered == {"<lambda>": 2}


def refuse(row):
    raise BadRow("odd", "n", "1", "2")


@pytest.mark.parametrize("test, reason, field", [
    (lambda row: row["missing"], "filter error", "row"), (lambda row: 1, "filter error", "row"), (refuse, "odd", "n"),
    (partial(at_least, column="missing", value=1), "missing column", "missing"),
    (partial(at_least, column="text", value=1), "wrong type", "text"),
    (partial(equals, column="missing", value=1), "missing column", "missing"),
    (partial(differ, columns=["n", "null"]), "null", "null"),
])
def test_rows_a_filter_cannot_judge(tmp_path, test, reason, field):
    path = write(tmp_path, [{"prompt": "p", "text": "x", "n": 1, "null": None}])
    with pytest.raises(DataError) as error:
        FileData(path=path, filter=test, mapper=lambda row: Record("p", ["x"])).records()
    assert str(error.value).startswith(f"{path}:1: {field}: found ") and f"  {reason}: 1 (lines 1)" in str(error.value)


def test_a_filter_that_lets_nothing_through_is_an_error(tmp_path):
    path = write(tmp_path, [{"prompt": "p"}])
    with pytest.raises(DataError,
                       match="no row that makes a record; expected at least one; fix: check data.mapper and "
                             "data.filter"):
        FileData(path=path, filter=lambda row: False).records()


@pytest.mark.parametrize("test, rows, passes", [
    (partial(at_least, column="n", value=2), [{"n": 1.9}, {"n": 2}, {"n": "2.5"}], [False, True, True]),
    (partial(equals, column="n", value=1),
     [{"n": 1}, {"n": 2}, {"n": "1"}, {"n": "1.0"}, {"n": "2"}, {"n": "one"}, {"n": None}],
     [True, False, True, True, False, False, False]),
    (partial(equals, column="n", value="1"), [{"n": "1"}, {"n": "1.0"}, {"n": 1}], [True, False, False]),
    (partial(equals, column="n", value=True), [{"n": True}, {"n": "1"}], [True, False]),
    (partial(differ, columns=["a", "b"]), [{"a": 0, "b": 0.0}, {"a": 1, "b": 2}, {"a": "1", "b": 1}],
     [False, True, False]),
])
def test_filters(test, rows, passes):
    assert [test(row) for row in rows] == passes


# ---- group


def joined(rows):
    return Record(rows[0]["g"], [row["text"] for row in rows])


def test_a_mapper_takes_a_groups_rows(tmp_path):
    texts = [("a", "1"), ("a", "2"), ("b", "3"), ("c", "4"), ("c", "5"), ("c", "6")]
    path = write(tmp_path, [{"g": group, "text": text} for group, text in texts])
    records, report = FileData(path=path, mapper=joined, group="g").records()
    assert plain(records) == [("a", ["1", "2"], None), ("b", ["3"], None), ("c", ["4", "5", "6"], None)]
    assert [record.meta["line"] for record in records] == [1, 3, 4] and (report.read, report.kept) == (6, 3)
    records, _ = FileData(path=path, mapper=joined, group="g", filter=lambda row: row["text"] != "5").records()
    assert plain(records)[-1] == ("c", ["4", "6"], None), "the filter sees rows, not groups"
    records, report = FileData(path=path, mapper=joined, group="g", limit=1).records()
    assert len(records) == 1


def test_rows_that_belong_to_no_whole_group(tmp_path):
    rows = [{"g": "a", "text": "1"}, {"g": "b", "text": "2"}, {"g": "a", "text": "3"}, {"g": "a", "text": "4"},
            {"text": "5"}, {"g": None, "text": "6"}, {"g": True, "text": "7"}, {"g": "c", "text": ""},
            {"g": "c", "text": "8"}]
    path = write(tmp_path, rows)
    records, report = FileData(path=path, mapper=joined, group="g", on_bad_row="drop").records()
    assert plain(records) == [("a", ["1", "3", "4"], None), ("b", ["2"], None)]
    assert report.dropped == {"missing column": 1, "null": 1, "wrong type": 1, "empty response": 2}
    assert report.read == len(rows) == sum(report.dropped.values()) + 4
    with pytest.raises(DataError, match=r"a.jsonl:5: g: "):
        FileData(path=path, mapper=joined, group="g").records()


def test_groups_by_whole_numbers(tmp_path):
    rows = [{"g": group, "text": str(i)} for i, group in enumerate([1, 1, "1", 2, 1])]
    data = FileData(path=write(tmp_path, rows), group="g", on_bad_row="drop",
                    mapper=lambda group: Record("p", [row["text"] for row in group]))
    records, report = data.records()
    assert [record.responses for record in records] == [["0", "1", "4"], ["2"], ["3"]], "1 and '1' are two groups"
    assert report.dropped == {} and report.lines == {}


def test_groups_of_several_files_are_apart(tmp_path):
    paths = [write(tmp_path, [{"g": name, "text": "1"}], name) for name in ("a.jsonl", "b.jsonl")]
    records, report = FileData(path=paths, mapper=joined, group="g").records()
    assert len(records) == 2 and report.dropped == {}


# ---- the hub


@pytest.fixture
def hub(monkeypatch):
    """What datasets.load_dataset was asked for; it gives two rows, none of the split empty."""
    asked = []

    def load(*args, **options):
        asked.append((args, options))
        return [] if options["split"] == "empty" else [{"prompt": "p", "completion": "c"},
                                                       {"prompt": "q", "completion": ""}]

    monkeypatch.setattr("datasets.load_dataset", load)
    return asked


def test_the_part_of_a_hub_dataset_that_is_read(hub):
    data = FileData(name="org/data", subset="en", split="test", revision="refs/convert/parquet", on_bad_row="drop")
    records, report = data.records()
    assert hub == [(("org/data", "en"), {"split": "test", "revision": "refs/convert/parquet", "data_dir": None})]
    assert records[0].meta == {"source": "org/data", "line": 1} and report.lines == {"empty response": ["org/data:2"]}


def test_several_folders_of_a_hub_dataset_are_read_in_turn(hub):
    records, report = FileData(name="org/data", data_dir=["x", "y"], on_bad_row="drop").records()
    assert [options["data_dir"] for _, options in hub] == ["x", "y"]
    assert [record.meta["source"] for record in records] == ["org/data/x", "org/data/y"] == list(report.layouts)
    FileData(name="org/data", data_dir="z", on_bad_row="drop").records()
    assert hub[-1][1]["data_dir"] == "z"


def test_a_file_is_read_instead_of_the_hub(hub, tmp_path, caplog):
    with caplog.at_level("INFO"):
        records, _ = FileData(name="org/data", data_dir="x", path=write(tmp_path, [{"prompt": "p"}])).records()
    assert len(records) == 1 and hub == [] and "data.path is read, not the hub's org/data" in caplog.text


def test_a_hub_dataset_without_rows(hub):
    with pytest.raises(DataError,
                       match="org/data:1: file: found no rows; expected at least one; fix: check data.split"):
        FileData(name="org/data", split="empty").records()
