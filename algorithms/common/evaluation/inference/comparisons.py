"""Which of several methods differ: a p-value per pair, Holm's adjustment over the declared pairs, and one verdict each.

A pair's p-value is the α at which its printed interval just reaches 0, so what is claimed is always a subset of the
intervals that exclude 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .intervals import MEAN, Contrasts, Estimate, Kind, Matrix
from .planning import smallest_shown

# Differences that count as none unless others are declared with the table.
SHARE_MARGIN = 0.02
WIN_RATE_MARGIN = 0.05

_LEAST_P, _MOST_P = 1e-15, 0.999    # what is smaller is this; what is larger is 1
_SHRINK_METHODS, _SHRINK_SEEDS = 4, 5   # seeds' variances are shrunk for this many methods or more, and seeds or fewer


class Verdict(Enum):
    """What may be said of a pair; the first that holds, in this order."""

    BETTER = "better"
    TRAINED_MODEL_BETTER = "this trained model better"  # one seed: no claim about the methods
    SEEN_ALONE = "seen alone"                           # its interval excludes 0, not so among all comparisons
    EQUAL = "practically equal"
    UNDECIDED = "no difference seen"

    @property
    def claims(self) -> bool:
        """Whether it says that one of the two is better."""
        return self in (Verdict.BETTER, Verdict.TRAINED_MODEL_BETTER)


@dataclass(frozen=True)
class Pair:
    """Two methods, compared among others."""

    first: str
    second: str
    difference: Estimate        # first − second, by its own interval, unadjusted
    p: float
    adjusted: float             # p after Holm
    equivalence: Estimate       # first − second at the level of the test for practical equality
    verdict: Verdict
    winner: str | None          # of a verdict that claims, and of SEEN_ALONE
    within_margin: bool         # whether the margin was declared and `equivalence` lies inside it
    smallest_shown: float       # difference that it would have shown with 80% probability; infinite: none that can be

    @property
    def loser(self) -> str | None:
        return {self.first: self.second, self.second: self.first}.get(self.winner)

    @property
    def smallest_margin(self) -> float:
        """The smallest margin within which the two could have been called practically equal."""
        return max(abs(self.equivalence.low), abs(self.equivalence.high))


@dataclass(frozen=True)
class Comparison:
    """Methods compared by one figure."""

    methods: tuple[str, ...]
    pairs: tuple[Pair, ...]     # the declared family
    seeds: int
    prompts: int
    unit: str                   # what `prompts` counts
    alpha: float
    margin: float | None
    shrunk: bool                # whether seeds' variances were shrunk towards their mean
    lower_is_better: bool

    @property
    def best(self) -> str | None:
        """The method that was shown to be better than every other; with one seed nothing is shown about methods."""
        beaten = {(pair.winner, pair.loser) for pair in self.pairs if pair.verdict is Verdict.BETTER}
        for method in self.methods:
            others = [other for other in self.methods if other != method]
            if others and all((method, other) in beaten for other in others):
                return method
        return None


def all_pairs(methods: Sequence[str]) -> list[tuple[str, str]]:
    """Every two methods once."""
    return list(combinations(methods, 2))


def against(baseline: str, methods: Sequence[str]) -> list[tuple[str, str]]:
    """Each other method and the baseline: fewer comparisons, which buy more than any adjustment does."""
    return [(method, baseline) for method in methods if method != baseline]


def compare(figures: Mapping[str, Matrix], kind: Kind = MEAN, pairs: Sequence[tuple[str, str]] | None = None,
            alpha: float = 0.05, margin: float | None = None, lower_is_better: bool = False) -> Comparison:
    """Compares methods by a figure that all of them have on the same seeds and prompts.

    `pairs` is the declared family, all pairs where it is not given; `margin`, in the figure's unit, what was declared
    as practically no difference. From four methods and up to five seeds the seeds' variance of a pair is taken halfway
    to that of all pairs (`crossed.shrunk`); the intervals are of those variances too.
    """
    methods = tuple(figures)
    pairs = all_pairs(methods) if pairs is None else list(pairs)
    shape = _shape(figures)
    unknown = {name for pair in pairs for name in pair} - set(methods)
    if unknown or any(first == second for first, second in pairs):
        raise ValueError(f"pairs {pairs}; expected two different ones of {', '.join(methods)} each")
    if margin is not None and not margin > 0:
        raise ValueError(f"margin is {margin}; expected a positive number")
    shrink = len(methods) >= _SHRINK_METHODS and 1 < shape[0] <= _SHRINK_SEEDS
    unit = next((matrix.unit for matrix in figures.values()), "prompts")
    compared = _pairs(figures, kind, pairs, alpha, margin, lower_is_better, shrink) if pairs else ()
    return Comparison(methods, compared, *shape, unit, alpha, margin, shrink, lower_is_better)


def _pairs(figures: Mapping[str, Matrix], kind: Kind, pairs: Sequence[tuple[str, str]], alpha: float,
           margin: float | None, lower_is_better: bool, shrink: bool) -> tuple[Pair, ...]:
    place = {name: index for index, name in enumerate(figures)}
    contrasts = kind.contrasts(np.stack([matrix.numerator for matrix in figures.values()]),
                               np.stack([matrix.denominator for matrix in figures.values()]),
                               np.array([place[first] for first, _ in pairs]),
                               np.array([place[second] for _, second in pairs]))
    if shrink:
        contrasts = contrasts.shrunk()
    count, squares = len(pairs), contrasts.squares
    p = p_values(contrasts)
    adjusted = holm(p)
    intervals = np.stack(contrasts.interval(alpha), -1)             # (K, 2)
    equivalence = np.stack(contrasts.interval(2 * alpha / count), -1)  # two one-sided tests: Schuirmann 1987
    shown = would_show(contrasts, alpha / count)
    found = []
    for index, (first, second) in enumerate(pairs):
        matrix, value = figures[first], squares.mean[index]
        printed, inner = matrix.estimate(value, *intervals[index]), matrix.estimate(value, *equivalence[index])
        within = margin is not None and -margin < inner.low and inner.high < margin
        verdict = _verdict(printed, adjusted[index], within, alpha)
        ahead = first if (value < 0) == lower_is_better else second
        winner = ahead if printed.excludes_zero else None
        found.append(Pair(first, second, printed, float(p[index]), float(adjusted[index]), inner, verdict, winner,
                          within, float(shown[index])))
    return tuple(found)


def _verdict(printed: Estimate, adjusted: float, within_margin: bool, alpha: float) -> Verdict:
    if printed.excludes_zero and adjusted <= alpha:
        return Verdict.BETTER if printed.seeds > 1 else Verdict.TRAINED_MODEL_BETTER
    if printed.excludes_zero:
        return Verdict.SEEN_ALONE
    return Verdict.EQUAL if within_margin else Verdict.UNDECIDED


def would_show(contrasts: Contrasts, alpha: float) -> NDArray:
    """(K,): the difference that each comparison shows with a chance of 80 %; infinite where none can be so large."""
    low, high = contrasts.interval(alpha)
    variances = [smallest_shown(contrasts.squares.take(index), alpha) for index in range(len(low))]
    smallest = np.maximum(variances, (high - low) / 2)  # shares that all agree have a width and no variance
    return np.where(smallest <= contrasts.most, smallest, np.inf)


def holm(p: ArrayLike) -> NDArray:
    """Adjusted p-values of the family in the last dimension, (…, K): Holm 1979, Scand. J. Statist. 6:65."""
    p = np.asarray(p, dtype=np.float64)
    count = p.shape[-1]
    order = p.argsort(-1)
    stepped = np.take_along_axis(p, order, -1) * np.arange(count, 0, -1)
    stepped = np.minimum(np.maximum.accumulate(stepped, -1), 1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, stepped, -1)
    return adjusted


def p_values(contrasts: Contrasts) -> NDArray:
    """p-values (K,) of pairs, by the intervals that are printed for them."""
    def excluded(alpha):
        low, high = contrasts.interval(alpha)
        return (low > 0) | (high < 0)

    return _level_reached(excluded, contrasts.squares.mean.shape)


def _level_reached(excluded: Callable[[NDArray], NDArray], shape: tuple[int, ...]) -> NDArray:
    """The smallest α, (…), whose interval excludes 0, by bisection of ln α, never rounded down; 1 where none does."""
    low, high = np.full(shape, np.log(_LEAST_P)), np.full(shape, np.log(_MOST_P))
    never = ~excluded(np.exp(high))
    for _ in range(50):
        middle = (low + high) / 2
        out = excluded(np.exp(middle))
        low, high = np.where(out, low, middle), np.where(out, middle, high)
    return np.where(never, 1.0, np.exp(high))


def _shape(figures: Mapping[str, Matrix]) -> tuple[int, int]:
    shapes = {name: matrix.shape for name, matrix in figures.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"seeds × prompts are {shapes}; expected the same of all methods, and at least one method")
    return next(iter(shapes.values()))
