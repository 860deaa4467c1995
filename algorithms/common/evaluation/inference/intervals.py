"""Figures of one method, and of the difference of two, with intervals for new seeds and new prompts.

With one seed an interval is for new prompts and this trained model: the method's other seeds are not covered.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import crossed, shares
from .crossed import MeanSquares, linearised, mean_squares

_TOWARDS_ONE = np.linspace(1, 0.001, 16)[:, None]   # powers of α


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval. All numbers are finite: what could not be measured is absent, never NaN."""

    mean: float         # the figure: a mean, a share, a ratio of sums, a perplexity …
    low: float
    high: float
    n: int              # how many units every seed was measured on
    unit: str           # what n counts, in the plural
    seeds: int          # trained models; the interval covers new seeds from 2 on

    def __post_init__(self):
        for name in ("mean", "low", "high"):
            value = getattr(self, name)
            if isinstance(value, bool) or not np.isfinite(value):
                raise ValueError(f"{name} is {value!r}; expected a finite number")
            object.__setattr__(self, name, float(value))
        for name in ("n", "seeds"):
            value = getattr(self, name)
            if isinstance(value, bool) or value < 1 or value != int(value):
                raise ValueError(f"{name} is {value!r}; expected a positive integer")
            object.__setattr__(self, name, int(value))
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, float | int | str]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Matrix:
    """One figure of one method: what S trained models did on the same P prompts.

    `numerator` and `denominator` are (S, P); the figure is Σ numerator / Σ denominator. A score has denominators 1, a
    rate per token the tokens, an accuracy the questions that a prompt has (0 where it has none).
    """

    numerator: NDArray
    denominator: NDArray
    unit: str = "prompts"

    def __post_init__(self):
        for name in ("numerator", "denominator"):
            array = np.asarray(getattr(self, name), dtype=np.float64)  # None becomes NaN here, and is refused with it
            if array.ndim != 2 or not array.size:
                raise ValueError(f"{name} has shape {array.shape}; expected seeds × {self.unit}, none of them empty")
            if not np.isfinite(array).all():
                where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                raise ValueError(f"{name}[{where[0]}, {where[1]}] is {array[where]}; expected finite numbers")
            object.__setattr__(self, name, array)
        if self.numerator.shape != self.denominator.shape:
            raise ValueError(f"numerator is {self.numerator.shape} but denominator is {self.denominator.shape}")
        if (self.denominator < 0).any() or not self.denominator.any():
            raise ValueError("denominator: expected no negative number, and a positive one somewhere")

    @classmethod
    def of(cls, values: ArrayLike, unit: str = "prompts") -> Self:
        """Of one value per seed and prompt, (S, P)."""
        values = np.asarray(values, dtype=np.float64)
        return cls(values, np.ones_like(values), unit)

    @property
    def shape(self) -> tuple[int, int]:
        """Seeds and prompts."""
        return self.numerator.shape

    def squares(self) -> MeanSquares:
        return mean_squares(linearised(self.numerator, self.denominator))

    def estimate(self, mean: float, low: float, high: float) -> Estimate:
        seeds, prompts = self.shape
        return Estimate(mean, low, high, prompts, self.unit, seeds)


def mean(matrix: Matrix, level: float = 0.95) -> Estimate:
    """A score's mean, or a ratio of sums. ValueError for a single answer, which has no interval."""
    squares = matrix.squares()
    half = _measurable(squares).half(1 - _checked(level))
    return matrix.estimate(squares.mean, squares.mean - half, squares.mean + half)


def perplexity(matrix: Matrix, level: float = 0.95) -> Estimate:
    """exp(Σ negative log-likelihood / Σ tokens), nats; the ends of the interval are exponentials too."""
    logarithm = mean(matrix, level)
    with np.errstate(over="ignore"):  # Estimate refuses infinity with a message of its own
        return matrix.estimate(*np.exp([logarithm.mean, logarithm.low, logarithm.high]))


def share(matrix: Matrix, level: float = 0.95) -> Estimate:
    """A share: numerators from 0 to their denominators. Its interval is inside [0, 1] and has a width."""
    found = _shares(matrix.numerator, matrix.denominator)
    return matrix.estimate(found.squares.mean, *found.interval(1 - _checked(level)))


class Contrasts(Protocol):
    """Differences first − second of K pairs of methods, on common seeds and prompts, with intervals of any level."""

    squares: MeanSquares    # of the differences, (K,)
    most: ClassVar[float]   # by which two methods can differ

    def shrunk(self) -> Self:
        """With seeds' variances that borrow from one another."""

    def interval(self, alpha: ArrayLike) -> tuple[NDArray, NDArray]:
        """Low and high, each (K,), of level 1 − `alpha`, a number or (K,)."""


@dataclass(frozen=True)
class MeanContrasts:
    """Of means, of ratios, and of the logarithms of perplexities (nats per token)."""

    squares: MeanSquares
    most: ClassVar[float] = math.inf

    @classmethod
    def of(cls, numerator: NDArray, denominator: NDArray, first: NDArray, second: NDArray) -> Self:
        """Of M methods' figures (M, S, P), methods `first` (K,) minus methods `second` (K,)."""
        values = linearised(numerator, denominator)
        return cls(_measurable(mean_squares(values[first] - values[second])))

    def shrunk(self) -> Self:
        return MeanContrasts(crossed.shrunk(self.squares))

    def interval(self, alpha: ArrayLike) -> tuple[NDArray, NDArray]:
        half = self.squares.half(alpha)
        return self.squares.mean - half, self.squares.mean + half


