"""How far a judge that was trained can be believed, as each of its verdicts tells it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..inference.auditing import can_judge
from ..inference.intervals import Estimate
from .records import Verdict

_UNABLE = "; it cannot judge"
_TOLD = re.compile(r"learned from (?P<labels>[\d,]+) comparisons, agrees with (?P<mean>[\d.]+) \[(?P<low>[\d.]+), "
                   rf"(?P<high>[\d.]+)\] of the comparisons to (?P<n>[\d,]+) held-out prompts(?P<unable>{_UNABLE})?")


@dataclass(frozen=True)
class Belief:
    """What a judge learned from, and the share of held-out comparisons that it agrees with, ties half."""

    labels: int
    mean: float
    low: float      # of the 95 % interval for new prompts
    high: float
    n: int          # held-out prompts
    able: bool      # whether that is enough to judge by

    @classmethod
    def of(cls, labels: int, accuracy: Estimate) -> Belief:
        return cls(labels, accuracy.mean, accuracy.low, accuracy.high, accuracy.n, can_judge(accuracy))

    def __str__(self) -> str:
        return (f"learned from {self.labels:,} comparisons, agrees with {self.mean:.3f} [{self.low:.3f}, "
                f"{self.high:.3f}] of the comparisons to {self.n:,} held-out prompts{'' if self.able else _UNABLE}")


def belief(raw: str | None) -> Belief | None:
    """What a verdict's ``raw`` tells of its judge, to three decimals; None where it tells nothing."""
    found = _TOLD.search(raw or "")
    if found is None:
        return None
    labels, n = (int(found[name].replace(",", "")) for name in ("labels", "n"))
    return Belief(labels, *(float(found[name]) for name in ("mean", "low", "high")), n, not found["unable"])


def beliefs(verdicts: Iterable[Verdict]) -> dict[str, dict[str, Belief]]:
    """By judge and by run that is judged, of the last verdict that tells it."""
    found: dict[str, dict[str, Belief]] = {}
    for one in verdicts:
        if told := belief(one.raw):
            found.setdefault(one.judge, {})[one.left] = told
    return found
