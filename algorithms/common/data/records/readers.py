"""Files, folders and hub datasets → raw rows with the number of their physical line.

Reads JSON Lines, JSON (an array, or a list within an object), CSV, TSV (each also compressed), Parquet, and folders
written by ``datasets.save_to_disk``. Nothing here knows what a row means. What cannot be parsed is refused with a
:class:`DataError`; no other exception leaves a reader. All formats stream but JSON, whose text is held.
"""

import codecs
import csv
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import IO, ClassVar

from ...support.errors import ConfigError, DataError
from .json_rows import json_file, json_lines, optional_keys
from .lines import UTF8, Row, data_error, hydra_text, lines, override, show, unreadable
from .packing import BROKEN, PACKINGS, member_name
from .shards import TRAIN, found_in, is_saved

log = logging.getLogger(__name__)

__all__ = ["FORMATS", "Hub", "Row", "Source", "data_error", "show"]

TEXTS = ("jsonl", "json", "csv", "tsv")
FORMATS = (*TEXTS, *(f"{text}.{packing}" for packing in PACKINGS for text in TEXTS), "parquet")
_NDJSON = {kind.replace("jsonl", "ndjson"): kind for kind in FORMATS if kind.startswith("jsonl")}
EXTENSIONS = {**{kind: kind for kind in FORMATS}, **_NDJSON, "zip": "zip"}      # a zip archive's file says its format
KNOWN = f"{', '.join(TEXTS)} (each also {', '.join('.' + packing for packing in PACKINGS)}) or parquet"
WATCHED = 256                   # rows between two words about the share that is read
FIELD_LIMIT = 1 << 26           # characters in one CSV field; more means a quote that never closes
_PANDAS = "write the rows as Parquet (pandas: pandas.{}(FILE).to_parquet('rows.parquet')), and set data.path to that"
_ELSEWHERE = {"xlsx": "save the sheet as CSV in UTF-8", "xls": "save the sheet as CSV in UTF-8",
              "ods": "save the sheet as CSV in UTF-8", "pkl": _PANDAS.format("read_pickle"),
              "pickle": _PANDAS.format("read_pickle"), "feather": _PANDAS.format("read_feather"),
              "arrow": _PANDAS.format("read_feather")}      # formats that are not read → what to do
_NOT_DELIMITERS = "\r\n\0\"\ufeff"
_SEPARATOR = re.compile(r'"?sep=([^\r\n\0"])"?\r?\n?', re.IGNORECASE)


