"""Rows of files → records, with a report: what was read, kept and dropped, and why."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from ...support.errors import DataError
from .columns import Layout, check
from .fields import CONVENTIONS, OPTIONAL
from .groups import Groups, digest, texts
from .judged import check_grouped, winners
from .mapped import raised, typed
from .readers import Hub, Row, Source, data_error, show
from .recognition import recognise
from .record import Record, further
from .told import SHOWN, LoadReport, listed, record_kind, records_of
from .turn_lists import cell_or_none, lists_of_turns
from .values import BadRow, Skipped, cell, kind, text_of
from .watching import watched

PEEK = 100                      # rows whose columns decide the layout
TRIED = 64                      # rows of the largest group in which the one at fault is looked for
Mapper = Callable[[Any], Record | list[Record | Skipped]]   # takes a row, or with data.group the list of a group's rows
Filter = Callable[[dict], bool]


class _Unit(NamedTuple):
    """What becomes records at once: a row, or a group's rows."""

    lines: list[int]
    value: Any


class Loader:
    """Reads sources one after the other and keeps the report.

    columns: field → column name(s), see ``recognition.recognise``; empty: by convention. template: the prompt beside
    them.
    mapper: makes the records of a row instead. group: a column, whose equal values make a group of rows wherever they
    stand in a file; the mapper takes them all at once, and by columns their single responses become one record. A row
    that cannot be used takes its whole group with it; a group whose rows lie in several files ends the reading.
    filter: whether to take a row at all. empty: a response may have no text.
    drop: leave out unusable rows; otherwise they are all listed in one DataError, which has them as `refused`.
    limit: stop after so many records.
    """

    def __init__(self, columns: Mapping[str, Any], mapper: Mapper | None, drop: bool, limit: int | None,
                 template: str | None = None, group: str | None = None, filter: Filter | None = None,
                 empty: bool = False):
        self.empty = empty
        self.columns, self.mapper, self.drop, self.limit = columns, mapper, drop, limit
        self.template, self.group, self.filter = template, group, filter
        self.report = LoadReport()
        self._elsewhere: set[bytes] = set()     # groups of the files before
        self._columns: set[str] = set()         # of the file that is read: those that need no word
        self._kinds: Counter[str] = Counter()
        self._filtered: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._turn_keys: Counter[str] = Counter()

    def records(self, sources: Iterable[Source | Hub]) -> Iterator[Record]:
        """All usable records; raises DataError at the end where rows were unusable and `drop` is off."""
        path, sources = "", list(sources)
        with watched(sources):
            for source in sources:
                path = source.named
                try:
                    yield from itertools.islice(self._of(source), self._left())
                finally:
                    self.report.blank_lines += source.blank_lines
                if self._left() == 0:
                    break
        self.report.kinds = dict(self._kinds)
        self.report.filtered, self.report.skipped = dict(self._filtered), dict(self._skipped)
        self.report.turn_keys = dict(self._turn_keys)
        if self.report.dropped and not (self.drop and self.report.kept):
            raise DataError(self._listing(), self.report.refused)
        if not self.report.kept:
            raise data_error(path, 1, "file", "no row that makes a record", "at least one",
                             "check data.mapper and data.filter")

    def _left(self) -> int | None:
        return None if self.limit is None else self.limit - self.report.kept

    def _of(self, source: Source | Hub) -> Iterator[Record]:
        path, rows = source.named, iter(source)
        if self.mapper is None:
            head = list(itertools.islice(rows, PEEK))
            layout, rows = self._layout(source, head), itertools.chain(head, rows)
            convert = layout.parts if self.group is None else layout.joined
        else:
            convert = self._mapped
            self.report.layouts[path] = "by data.mapper"
        units = self._groups(source) if self.group is not None else (
            _Unit([row.line], row.value) for row in self._passing(path, rows))
        for unit in units:
            try:
                if self.mapper is None:
                    self._notice(path, unit.value if self.group is not None else [unit.value])
                if self.group is not None:
                    self._judge(unit.value)
                made = convert(unit.value)
            except BadRow as bad:
                self._refuse(path, unit, bad)
                continue
            records = [part for part in made if isinstance(part, Record)]
            if len(records) < len(made):
                self._skipped.update(part.what for part in made if isinstance(part, Skipped))
            self.report.rows_without_records += 0 if records else len(unit.lines)
            for record in records:
                self.report.kept += 1
                self.report.strict_pairs += record.strict_pair_count
                self._kinds[record_kind(record)] += 1
                if record.extras or not isinstance(record.prompt, str):
                    asked = [] if isinstance(record.prompt, str) else map(further, record.prompt)
                    self._turn_keys.update(key for keys in (*asked, *(record.extras or [])) for key in keys)
                place = {"source": path, "line": unit.lines[0]}
                if self.group is not None:
                    place |= {"lines": unit.lines, "response_lines": _response_lines(record, unit)}
                yield Record(record.prompt, record.responses, record.scores, place | record.meta, record.extras)

    def _refuse(self, path: str, unit: _Unit, bad: BadRow):
        """Leave out a row, or with all of its group the one that is at fault, as far as that is known."""
        row = bad.row
        if row is None and self.group is not None and self.mapper is not None:
            row = self._at_fault(unit.value)
            if row is None and len(unit.lines) > 1:
                bad.found += f" (in the group of lines {listed(list(map(str, unit.lines[:SHOWN])), len(unit.lines))})"
        self.report.refuse(path, unit.lines[row if row is not None and 0 <= row < len(unit.lines) else 0], bad,
                           unit.lines)

    def _at_fault(self, rows: list[Any]) -> int | None:
        """The row of a group without which data.mapper can use the others, where that is so of one alone."""
        found = []
        for index in range(len(rows) if 1 < len(rows) <= TRIED else 0):
            try:
                self._mapped(rows[:index] + rows[index + 1:])
            except BadRow:
                continue
            found.append(index)
        return found[0] if len(found) == 1 else None

    def _groups(self, source: Source | Hub) -> Iterator[_Unit]:
        """The groups of a file, which is read at least twice."""
        if os.path.exists(source.path) and not os.path.isfile(source.path) and not os.path.isdir(source.path):
            raise data_error(source.named, 1, "file", "a pipe", "a file, which data.group reads twice",
                             "write the rows to a file")

        def read() -> Iterator[Row]:
            source.blank_lines = 0
            return iter(source)

        def met(row: Row, grouped: bool):
            self.report.read += 1
            if grouped:
                return
            try:
                self._group_of(row.value)
            except BadRow as bad:
                self.report.refuse(source.named, row.line, bad)
            else:
                self._filtered[_name(self.filter)] += 1

        groups = Groups()
        for row in read():
            try:
                name = self._group_of(row.value)
            except BadRow:
                name = None
            if self._elsewhere and name is not None and digest(name) in self._elsewhere:
                found = f"{show(name)}, a group that an earlier file has rows of too"
                raise data_error(source.named, row.line, self.group, found, "all rows of a group in one file",
                                 "write the rows of these files into one, or where they are two groups, give each "
                                 "file's groups names of their own")
            groups.add(name)
        self._elsewhere |= groups.digests()
        try:
            for rows in groups.gather(read, met):
                yield _Unit([row.line for row in rows], [row.value for row in rows])
        except ValueError:
            raise data_error(source.named, 1, "file", "other rows at the second reading", "a file that stays as it is",
                             "run the command again once nothing writes to it") from None

    def _group_of(self, value: Any) -> str | int | None:
        """A row's group; None where data.filter leaves the row out. One that it cannot judge stays in its group."""
        refused = None
        try:
            if self.filter is not None and not self._test(value):
                return None
        except BadRow as bad:
            refused = bad
        try:
            name = cell(value, self.group)
            if isinstance(name, float) and name.is_integer():   # as pandas writes a column that lacks one
                name = int(name)
            if not isinstance(name, int) or isinstance(name, bool):
                name = text_of(name, self.group, "text or a whole number")
        except BadRow as bad:
            if bad.reason == "missing column":
                bad.fix = "name a column of the rows in data.group, or give this row one"
            raise refused or bad from None
        return name

    def _judge(self, rows: list[Any]):
        """Raises BadRow where data.filter cannot judge one of a group's rows."""
        for index, row in enumerate(rows if self.filter is not None else ()):
            try:
                self._test(row)
            except BadRow as bad:
                bad.row = index
                raise

    def _passing(self, path: str, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows that data.filter lets through; all are counted."""
        for row in rows:
            self.report.read += 1
            try:
                passes = self.filter is None or self._test(row.value)
            except BadRow as bad:
                self.report.refuse(path, row.line, bad)
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
            raise raised("filter", error) from None
        if not isinstance(passes, bool):
            raise BadRow("filter error", "row", f"that data.filter returned {show(passes)}", "true or false",
                         "correct the filter")
        return passes

    def _layout(self, source: Source | Hub, head: list[Row]) -> Layout:
        objects = [row.value for row in head if isinstance(row.value, dict)]
        if not objects:
            raise data_error(source.named, head[0].line, "row", kind(head[0].value), "an object with columns",
                             "give every row its columns' names")
        found = list(dict.fromkeys(name for value in objects for name in value))
        if len(head) == PEEK:
            optional = Layout(self.columns).optional if self.columns else OPTIONAL
            found += sorted(source.late_columns(optional - set(found)))
        if not self.columns:
            self._check_no_tree(source, head)
        try:
            layout = recognise(source.named, found, self.columns, self.template)
        except DataError as error:
            raise DataError(f"{error}{source.unnamed}") from None
        asked = (cell_or_none(row, layout.columns.get("prompt")) for row in objects)
        layout = replace(layout, listed=lists_of_turns(asked))
        layout = replace(layout, winners=winners(source.named, layout.columns, objects), empty=self.empty)
        if self.group is None:
            check_grouped(source.named, layout.columns)
        self.report.layouts[source.named], self.report.columns[source.named] = layout.name, dict(layout.columns)
        used = layout.used | ({self.group, self.group.partition(".")[0]} if self.group is not None else set())
        if ignored := [name for name in found if name not in used]:
            self.report.ignored_columns[source.named] = ignored
        self._columns = used.union(found, () if layout.known is None else CONVENTIONS)
        return layout

    @staticmethod
    def _check_no_tree(source: Source | Hub, head: list[Row]):
        """Refuses messages with the replies to them: by column names they would be read as bare prompts."""
        for row in head:
            prompt = row.value.get("prompt") if isinstance(row.value, dict) else None
            if isinstance(prompt, dict) and isinstance(prompt.get("replies"), list):
                raise data_error(source.named, row.line, "prompt", "a message with the replies to it, a tree",
                                 "a prompt, and its responses beside it", "read OpenAssistant's by data=oasst_tree, "
                                 "other trees by data.mapper")

    def _notice(self, path: str, rows: list[Any]):
        """Tell of columns that the first rows do not have and nothing reads."""
        for row in rows:
            if isinstance(row, dict) and not row.keys() <= self._columns:
                late = [name for name in row if name not in self._columns and row[name] is not None]
                self._columns.update(late)
                if late:
                    self.report.ignored_columns.setdefault(path, []).extend(late)

    def _mapped(self, row: Any) -> list[Record | Skipped]:
        """What data.mapper makes, its records checked; whatever goes wrong inside it makes the row a bad one."""
        try:
            made = self.mapper(row)
        except BadRow:
            raise
        except Exception as error:
            raise raised("mapper", error) from None
        made = [made] if isinstance(made, Record) else made
        if not isinstance(made, list) or not all(isinstance(part, (Record, Skipped)) for part in made):
            raise BadRow("mapper error", "row", f"that data.mapper returned {show(made)}",
                         "a Record or a list of them, empty for none", "correct the mapper")
        made = [typed(part) if isinstance(part, Record) else part for part in made]
        for part in made:
            if isinstance(part, Record):
                check(part, empty=self.empty)
        return made

    def _listing(self) -> str:
        """The first unusable row, then all by reason with the first of every other reason."""
        report = self.report
        bad, messages = sum(report.dropped.values()), report.messages()
        first = next(iter(messages))
        groups = "" if self.group is None else ", each with its whole group"
        text = [messages.pop(first), f"{bad} of {report.read} rows cannot be used{groups}:"]
        for reason, count in Counter(report.dropped).most_common():
            lines = report.lines[reason]
            if len(report.layouts) == 1:
                lines = [line.rpartition(":")[2] for line in lines]
            text.append(f"  {reason}: {count} (lines {listed(lines, count)})")
            text += [f"    {messages[reason]}"] if reason in messages else []
        if report.kept:
            text.append(f"data.on_bad_row=drop would leave {records_of(report)}; the tokenizer and chat template of a "
                        "run may refuse more")
        else:
            text.append("no row can be used")
        return "\n".join(text)


def _response_lines(record: Record, unit: _Unit) -> list[int | None]:
    """For each response of a group's record the line of the row that has its text; None where that cannot be told."""
    held: dict[str, int] = {}
    for line, row in zip(unit.lines, unit.value):
        for text in texts(row):
            held.setdefault(text, line)
    return [held[response] if response in held else
            next((line for text, line in held.items() if response in text), None) for response in record.responses]

def _name(function: Callable) -> str:
    """A function with the arguments it was given, as in ``at_least(column='score', value=2)``."""
    if not isinstance(function, partial):
        return getattr(function, "__name__", type(function).__name__)
    given = [*map(repr, function.args), *(f"{name}={value!r}" for name, value in function.keywords.items())]
    return f"{_name(function.func)}({', '.join(given)})"
