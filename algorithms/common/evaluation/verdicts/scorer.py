"""A judge that scores each answer by itself and prefers the higher score."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...algorithm import RewardSource
from ...support.errors import ConfigError
from .judge import Court, Judge
from .pairings import Pair
from .records import Verdict


@dataclass
class ScorerJudge(Judge):
    """Any source of rewards: a classifier, a Python function, the data's gold reward. Equal scores are a tie.

    It judges nothing where a run was trained on it: the run then wins by what it learned to please.
    """

    source: RewardSource
    called: str | None = None   # its name in tables; None: the source's

    def __post_init__(self):
        if self.called is None:
            self.called = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self.source).__name__).lower()
        if not self.called or "/" in self.called:
            raise ConfigError(f"judge.called: found {self.called!r}; expected a name without /, for tables; "
                              "fix: judge.called=NAME")

    @property
    def name(self) -> str:
        return self.called

    def check_kept(self, kept: Iterable[Verdict], court: Court) -> None:
        """ConfigError where verdicts of this name are those of another source, or of this one before an edit."""
        told = {(one.left, one.raw.partition(";")[0]) for one in kept if one.judge == self.name and one.raw is not None}
        if any(raw != own for run, raw in told if (own := self._told(court, run)) is not None):
            raise ConfigError(f"judge.called: found verdicts of {self.name} by a scorer of other settings, data, "
                              "weights or code; expected a name of its own for this one; fix: "
                              f"judge.called={self.name}_2")

    def _told(self, court: Court, run: str) -> str | None:
        identity = court.identity(self.source, run)
        return identity and f"scorer {identity[:16]}"

    def answered(self, kept: Verdict) -> bool:
        """One that could not judge may be able to with more held-out comparisons."""
        return kept.outcome != "none"

    def judge(self, pairs: Sequence[Pair], court: Court) -> Iterator[list[Verdict]]:
        """Each verdict tells beside its scorer how far it can be believed, where it learned; none where it cannot
        judge."""
        scores = court.scores(self.source, pairs)
        told = {}
        for run in dict.fromkeys(pair.left for pair in pairs):
            parts = self._told(court, run), court.belief(self.source, run)
            told[run] = "; ".join(str(part) for part in parts if part is not None) or None
        yield [self._scored(pair, told[pair.left], both) for pair, both in zip(pairs, scores)]

    def _scored(self, pair: Pair, told: str | None, scores: tuple[float, float] | None) -> Verdict:
        if scores is None:
            return self.verdict(pair, "none", "both", told)
        left, right = scores
        outcome = "tie" if left == right else "left" if left > right else "right"
        return self.verdict(pair, outcome, "both", told, left_score=left, right_score=right)
