"""File formats → raw rows with the number of their physical line.

Reads JSON Lines, JSON arrays, CSV, TSV (each also gzipped), Parquet, and folders written by ``datasets.save_to_disk``.
Nothing here knows what a row means. What cannot be parsed is refused with a :class:`DataError`; no other exception
leaves a reader. All formats stream but JSON arrays, whose text is held (its rows are decoded one by one).
"""

import codecs
import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ..errors import ConfigError, DataError

FORMATS = ("jsonl", "json", "csv", "tsv", "jsonl.gz", "json.gz", "csv.gz", "tsv.gz", "parquet")
FIELD_LIMIT = 1 << 26           # characters in one CSV field; more means a quote that never closes
_MAGIC = (
    (b"\x1f\x8b", "gzip data", "name the file .gz, or set data.format (jsonl.gz, json.gz, csv.gz, tsv.gz)"),
    (b"PAR1", "Parquet data", "name the file .parquet, or set data.format=parquet"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (codecs.BOM_UTF16_LE, "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
    (codecs.BOM_UTF16_BE, "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\r\n]*")


class Row(NamedTuple):
    """One raw row: its physical line (JSON Lines, CSV, TSV; header included) or 1-based row, and its value."""

    line: int
    value: Any


@dataclass
class Source:
    """One file or folder and how to read it; iterating it yields :class:`Row` and counts the blank lines skipped.

    path: as the user gave it, and as messages show it.
    format: one of FORMATS; None takes it from the file's name.
    header: CSV/TSV have a first row of names; otherwise columns are c0, c1, …
    quoting: CSV/TSV fields may be quoted; otherwise a line is split at the delimiter and nothing else.
    split: which part of a folder that holds several.
    """

    path: str
    format: str | None = None
    header: bool = True
    quoting: bool = True
    split: str = "train"
    blank_lines: int = 0

    def __iter__(self) -> Iterator[Row]:
        if not os.path.exists(self.path):
            raise data_error(self.path, 1, "file", "nothing at this path", "a data file", "check data.path")
        if os.path.isdir(self.path):
            yield from _folder(self)
            return
        kind = self.kind
        reader = _READERS[kind.removesuffix(".gz")]
        rows = 0
        for rows, row in enumerate(reader(self, kind.endswith(".gz")), 1):
            yield row
        if not rows:
            raise data_error(self.path, 1, "file", "no rows", "at least one", "check that the file is the right one")

    @property
    def kind(self) -> str:
        """The format, by option or by the file's name."""
        if self.format is not None:
            if self.format not in FORMATS:
                raise ConfigError(f"data.format: found {self.format!r}; expected one of {', '.join(FORMATS)}")
            return self.format
        name = os.path.basename(self.path).lower()
        for kind in FORMATS:
            if name.endswith("." + kind):
                return kind
        raise data_error(self.path, 1, "file", "an unknown extension", "one of " + ", ".join(FORMATS),
                         "rename the file or set data.format")

    @property
    def textual(self) -> bool:
        """Whether all values are text (CSV, TSV), so that numbers must be parsed from it."""
        return not os.path.isdir(self.path) and self.kind.removesuffix(".gz") in ("csv", "tsv")


def data_error(path: str, line: int, field: str, found: str, expected: str, fix: str) -> DataError:
    """The one form of all errors in input data."""
    field = field if field.isprintable() and field.strip() else ascii(field)
    return DataError(f"{path}:{line}: {field}: found {found}; expected {expected}; fix: {fix}")


def show(value: Any, length: int = 60) -> str:
    """A value on one short line."""
    try:
        text = repr(value[:length]) if isinstance(value, str) else repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= length else text[:length - 1] + "…"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__


# ---- bytes and lines


def _open(path: str, gz: bool):
    return gzip.open(path, "rb") if gz else open(path, "rb")


def _unreadable(path: str, line: int, error: Exception) -> DataError:
    if isinstance(error, EOFError):
        return data_error(path, line, "file", "the end of the data inside a gzip stream", "a whole gzip file",
                          "fetch or write the file again")
    if isinstance(error, (gzip.BadGzipFile, zlib.error)):
        return data_error(path, line, "file", f"no valid gzip data ({error})", "a gzip file",
                          "fetch the file again, or drop .gz from its name if it is plain text")
    return data_error(path, line, "file", f"an unreadable file ({error})", "a readable file", "check the file")


def _not_utf8(path: str, line: int, error: UnicodeDecodeError) -> DataError:
    return data_error(path, line, "row", f"byte 0x{error.object[error.start]:02x} at byte {error.start + 1}, not UTF-8",
                      "UTF-8 text", "convert the file: iconv -f ENCODING -t UTF-8")


def _check_start(path: str, data: bytes, kind: str):
    for magic, name, fix in _MAGIC:
        if data.startswith(magic):
            raise data_error(path, 1, "file", name, f"{kind} text in UTF-8", fix)


def _lines(source: Source, gz: bool) -> Iterator[tuple[int, str]]:
    """Decoded lines, split at line feeds only, which they keep; a byte order mark is left out."""
    number = 0
    try:
        with _open(source.path, gz) as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    _check_start(source.path, line, source.kind)
                    line = line.removeprefix(codecs.BOM_UTF8)
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise _not_utf8(source.path, number, error) from None
                yield number, text
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(source.path, number + 1, error) from None


# ---- JSON


class _Refused(ValueError):
    """Valid for the JSON parser, refused by us: what was found."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise _Refused(f"the key {show(twice)} twice in one object")
    return value


def _constant(name: str):
    raise _Refused(f"the literal {name}, which is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _decode(path: str, line: int, text: str, start: int = 0) -> tuple[Any, int]:
    """One JSON value from `start`, and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, start)
        if _SURROGATE.search(text, start, end):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value, end
    except _Refused as error:
        found, fix = str(error), "correct the row; missing numbers are null"
    except json.JSONDecodeError as error:
        column = error.pos - start + 1
        found, fix = f"invalid JSON ({error.msg} at character {column})", "correct or complete the row"
    except RecursionError:
        found, fix = "values nested too deeply", "flatten the row"
    except UnicodeEncodeError:
        found, fix = "half of a surrogate pair (\\ud800-\\udfff)", "write the character whole"
    except ValueError as error:
        found, fix = f"a number that cannot be read ({str(error)[:60]})", "correct the row"
    raise data_error(path, line, "row", found, "one valid JSON value", fix)


def _jsonl(source: Source, gz: bool) -> Iterator[Row]:
    for number, line in _lines(source, gz):
        start = _SPACE.match(line).end()
        if start == len(line):
            source.blank_lines += 1
            continue
        value, end = _decode(source.path, number, line, start)
        if _SPACE.match(line, end).end() < len(line):
            raise data_error(source.path, number, "row", "more text after the JSON value", "one JSON object on a line",
                             "put every object on a line of its own")
        yield Row(number, value)


def _json(source: Source, gz: bool) -> Iterator[Row]:
    text, broken = _whole_text(source, gz)
    row = 1

    def refuse(found: str, fix: str = "correct the file; JSON Lines need data.format=jsonl"):
        raise data_error(source.path, row, "file", found, "a JSON array of objects", fix)

    try:
        at = _SPACE.match(text).end()
        if at == len(text) and broken is None:
            return
        if text[at:at + 1] != "[":
            refuse("an object" if text[at:at + 1] == "{" else f"text that begins with {show(text[at:at + 12])}")
        at = _SPACE.match(text, at + 1).end()
        closed = text[at:at + 1] == "]"
        while not closed:
            value, at = _decode(source.path, row, text, at)
            at = _SPACE.match(text, at).end()
            if text[at:at + 1] not in (",", "]"):
                refuse("the end of the file inside the array" if at == len(text) else "no comma after a row")
            yield Row(row, value)
            row += 1
            closed = text[at] == "]"
            at = _SPACE.match(text, at + 1).end() if not closed else at
        if _SPACE.match(text, at + 1).end() < len(text):
            refuse("more text after the array")
    except DataError:
        if broken is not None:
            raise broken(row) from None
        raise
    if broken is not None:
        raise broken(row)


def _whole_text(source: Source, gz: bool) -> tuple[str, Callable[[int], DataError] | None]:
    """All text that can be read, and what broke it (a function of the row it is met at) or None."""
    data, broken = bytearray(), None
    try:
        with _open(source.path, gz) as file:
            while part := file.read1(1 << 16):        # read() would lose what comes before a break
                data += part
    except (OSError, EOFError, zlib.error) as error:
        broken = partial(_unreadable, source.path, error=error)
    _check_start(source.path, bytes(data[:8]), source.kind)
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[start:].decode("utf-8"), broken
    except UnicodeDecodeError as error:
        return data[start:start + error.start].decode("utf-8"), broken or partial(_not_utf8, source.path, error=error)


# ---- CSV and TSV


def _delimited(source: Source, gz: bool) -> Iterator[Row]:
    names = None
    for number, fields in _fields(source, gz):
        if len(fields) <= 1 and not "".join(fields).strip():
            source.blank_lines += 1
        elif names is None and source.header:
            names = fields
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise data_error(source.path, number, "row", f"the column {show(twice[0])} twice",
                                 "different names", "rename one, or set data.header=false if this is no header")
        else:
            names = names or [f"c{index}" for index in range(len(fields))]
            if len(fields) != len(names):
                raise data_error(source.path, number, "row", f"{len(fields)} fields",
                                 f"{len(names)}, as in the first row",
                                 "quote fields that hold the delimiter, or set data.quoting=false if none are quoted")
            yield Row(number, dict(zip(names, fields)))


def _fields(source: Source, gz: bool) -> Iterator[tuple[int, list[str]]]:
    delimiter = "\t" if source.kind.startswith("tsv") else ","
    lines = _text_lines(source, gz)
    if not source.quoting:
        for number, line in enumerate(lines, 1):
            yield number, line.removesuffix("\n").removesuffix("\r").split(delimiter)
        return
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise data_error(source.path, number, "row", f"fields that cannot be told apart ({error})",
                             "quotes that open and close a whole field",
                             "close or double the quotes, or set data.quoting=false if fields are not quoted") from None
        yield number, fields


def _text_lines(source: Source, gz: bool) -> Iterator[str]:
    for number, line in _lines(source, gz):
        if "\0" in line:
            raise data_error(source.path, number, "row", "a NUL character", "UTF-8 text", "convert the file to UTF-8")
        yield line


# ---- Arrow


def _parquet(source: Source, gz: bool) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(source.path, pre_buffer=False) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise data_error(source.path, 1, "file", "two columns of the same name", "different names",
                                 "rename one")
            for batch in file.iter_batches(batch_size=128):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(number, value)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        raise data_error(source.path, number + 1, "file", f"no valid Parquet data ({_short(error)})",
                         "a whole Parquet file", "fetch or write the file again") from None


def _folder(source: Source) -> Iterator[Row]:
    import datasets
    import pyarrow

    names = os.listdir(source.path)
    if "state.json" not in names and "dataset_dict.json" not in names:
        raise data_error(source.path, 1, "file", "a folder", "a file, or a folder written by datasets.save_to_disk",
                         "set data.path to a file, or to a list of files")
    number = 0
    try:
        data = datasets.load_from_disk(source.path)
        if isinstance(data, datasets.DatasetDict):
            if source.split not in data:
                raise data_error(source.path, 1, "file", f"the splits {', '.join(data)}", f"one named {source.split}",
                                 "set data.split")
            data = data[source.split]
        for number, value in enumerate(data, 1):
            yield Row(number, value)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise data_error(source.path, number + 1, "file", f"no valid dataset ({_short(error)})",
                         "a folder written by datasets.save_to_disk", "write the folder again") from None


@dataclass
class Hub:
    """A split of a dataset of the Hugging Face hub; iterating it yields rows numbered from 1.

    subset: its configuration, or data_dir: a folder of its files. revision: a branch, tag or commit; None: the main one.
    """

    name: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    data_dir: str | None = None
    blank_lines: int = 0
    textual: bool = False

    @property
    def path(self) -> str:
        """Its name in messages and reports."""
        return self.name if self.data_dir is None else f"{self.name}/{self.data_dir}"

    def __iter__(self) -> Iterator[Row]:
        import datasets

        try:
            data = datasets.load_dataset(self.name, self.subset, split=self.split, revision=self.revision,
                                         data_dir=self.data_dir)
        except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise data_error(self.path, 1, "file", f"no such dataset within reach ({_short(error)})",
                             f"the split {self.split} of a hub dataset, from the network or the local cache",
                             "check data.name, subset and split; offline, give a file by data.path") from None
        number = 0
        for number, value in enumerate(data, 1):
            yield Row(number, value)
        if not number:
            raise data_error(self.path, 1, "file", "no rows", "at least one", "check data.split")


_READERS = {"jsonl": _jsonl, "json": _json, "csv": _delimited, "tsv": _delimited, "parquet": _parquet}
