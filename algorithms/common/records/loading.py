"""Rows of files → records, with a report: what was read, kept and dropped, and why."""

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

from ..errors import DataError
from .columns import Layout, check
from .readers import Hub, Row, Source, data_error, show
from .recognition import recognise
from .record import Record, further
from .values import BadRow, Skipped, cell, further_keys, kind, text_of

PEEK = 100                      # rows whose columns decide the layout
SHOWN = 5                       # rows named for each reason
Mapper = Callable[[Any], Record | list[Record | Skipped]]   # takes a row, or with data.group the list of a group's rows
Filter = Callable[[dict], bool]


@dataclass
class LoadReport:
    """What reading found. Nothing is dropped, ignored or replaced without an entry here."""

    read: int = 0                                               # rows
    kept: int = 0                                               # records
    dropped: dict[str, int] = field(default_factory=dict)       # reason → rows
    lines: dict[str, list[str]] = field(default_factory=dict)   # reason → PATH:LINE of the first few of them
    filtered: dict[str, int] = field(default_factory=dict)      # what data.filter refuses: filter → rows
    duplicates: int = 0                                         # records whose prompt, responses and scores came before
    strict_pairs: int = 0
    kinds: dict[str, int] = field(default_factory=dict)         # kind of record → records
    rows_without_records: int = 0                               # rows a mapper found nothing in
    skipped: dict[str, int] = field(default_factory=dict)       # what a mapper leaves out of rows → how often
    blank_lines: int = 0
    layouts: dict[str, str] = field(default_factory=dict)       # file → how its columns were read
    ignored_columns: dict[str, list[str]] = field(default_factory=dict)
    turn_keys: dict[str, int] = field(default_factory=dict)     # further key of turns → turns with it; weight: 0 alone
    unread_turn_keys: list[str] = field(default_factory=list)   # those that the run's chat template does not read
    fallbacks: dict[str, str] = field(default_factory=dict)     # named set → what it was made from
    sources: dict[str, dict[str, int]] = field(default_factory=dict)    # part of a mixture → its counts

    def to_dict(self) -> dict:
        """As JSON-able values."""
        return asdict(self)

    def refuse(self, path: str, line: int, bad: BadRow):
        """Leave out a row for what is said by `bad`."""
        self.dropped[bad.reason] = self.dropped.get(bad.reason, 0) + 1
        lines = self.lines.setdefault(bad.reason, [])
        if len(lines) < SHOWN:
            lines.append(f"{path}:{line}")

    def places(self, reason: str) -> str:
        """PATH:LINE of the first rows dropped for a reason, and … where there are more."""
        return _listed(self.lines[reason], self.dropped[reason])


class _Unit(NamedTuple):
    """What becomes records at once: a row, or a group's rows."""

    lines: list[int]
    value: Any


