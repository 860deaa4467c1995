"""Rows that the templates of a run cannot use, found before anything is trained: left out and counted, or listed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..support.errors import DataError
from .records import BadRow, DataSets, LoadReport, Record, Records
from .records.fields import column_of, response_column
from .records.lines import data_error
from .records.told import record_kind, records_of
from .special_tokens import special_texts
from .template import Template

log = logging.getLogger(__name__)
# The sets that rows were read into come before those made of them: there a record is the row's own.
ORDER = ("preferences", "heldout", "audit", "demonstrations", "choices", "evaluation", "tuning", "prompts")
MADE = ("evaluation", "tuning", "prompts")
# field of a fault → those of ours whose column it may stand in
FIELDS_OF = {"responses": ("response", "messages", "responses"), "prompt": ("prompt", "messages", "chosen"),
             "system": ("system", "prompt", "messages", "chosen")}


@dataclass(frozen=True)
class Reading:
    """A set of the data as a stage tokenises it."""

    template: Template
    name: str  # of the set
    every_turn: bool = False
    prompt: bool = False  # whether the prompt's tokens are learned too

    def suspects(self, records: Records) -> np.ndarray:
        """(n,) bool: records that have to be looked at. A text without an end token can always be used."""
        if "" in self.template.end_texts:
            return np.ones(len(records), bool)
        marks = {*self.template.end_texts, *self.template.marks}
        found = records.answered_with(marks) | records.holding(marks)
        return found | records.conversations() if self.template.chat or self.every_turn or self.prompt else found

    def fault(self, record: Record) -> BadRow | None:
        """Why this stage cannot use the record."""
        if self.prompt and not isinstance(record.prompt, str) and any("weight" in turn for turn in record.prompt):
            return BadRow("turn weight", "messages", "an answer of weight 0 where the prompt is learned as a whole "
                          "(algorithm.train_on_prompt)", "none", "set algorithm.train_on_prompt=false")
        return self.template.check(record, self.every_turn)


class _Place(NamedTuple):
    """Where a record comes from: path and line, the first of a group's, or for what was read from no file its set and
    number there."""

    path: str
    line: int
    read: bool
    lines: tuple[int, ...] = ()  # of a group's rows

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    def message(self, line: int, bad: BadRow) -> str:
        told = [" ".join(str(part).split()) for part in (bad.field, bad.found, bad.expected, bad.fix)]
        if self.read:
            return str(data_error(self.path, line, *told))
        return "{}: found {}; expected {}; fix: {}".format(*told)


class _Fault(NamedTuple):
    """What is wrong with a record, and the response in which it is."""

    place: _Place
    bad: BadRow
    response: str | None


_Faults = dict[str, dict[int, _Fault]]  # set → index in it → its fault
_Bad = dict[_Place, tuple[int, BadRow]]  # with the line at fault


def _place(record: Record, name: str, index: int) -> _Place:
    if {"source", "line"} <= record.meta.keys():
        return _Place(record.meta["source"], record.meta["line"], True, tuple(record.meta.get("lines", ())))
    return _Place(name, index + 1, False)


def usable(data: DataSets, readings: Iterable[Reading]) -> DataSets:
    """The data without the rows that one of the readings cannot use, in all of its sets; report and log tell of them.

    Raises DataError, with all of them by reason, unless ``data.on_bad_row`` is "drop"; and where nothing would be left.
    """
    readings = list(readings)
    faults, unread = _faults(data, readings)
    left = data if not faults else _left_out(data, faults)
    _tell_special(left, readings)
    _tell_fallback(left, readings)
    data.report.unread_turn_keys = sorted(unread)
    if unread:
        log.warning("keys inside turns that the chat template does not read: %s", ", ".join(map(repr, sorted(unread))))
    return left


def _tell_special(data: DataSets, readings: list[Reading]) -> None:
    """Say where texts that are used as they are hold special tokens: a rendered conversation, or an accident."""
    for reading in {reading.name: reading for reading in reversed(readings)}.values():
        records, special = getattr(data, reading.name), special_texts(reading.template.tokenizer)
        if records is None or not special:
            continue
        places = np.flatnonzero(records.holding(special) | records.answered_with(special))
        if len(places):
            record = records[places[0]]
            turns = [{"content": record.prompt}] if isinstance(record.prompt, str) else record.prompt
            asked = "".join(turn["content"] for turn in turns)
            some = next(text for text in special if text in "".join([asked, *record.responses]))
            log.warning("special tokens written out in the texts of %d records of the %s are read as these tokens "
                        "(%s: %r)", len(places), reading.name, _place(record, reading.name, places[0]), some)


def _tell_fallback(data: DataSets, readings: list[Reading]) -> None:
    """Say how conversations are written for a model that has no chat template."""
    lacking = {id(reading.template): reading.template for reading in readings if not reading.template.chat
               and (records := getattr(data, reading.name)) is not None and records.conversations().any()}
    for template in lacking.values():
        log.warning("no chat template in %s: conversations are written as %r; fix, where the model knows another form: "
                    "model.chat_template=FILE", template.tokenizer.name_or_path or "the tokenizer",
                    template.form)


def _left_out(data: DataSets, faults: _Faults) -> DataSets:
    # a set's own fault counts before those of what was made of it
    found = {fault.place: fault for of_set in reversed(faults.values()) for fault in of_set.values()}
    kept = _kept(data, faults, {place for place in found if place.read})
    bad = _in_the_files_terms(data, found, kept)
    emptied = [name for name in faults if not kept[name].any()]
    _forget(data, kept)
    for place, (line, fault) in bad.items():
        data.report.refuse(place.path, line, fault, place.lines)
    if emptied or data.on_bad_row != "drop":
        raise DataError(_listing(data.report, bad, emptied), data.report.refused)
    firsts = _firsts(bad)
    for reason, count in _counts(bad).items():
        log.warning("dropped %d rows: %s (%s): %s", count, reason, data.report.places(reason), firsts[reason])
    return replace(data, **{name: getattr(data, name).where(mask) for name, mask in kept.items()})


def _in_the_files_terms(data: DataSets, found: dict[_Place, _Fault], kept: dict[str, np.ndarray]) -> _Bad:
    """Each place that cannot be used, in order, with the line at fault, of a group's the response's own, and what is
    wrong, under the file's own column."""
    origins: dict[_Place, list[Record]] = {place: [] for place in found}
    for name, mask in kept.items():
        left_out = np.flatnonzero(~mask)
        for index, record in zip(left_out.tolist(), getattr(data, name).select(left_out)):
            if (place := _place(record, name, index)) in origins:
                origins[place].append(record)
    told = {}
    for place, fault in sorted(found.items(), key=lambda one: one[0]):
        bad, columns = fault.bad, data.report.columns.get(place.path)
        at = next(((record, record.responses.index(fault.response)) for record in origins[place]
                   if fault.response in record.responses), None)
        own = at and at[0].meta.get("response_lines", [])[at[1]:at[1] + 1]
        if columns and bad.field in FIELDS_OF:
            column = (response_column(columns, at[1]) if at and bad.field == "responses"
                      else column_of(columns, *FIELDS_OF[bad.field]))
            bad = BadRow(bad.reason, column, bad.found, bad.expected, bad.fix)
        told[place] = own[0] if own and own[0] else place.line, bad
    return told


