"""Uncertainty of evaluation figures: bootstrap over prompts, intervals over seeds.

Prompts are the unit of resampling, since the responses to one prompt are alike. All intervals are percentile
bootstrap intervals (Efron 1979) except `over_seeds` and `crossed`, where a handful of models allows only Student's t.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

_BLOCK = 2**21  # resampled indices held at once: 16 MiB


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; `n` counts the units it rests on (prompts, clusters or seeds).

    All numbers are finite: what could not be measured is absent, never an Estimate of NaN.
    """

    mean: float
    low: float
    high: float
    n: int

    def __post_init__(self):
        for name in ("mean", "low", "high"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
                raise ValueError(f"{name} is {value!r}; expected a finite number")
            object.__setattr__(self, name, float(value))
        if isinstance(self.n, bool) or not isinstance(self.n, (int, np.integer)) or self.n < 1:
            raise ValueError(f"n is {self.n!r}; expected a positive integer")
        object.__setattr__(self, "n", int(self.n))
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")

    def to_dict(self) -> dict[str, float | int]:
        """{mean, low, high, n}, as written to result.json."""
        return asdict(self)


def bootstrap(values: ArrayLike, seed: int = 0, draws: int = 4000, level: float = 0.95) -> Estimate:
    """Mean of one value per prompt, (P,), with its percentile bootstrap interval. One prompt has no width."""
    values = _finite("values", values)
    return _resampled(values[:, None], lambda sums: sums[:, 0] / len(values), seed, draws, level)


def paired(values: ArrayLike, baseline: ArrayLike, seed: int = 0, draws: int = 4000, level: float = 0.95) -> Estimate:
    """Mean difference to a baseline on the same prompts, both (P,) in the same order."""
    values, baseline = _joined(values, baseline)
    return bootstrap(values - baseline, seed, draws, level)


def win_rate(values: ArrayLike, baseline: ArrayLike, seed: int = 0, draws: int = 4000,
             level: float = 0.95) -> Estimate:
    """Share of prompts on which `values` exceeds `baseline`, both (P,) in the same order; ties count half."""
    values, baseline = _joined(values, baseline)
    return bootstrap((values > baseline) + 0.5 * (values == baseline), seed, draws, level)


def cluster_bootstrap(values: ArrayLike, clusters: Sequence[Hashable] | NDArray, seed: int = 0, draws: int = 4000,
                      level: float = 0.95) -> Estimate:
    """Mean of several values per prompt: whole prompts are resampled. `values` (N,), `clusters` (N,) prompt ids.

    Every value weighs the same, so a prompt with more samples weighs more; `n` is the number of prompts.
    """
    values = _finite("values", values)
    if len(clusters) != len(values):
        raise ValueError(f"{len(values)} values but {len(clusters)} clusters")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(cluster, len(order)) for cluster in clusters])
    return ratio(np.bincount(index, values), np.bincount(index), seed, draws, level)


def ratio(numerators: ArrayLike, denominators: ArrayLike, seed: int = 0, draws: int = 4000,
          level: float = 0.95) -> Estimate:
    """Sum of numerators over sum of positive denominators, one of each per prompt, (P,): rates per token and such."""
    return _resampled(_fractions(numerators, denominators), lambda sums: sums[:, 0] / sums[:, 1], seed, draws, level)


def calibration_error(logits: ArrayLike, clusters: Sequence[Hashable] | NDArray, bins: int = 10, seed: int = 0,
                      draws: int = 4000, level: float = 0.95) -> Estimate:
    """Expected calibration error of predicted preferences (Guo et al. 2017, arXiv 1706.04599), whole prompts resampled.

    `logits` (N,): log-odds given to what turned out to be preferred; `clusters` (N,) prompt ids. Of each pair
    the more probable outcome is taken, its probability p = σ(|logit|) and whether it came true y (a tie: half), in
    equal bins of p from ½ to 1: Σ_bins |Σ (p − y)| / N. It is never below 0, so noise alone makes it positive, and the
    resampled values more so: where all of them lie above the value itself, the interval begins at the value.
    """
    logits = _finite("logits", logits)
    if len(clusters) != len(logits):
        raise ValueError(f"{len(logits)} values but {len(clusters)} clusters")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(cluster, len(order)) for cluster in clusters])
    confidence = 1 / (1 + np.exp(-np.abs(logits)))
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    columns = np.zeros((len(order), bins + 1))  # Σ (p − y) by bin, and the count
    np.add.at(columns, (index, place), confidence - (np.sign(logits) + 1) / 2)
    columns[:, bins] = np.bincount(index)
    found = _resampled(columns, lambda sums: np.abs(sums[:, :bins]).sum(1) / sums[:, bins], seed, draws, level)
    return replace(found, low=min(found.low, found.mean))


def exp_mean(sum_nll: ArrayLike, tokens: ArrayLike, seed: int = 0, draws: int = 4000,
             level: float = 0.95) -> Estimate:
    """Perplexity exp(Σ nll / Σ tokens) from each prompt's summed negative log-likelihood, nats, and tokens, (P,)."""
    per_token = ratio(sum_nll, tokens, seed, draws, level)
    with np.errstate(over="ignore"):  # Estimate refuses infinity with a message of its own
        return Estimate(np.exp(per_token.mean), np.exp(per_token.low), np.exp(per_token.high), per_token.n)


