"""Compressed files and other encodings are read as what they hold; broken ones are refused with a fix that works."""

import gzip
import json

import pytest

from algorithms.common.data.records import FileData
from algorithms.common.data.records.readers import FORMATS, Row, Source
from algorithms.common.support.errors import ConfigError, DataError
from packed import PACK, zipped

ROWS = [{"prompt": f"Frage {i}: café 你好 \u2028", "response": f"größer {i}"} for i in range(300)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
CONTENTS = {"jsonl": JSONL, "json": json.dumps(ROWS).encode(),
            "csv": "prompt,response\n".encode() + "".join(f"{r['prompt']},{r['response']}\n" for r in ROWS).encode(),
            "tsv": "prompt\tresponse\n".encode() + "".join(f"{r['prompt']}\t{r['response']}\n" for r in ROWS).encode()}


def write(folder, name, content):
    (folder / name).write_bytes(content)
    return str(folder / name)


def rows(path, **options):
    return [row.value for row in Source(path, **options)]


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("kind", CONTENTS)
def test_what_is_packed_is_read(tmp_path, kind, packing):
    path = write(tmp_path, f"a.{kind}.{packing}", PACK[packing](CONTENTS[kind]))
    assert rows(path) == ROWS
    assert rows(write(tmp_path, "data", PACK[packing](CONTENTS[kind])), format=f"{kind}.{packing}") == ROWS
    assert f"{kind}.{packing}" in FORMATS


@pytest.mark.parametrize("packing", ["gz", "xz", "bz2", "zst"])
def test_parts_that_were_packed_one_by_one_are_one_file(tmp_path, packing):
    parts = b"".join(PACK[packing](part) for part in JSONL.splitlines(keepends=True)[:3])
    assert rows(write(tmp_path, f"a.jsonl.{packing}", parts)) == ROWS[:3]


@pytest.mark.parametrize("packing", PACK)
def test_a_packed_file_that_is_cut_or_is_none(tmp_path, packing):
    whole = PACK[packing](JSONL)
    with pytest.raises(DataError, match="; fix: fetch (or write )?the file again"):
        rows(write(tmp_path, f"a.jsonl.{packing}", whole[:len(whole) // 2]))
    with pytest.raises(DataError, match=f"no valid .* data .*; fix: fetch the file again, or drop .{packing} from"):
        rows(write(tmp_path, f"b.jsonl.{packing}", JSONL))


@pytest.mark.parametrize("packing", PACK)
def test_packed_data_under_a_plain_name_say_what_they_are(tmp_path, packing):
    path = write(tmp_path, "a.jsonl", PACK[packing](JSONL))
    with pytest.raises(DataError, match=f"name the file .{packing}, or set data.format=jsonl.{packing}"):
        rows(path)
    assert rows(path, format=f"jsonl.{packing}") == ROWS


def test_a_zip_archive_holds_one_data_file_which_says_its_format(tmp_path):
    path = write(tmp_path, "a.zip", zipped(JSONL, "folder/rows.ndjson", "__MACOSX/rows.ndjson", "folder/.DS_Store"))
    assert rows(path) == ROWS and Source(path).kind == "jsonl.zip"
    with pytest.raises(DataError, match="an archive of 2 files: a.jsonl, b.jsonl; expected an archive of one data file;"
                                        " fix: unpack it, and set data.path to the folder"):
        rows(write(tmp_path, "b.zip", zipped(JSONL, "a.jsonl", "b.jsonl")))
    with pytest.raises(DataError, match="an archive of 'a.txt'; .* fix: unpack it"):
        rows(write(tmp_path, "c.zip", zipped(JSONL, "a.txt")))
    with pytest.raises(DataError, match="no valid zip data"):
        rows(write(tmp_path, "d.zip", b"nothing"))


# Encodings


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "gb18030", "utf-8-sig"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_text_in_another_encoding(tmp_path, kind, encoding):
    content = CONTENTS[kind].decode().encode(encoding)
    path = write(tmp_path, f"a.{kind}.gz", gzip.compress(content))
    assert rows(path, encoding=encoding) == ROWS
    assert [row.line for row in Source(path, encoding=encoding)] == [row.line for row in Source(
        write(tmp_path, f"b.{kind}", CONTENTS[kind]))]


def test_a_line_feed_within_a_character_ends_no_line(tmp_path):
    text = json.dumps({"a": "\u0a0a\u0a0d ਊ"}, ensure_ascii=False) + "\n"
    path = write(tmp_path, "a.jsonl", ("\ufeff" + text + "\n" + text).encode("utf-16-le"))
    assert list(Source(path, encoding="utf-16-le")) == [Row(1, json.loads(text)), Row(3, json.loads(text))]


def test_an_encoding_that_is_missing_wrong_or_unknown(tmp_path):
    text = 'prompt;response\nCafé?;Ja\n'
    path = write(tmp_path, "a.csv", text.encode("cp1252"))
    with pytest.raises(DataError, match=":2: row: found byte 0xe9 at byte 4, not UTF-8; .*data.encoding=cp1252"):
        rows(path, delimiter=";")
    assert rows(path, encoding="cp1252", delimiter=";") == [{"prompt": "Café?", "response": "Ja"}]
    utf16 = write(tmp_path, "b.csv", text.encode("utf-16"))
    with pytest.raises(DataError, match="found UTF-16 text; .*fix: set data.encoding=utf-16, or convert it"):
        rows(utf16)
    assert rows(utf16, encoding="utf-16", delimiter=";") == rows(path, encoding="latin-1", delimiter=";")
    with pytest.raises(DataError, match=r"a.csv:2: row: found bytes that are no ascii \(ordinal not in range.*; "
                                        "fix: correct data.encoding"):
        rows(path, encoding="ascii", delimiter=";")
    for name in ("klingon", "base64"):
        with pytest.raises(ConfigError, match=f"data.encoding: found '{name}'; expected the name of a text encoding"):
            rows(path, encoding=name)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="data.encoding: found 'cp1252' for .*, which is read as parquet"):
        rows(str(tmp_path / "t.parquet"), encoding="cp1252")
    records, _ = FileData(path=path, encoding="cp1252", delimiter=";").records()
    assert records[0].prompt == "Café?"