class Loader:
    """Reads sources one after the other and keeps the report.

    columns: field → column name(s), see ``columns.recognise``; empty: by convention. template: the prompt beside them.
    mapper: makes the records of a row instead; of neighbouring rows with the same value of the column `group`, if given.
    filter: whether to take a row at all.
    drop: leave out unusable rows; otherwise they are all listed in one DataError.
    limit: stop after so many records.
    """

    def __init__(self, columns: Mapping[str, Any], mapper: Mapper | None, drop: bool, limit: int | None,
                 template: str | None = None, group: str | None = None, filter: Filter | None = None):
        self.columns, self.mapper, self.drop, self.limit = columns, mapper, drop, limit
        self.template, self.group, self.filter = template, group, filter
        self.report = LoadReport()
        self._dropped: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._filtered: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._turn_keys: Counter[str] = Counter()
        self._first: tuple[str, int, str] | None = None     # path, line and message of the first unusable row

    def records(self, sources: Iterable[Source | Hub]) -> Iterator[Record]:
        """All usable records; raises DataError at the end where rows were unusable and `drop` is off."""
        path = ""
        for source in sources:
            path = source.path
            try:
                yield from itertools.islice(self._of(source), self._left())
            finally:
                self.report.blank_lines += source.blank_lines
            if self._left() == 0:
                break
        self.report.dropped, self.report.kinds = dict(self._dropped), dict(self._kinds)
        self.report.filtered, self.report.skipped = dict(self._filtered), dict(self._skipped)
        self.report.turn_keys = dict(self._turn_keys)
        if self._dropped and not (self.drop and self.report.kept):
            raise DataError(self._listing())
        if not self.report.kept:
            raise data_error(path, 1, "file", "no row that makes a record", "at least one",
                             "check data.mapper and data.filter")

    def _left(self) -> int | None:
        return None if self.limit is None else self.limit - self.report.kept

    def _of(self, source: Source | Hub) -> Iterator[Record]:
        rows = iter(source)
        if self.mapper is None:
            head = list(itertools.islice(rows, PEEK))
            convert, rows = self._layout(source, head).record, itertools.chain(head, rows)
        else:
            convert = self._mapped
            self.report.layouts[source.path] = "by data.mapper"
        for unit in self._units(source.path, rows):
            try:
                made = convert(unit.value)
                made = [made] if isinstance(made, Record) else made
            except BadRow as bad:
                line = unit.lines[bad.row if 0 <= bad.row < len(unit.lines) else 0]
                self._bad(source.path, line, bad, len(unit.lines))
                continue
            self.report.rows_without_records += 0 if made else len(unit.lines)
            for record in made:
                self.report.kept += 1
                self.report.strict_pairs += record.strict_pair_count
                self._kinds[record_kind(record)] += 1
                asked = [] if isinstance(record.prompt, str) else map(further, record.prompt)
                self._turn_keys.update(key for keys in (*asked, *(record.extras or [])) for key in keys)
                yield replace(record, meta={"source": source.path, "line": unit.lines[0], **record.meta})

    def _units(self, path: str, rows: Iterable[Row]) -> Iterator[_Unit]:
        if self.group is None:
            yield from (_Unit([row.line], row.value) for row in self._passing(path, rows))
            return
        seen: set[bytes] = set()
        for name, members in itertools.groupby(self._named(path, rows), key=lambda member: member[0]):
            group = [row for _, row in members]
            lines = [row.line for row in group]
            digest = hashlib.blake2b(repr(name).encode(), digest_size=16).digest()
            if digest in seen:
                self._bad(path, lines[0], BadRow("torn group", self.group, f"more rows of {show(name)}", "all rows of a "
                                                 "group next to each other", "sort the file by this column"), len(lines))
                continue
            seen.add(digest)
            yield _Unit(lines, [row.value for row in group])

    def _named(self, path: str, rows: Iterable[Row]) -> Iterator[tuple[str | int, Row]]:
        """Rows with their group's name; 1 and "1" are two."""
        for row in self._passing(path, rows):
            try:
                name = cell(row.value, self.group)
                if not isinstance(name, int) or isinstance(name, bool):
                    name = text_of(name, self.group, "text or a whole number")
            except BadRow as bad:
                self._bad(path, row.line, bad)
                continue
            yield name, row

    def _passing(self, path: str, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows that data.filter lets through; all are counted."""
        for row in rows:
            self.report.read += 1
            try:
                passes = self.filter is None or self._test(row.value)
            except BadRow as bad:
                self._bad(path, row.line, bad)
                continue
            if passes:
                yield row
            else:
                self._filtered[_name(self.filter)] += 1

    def _test(self, row: Any) -> bool:
        """What data.filter says; whatever goes wrong inside it makes the row a bad one."""
        try:
            passes = self.filter(row)
        except BadRow as bad:
            if bad.reason == "missing column":
                bad.fix = "name a column of the rows in data.filter, or set data.filter=null"
            raise
        except Exception as error:
            raise _raised("filter", error) from None
        if not isinstance(passes, bool):
            raise BadRow("filter error", "row", f"that data.filter returned {show(passes)}", "true or false",
                         "correct the filter")
        return passes

    def _layout(self, source: Source | Hub, head: list[Row]) -> Layout:
        objects = [row.value for row in head if isinstance(row.value, dict)]
        if not objects:
            raise data_error(source.path, head[0].line, "row", kind(head[0].value), "an object with columns",
                             "give every row its columns' names")
        found = list(dict.fromkeys(name for value in objects for name in value))
        layout = recognise(source.path, found, self.columns, source.textual, self.template)
        self.report.layouts[source.path] = layout.name
        if ignored := [name for name in found if name not in layout.used]:
            self.report.ignored_columns[source.path] = ignored
        return layout

    def _mapped(self, row: Any) -> list[Record]:
        """The checked records of data.mapper; whatever goes wrong inside it makes the row a bad one."""
        try:
            made = self.mapper(row)
        except BadRow:
            raise
        except Exception as error:
            raise _raised("mapper", error) from None
        made = [made] if isinstance(made, Record) else made
        if not isinstance(made, list) or not all(isinstance(part, (Record, Skipped)) for part in made):
            raise BadRow("mapper error", "row", f"that data.mapper returned {show(made)}",
                         "a Record or a list of them, empty for none", "correct the mapper")
        records = [_typed(part) for part in made if isinstance(part, Record)]
        for record in records:
            check(record)
        self._skipped.update(part.what for part in made if isinstance(part, Skipped))
        return records

    def _bad(self, path: str, line: int, bad: BadRow, rows: int = 1):
        self._dropped[bad.reason] += rows
        lines = self.report.lines.setdefault(bad.reason, [])
        if len(lines) < SHOWN:
            lines.append(f"{path}:{line}")
        if self._first is None or self._first[0] == path and line < self._first[1]:     # groups are read ahead
            told = (" ".join(str(part).splitlines()) for part in (bad.field, bad.found, bad.expected, bad.fix))
            self._first = path, line, str(data_error(path, line, *told))

    def _listing(self) -> str:
        """The first unusable row in full, then all by reason."""
        bad = self._dropped.total()
        text = [self._first[2], f"{bad} of {self.report.read} rows cannot be used:"]
        for reason, count in self._dropped.most_common():
            lines = self.report.lines[reason]
            if len(self.report.layouts) == 1:
                lines = [line.rpartition(":")[2] for line in lines]
            text.append(f"  {reason}: {count} (lines {_listed(lines, count)})")
        kept = self.report.kept
        text.append(f"data.on_bad_row=drop would keep the other {kept}" if kept else "no row can be used")
        return "\n".join(text)


def _raised(what: str, error: Exception) -> BadRow:
    """The bad row that a user's function makes of any error: its type, message and place in the function."""
    said = " ".join(str(error).split())[:200]
    trace = error.__traceback__.tb_next
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("hydra."):     # around a _target_
        trace = trace.tb_next
    place = "" if trace is None else f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno})"
    return BadRow(f"{what} error", "row", f"{type(error).__name__}{': ' * bool(said)}{said}{place}",
                  f"a row that data.{what} can read", f"correct the row or the {what}")


