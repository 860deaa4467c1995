"""Claims that were declared before a run, and what the run says to them."""

from dataclasses import dataclass
from enum import Enum

from .intervals import MEAN, Estimate, Kind, Matrix, contrast, difference
from .planning import Spread, seeds_needed, smallest_shown


class Answer(Enum):
    """What a run says to a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    OPPOSITE = "opposite"           # not reproduced, and the difference has the other sign
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Claim:
    """"`better` exceeds `worse` by more than `margin`", one of a family of `claims`.

    `margin` has the figure's unit: half of a paper's effect, or the lower limit of its interval; 0 claims a direction
    only.
    """

    better: str
    worse: str
    margin: float = 0.0
    claims: int = 1
    alpha: float = 0.05
    lower_is_better: bool = False

    def __post_init__(self):
        if self.margin < 0 or self.claims < 1:
            raise ValueError(f"margin is {self.margin} and claims {self.claims}; expected 0 or more, and 1 or more")


@dataclass(frozen=True)
class Finding:
    """A claim's answer and what it rests on."""

    answer: Answer
    difference: Estimate            # better − worse, in the direction of the claim, at level 1 − α/K
    smallest_shown: float | None    # distance from the margin that this run would have shown; None unless undecided
    seeds_needed: int | None        # to decide, were the difference what it seems; None also where none suffice


def examine(claim: Claim, better: Matrix, worse: Matrix, kind: Kind = MEAN) -> Finding:
    """Compares on the same seeds and prompts. One seed decides nothing about methods, whatever its interval."""
    if claim.lower_is_better:
        better, worse = worse, better
    alpha = claim.alpha / claim.claims
    found = difference(better, worse, kind, 1 - alpha)
    answer = _answer(found, claim.margin)
    if answer is not Answer.UNDECIDED:
        return Finding(answer, found, None, None)
    squares = contrast(better, worse, kind).squares.take(0)
    missing = abs(found.mean - claim.margin)
    seeds = seeds_needed(missing, Spread.of(squares), better.shape[1], alpha) if better.shape[0] > 1 else None
    return Finding(answer, found, smallest_shown(squares, alpha), seeds)


def _answer(found: Estimate, margin: float) -> Answer:
    if found.seeds < 2:
        return Answer.UNDECIDED
    if found.low > margin:
        return Answer.REPRODUCED
    if found.high < 0:
        return Answer.OPPOSITE
    return Answer.NOT_REPRODUCED if found.high < margin else Answer.UNDECIDED
