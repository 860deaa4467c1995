"""Formats are read unchanged with physical line numbers; whatever cannot be parsed is refused in one form."""

import gzip
import json
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from algorithms.common.data.records.readers import Hub, Row, Source
from algorithms.common.support.errors import ConfigError, DataError

FORM = re.compile(r"(?P<path>[^\n]+?):(?P<line>\d+): (?P<field>[^:\n]+): found [^\n]+; expected [^\n]+; fix: [^\n]+")
ODDITIES = ["\u2028 line \u2029 ends \x85 and \x0b\x0c\x1c", "😀👩‍👩‍👧 ", "漢字かな", "zero\u200bwidth\ufeff",
            "C1 \x80\x94", "a" * (1 << 20),
            "e\u0301 and \u00e9", ' "quoted", \\n literal', "tab\tand\r\ncarriage\rreturns"]


def rows(path, **options):
    return list(Source(str(path), **options))


def write(folder, name, content):
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") and not data.startswith(b"\x1f\x8b") else data)
    return path


def test_jsonl_lines_are_physical_and_blank_lines_counted(tmp_path):
    source = Source(str(write(tmp_path, "a.jsonl", '{"a": 1}\n\n  \r\n{"a": 2}\n')))
    assert list(source) == [Row(1, {"a": 1}), Row(4, {"a": 2})]
    assert source.blank_lines == 2


def test_json_rows_are_numbered_from_one(tmp_path):
    path = write(tmp_path, "a.json", '[\n {"a": 1},\n\n {"a": [2]}\n]\n')
    assert rows(path) == [Row(1, {"a": 1}), Row(2, {"a": [2]})]


def test_csv_lines_count_the_header_and_line_breaks_inside_fields(tmp_path):
    path = write(tmp_path, "a.csv", 'p,q\n"one\ntwo",x\n\n"say ""hi""",\n')
    assert rows(path) == [Row(2, {"p": "one\ntwo", "q": "x"}), Row(5, {"p": 'say "hi"', "q": ""})]


def test_tsv_without_quoting_splits_at_tabs_only(tmp_path):
    path = write(tmp_path, "a.tsv", '"a" b\t"c\tcomma,\r\n')
    assert rows(path, header=False, quoting=False) == [Row(1, {"c0": '"a" b', "c1": '"c', "c2": "comma,"})]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("quoting", [True, False])
def test_fields_with_another_character_between_them(tmp_path, name, quoting):
    path = write(tmp_path, name, "p;q\nx, y;z\tz\n")
    assert rows(path, delimiter=";", quoting=quoting) == [Row(2, {"p": "x, y", "q": "z\tz"})]
    assert rows(write(tmp_path, name, "p|q\n1|2\n"), delimiter="|", quoting=quoting) == [Row(2, {"p": "1", "q": "2"})]


def test_one_column_is_one_where_the_delimiter_is_given(tmp_path):
    path = write(tmp_path, "a.csv", "p;q\nx;y\n")
    assert rows(path, delimiter=",") == [Row(2, {"p;q": "x;y"})]
    assert rows(path, header=False) == [Row(1, {"c0": "p;q"}), Row(2, {"c0": "x;y"})], "text may hold it"


HEADERS = [
    ("a.csv", "p;q\nx, y;z\n", """set 'data.delimiter=";"'; 'data.delimiter=","' if it is one column"""),
    ("a.csv.gz", "p|q\n1|2\n", """set 'data.delimiter="|"'; 'data.delimiter=","' if it is one column"""),
    ("a.csv.gz", "p\tq\n1\t2\n", """set data.format=tsv.gz; 'data.delimiter=","' if it is one column"""),
    ("a.tsv", "p;q\n1;2\n", """set 'data.delimiter=";"'; rename it if it is one column""")]


@pytest.mark.parametrize("name, content, fix", HEADERS)
def test_a_header_with_another_delimiter_says_which(tmp_path, name, content, fix):
    with pytest.raises(DataError) as error:
        rows(write(tmp_path, name, content))
    message = str(error.value)
    assert FORM.fullmatch(message) and ":1: row: found the one column 'p" in message
    assert message.endswith(f"; fix: {fix}")