@dataclass(frozen=True)
class ShareContrasts:
    """Of shares, by square-and-add: a difference has a width where all answers agree."""

    squares: MeanSquares
    methods: shares.Shares      # (M,)
    first: NDArray              # (K,) of the methods
    second: NDArray             # (K,)
    most: ClassVar[float] = 1.0

    @classmethod
    def of(cls, numerator: NDArray, denominator: NDArray, first: NDArray, second: NDArray) -> Self:
        """Of M methods' figures (M, S, P), methods `first` (K,) minus methods `second` (K,)."""
        values = linearised(numerator, denominator)
        return cls(mean_squares(values[first] - values[second]), _shares(numerator, denominator), first, second)

    def shrunk(self) -> Self:
        return ShareContrasts(crossed.shrunk(self.squares), self.methods.shrunk(), self.first, self.second)

    def interval(self, alpha: ArrayLike) -> tuple[NDArray, NDArray]:
        """Square-and-add, each interval widened to hold those of lower levels.

        With 2 or 3 seeds the estimated correlation may be large by chance, and where the shares' own intervals near [0,
        1] that of 99 % may exclude 0 while that of 90 % does not. From 3 seeds on the 95 % intervals are hardly ever
        widened.
        """
        first, second = self.methods.take(self.first), self.methods.take(self.second)
        exact = np.broadcast_to(alpha, self.squares.mean.shape)
        low, high = shares.square_and_add(first, second, self.squares, exact**_TOWARDS_ONE)     # (16, K)
        return low.min(0), high.max(0)


@dataclass(frozen=True)
class Kind:
    """How a kind of figure is estimated, and how methods are compared by it."""

    estimate: Callable[[Matrix, float], Estimate]
    contrasts: Callable[[NDArray, NDArray, NDArray, NDArray], Contrasts]


MEAN = Kind(mean, MeanContrasts.of)
SHARE = Kind(share, ShareContrasts.of)
PERPLEXITY = Kind(perplexity, MeanContrasts.of)  # compared in nats per token


def contrast(first: Matrix, second: Matrix, kind: Kind = MEAN) -> Contrasts:
    """first − second on the same seeds and prompts, paired: K = 1."""
    if first.shape != second.shape:
        raise ValueError(f"the first is {first.shape}, the second {second.shape}; expected the same seeds and prompts")
    numerator = np.stack([first.numerator, second.numerator])
    denominator = np.stack([first.denominator, second.denominator])
    return kind.contrasts(numerator, denominator, np.array([0]), np.array([1]))


def contrast_to_model(first: Matrix, model: Matrix) -> ShareContrasts:
    """A share minus that of one model, (1, P), which is no draw of seeds: the one that all seeds start from. K = 1.

    Its answers count once, however many seeds are compared with it.
    """
    seeds = first.shape[0]
    if model.shape[0] != 1:
        raise ValueError(f"the model has {model.shape[0]} rows; expected 1, of its own answers")
    repeated = Matrix(model.numerator.repeat(seeds, 0), model.denominator.repeat(seeds, 0), model.unit)
    found = contrast(first, repeated, SHARE)
    times = np.array([1, seeds])
    once = found.methods._replace(answers=found.methods.answers / times, cells=found.methods.cells / times)
    return replace(found, methods=once)


def difference(first: Matrix, second: Matrix, kind: Kind = MEAN, level: float = 0.95) -> Estimate:
    """first − second with its interval."""
    found = contrast(first, second, kind)
    low, high = found.interval(1 - _checked(level))
    return first.estimate(found.squares.mean[0], low[0], high[0])


def with_seed_spread(matrix: Matrix, spread: float, freedom: int, level: float = 0.95) -> Estimate:
    """The mean of one trained model with the seed spread of another run of the recipe, to be printed with its name.

    `spread` is the standard deviation of seeds, on `freedom` degrees of freedom. It covers the method as far as the two
    runs are alike.
    """
    if matrix.shape[0] != 1:
        raise ValueError(f"the matrix has {matrix.shape[0]} seeds, which have a spread of their own; expected 1")
    squares, alpha = matrix.squares(), 1 - _checked(level)
    half = np.hypot(_measurable(squares).half(alpha), crossed.student(freedom, alpha) * spread)
    return matrix.estimate(squares.mean, squares.mean - half, squares.mean + half)


def _shares(numerator: NDArray, denominator: NDArray) -> shares.Shares:
    if (numerator < 0).any() or (numerator > denominator).any():
        raise ValueError("a share's numerators lie between 0 and their denominators")
    return shares.Shares.of(numerator, denominator)


def _measurable(squares: MeanSquares) -> MeanSquares:
    if squares.shape == (1, 1):
        raise ValueError("one answer has no interval; expected two prompts or two seeds")
    return squares


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a number between 0 and 1")
    return level
