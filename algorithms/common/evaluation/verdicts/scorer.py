"""A judge that scores each answer by itself and prefers the higher score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    called: str         # its name in tables

    def __post_init__(self):
        if not self.called or "/" in self.called:
            raise ConfigError(f"judge.called: found {self.called!r}; expected a name without /, for tables; "
                              "fix: judge.called=NAME")

    @property
    def name(self) -> str:
        return self.called

    def judge(self, pairs: Sequence[Pair], court: Court) -> Iterator[list[Verdict]]:
        scores = court.scores(self.source, pairs)
        yield [self.verdict(pair, "tie" if left == right else "left" if left > right else "right", "both",
                            left_score=left, right_score=right) for pair, (left, right) in zip(pairs, scores)]