RAGGED = [
    ({}, "quote fields that hold the delimiter, or set data.quoting=false if none are quoted"),
    ({"quoting": False},
     "leave the delimiter and line breaks out of fields, or set data.quoting=true if fields are quoted"),
    ({"task": "t.yaml"}, "quote fields that hold the delimiter, or set quoting: false in t.yaml if none are quoted"),
    ({"task": "t.yaml", "quoting": False},
     "leave the delimiter and line breaks out of fields, or set quoting: true in t.yaml if fields are quoted")]


@pytest.mark.parametrize("options, fix", RAGGED)
def test_a_row_of_another_length_is_mended_by_what_is_not_yet_set(tmp_path, options, fix):
    with pytest.raises(DataError) as error:
        rows(write(tmp_path, "a.tsv", "a\tb\n1\n"), **options)
    assert str(error.value).endswith(f"a.tsv:2: row: found 1 fields; expected 2, as in the first row; fix: {fix}")


def test_options_of_a_task_are_named_as_its_keys(tmp_path):
    for name, content, told in [
            ("a.csv", "p;q\n1;2\n", "set delimiter: ';' in t.yaml; delimiter: ',' in t.yaml if it is one column"),
            ("a.csv", "p,p\n1,2\n", "set header: false in t.yaml if"),
        ("a.csv", 'p\n"x"y\n', "quoting: false in t.yaml"),
            ("a.json", '{"a": [{}]}', "name the list of rows: rows: a in t.yaml"),
            ("a.json", '{"a": 1}\n{"a": 2}', "need format: jsonl in t.yaml"), ("a.txt", "x", "set format in t.yaml")]:
        with pytest.raises(DataError) as error:
            rows(write(tmp_path, name, content), task="t.yaml")
        assert told in str(error.value) and "data." not in str(error.value)


@pytest.mark.parametrize("options, name, says", [
    ({"delimiter": ";;"}, "a.csv", "data.delimiter: found ';;'; expected one character"),
    ({"delimiter": ""}, "a.csv", "data.delimiter: found ''; expected one character"),
    ({"delimiter": '"'}, "a.csv", "data.delimiter: found '\"'; expected one character, no quote"),
    ({"delimiter": ";"}, "a.jsonl", "data.delimiter: found ';' for .*, which is read as jsonl; expected .* csv or tsv"),
    ({"rows": "x", "format": "csv"}, "a.json", "data.rows: found 'x' for .*, which is read as csv; expected .* json"),
    ({"rows": "x"}, "", "data.rows: found 'x' for .*, which is read as a folder"),
    ({"rows": "x", "task": "t.yaml"}, "a.jsonl", "rows in t.yaml: found 'x' for")])
def test_options_that_a_file_has_no_use_for(tmp_path, options, name, says):
    with pytest.raises(ConfigError, match=says):
        rows(write(tmp_path, name, '{"a": 1}') if name else tmp_path, **options)


@pytest.mark.parametrize("name", ["a.ndjson", "A.NDJSON", "a.ndjson.gz"])
def test_ndjson_is_json_lines(tmp_path, name):
    assert rows(write(tmp_path, name, '{"a": 1}\n{"a": 2}\n')) == [Row(1, {"a": 1}), Row(2, {"a": 2})]


TASK = {"Contributors": ["x"], "Positive Examples": [{"input": "e"}], "Instances": [{"input": "a"}, {"input": "b"}],
        "more": {"split": {"test": [{"input": "c"}, 3]}}}


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_the_rows_of_a_list_within_an_object(tmp_path, name):
    path = write(tmp_path, name, "\ufeff" + json.dumps(TASK, indent=4) + "\n")
    assert rows(path, rows="Instances") == [Row(1, {"input": "a"}), Row(2, {"input": "b"})]
    assert rows(path, rows="Positive Examples") == [Row(1, {"input": "e"})]
    assert rows(path, rows="more.split.test") == [Row(1, {"input": "c"}), Row(2, 3)]


