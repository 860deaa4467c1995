"""Formats are read unchanged with physical line numbers; whatever cannot be parsed is refused in one form."""

import gzip
import json
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from algorithms.common.errors import ConfigError, DataError
from algorithms.common.records.readers import Hub, Row, Source

FORM = re.compile(r"(?P<path>[^\n]+?):(?P<line>\d+): (?P<field>[^:\n]+): found [^\n]+; expected [^\n]+; fix: [^\n]+")
ODDITIES = ["\u2028 line \u2029 ends \x85 and \x0b\x0c\x1c", "😀👩‍👩‍👧 ", "漢字かな", "zero\u200bwidth\ufeff", "C1 \x80\x94",
            "a" * (1 << 20),
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