@dataclass
class Source:
    """One file or folder and how to read it; iterating it yields :class:`Row` and counts the blank lines skipped.

    path: as the user gave it, and as messages show it.
    format: one of FORMATS; None takes it from the file's name.
    header: CSV/TSV have a first row of names; otherwise columns are c0, c1, …
    quoting: CSV/TSV fields may be quoted; otherwise a line is split at the delimiter and nothing else.
    split: which part of a folder that holds several.
    delimiter: the character between CSV/TSV fields; None: a comma, of TSV a tab.
    rows: the dotted name of the list of rows within a JSON object; None: the file is an array.
    task: the YAML file whose keys these options are; None: they are data.*.
    encoding: of its text, as Python names it; None: UTF-8.
    shown: what messages about rows and records call it; None: its path.
    """

    path: str
    format: str | None = None
    header: bool = True
    quoting: bool = True
    split: str = "train"
    delimiter: str | None = None
    rows: str | None = None
    task: str | None = None
    encoding: str | None = None
    shown: str | None = None
    blank_lines: int = 0
    raw: IO[bytes] | None = field(default=None, repr=False)
    part: float | None = None       # the share that is read, where it is not the place in `raw`
    watch: Callable[[float], None] | None = field(default=None, repr=False)     # told the share, now and then

    def __iter__(self) -> Iterator[Row]:
        if not os.path.exists(self.path):
            raise data_error(self.path, 1, "file", "nothing at this path", "a data file", "check data.path")
        self._check_options()
        folder, rows = os.path.isdir(self.path), 0
        for rows, row in enumerate((_folder if folder else _READERS[self.kind.partition(".")[0]])(self), 1):
            yield row
            if self.watch is not None and rows % WATCHED == 0:
                self.watch(self.share)
        if not rows and not folder:
            raise data_error(self.path, 1, "file", "no rows", "at least one", "check that the file is the right one: "
                             "write it again, or take it away where others are read with it")

    @property
    def share(self) -> float:
        """Which part of it is read, from 0 to 1."""
        if self.part is not None:
            return self.part
        here = self.raw is not None and not self.raw.closed
        return self.raw.tell() / max(os.path.getsize(self.path), 1) if here else 0.0

    @property
    def named(self) -> str:
        """What it is called where its rows are told of."""
        return self.shown or self.path

    @property
    def kind(self) -> str:
        """The format, by option or by the file's name."""
        if self.format is not None:
            if self.format not in FORMATS:
                raise ConfigError(f"{self.key('format')}: found {self.format!r}; expected one of {KNOWN}")
            return self.format
        name = os.path.basename(self.path).lower()
        for extension, kind in EXTENSIONS.items():
            if name.endswith("." + extension):
                return kind if kind != "zip" else self._zipped
        fix = _ELSEWHERE.get(name.rpartition(".")[2], f"rename the file or set {self.key('format')}")
        raise data_error(self.path, 1, "file", "an unknown extension", f"one of ndjson, {KNOWN}", fix)

    @cached_property
    def _zipped(self) -> str:
        try:
            name = member_name(self.path)
        except BROKEN as error:
            raise unreadable(self.path, "zip", 1, error) from None
        ending = name.rpartition(".")[2].lower()
        kind = {"ndjson": "jsonl"}.get(ending, ending)
        if kind not in TEXTS:
            raise data_error(self.path, 1, "file", f"an archive of {show(name)}", f"one of a file {', '.join(TEXTS)}",
                             "unpack it")
        return f"{kind}.zip"

    @property
    def packing(self) -> str:
        """How it is compressed, a key of PACKINGS; "" where it is not."""
        return self.kind.partition(".")[2]

    @cached_property
    def text_encoding(self) -> str:
        """The encoding of its text, by Python's own name."""
        try:
            name = codecs.lookup(self.encoding or UTF8).name
            "".encode(name)         # what is no text encoding raises
        except LookupError:
            raise ConfigError(f"{self.key('encoding')}: found {self.encoding!r}; expected the name of a text encoding, "
                              "such as utf-16, cp1252, gb18030 or shift_jis") from None
        return UTF8 if name == "utf-8-sig" else name

    def late_columns(self, names: set[str]) -> set[str]:
        """Those of the names that are a column of some row; looked up in JSON alone, whose rows may differ."""
        ragged = os.path.isfile(self.path) and self.kind.partition(".")[0] in ("json", "jsonl")
        return optional_keys(replace(self), names) if ragged and names else set()

    def key(self, name: str) -> str:
        """One of these options as messages name it."""
        return f"data.{name}" if self.task is None else f"{name} in {self.task}"

    @property
    def unnamed(self) -> str:
        """What else may be wrong where a file's columns are not known: of CSV and TSV, that it has no names of them."""
        table = os.path.isfile(self.path) and self.kind.partition(".")[0] in ("csv", "tsv") and self.header
        return f"; where the first row names no columns, {self.option('header', 'false')} too" if table else ""

    def option(self, name: str, value: str) -> str:
        """The same with a value, as it is given."""
        if self.task is not None:
            return f"{name}: {value if value.isalnum() else repr(value)} in {self.task}"
        return override(f"data.{name}", value if name in ("header", "quoting") else hydra_text(value))

    def _check_options(self):
        """Refuses options that this file's format has no use for."""
        check_delimiter(self.delimiter, self.key("delimiter"))
        kind = "a folder" if os.path.isdir(self.path) else self.kind.partition(".")[0]
        for name, value, kinds in (("delimiter", self.delimiter, ("csv", "tsv")), ("rows", self.rows, ("json",)),
                                   ("encoding", self.encoding, TEXTS)):
            if value is not None and kind not in kinds:
                raise ConfigError(f"{self.key(name)}: found {value!r} for {self.path}, which is read as {kind}; "
                                  f"expected a file of the format {' or '.join(kinds)}; fix: leave it null")


def found_files(path: str | os.PathLike | Iterable[str | os.PathLike], format: str | None, split: str = TRAIN
                ) -> list[str]:
    """The files that data.path stands for, see ``shards``; what a glob or a folder gives is said."""
    found = []
    for one in [path] if isinstance(path, (str, os.PathLike)) else path:
        shards = found_in(os.fspath(one), EXTENSIONS if format is None else None, split)
        if shards.files != (shards.path,):
            log.info("%s", shards)
        found += shards.files
    return found


def check_delimiter(delimiter: str | None, key: str):
    """Raises ConfigError, which names `key`, for what cannot stand between fields."""
    if delimiter is not None and (len(delimiter) != 1 or delimiter in _NOT_DELIMITERS):
        raise ConfigError(f"{key}: found {delimiter!r}; expected one character, no quote or line break")


# ---- CSV and TSV


def _delimited(source: Source) -> Iterator[Row]:
    names, texts = None, _without_nul(source)
    first = next(texts, "")
    told = _SEPARATOR.fullmatch(first)          # Excel's own line before the header
    texts, before = (texts, 1) if told else (itertools.chain([first] if first else [], texts), 0)
    delimiter = source.delimiter or (told[1] if told else _delimiter(source))
    for number, fields in _fields(source, texts, delimiter, before):
        if len(fields) <= 1 and not "".join(fields).strip():
            source.blank_lines += 1
        elif names is None and source.header:
            names = fields
            _check_header(source, number, names, delimiter)
        else:
            names = names or [f"c{index}" for index in range(len(fields))]
            if len(fields) != len(names):
                raise _ragged(source, number, len(fields), len(names))
            yield Row(number, dict(zip(names, fields)))