NO_ARRAY = [        # content, data.rows, line, what the message says
    (TASK, None,
     "found an object with lists at 'Positive Examples' (1), 'Instances' (2), 'more.split.test' (2); expected a "
     "JSON array of objects; fix: name the list of rows: data.rows=Instances"),
    ({"my rows": [{}], "b": ["x", "y"]}, None, "with lists at 'my rows' (1); expected a JSON array of objects; fix: "
     "name the list of rows: 'data.rows=my rows'"),
    ({"b": ["x", "y"]}, None, "found an object with lists at 'b' (2)"),
    ({str(i): [{}] for i in range(10)}, None, "'7' (1), …; expected"),
    ({"a": {"b": 1}}, None,
     "found an object with no list that data.rows can name; expected a JSON array of objects; fix: "
     "put the object"),
    ({"x.y": [{}], "": [{}]}, None, "found an object with no list that data.rows can name; expected"),
    ({"x.y": [{}], "": [{}], "z": {"": [{}], "w": [{}]}}, None, "found an object with lists at 'z.w' (1); expected"),
    ('{"a": 1}\n{"a": 2}', None,
     "found an object and more after it; expected a JSON array of objects; fix: JSON Lines need "
     "data.format=jsonl"),
    (TASK, "more.split",
     "found an object with lists at 'Positive Examples' (1), 'Instances' (2), 'more.split.test' (2); "
     "expected an object with a list at 'more.split'; fix: correct data.rows"),
    (TASK, "Instances.input", "expected an object with a list at 'Instances.input'"),
    ({"x.y": [{}]}, "x.y",
     "found an object with no list that data.rows can name; expected an object with a list at 'x.y'"),
    ({"a": 1}, "b", "found an object with no list that data.rows can name; expected an object with a list at 'b'"),
    ([{"a": 1}], "a", "found no object; expected an object with a list at 'a'"),
    ('{"a": []} x', "a", "found more text after the first JSON value; expected one JSON object"),
    ({"a": []}, "a", "found no rows"), (" ", "a", "found no rows"),
    ('{"a": [1, 2', None, "found invalid JSON"), ('{"a": [1, 2', "a", "found invalid JSON"),
]


@pytest.mark.parametrize("content, name, says", NO_ARRAY)
def test_an_object_where_an_array_was_expected(tmp_path, content, name, says):
    path = write(tmp_path, "a.json", content if isinstance(content, str) else json.dumps(content, indent=1))
    with pytest.raises(DataError) as error:
        rows(path, rows=name)
    match = FORM.fullmatch(str(error.value))
    assert match and match["line"] == "1" and match["field"] in ("file", "row")
    assert says in str(error.value), error.value


def test_parquet_rows(tmp_path):
    values = [{"a": "x", "b": [1.0]}, {"a": None, "b": []}]
    pq.write_table(pa.Table.from_pylist(values), tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [Row(1, values[0]), Row(2, values[1])]


def test_folders_of_save_to_disk(tmp_path):
    import datasets
    data = datasets.Dataset.from_list([{"a": "x"}, {"a": "y"}])
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"test": data}).save_to_disk(tmp_path / "many")
    assert rows(tmp_path / "one") == rows(tmp_path / "many", split="test") == [Row(1, {"a": "x"}), Row(2, {"a": "y"})]
    with pytest.raises(DataError, match="set data.split"):
        rows(tmp_path / "many")


@pytest.mark.parametrize("name", "a.jsonl a.jsonl.gz A.JSONL a.json a.json.gz a.csv a.csv.gz a.tsv".split())
@pytest.mark.parametrize("bom", [False, True])
def test_valid_oddities_are_read_unchanged(tmp_path, name, bom):
    if "jsonl" in name.lower():
        content = "\r\n".join(json.dumps({"a": text}, ensure_ascii=False) for text in ODDITIES)
    elif "json" in name:
        content = json.dumps([{"a": text} for text in ODDITIES], ensure_ascii=False, indent=1)
    else:
        delimiter = "," if "csv" in name else "\t"
        cells = ['"' + text.replace('"', '""') + '"' for text in ODDITIES]
        content = f"a{delimiter}b\r\n" + "".join(f"{cell}{delimiter}1\r\n" for cell in cells)
    path = write(tmp_path, name, ("\ufeff" if bom else "") + content)
    assert [row.value["a"] for row in rows(path)] == ODDITIES


