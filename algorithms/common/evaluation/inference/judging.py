"""Verdicts of judges: two orders of an answer pair, win rates at equal length, strengths of several methods."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_softmax, softmax

from .crossed import mean_squares
from .intervals import Estimate, Matrix, share

_LENGTH_PRIOR = np.array([0.01, 0.1])  # precisions of θ and φ
_STEPS = 100
_LARGEST = 15.0         # a logarithm of odds beyond this is on its way to infinity


class BothOrders(NamedTuple):
    """What a judge said of A and B when it saw them in both orders, each (…): shares, for `intervals.share`."""

    wins: NDArray           # A's, one verdict per pair of answers: 1, ½ or 0
    inconsistent: NDArray   # whether the orders disagreed
    first_place: NDArray    # what the answer shown first won, mean of the two orders


def both_orders(a_first: ArrayLike, b_first: ArrayLike) -> BothOrders:
    """Joins verdicts for A (1 win, ½ tie, 0 loss), each (…), of the order A, B and of the order B, A.

    Equal verdicts count, all others are a tie (Zheng et al. 2023, arXiv 2306.05685).
    """
    a_first, b_first = _verdicts(a_first), _verdicts(b_first)
    if a_first.shape != b_first.shape:
        raise ValueError(f"verdicts of one order are {a_first.shape}, of the other {b_first.shape}")
    equal = a_first == b_first
    return BothOrders(np.where(equal, a_first, 0.5), np.where(equal, 0.0, 1.0), (a_first + 1 - b_first) / 2)


@dataclass(frozen=True)
class LengthControlled:
    """Win rate at equal length: LC (Dubois et al., without difficulty)."""

    win_rate: Estimate
    length: float | None    # φ: what being longer does to the log-odds of winning; None where nothing was fitted


def length_controlled(wins: ArrayLike, longer: ArrayLike, unit: str = "prompts",
                      level: float = 0.95) -> LengthControlled:
    """Win rate against a baseline, had both been of equal length (Dubois et al. 2024, arXiv 2404.04475).

    `wins` (S, P) in [0, 1], `longer` (S, P): length of the answer minus that of the baseline's, in characters. The
    model is logit q = θ + φ·tanh(longer / sd(longer)) under a weak prior, and the win rate σ(θ); its difficulty of
    instructions exists for one set of them and is left out. Where all verdicts are equal there is nothing to fit, and
    the win rate is a share. ValueError where lengths differ by more than 1.5 sd in the mean: equal length is outside
    the data.
    """
    wins, longer = np.asarray(wins, dtype=np.float64), np.asarray(longer, dtype=np.float64)
    matrix = Matrix.of(wins, unit)
    if longer.shape != wins.shape or not np.isfinite(longer).all():
        raise ValueError(f"wins are {wins.shape}, lengths {longer.shape}; expected one finite length per verdict")
    if wins.min() == wins.max():
        return LengthControlled(share(matrix, level), None)
    spread = longer.std(ddof=1)
    if abs(longer.mean()) > 1.5 * spread:
        raise ValueError(f"answers are {longer.mean():+.0f} characters longer on average, with a standard deviation of "
                         f"{spread:.0f}: equal length is outside the data")
    feature = np.tanh(longer / spread) if spread else np.zeros_like(longer)
    inputs = np.stack([np.ones_like(feature), feature], -1)      # (S, P, 2)
    weights = np.zeros(2)                                        # θ, φ
    for _ in range(_STEPS):
        q = expit(inputs @ weights)                              # (S, P)
        terms = (wins - q)[..., None] * inputs                   # (S, P, 2): what each verdict adds to the ascent
        hessian = np.einsum("sp,spi,spj->ij", q * (1 - q), inputs, inputs) + np.diag(_LENGTH_PRIOR)
        step = np.linalg.solve(hessian, terms.sum((0, 1)) - _LENGTH_PRIOR * weights)
        weights = weights + step / max(1, np.abs(step).max() / 2)   # a full step may overshoot where σ is flat
        if np.abs(step).max() < 1e-12:
            break
    influence = terms @ np.linalg.inv(hessian)[0] * wins.size    # (S, P), of θ
    half = mean_squares(influence).half(1 - level)
    theta, phi = weights
    return LengthControlled(matrix.estimate(*expit([theta, theta - half, theta + half])), float(phi))


class BradleyTerry(NamedTuple):
    """Davidson's model of wins and ties (1970, JASA 65:317): i beats j with π_i/D, they tie with ν√(π_i π_j)/D."""

    log_strengths: NDArray  # (M,) log π, relative to the first item's
    log_ties: float         # log ν