def _check_header(source: Source, number: int, names: list[str], delimiter: str):
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise data_error(source.path, number, "row", f"the column {show(twice[0])} twice", "different names",
                         f"rename one, or set {source.option('header', 'false')} if this is no header")
    if source.delimiter is not None or len(names) > 1:
        return
    if other := next((mark for mark in ";|\t" if mark in names[0] and mark != delimiter), None):
        tabs = source.option("format", source.kind.replace("csv", "tsv"))
        fix = tabs if other == "\t" else source.option("delimiter", other)
        kept = source.option("delimiter", ",") if delimiter == "," else "rename it"
        raise data_error(source.path, number, "row", f"the one column {show(names[0])}",
                         f"columns with {show(delimiter)} between them", f"set {fix}; {kept} if it is one column")


def _ragged(source: Source, number: int, found: int, expected: int) -> DataError:
    if source.quoting:
        fix = ("quote fields that hold the delimiter, or set " + source.option("quoting", "false")
               + " if none are quoted")
    else:
        fix = ("leave the delimiter and line breaks out of fields, or set " + source.option("quoting", "true")
               + " if fields are quoted")
    return data_error(source.path, number, "row", f"{found} fields", f"{expected}, as in the first row", fix)


def _delimiter(source: Source) -> str:
    return source.delimiter or ("\t" if source.kind.startswith("tsv") else ",")


def _fields(source: Source, texts: Iterator[str], delimiter: str, before: int) -> Iterator[tuple[int, list[str]]]:
    """The fields of every row with the number of its first line, `before` more than it has in `texts`."""
    if not source.quoting:
        for number, line in enumerate(texts, before + 1):
            yield number, line.removesuffix("\n").removesuffix("\r").split(delimiter)
        return
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + before + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "new-line character" in str(error):
                raise data_error(source.path, number, "row", "fields that cannot be told apart (carriage returns "
                                 "alone between lines)", "line feeds",
                                 "write them: tr '\\r' '\\n' < FILE > OTHER") from None
            raise data_error(source.path, number, "row", f"fields that cannot be told apart ({error})",
                             "quotes that open and close a whole field", "close or double the quotes, or set "
                             f"{source.option('quoting', 'false')} if fields are not quoted") from None
        yield number, fields


def _without_nul(source: Source) -> Iterator[str]:
    for number, line in lines(source):
        if "\0" in line:
            raise data_error(source.path, number, "row", "a NUL character", "UTF-8 text",
                             f"convert the file to UTF-8, or set {source.option('encoding', 'utf-16-le')} if so")
        yield line


# ---- Arrow


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__


def _parquet(source: Source) -> Iterator[Row]:
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
                source.part = number / max(file.metadata.num_rows, 1)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        other = f", or set {source.key('format')} if it is of another kind" if not number else ""
        raise data_error(source.path, number + 1, "file", f"no valid Parquet data ({_short(error)})",
                         "a whole Parquet file", "fetch or write the file again" + other) from None


def _folder(source: Source) -> Iterator[Row]:
    import datasets
    import pyarrow

    if not is_saved(source.path):
        raise data_error(source.path, 1, "file", "a folder", "a file, or a folder written by datasets.save_to_disk",
                         "set it to a file")
    number = 0
    try:
        data = datasets.load_from_disk(source.path)
        if isinstance(data, datasets.DatasetDict):
            if source.split not in data:
                raise data_error(source.path, 1, "file", f"the splits {', '.join(data)}", f"one named {source.split}",
                                 f"set {override('data.split', hydra_text(next(iter(data), '…')))}")
            data = data[source.split]
        for number, value in enumerate(data, 1):
            source.part = number / len(data)
            yield Row(number, value)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise data_error(source.path, number + 1, "file", f"no valid dataset ({_short(error)})",
                         "a folder written by datasets.save_to_disk", "write the folder again") from None


@dataclass
class Hub:
    """A split of a dataset of the Hugging Face hub; iterating it yields rows numbered from 1.

    subset: its configuration, or data_dir: a folder of its files. revision: a branch, tag or commit; None: the main
    one.
    """

    name: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    data_dir: str | None = None
    shown: str | None = None
    blank_lines: int = 0
    watch: Callable[[float], None] | None = field(default=None, repr=False)     # never told: the hub shows its own

    unnamed: ClassVar[str] = ""     # its columns have names

    def late_columns(self, names: set[str]) -> set[str]:
        """None: every row has all columns."""
        return set()

    @property
    def path(self) -> str:
        """Its name in messages and reports."""
        return self.name if self.data_dir is None else f"{self.name}/{self.data_dir}"

    @property
    def named(self) -> str:
        """The same, where its rows are told of."""
        return self.shown or self.path

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


_READERS = {"jsonl": json_lines, "json": json_file, "csv": _delimited, "tsv": _delimited, "parquet": _parquet}
