"""The bootstrap over prompts (Efron 1979, Ann. Statist. 7:1), for figures of one trained model that are no means.

It cannot resample a handful of seeds, so nothing here is for several of them.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .intervals import Estimate

_BLOCK = 2**21  # resampled weights held at once: 16 MiB


def bootstrap(columns: ArrayLike, statistic: Callable[[NDArray], NDArray], unit: str = "prompts", level: float = 0.95,
              draws: int = 4000, seed: int = 0) -> Estimate:
    """Percentile interval of a statistic of the prompts' summed columns.

    `columns` (P, C) holds what each prompt adds; `statistic` maps sums (draws, C) to figures (draws,). The interval
    begins or ends at the figure itself where all resampled ones lie to one side of it, as those of a distance from 0
    may.
    """
    columns = np.asarray(columns, dtype=np.float64)
    if columns.ndim != 2 or not columns.size or not np.isfinite(columns).all():
        raise ValueError(f"columns are {columns.shape}; expected prompts × columns of finite numbers, none empty")
    prompts = len(columns)
    rng = np.random.default_rng(seed)
    size = max(1, _BLOCK // prompts)
    figures = []
    for start in range(0, draws, size):
        weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), min(size, draws - start))  # (size, P)
        figures.append(statistic(weights @ columns))
    figure = float(statistic(columns.sum(0, keepdims=True))[0])
    low, high = np.quantile(np.concatenate(figures), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(figure, min(low, figure), max(high, figure), prompts, unit, seeds=1)


def calibration_error(logits: ArrayLike, clusters: Sequence[Hashable], bins: int = 10, unit: str = "prompts",
                      level: float = 0.95, draws: int = 4000, seed: int = 0) -> Estimate:
    """Expected calibration error of predicted preferences (Guo et al. 2017, arXiv 1706.04599), whole prompts resampled.

    `logits` (N,): log-odds given to what turned out to be preferred; `clusters` (N,) prompt ids. Of each pair the more
    probable outcome is taken, its probability p = σ(|logit|) and whether it came true y (a tie: half), in equal bins of
    p from ½ to 1: Σ_bins |Σ (p − y)| / N. It is never below 0, so noise alone makes it positive, and resampled ones
    more so.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.shape != (len(clusters),) or not np.isfinite(logits).all():
        raise ValueError(f"logits are {logits.shape}, clusters {len(clusters)}; expected one of each per pair, finite")
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(cluster, len(order)) for cluster in clusters])
    probability = 1 / (1 + np.exp(-np.abs(logits)))
    place = np.minimum(((probability - 0.5) * 2 * bins).astype(int), bins - 1)
    columns = np.zeros((len(order), bins + 1))  # Σ (p − y) by bin, and the count
    np.add.at(columns, (index, place), probability - (np.sign(logits) + 1) / 2)
    columns[:, bins] = np.bincount(index)
    return bootstrap(columns, lambda sums: np.abs(sums[:, :bins]).sum(1) / sums[:, bins], unit, level, draws, seed)
