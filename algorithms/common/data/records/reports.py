"""Reports of several readings, added up; and records that are taken off a report again."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from .record import Record
from .told import SHOWN, LoadReport, record_kind

PER_FILE = ("layouts", "columns", "ignored_columns")    # the same file is read alike in all readings


def added(reports: Iterable[LoadReport]) -> LoadReport:
    """One report of all readings; of what is shown of a reason, the first. Their `sources` are left to the caller."""
    reports, total = list(reports), LoadReport()
    for report in reports:
        for f in fields(LoadReport):
            if f.name not in ("sources", "first"):
                before, own = getattr(total, f.name), getattr(report, f.name)
                setattr(total, f.name, before | own if f.name in PER_FILE else _sum(before, own))
    total.first = {reason: told for report in reversed(reports) for reason, told in report.first.items()}
    total.lines = {reason: lines[:SHOWN] for reason, lines in total.lines.items()}
    return total


def leave_out(report: LoadReport, records: Iterable[Record], reason: str) -> int:
    """Take records that were read off the report's numbers, and count them under the reason; returns how many."""
    lines = report.lines.setdefault(reason, [])
    count = 0
    for count, record in enumerate(records, 1):
        if len(lines) < SHOWN:
            lines.append(f"{record.meta.get('source')}:{record.meta.get('line')}")
        report.kinds[record_kind(record)] -= 1
        report.strict_pairs -= record.strict_pair_count
    report.kept -= count
    if count:
        report.dropped[reason] = report.dropped.get(reason, 0) + count
    if not lines:
        del report.lines[reason]
    return count


def _sum(a: Any, b: Any) -> Any:
    """Numbers are added, lists joined, texts both told, dicts joined key by key."""
    if isinstance(a, dict):
        return {key: _sum(a[key], b[key]) if key in a and key in b else a.get(key, b.get(key)) for key in a | b}
    if isinstance(a, str):
        return a if a == b else f"{a}; {b}"
    return a + b
