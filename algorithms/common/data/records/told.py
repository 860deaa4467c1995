"""What reading tells: the report, with every row that was left out, and its words."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .readers import data_error
from .record import Record
from .refused import RefusedRows, cut
from .values import BadRow

SHOWN = 5                       # rows named for each reason
REASONS = 20                    # reasons whose first row is described


@dataclass
class LoadReport:
    """What reading found. Nothing is dropped, ignored or replaced without an entry here."""

    read: int = 0                                               # rows
    kept: int = 0                                               # records
    dropped: dict[str, int] = field(default_factory=dict)       # reason → rows
    lines: dict[str, list[str]] = field(default_factory=dict)   # reason → PATH:LINE of the first few of them
    first: dict[str, dict[str, Any]] = field(default_factory=dict)      # reason → what was found in the first of them
    refused: RefusedRows = field(default_factory=RefusedRows, compare=False, repr=False)    # all of them
    filtered: dict[str, int] = field(default_factory=dict)      # what data.filter refuses: filter → rows
    duplicates: int = 0                                         # records whose prompt, responses and scores came before
    contradictions: int = 0                                     # pairs of a prompt's responses, ordered in both ways
    strict_pairs: int = 0
    kinds: dict[str, int] = field(default_factory=dict)         # kind of record → records
    rows_without_records: int = 0                               # rows a mapper found nothing in
    skipped: dict[str, int] = field(default_factory=dict)       # what is left out of rows → how often
    blank_lines: int = 0
    layouts: dict[str, str] = field(default_factory=dict)       # file → how its columns were read
    columns: dict[str, dict] = field(default_factory=dict, compare=False, repr=False)   # file → our field → its column
    ignored_columns: dict[str, list[str]] = field(default_factory=dict)
    turn_keys: dict[str, int] = field(default_factory=dict)     # further key of turns → turns with it; weight: only 0
    unread_turn_keys: list[str] = field(default_factory=list)   # those that the run's chat template does not read
    fallbacks: dict[str, str] = field(default_factory=dict)     # named set → what it was made from
    own_files: dict[str, str] = field(default_factory=dict)     # set that is read by itself → from where
    sources: dict[str, dict[str, int]] = field(default_factory=dict)    # part of a mixture → its counts

    def to_dict(self) -> dict:
        """As JSON-able values; the refused rows themselves are left out, and what the layouts tell already."""
        told = asdict(replace(self, refused=None, columns={}))
        del told["refused"], told["columns"]
        return told

    def refuse(self, path: str, line: int, bad: BadRow, group: Sequence[int] = ()):
        """Leave out a row for what is said by `bad`, or with it all rows of its group, whose lines are given.

        Every row counts under the reason and is told in `refused`.
        """
        told = {"path": path, "line": line, "reason": bad.reason,
                **{part: cut(getattr(bad, part)) for part in ("field", "found", "expected", "fix")}}
        lines = self.lines.setdefault(bad.reason, [])
        for other in group or [line]:
            self.dropped[bad.reason] = self.dropped.get(bad.reason, 0) + 1
            beside = {"line": other, "found": cut(f"line {line} of the same group: {told['found']}")}
            self.refused.append(told if other == line else told | beside)
            if len(lines) < SHOWN:
                lines.append(f"{path}:{other}")
        first = self.first.setdefault(bad.reason, told)
        if first["path"] == path and line < first["line"]:      # groups are not read in the order of lines
            self.first[bad.reason] = told

    def recounted(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records that were made of those it counted, which count in their place."""
        kinds, self.kept, self.strict_pairs = Counter(), 0, 0
        for record in records:
            kinds[record_kind(record)] += 1
            self.kept, self.strict_pairs = self.kept + 1, self.strict_pairs + record.strict_pair_count
            yield record
        self.kinds = dict(kinds)

    def messages(self) -> dict[str, str]:
        """Reason → what is wrong with its first row, in the order of the rows; of many reasons the first."""
        paths = list(dict.fromkeys([*self.layouts, *(told["path"] for told in self.first.values())]))
        rows = sorted(self.first.values(), key=lambda told: (paths.index(told["path"]), told["line"]))
        return {told["reason"]: str(data_error(**{part: value for part, value in told.items() if part != "reason"}))
                for told in rows[:REASONS]}

    def places(self, reason: str) -> str:
        """PATH:LINE of the first rows dropped for a reason, and … where there are more."""
        return listed(self.lines[reason], self.dropped[reason])


def listed(lines: list[str], count: int) -> str:
    return ", ".join(lines) + (", …" if count > len(lines) else "")


def records_of(report: LoadReport) -> str:
    """How many records there are, in words."""
    return "1 record" if report.kept == 1 else f"{report.kept} records"


def turn_key_told(name: str, count: int) -> str:
    """How many turns have a further key, in words; what a file calls the weight 0 is not known any more."""
    if name == "weight":
        return f"answers that are not learned (weight 0 or train: false): {count:,}"
    return f"further key of {count:,} turns: {name!r}"


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
