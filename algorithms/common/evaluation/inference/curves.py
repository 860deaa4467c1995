"""Reward against distance from the start: over-optimisation curves and frontiers at equal KL.

Distance is d = √KL (nats), reward R the gold reward minus the start's. Intervals are for new seeds; where rewards come
prompt by prompt, for new prompts too. The noise of the measured KL itself is in none of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .intervals import Estimate, Matrix, mean

DECLARED = (0.25, 0.5, 0.75)    # of the common range of d: where frontiers are compared unless declared otherwise
_LEAST_DISTANCES = 4            # of a curve that may have a peak


class Form(NamedTuple):
    """R = d(α − β·bend(d)), and the d of its peak (Gao, Schulman and Hilton 2022, arXiv 2210.10760)."""

    bend: Callable[[NDArray], NDArray]
    peak: Callable[[NDArray, NDArray], NDArray]


SAMPLED = Form(lambda d: d, lambda alpha, beta: alpha / (2 * beta))     # best of n samples: R = d(α − βd)
TRAINED = Form(np.log, lambda alpha, beta: np.exp(alpha / beta - 1))    # reinforcement learning: R = d(α − β ln d)


def kl_of_best(n: ArrayLike) -> NDArray:
    """KL of the best of n samples from the model they are drawn from, nats: ln n − (n − 1)/n."""
    n = np.asarray(n, dtype=np.float64)
    return np.log(n) - (n - 1) / n


def coefficients(distance: ArrayLike, reward: ArrayLike, form: Form) -> tuple[NDArray, NDArray]:
    """α and β, each (S,), by least squares through the origin, seed by seed of `distance` and `reward`, each (S, K)."""
    distance, reward = np.atleast_2d(distance).astype(float), np.atleast_2d(reward).astype(float)
    if distance.shape != reward.shape or distance.shape[1] < 2 or not (distance > 0).all():
        raise ValueError(f"distances are {distance.shape}, rewards {reward.shape}; expected one of each for 2 positive "
                         "distances or more")
    columns = np.stack([distance, -distance * form.bend(distance)], -1)     # (S, K, 2)
    fits = [np.linalg.lstsq(one, target, rcond=None)[0] for one, target in zip(columns, reward, strict=True)]
    return tuple(np.array(fits).T)


def peaks(distance: ArrayLike, alpha: NDArray, beta: NDArray, form: Form) -> NDArray | None:
    """d of each seed's highest reward, (S,); None unless every seed has 4 distances, one of them beyond its peak."""
    distance = np.atleast_2d(distance)
    if distance.shape[1] < _LEAST_DISTANCES or (beta <= 0).any():
        return None
    with np.errstate(over="ignore"):
        found = form.peak(alpha, beta)
    return found if ((found > 0) & (distance.max(1) > found)).all() else None


@dataclass(frozen=True)
class Curve:
    """A method's over-optimisation, with intervals over its seeds."""

    alpha: Estimate
    beta: Estimate
    peak: Estimate | None   # d = √KL of the highest reward; None where the data do not reach it in every seed


def over_optimisation(distance: ArrayLike, reward: ArrayLike, form: Form, level: float = 0.95) -> Curve:
    """Fits each seed's `distance` and `reward`, (S, K), and gives t intervals over 2 seeds or more."""
    alpha, beta = coefficients(distance, reward, form)
    found = peaks(distance, alpha, beta, form)
    peak = None
    if found is not None:
        logarithm = _over_seeds(np.log(found), level)
        ends = np.exp([logarithm.mean, logarithm.low, logarithm.high])
        peak = Estimate(*ends, logarithm.n, logarithm.unit, logarithm.seeds)
    return Curve(_over_seeds(alpha, level), _over_seeds(beta, level), peak)