def davidson(wins: ArrayLike, ties: ArrayLike, pseudo: float = 1.0) -> BradleyTerry:
    """Fits `wins` (M, M), [i, j] how often i beat j, and `ties` (M, M), symmetric.

    `pseudo` comparisons of every two items are added, a third won by each and a third tied: with some of them strengths
    are finite whatever happened. ValueError where without them there is no finite maximum.
    """
    wins, ties = np.asarray(wins, dtype=np.float64), np.asarray(ties, dtype=np.float64)
    pairs = np.array([(i, j) for i in range(len(wins)) for j in range(i + 1, len(wins))])
    counts = np.stack([wins[*pairs.T], wins[*pairs.T[::-1]], ties[*pairs.T]], -1)  # (K, 3)
    # with such comparisons the maximum is finite, however far away
    weights, _ = _fit(counts + pseudo / 3, _features(pairs, len(wins)), math.inf if pseudo else _LARGEST)
    return BradleyTerry(np.append(0.0, weights[:-1]), float(weights[-1]))


@dataclass(frozen=True)
class Strength:
    """A method's strength by comparisons with all others."""

    log_ratio: Estimate     # log π_i − log π_0, of method i and the baseline 0
    preferred: Estimate     # π_i / (π_i + π_0): how often it beats the baseline where they do not tie


def strengths(verdicts: Mapping[tuple[str, str], ArrayLike], methods: Sequence[str], unit: str = "prompts",
              level: float = 0.95, pseudo: float = 1.0) -> dict[str, Strength]:
    """Strengths of `methods` relative to the first of them, from verdicts on the same seeds and prompts.

    `verdicts` maps pairs (i, j) to (S, P) of 1 where i won, ½ tie, 0 where j did. Intervals are for new seeds and
    prompts.
    """
    pairs = np.array([[methods.index(name) for name in pair] for pair in verdicts])
    outcomes = np.stack([_verdicts(values) for values in verdicts.values()])                    # (K, S, P)
    matrix = Matrix.of(outcomes.mean(0), unit)
    happened = np.stack([outcomes == 1, outcomes == 0, outcomes == 0.5], -1).astype(float)      # (K, S, P, 3)
    every = np.array([(i, j) for i in range(len(methods)) for j in range(i + 1, len(methods))])
    observed, prior = _features(pairs, len(methods)), _features(every, len(methods))
    counts = np.concatenate([happened.sum((1, 2)), np.full((len(every), 3), pseudo / 3)])
    weights, hessian = _fit(counts, np.concatenate([observed, prior]))
    expected = softmax(observed @ weights, -1)                                                  # (K, 3)
    scores = np.einsum("kspo,koi->spi", happened - expected[:, None, None], observed)           # (S, P, M)
    influence = scores @ np.linalg.inv(hessian) * matrix.numerator.size                         # (S, P, M)
    found = {}
    for index, method in enumerate(methods[1:]):
        strength, half = weights[index], mean_squares(influence[..., index]).half(1 - level)
        ends = np.array([strength, strength - half, strength + half])
        found[method] = Strength(matrix.estimate(*ends), matrix.estimate(*expit(ends)))
    return found


def _features(pairs: NDArray, items: int) -> NDArray:
    """(K, 3, M): log-odds of i winning, j winning and a tie, up to a constant, in log π_1 … log π_{M−1} and log ν."""
    features = np.zeros((len(pairs), 3, items + 1))     # item 0 has a column that is dropped: its log π is 0
    rows = np.arange(len(pairs))
    for place, item in enumerate(pairs.T):
        features[rows, place, item] = 1
        features[rows, 2, item] = 0.5
    features[:, 2, items] = 1
    return features[..., 1:]


def _fit(counts: NDArray, features: NDArray, largest: float = _LARGEST) -> tuple[NDArray, NDArray]:
    """Maximum likelihood by Newton's method: weights (M,) and the Hessian (M, M) of −log likelihood, which is convex.

    `counts` (K, 3) of the three outcomes of each pair, `features` (K, 3, M).
    """
    def loss(weights):
        return -(counts * log_softmax(features @ weights, -1)).sum()

    weights, total = np.zeros(features.shape[-1]), counts.sum(-1)
    for _ in range(_STEPS):
        probability = softmax(features @ weights, -1)
        mean = np.einsum("ko,koi->ki", probability, features)
        gradient = np.einsum("ko,koi->i", counts - total[:, None] * probability, features)
        hessian = np.einsum("k,ko,koi,koj->ij", total, probability, features, features)
        hessian -= np.einsum("k,ki,kj->ij", total, mean, mean)
        if np.abs(weights).max() > largest:
            break
        if np.abs(gradient).max() < 1e-9 * max(total.sum(), 1):
            return weights, hessian
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        size = 1.0
        while loss(weights + size * step) > loss(weights) and size > 1e-6:
            size /= 2
        weights = weights + size * step
    raise ValueError("no finite strengths fit these verdicts: an outcome never happened; fix: pseudo above 0")


def _verdicts(values: ArrayLike) -> NDArray:
    values = np.asarray(values, dtype=np.float64)
    if not np.isin(values, (0, 0.5, 1)).all():
        raise ValueError("verdicts are 1 (won), ½ (tie) or 0 (lost)")
    return values