def over_seeds(figures: Sequence[Estimate | float], level: float = 0.95) -> Estimate:
    """Mean of independently trained models' figures with Student's t interval; needs two seeds or more.

    Covers the algorithm's training noise on these evaluation prompts; the prompts' own sampling is not added.
    """
    means = _finite("figures", [figure.mean if isinstance(figure, Estimate) else figure for figure in figures])
    seeds = len(means)
    if seeds < 2:
        raise ValueError("an interval over seeds needs at least two seeds")
    half = stdtrit(seeds - 1, 0.5 + _checked(level) / 2) * means.std(ddof=1) / np.sqrt(seeds)
    return Estimate(means.mean(), means.mean() - half, means.mean() + half, seeds)


def seeds_and_prompts(matrix: ArrayLike, baseline_matrix: ArrayLike | None = None, seed: int = 0, draws: int = 4000,
                      level: float = 0.95) -> Estimate:
    """Mean over seeds and prompts, (S, P), both resampled; the baseline, (S, P), is subtracted pairwise.

    All seeds answer the same prompts, so rows and columns are drawn independently of each other (Owen 2007, "The
    pigeonhole bootstrap"). `n` is the number of seeds. A bootstrap of S values sees only (S−1)/S of their variance:
    with fewer than about five seeds prefer `over_seeds`.
    """
    matrix = _finite("matrix", matrix, dimensions=2)
    if baseline_matrix is not None:
        baseline = _finite("baseline_matrix", baseline_matrix, dimensions=2)
        if baseline.shape != matrix.shape:
            raise ValueError(f"matrix is {matrix.shape} but baseline_matrix is {baseline.shape}")
        matrix = matrix - baseline
    seeds, prompts = matrix.shape
    if seeds < 2:
        raise ValueError("resampling seeds needs at least two seeds")
    rng = np.random.default_rng(seed)
    figures = []
    for size in _blocks(draws, prompts):
        rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size)            # (size, S) times drawn
        columns = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size)   # (size, P)
        figures.append(((rows @ matrix) * columns).sum(1) / (seeds * prompts))
    return Estimate(matrix.mean(), *_interval(np.concatenate(figures), level), seeds)


def crossed(values: ArrayLike, clusters: Sequence[Hashable] | NDArray, level: float = 0.95) -> Estimate:
    """Mean over models and questions, (S, N), where several questions are about one thing: `clusters` (N,).

    Student's t interval for other models and other things: the variance is that of the models' means over S, by s², plus that
    of the things' over their number, by the sandwich of their summed residuals; degrees of freedom after Satterthwaite (1946).
    What both share, the interaction, is in both, so the interval errs on the wide side. With one model it holds for
    that model. `n` is the number of things.
    """
    values = _finite("values", values, dimensions=2)
    if len(clusters) != values.shape[1]:
        raise ValueError(f"{values.shape[1]} values but {len(clusters)} clusters")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(cluster, len(order)) for cluster in clusters])
    models, things, mean = len(values), len(order), values.mean()
    parts = []  # (variance, degrees of freedom)
    if models > 1:
        parts.append((values.mean(1).var(ddof=1) / models, models - 1))
    if things > 1:
        residuals = np.bincount(index, values.mean(0) - mean)
        parts.append((things / (things - 1) * (residuals**2).sum() / values.shape[1]**2, things - 1))
    variance = sum(part for part, _ in parts)
    if not variance:
        return Estimate(mean, mean, mean, things)
    freedom = variance**2 / sum(part**2 / count for part, count in parts)
    half = stdtrit(freedom, 0.5 + _checked(level) / 2) * np.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, things)


def _resampled(columns: NDArray, statistic: Callable[[NDArray], NDArray], seed: int, draws: int,
               level: float) -> Estimate:
    """Interval of a statistic of column sums, (draws, C) → (draws,), over resampled rows of `columns`, (P, C)."""
    rng = np.random.default_rng(seed)
    rows = len(columns)
    sums = [columns[rng.integers(rows, size=(size, rows))].sum(1) for size in _blocks(draws, rows)]
    low, high = _interval(statistic(np.concatenate(sums)), level)
    return Estimate(statistic(columns.sum(0, keepdims=True))[0], low, high, rows)


def _blocks(draws: int, width: int) -> list[int]:
    """`draws` split so that a block of `width` columns stays small."""
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected at least 1")
    size = max(1, _BLOCK // width)
    return [min(size, draws - start) for start in range(0, draws, size)]


def _interval(figures: NDArray, level: float) -> tuple[float, float]:
    low, high = np.quantile(figures, [(1 - _checked(level)) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a number between 0 and 1")
    return level


def _finite(name: str, values: ArrayLike, dimensions: int = 1) -> NDArray:
    array = np.asarray(values, dtype=np.float64)  # None becomes NaN here, and is refused with it
    if array.ndim != dimensions or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected {dimensions} dimension(s) and no empty one")
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name}[{', '.join(map(str, where))}] is {array[where]}; expected finite numbers")
    return array


def _joined(values: ArrayLike, baseline: ArrayLike) -> tuple[NDArray, NDArray]:
    values, baseline = _finite("values", values), _finite("baseline", baseline)
    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} values but {len(baseline)} in the baseline; they are paired by prompt")
    return values, baseline


def _fractions(numerators: ArrayLike, denominators: ArrayLike) -> NDArray:
    numerators, denominators = _finite("numerators", numerators), _finite("denominators", denominators)
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} numerators but {len(denominators)} denominators")
    if (denominators <= 0).any():
        raise ValueError(f"denominators[{int(np.argmax(denominators <= 0))}] is not positive")
    return np.stack([numerators, denominators], axis=1)
