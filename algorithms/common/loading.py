"""Rows of files → records, with a report: what was read, kept and dropped, and why."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from algorithms.common.columns import BadRow, Layout, check, kind, recognise
from algorithms.common.errors import DataError
from algorithms.common.readers import Row, Source, data_error, show
from algorithms.common.record import Record

PEEK = 100                      # rows whose columns decide the layout
SHOWN = 5                       # rows named for each reason
Mapper = Callable[[dict], Record | list[Record]]


@dataclass
class LoadReport:
    """What reading found. Nothing is dropped, ignored or replaced without an entry here."""

    read: int = 0                                               # rows
    kept: int = 0                                               # records
    dropped: dict[str, int] = field(default_factory=dict)       # reason → rows
    lines: dict[str, list[str]] = field(default_factory=dict)   # reason → PATH:LINE of the first few of them
    duplicates: int = 0                                         # records whose prompt, responses and scores came before
    strict_pairs: int = 0
    kinds: dict[str, int] = field(default_factory=dict)         # kind of record → records
    rows_without_records: int = 0                               # rows a mapper found nothing in
    blank_lines: int = 0
    layouts: dict[str, str] = field(default_factory=dict)       # file → how its columns were read
    ignored_columns: dict[str, list[str]] = field(default_factory=dict)
    fallbacks: dict[str, str] = field(default_factory=dict)     # named set → what it was made from
    sources: dict[str, dict[str, int]] = field(default_factory=dict)    # part of a mixture → its counts

    def to_dict(self) -> dict:
        """As JSON-able values."""
        return asdict(self)


class Loader:
    """Reads sources one after the other and keeps the report.

    columns: field → column name(s), see ``columns.recognise``; empty: by convention.
    mapper: makes the records of a row instead.
    drop: leave out unusable rows; otherwise they are all listed in one DataError.
    limit: stop after so many records.
    """

    def __init__(self, columns: Mapping[str, Any], mapper: Mapper | None, drop: bool, limit: int | None):
        self.columns, self.mapper, self.drop, self.limit = columns, mapper, drop, limit
        self.report = LoadReport()
        self._dropped: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._first_error = ""

    def records(self, sources: Iterable[Source]) -> Iterator[Record]:
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
        if self._dropped and not (self.drop and self.report.kept):
            raise DataError(self._listing())
        if not self.report.kept:
            raise data_error(path, 1, "file", "no row that makes a record", "at least one", "check data.mapper")

    def _left(self) -> int | None:
        return None if self.limit is None else self.limit - self.report.kept

    def _of(self, source: Source) -> Iterator[Record]:
        rows = iter(source)
        if self.mapper is None:
            head = list(itertools.islice(rows, PEEK))
            convert, rows = self._layout(source, head).record, itertools.chain(head, rows)
        else:
            convert = self._mapped
            self.report.layouts[source.path] = "by data.mapper"
        for row in rows:
            self.report.read += 1
            try:
                made = convert(row.value)
                made = [made] if isinstance(made, Record) else made
            except BadRow as bad:
                self._bad(source.path, row.line, bad)
                continue
            self.report.rows_without_records += not made
            for record in made:
                self.report.kept += 1
                self.report.strict_pairs += _strict_pairs(record.scores)
                self._kinds[_kind(record)] += 1
                yield Record(record.prompt, record.responses, record.scores,
                             {"source": source.path, "line": row.line, **record.meta})

    def _layout(self, source: Source, head: list[Row]) -> Layout:
        objects = [row.value for row in head if isinstance(row.value, dict)]
        if not objects:
            raise data_error(source.path, head[0].line, "row", kind(head[0].value), "an object with columns",
                             "give every row its columns' names")
        found = list(dict.fromkeys(name for value in objects for name in value))
        layout = recognise(source.path, found, self.columns, source.textual)
        self.report.layouts[source.path] = layout.name
        if ignored := [name for name in found if name not in layout.used]:
            self.report.ignored_columns[source.path] = ignored
        return layout

    def _mapped(self, row: Any) -> list[Record]:
        """The checked records of data.mapper; whatever goes wrong inside it makes the row a bad one."""
        try:
            made = self.mapper(row)
            made = [made] if isinstance(made, Record) else made
            if not isinstance(made, list) or not all(isinstance(record, Record) for record in made):
                raise TypeError(f"it returned {show(made)}, not a Record or a list of them")
            for record in made:
                check(record)
                json.dumps(record.meta)
            return made
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise BadRow("mapper error", "row", f"{type(error).__name__}: {error}", "a row data.mapper can read",
                         "correct the row or the mapper") from None

    def _bad(self, path: str, line: int, bad: BadRow):
        self._dropped[bad.reason] += 1
        lines = self.report.lines.setdefault(bad.reason, [])
        if len(lines) < SHOWN:
            lines.append(f"{path}:{line}")
        if not self._first_error:
            self._first_error = str(data_error(path, line, bad.field, bad.found, bad.expected, bad.fix))

    def _listing(self) -> str:
        """The first unusable row in full, then all by reason."""
        bad = self._dropped.total()
        text = [self._first_error, f"{bad} of {self.report.read} rows cannot be used:"]
        for reason, count in self._dropped.most_common():
            lines = self.report.lines[reason]
            if len(self.report.layouts) == 1:
                lines = [line.rpartition(":")[2] for line in lines]
            text.append(f"  {reason}: {count} (lines {', '.join(lines)}{', …' if count > len(lines) else ''})")
        kept = self.report.kept
        text.append(f"data.on_bad_row=drop would keep the other {kept}" if kept else "no row can be used")
        return "\n".join(text)


def _strict_pairs(scores: list[float] | None) -> int:
    counts = sorted(Counter(scores or []).values())
    return (sum(counts) ** 2 - sum(count * count for count in counts)) // 2


def _kind(record: Record) -> str:
    k, judged = len(record.responses), record.scores is not None
    if k == 0:
        return "prompt"
    if k == 1:
        return "scored response" if judged else "demonstration"
    return ("pair" if k == 2 else "ranking") if judged else "candidates"
