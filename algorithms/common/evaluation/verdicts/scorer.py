"""A judge that scores each answer by itself and prefers the higher score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...algorithm import RewardSource
from ...support.digests import content_hash
from ...support.errors import ConfigError
from ...support.plain import plain
from ...support.provenance import code_of
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

    def check_kept(self, kept: Iterable[Verdict]) -> None:
        """ConfigError where verdicts of this name are those of another source, or of this one before an edit."""
        if any(verdict.judge == self.name and verdict.raw not in (None, self._identity) for verdict in kept):
            raise ConfigError(f"judge.called: found verdicts of {self.name} by a scorer of other settings, weights or "
                              f"code; expected a name of its own for this one; fix: judge.called={self.name}_2")

    @cached_property
    def _identity(self) -> str:
        settings = [plain(self.source), self.source.content(), code_of(self.source)]
        return f"scorer {content_hash(settings)[:16]}"

    def judge(self, pairs: Sequence[Pair], court: Court) -> Iterator[list[Verdict]]:
        scores = court.scores(self.source, pairs)
        outcomes = ["tie" if left == right else "left" if left > right else "right" for left, right in scores]
        yield [self.verdict(pair, outcome, "both", self._identity, left_score=left, right_score=right)
               for pair, outcome, (left, right) in zip(pairs, outcomes, scores)]