def _faults(data: DataSets, readings: Iterable[Reading]) -> tuple[_Faults, set[str]]:
    """What cannot be used, and why; and the further keys of turns that no template reads."""
    faults: _Faults = {}
    unread = data.report.turn_keys.keys() - {"weight"}
    for reading in sorted(dict.fromkeys(readings), key=lambda one: ORDER.index(one.name)):
        records = getattr(data, reading.name)
        if records is None:
            continue
        suspects = np.flatnonzero(reading.suspects(records))
        for index, record in zip(suspects.tolist(), records.select(suspects)):
            if index in faults.get(reading.name, {}):
                continue
            if bad := reading.fault(record):
                response = None if bad.row is None else record.responses[bad.row]
                fault = _Fault(_place(record, reading.name, index), bad, response)
                faults.setdefault(reading.name, {})[index] = fault
            elif unread and reading.template.chat:
                unread = reading.template.unread(record, unread)
    return faults, unread


def _kept(data: DataSets, faults: _Faults, places: set[_Place]) -> dict[str, np.ndarray]:
    """Set → (n,) bool: what can be used, and was not read from a row of which something cannot. A prompt that other
    rows have, too, stays."""
    kept: dict[str, np.ndarray] = {}
    for name in ORDER:
        records = getattr(data, name)
        if records is None:
            continue
        good = (_place(record, name, index) not in places for index, record in enumerate(records))
        mask = np.fromiter(good, bool, len(records))
        if name == "prompts":
            others = [getattr(data, one).where(kept[one]).prompt_hashes for one in ("preferences", "demonstrations")]
            mask |= np.isin(records.prompt_hashes, np.concatenate(others))
        mask[list(faults.get(name, {}))] = False
        kept[name] = mask
    return kept


def _forget(data: DataSets, kept: dict[str, np.ndarray]) -> None:
    """Take the records that are left out off the report's numbers; those do not count what was made of a record."""
    report, seen = data.report, set()
    for name, mask in kept.items():
        left_out = np.flatnonzero(~mask) if name not in report.fallbacks else np.empty(0, np.int64)
        for index, record in zip(left_out.tolist(), getattr(data, name).select(left_out)):
            place, kind = _place(record, name, index), record_kind(record)
            if kind in report.kinds and (place, record.key) not in seen and not (name in MADE and place in seen):
                seen |= {place, (place, record.key)}
                report.kinds[kind] -= 1
                report.kept -= 1
                report.strict_pairs -= record.strict_pair_count


def _listing(report: LoadReport, bad: _Bad, emptied: list[str]) -> str:
    """The first of the rows in full, then all by reason with the first of every other reason."""
    counts, messages = _counts(bad), _firsts(bad)
    text = [messages.pop(next(iter(bad.values()))[1].reason)]
    total = sum(counts.values())
    counted = f"{total} of {report.read}" if report.read else total
    grouped = ", each with its whole group" if any(place.lines for place in bad) else ""
    text.append(f"{counted} rows cannot be used with this tokenizer and chat template{grouped}:")
    for reason, count in counts.most_common():
        text.append(f"  {reason}: {count} ({report.places(reason)})")
        text += [f"    {messages[reason]}"] if reason in messages else []
    left = f"data.on_bad_row=drop would leave {records_of(report)}"
    text.append(f"no row would be left of the {' and the '.join(emptied)}" if emptied else left)
    return "\n".join(text)


def _counts(bad: _Bad) -> Counter[str]:
    """Reason → rows, those of a bad row's group too."""
    counts: Counter[str] = Counter()
    for place, (_, fault) in bad.items():
        counts[fault.reason] += len(place.lines) or 1
    return counts


def _firsts(bad: _Bad) -> dict[str, str]:
    """Reason → what is wrong with its first row."""
    return {fault.reason: place.message(line, fault) for place, (line, fault) in reversed(bad.items())}
