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
from .records.lines import data_error
from .records.loading import SHOWN, record_kind
from .template import Template

log = logging.getLogger(__name__)
# The sets that rows were read into come before those made of them: there a record is the row's own.
ORDER = ("preferences", "heldout", "audit", "demonstrations", "choices", "evaluation", "tuning", "prompts")
MADE = ("evaluation", "tuning", "prompts")


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
        found = records.answered_with(self.template.end_texts)
        return found | records.conversations() if self.template.chat or self.every_turn or self.prompt else found

    def fault(self, record: Record) -> BadRow | None:
        """Why this stage cannot use the record."""
        if self.prompt and not isinstance(record.prompt, str) and any("weight" in turn for turn in record.prompt):
            return BadRow("turn weight", "messages", "an answer of weight 0 where the prompt is learned as a whole "
                          "(algorithm.train_on_prompt)", "none", "set algorithm.train_on_prompt=false")
        return self.template.check(record, self.every_turn)


class _Place(NamedTuple):
    """Where a record comes from: path and line, or for what was read from no file its set and number there."""

    path: str
    line: int
    read: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    def message(self, bad: BadRow) -> str:
        told = [" ".join(str(part).split()) for part in (bad.field, bad.found, bad.expected, bad.fix)]
        if self.read:
            return str(data_error(self.path, self.line, *told))
        return "{}: found {}; expected {}; fix: {}".format(*told)


_Faults = dict[str, dict[int, tuple[_Place, BadRow]]]  # set → index in it → where it is from, what is wrong


def _place(record: Record, name: str, index: int) -> _Place:
    if {"source", "line"} <= record.meta.keys():
        return _Place(record.meta["source"], record.meta["line"], True)
    return _Place(name, index + 1, False)


def usable(data: DataSets, readings: Iterable[Reading]) -> DataSets:
    """The data without the rows that one of the readings cannot use, in all of its sets; report and log tell of them.

    Raises DataError, with all of them by reason, unless ``data.on_bad_row`` is "drop"; and where nothing would be left.
    """
    faults, unread = _faults(data, readings)
    left = data if not faults else _left_out(data, faults)
    data.report.unread_turn_keys = sorted(unread)
    if unread:
        log.warning("keys inside turns that the chat template does not read: %s", ", ".join(map(repr, sorted(unread))))
    return left


def _left_out(data: DataSets, faults: _Faults) -> DataSets:
    bad = {place: fault for found in faults.values() for place, fault in found.values()}
    kept = _kept(data, faults, {place for place in bad if place.read})
    emptied = any(not kept[name].any() for name in faults)
    _forget(data, kept)
    for place, fault in bad.items():
        data.report.refuse(place.path, place.line, fault)
    if emptied or data.on_bad_row != "drop":
        raise DataError(_listing(data.report, bad, emptied), data.report.refused)
    firsts = _firsts(bad)
    for reason, count in Counter(fault.reason for fault in bad.values()).items():
        log.warning("dropped %d rows: %s (%s): %s", count, reason, data.report.places(reason), firsts[reason])
    return replace(data, **{name: getattr(data, name).where(mask) for name, mask in kept.items()})


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
                faults.setdefault(reading.name, {})[index] = _place(record, reading.name, index), bad
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


def _listing(report: LoadReport, bad: dict[_Place, BadRow], emptied: bool) -> str:
    """The first of the rows in full, then all by reason with the first of every other reason."""
    places, messages = sorted(bad), _firsts(bad)
    text = [messages.pop(bad[places[0]].reason)]
    rows = f"{len(bad)} of {report.read} rows" if report.read else f"{len(bad)} rows"
    text.append(f"{rows} cannot be used with this tokenizer and chat template:")
    for reason, count in Counter(fault.reason for fault in bad.values()).most_common():
        shown = [str(place) for place in places if bad[place].reason == reason][:SHOWN]
        text.append(f"  {reason}: {count} ({', '.join(shown)}{', …' if count > len(shown) else ''})")
        text += [f"    {messages[reason]}"] if reason in messages else []
    text.append("no row would be left" if emptied else f"data.on_bad_row=drop would keep the other {report.kept}")
    return "\n".join(text)


def _firsts(bad: dict[_Place, BadRow]) -> dict[str, str]:
    """Reason → what is wrong with its first row."""
    return {bad[place].reason: place.message(bad[place]) for place in sorted(bad, reverse=True)}