def _typed(record: Record) -> Record:
    """A mapper's record with every part of its type, as lists, floats and plain turns; raises BadRow.

    That the scores are finite and as many as the responses, Record itself sees to.
    """
    def refuse(part: str, value: Any, expected: str):
        raise BadRow("null" if value is None else "wrong type", part, f"{kind(value)} in the mapper's record", expected,
                     "correct the row or the mapper")

    prompt, scores = record.prompt, record.scores
    if isinstance(prompt, list):
        for turn in prompt:
            if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
                raise BadRow("wrong type", "prompt", f"the turn {show(turn)} in the mapper's record",
                             'turns of the form {"role": text, "content": text}', "correct the row or the mapper")
        prompt = [{"role": turn["role"], "content": turn["content"],
                   **further_keys(turn, ("role", "content"), turn["role"], "prompt")} for turn in prompt]
        prompt = [turn for turn in prompt if turn["role"] != "system" or turn["content"].strip()]
    elif not isinstance(prompt, str):
        refuse("prompt", prompt, "text or a list of turns")
    if not isinstance(record.responses, (list, tuple)):
        refuse("responses", record.responses, "a list of texts")
    for response in record.responses:
        if not isinstance(response, str):
            refuse("responses", response, "texts")
    if scores is not None:
        if not isinstance(scores, (list, tuple)):
            refuse("scores", scores, "a list of numbers")
        for score in scores:
            if not isinstance(score, Real) or isinstance(score, bool):
                refuse("scores", score, "numbers")
        scores = [float(score) for score in scores]
    if not isinstance(record.meta, dict):
        refuse("meta", record.meta, "an object")
    try:
        json.dumps(record.meta)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow("mapper error", "meta", f"{type(error).__name__}: {error}", "what JSON can hold",
                     "correct the mapper") from None
    return replace(record, prompt=prompt, responses=list(record.responses), scores=scores, extras=_typed_extras(record))


def _typed_extras(record: Record) -> list[dict] | None:
    """The further keys of the responses' turns in a mapper's record; raises BadRow."""
    if record.extras is None:
        return None
    if not isinstance(record.extras, list) or not all(isinstance(extra, dict) for extra in record.extras):
        raise BadRow("wrong type", "extras", f"{show(record.extras)} in the mapper's record",
                     "a list of objects, or None", "correct the mapper")
    extras = [further_keys(extra, (), "assistant", "extras") for extra in record.extras]
    if any("weight" in extra for extra in extras):
        raise BadRow("nothing to learn", "extras", "the weight 0 in the mapper's record", "responses to learn from",
                     "leave the response out in the mapper")
    return extras if any(extras) else None


def _listed(lines: list[str], count: int) -> str:
    return ", ".join(lines) + (", …" if count > len(lines) else "")


def record_kind(record: Record) -> str:
    """What a record is called in reports."""
    k, judged = len(record.responses), record.scores is not None
    if k == 0:
        return "prompt"
    if k == 1:
        return "scored response" if judged else "demonstration"
    if not judged:
        return "candidates"
    return "ranking" if k > 2 else "pair" if record.scores[0] != record.scores[1] else "tied pair"


def _name(function: Callable) -> str:
    """A function with the arguments it was given, as in ``at_least(column='score', value=2)``."""
    if not isinstance(function, partial):
        return getattr(function, "__name__", type(function).__name__)
    given = [*map(repr, function.args), *(f"{name}={value!r}" for name, value in function.keywords.items())]
    return f"{_name(function.func)}({', '.join(given)})"