@dataclass(frozen=True)
class Frontier:
    """A method's rewards at its measured distances.

    `distance` (S, K), `reward` (S, K, P): prompt by prompt, or (S, K, 1) of prompts' means, for these prompts only.
    """

    distance: NDArray
    reward: NDArray

    def __post_init__(self):
        object.__setattr__(self, "distance", np.asarray(self.distance, dtype=np.float64))
        object.__setattr__(self, "reward", np.asarray(self.reward, dtype=np.float64))
        if self.distance.ndim != 2 or self.reward.ndim != 3 or self.reward.shape[:2] != self.distance.shape:
            raise ValueError(f"distance is {self.distance.shape}, reward {self.reward.shape}; expected seeds × "
                             "distances, and prompts in addition")
        if not (self.distance > 0).all() or not (np.diff(np.sort(self.distance)) > 0).all():
            raise ValueError("distances of a seed are positive and differ")

    @property
    def reach(self) -> float:
        """The largest distance that all seeds have come to."""
        return float(self.distance.max(1).min())

    def at(self, distance: float) -> NDArray:
        """Rewards (S, P) at `distance`, by straight lines from (0, 0) through the measured points, never beyond."""
        if not 0 < distance <= self.reach:
            raise ValueError(f"distance is {distance}; expected one up to {self.reach}, which all seeds reached")
        rewards = []
        for measured, reward in zip(self.distance, self.reward, strict=True):
            order = measured.argsort()
            points = np.append(0.0, measured[order])
            weights = np.array([np.interp(distance, points, column) for column in np.eye(len(points))[1:]])  # (K,)
            rewards.append(weights @ reward[order])
        return np.array(rewards)


class Ordering(Enum):
    """Which of two frontiers is higher."""

    FIRST = "the first is higher"
    SECOND = "the second is higher"
    CROSSING = "which is higher depends on the KL"
    UNDECIDED = "no difference seen"


@dataclass(frozen=True)
class FrontierDifference:
    """Two methods at equal KL."""

    distances: tuple[float, ...]        # √KL
    differences: tuple[Estimate, ...]   # first − second at each

    @property
    def ordering(self) -> Ordering:
        """What the intervals say together; FIRST and SECOND need one distance, CROSSING one of each."""
        first, second = any(one.low > 0 for one in self.differences), any(one.high < 0 for one in self.differences)
        if first and second:
            return Ordering.CROSSING
        return Ordering.FIRST if first else Ordering.SECOND if second else Ordering.UNDECIDED

    @property
    def first_dominates(self) -> bool:
        """Whether the first is higher at every distance; no correction for their number is due (Berger 1982)."""
        return all(one.low > 0 for one in self.differences)


def at_equal_kl(first: Frontier, second: Frontier, parts: tuple[float, ...] = DECLARED,
                level: float = 0.95) -> FrontierDifference:
    """first − second at declared `parts` of the common range of √KL; the intervals hold together (Bonferroni)."""
    return _differences(first, second, parts, 1 - (1 - level) / len(parts))


def along(first: Frontier, second: Frontier, points: int = 10, level: float = 0.95) -> FrontierDifference:
    """first − second at evenly spaced distances of the common range, each interval on its own: for dominance."""
    return _differences(first, second, tuple(np.arange(1, points + 1) / points), level)


def _differences(first: Frontier, second: Frontier, parts: tuple[float, ...], level: float) -> FrontierDifference:
    reach = min(first.reach, second.reach)
    distances = tuple(float(part * reach) for part in parts)
    found = []
    for distance in distances:
        rewards, others = first.at(distance), second.at(distance)
        if rewards.shape != others.shape:
            raise ValueError(f"the first is {rewards.shape} the second {others.shape}; expected the same seeds "
                             "and prompts")
        found.append(mean(Matrix.of(rewards - others), level))
    return FrontierDifference(distances, tuple(found))


def _over_seeds(values: NDArray, level: float) -> Estimate:
    """Student's t over one value per seed, (S,): the crossed interval of a single column."""
    estimate = mean(Matrix.of(values[:, None], unit="seeds"), level)
    return Estimate(estimate.mean, estimate.low, estimate.high, len(values), "seeds", len(values))
