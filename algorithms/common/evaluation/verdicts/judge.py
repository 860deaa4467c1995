"""The contract of judges: what one is given, and what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from .belief import Belief
from .pairings import Pair
from .records import Verdict, now

if TYPE_CHECKING:
    from ...algorithm import RewardSource
    from ...support.store import Store


class Court(Protocol):
    """What a judge may use of the runs that it judges."""

    store: Store            # of kept stages
    seed: int
    mixed_precision: str    # auto | bf16 | no

    def identity(self, source: RewardSource, run: str) -> str | None:
        """Of all that decides how the source scores a run's answers, what it is trained on too; None for no run here.
        """

    def belief(self, source: RewardSource, run: str) -> Belief | None:
        """How far a source that is trained can be believed of a run's answers; None for one that learns nothing."""

    def scores(self, source: RewardSource, pairs: Sequence[Pair]) -> list[tuple[float, float] | None]:
        """Of the left and the right answer of each pair, by a source that is trained first where it needs it; None
        where it cannot judge. ConfigError where it cannot judge any."""


class Judge:
    """Base of all judges. Each is a dataclass of its settings; its fields are its YAML keys."""

    orders: ClassVar[tuple[str, ...]] = ("both",)   # one verdict on every pair in each; "both": it sees no order

    @property
    def name(self) -> str:
        """What its verdicts and columns are called: two judges that may differ have names that do."""
        raise NotImplementedError

    def check(self) -> None:
        """ConfigError where it cannot judge; asked before any weights load. Default: nothing is refused."""

    def check_kept(self, kept: Iterable[Verdict], court: Court) -> None:
        """ConfigError where verdicts that a folder keeps under its name are not its own. Default: its name tells."""

    def answered(self, kept: Verdict) -> bool:
        """Whether a verdict of its own settles its question, else it is asked again. Default: each does."""
        return True

    def judge(self, pairs: Sequence[Pair], court: Court) -> Iterator[list[Verdict]]:
        """Verdicts as they are found: all of a pair in one list. A pair without any is asked again the next time."""
        raise NotImplementedError

    def verdicts(self, pairs: Sequence[Pair], court: Court) -> Iterator[list[Verdict]]:
        """Those of ``judge``; one that sees an order is not asked about two answers that are the same."""
        told = self.orders != ("both",)
        alike, apart = [], []
        for pair in pairs:
            (alike if told and pair.left_response == pair.right_response else apart).append(pair)
        yield [self.verdict(pair, "tie", order, "not asked: the same answer")
               for pair in alike for order in self.orders]
        if apart:
            yield from self.judge(apart, court)

    def verdict(self, pair: Pair, outcome: str, order: str, raw: str | None = None, **scores: float) -> Verdict:
        """Its verdict on a pair, given now."""
        return Verdict(pair.prompt_id, pair.prompt, pair.left, pair.left_response, pair.right, pair.right_response,
                       outcome, self.name, order, now(), raw, pair.sample, **scores)

    def asks(self, pair: Pair) -> set[tuple]:
        """The questions that it answers about a pair, as ``Verdict.asked`` names them."""
        return {self.verdict(pair, "tie", order).asked for order in self.orders}