def test_escaped_surrogate_pairs_are_one_character(tmp_path):
    assert rows(write(tmp_path, "a.jsonl", r'{"a": "\ud83d\ude00 \\ud83d"}'))[0].value == {"a": "😀 \\ud83d"}


def test_format_overrides_the_name(tmp_path):
    assert rows(write(tmp_path, "a.txt", '{"a": 1}'), format="jsonl") == [Row(1, {"a": 1})]
    with pytest.raises(ConfigError, match="data.format"):
        rows(write(tmp_path, "b.txt", '{"a": 1}'), format="xml")


GOOD = '{"prompt": "p", "response": "r"}\n'
ARRAY = '[{"a": 1}, {"a": 2}'
MALFORMED = {       # name of the case: (file name, content, line, what the message says)
    "cut off line": ("a.jsonl", GOOD + GOOD[:12], 2, "invalid JSON"),
    "two objects on a line": ("a.jsonl", GOOD + GOOD.strip() * 2, 2, "more text after"),
    "invalid UTF-8": ("a.jsonl", GOOD.encode() * 2 + b'{"a": "\xff"}', 3, "byte 0xff at byte 8"),
    "UTF-8 of a surrogate": ("a.jsonl", b'{"a": "\xed\xa0\x80"}', 1, "not UTF-8"),
    "lone surrogate": ("a.jsonl", GOOD + r'{"b": {"a": "\ud800 x"}}', 2, "surrogate"),
    "lone surrogate in a key": ("a.jsonl", r'{"\udc00": 1}', 1, "surrogate"),
    "UTF-16": ("a.jsonl", GOOD.encode("utf-16"), 1, "UTF-16"),
    "UTF-16 without a mark": ("a.jsonl", GOOD.encode("utf-16-le"), 1, "invalid JSON"),
    "deep nesting": ("a.jsonl", GOOD + "[" * 100_000, 2, "nested too deeply"),
    "deep nesting, closed": ("a.jsonl", GOOD + '{"a":' * 50_000 + "1" + "}" * 50_000, 2, "nested too deeply"),
    "key twice": ("a.jsonl", GOOD + '{"a": {"b": 1, "c": 2, "b": 1}}', 2, "'b' twice"),
    "NaN": ("a.jsonl", '{"score": NaN}', 1, "literal NaN"),
    "Infinity": ("a.jsonl", '{"score": -Infinity}', 1, "literal -Infinity"),
    "number too long": ("a.jsonl", '{"a": ' + "1" * 5000 + "}", 1, "number that cannot be read"),
    "raw control character": ("a.jsonl", '{"a": "\x01"}', 1, "invalid JSON"),
    "gzip without .gz": ("a.jsonl", gzip.compress(GOOD.encode()), 1, "gzip data"),
    "Parquet named .jsonl": ("a.jsonl", b"PAR1" + b"\0" * 20 + b"PAR1", 1, "Parquet data"),
    "JSON Lines named .json": ("a.json", GOOD * 2, 1, "an object"),
    "text named .json": ("a.json", "hello", 1, "text that begins with 'hello'"),
    "array cut after a row": ("a.json", ARRAY, 2, "end of the file inside the array"),
    "array cut inside a row": ("a.json", ARRAY[:-2], 2, "invalid JSON"),
    "array cut after a comma": ("a.json", '[{"a": 1},', 2, "invalid JSON"),
    "array without a comma": ("a.json", '[{"a": 1} {"a": 2}]', 1, "no comma"),
    "text after an array": ("a.json", ARRAY + "] x", 3, "after the array"),
    "array, key twice": ("a.json", '[{"a": 1}, {"a": 1, "a": 2}]', 2, "'a' twice"),
    "array, invalid UTF-8": ("a.json", ARRAY.encode() + b', {"a": "\xff"}]', 3, "not UTF-8"),
    "array, lone surrogate": ("a.json", r'[{"a": "\ud800"}]', 1, "surrogate"),
    "array, deep nesting": ("a.json", "[" * 100_000, 1, "nested too deeply"),
    "array, UTF-16": ("a.json", '[{"a": 1}]'.encode("utf-16"), 1, "UTF-16"),
    "empty array": ("a.json", "[ ]", 1, "no rows"),
    "empty JSON": ("a.json", " \n", 1, "no rows"),
    "empty": ("a.jsonl", "", 1, "no rows"),
    "blank": ("a.jsonl", "\n \n", 1, "no rows"),
    "empty gzip": ("a.jsonl.gz", "", 1, "no rows"),
    "only a header": ("a.csv", "a,b\n", 1, "no rows"),
    "open quote": ("a.csv", 'a,b\n1,2\n"open,2\n3,4\n', 3, "cannot be told apart"),
    "text after a quote": ("a.csv", 'a,b\n"x"y,2\n', 2, "cannot be told apart"),
    "ragged, long": ("a.csv", "a,b\n1,2\n1,2,3\n", 3, "3 fields; expected 2"),
    "ragged, short": ("a.tsv", "a\tb\n1\n", 2, "1 fields; expected 2"),
    "column twice": ("a.csv", "a,b,a\n1,2,3\n", 1, "the column 'a' twice"),
    "CSV, invalid UTF-8": ("a.csv", b"a,b\n1,2\n1,\xe9\n", 3, "byte 0xe9"),
    "CSV, UTF-16": ("a.csv", "a,b\n1,2\n".encode("utf-16"), 1, "UTF-16"),
    "CSV, UTF-16 without a mark": ("a.csv", "a,b\n1,2\n".encode("utf-16-le"), 1, "NUL"),
    "CSV, old Mac line ends": ("a.csv", "a,b\r1,2\r", 1, "cannot be told apart"),
    "not Parquet": ("a.parquet", "hello", 1, "no valid Parquet"),
    "empty Parquet": ("a.parquet", "", 1, "no valid Parquet"),
    "unknown extension": ("a.xlsx", "x", 1, "unknown extension"),
    "plain text named .gz": ("b.jsonl.gz", None, 1, "no valid gzip"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_files_are_refused(tmp_path, case):
    name, content, line, says = MALFORMED[case]
    path = tmp_path / name
    path.write_text("plain text\n") if content is None else write(tmp_path, name, content)
    with pytest.raises(DataError) as error:
        rows(path)
    match = FORM.fullmatch(str(error.value))
    assert match and match["path"] == str(path) and int(match["line"]) == line
    assert says in str(error.value)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz"])
def test_a_truncated_gzip_names_the_line_it_breaks_at(tmp_path, name):
    lines = [f'{{"a": "{os.urandom(20).hex()}"}}' for _ in range(2000)]
    content = {"a.jsonl.gz": "\n".join(lines), "a.json.gz": "[" + ",".join(lines) + "]",
               "a.csv.gz": "a,b\n" + "1,2\n" * 20000}[name]
    data = gzip.compress(content.encode())
    path = write(tmp_path, name, data[:len(data) // 2])
    with pytest.raises(DataError, match="inside a gzip stream") as error:
        rows(path)
    assert int(FORM.fullmatch(str(error.value))["line"]) > 10
    with pytest.raises(DataError):
        rows(write(tmp_path, name, data[:100] + b"xxxx" + data[104:]))


def test_a_cut_parquet_file(tmp_path):
    pq.write_table(pa.table({"a": ["text"] * 5000}), tmp_path / "whole.parquet")
    data = (tmp_path / "whole.parquet").read_bytes()
    for end in (4, len(data) // 2, len(data) - 1):
        with pytest.raises(DataError, match="no valid Parquet"):
            rows(write(tmp_path, "a.parquet", data[:end]))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl:1: file: found nothing at this path"):
        rows(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"found a folder; .* datasets.save_to_disk"):
        rows(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="no valid dataset"):
        rows(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files(tmp_path):
    path = write(tmp_path, "a.jsonl", GOOD)
    path.chmod(0)
    with pytest.raises(DataError, match="unreadable"):
        rows(path)


def test_a_hub_dataset_out_of_reach_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="offline, give a file by data.path"):
        list(Hub("nobody/nothing"))
