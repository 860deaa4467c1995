"""Runs of several seeds → figures of a row, over seeds and prompts.

Never from the runs' finished intervals: each figure is a matrix, its rows the seeds and its columns the prompts that
all runs of the table have, and goes through the estimator of its kind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from algorithms.common.evaluation.inference.crossed import mean_squares, student
from algorithms.common.evaluation.inference.intervals import MEAN, PERPLEXITY, SHARE, Estimate, Kind, Matrix, contrast
from algorithms.common.evaluation.inference.shares import Shares

from .results_read import ReportError, Result

ESTIMATED = {"mean": MEAN, "share": SHARE, "perplexity": PERPLEXITY}
# Figures that only some answers or pairs have: a prompt without a row has none of it, if it has a row of the other.
PART_OF = {"distinct_2": "length/mean", "accuracy/chosen_longer": "accuracy/heldout",
           "accuracy/chosen_shorter": "accuracy/heldout", "accuracy/gold": "accuracy/heldout"}
LEAST_SHARED = 0.9      # of a run's prompts: below it, runs did not answer the same prompts
MOST_OVERLAP = 0.1      # of two seeds' prompts: up to it, each seed has prompts of its own


@dataclass(frozen=True)
class Shared:
    """The prompts that the runs of a table have of one figure."""

    kind: str                               # mean | share | perplexity
    by_seed: Mapping[int | None, pd.Index]  # the same of every seed, unless `nested`
    nested: bool                            # every seed has prompts of its own
    most: int                               # prompts that one run has

    @property
    def count(self) -> int:
        """Prompts of each seed, or of the one with the fewest."""
        return min(map(len, self.by_seed.values()))


def shared_prompts(figure: str, runs: Sequence[Result]) -> Shared:
    """The prompts of `figure` that all runs have, or, where every seed has its own, all runs of a seed.

    ReportError where that leaves less than 90 % of some run's prompts.
    """
    kinds = {run.evaluation[figure].kind for run in runs}
    kind = "mean" if kinds == {"mean", "share"} else runs[0].evaluation[figure].kind  # 0 and 1 in some runs only
    indices = [(run, _asked(figure, run)) for run in runs]
    most = max(len(index) for _, index in indices)
    everywhere = common([index for _, index in indices])
    seeds = list(dict.fromkeys(run.seed for run in runs))
    if len(everywhere) >= LEAST_SHARED * most:
        return Shared(kind, dict.fromkeys(seeds, everywhere), False, most)
    by_seed = {seed: common([index for run, index in indices if run.seed == seed]) for seed in seeds}
    whole = all(len(by_seed[run.seed]) >= LEAST_SHARED * len(index) for run, index in indices)
    apart = all(len(one.intersection(other)) <= MOST_OVERLAP * min(len(one), len(other))
                for one, other in combinations(by_seed.values(), 2))
    if len(seeds) > 1 and whole and apart and all(map(len, by_seed.values())):
        return Shared(kind, by_seed, True, most)
    overlaps = [(len(index.intersection(another)), run.folder, second.folder)
              for (run, index), (second, another) in combinations(indices, 2)]
    fewest, one, other = min(overlaps, key=lambda found: found[0])
    raise ReportError(
        f"{figure}: found {len(everywhere):,} prompts that all {len(runs)} runs have, of up to {most:,} ({one} and "
        f"{other} share {fewest:,}); expected at least {LEAST_SHARED:.0%} of them, so that the same prompts are "
        "compared; fix: evaluate all with the same data, eval.prompts and eval.split, or make a table of those that "
        "were: python -m benchmarks.report FOLDER… --out FOLDER")


def _asked(figure: str, run: Result) -> pd.Index:
    """The prompts at which a run could have had the figure."""
    whole = run.evaluation.get(PART_OF.get(figure, figure), run.evaluation[figure])
    index = run.evaluation[figure].cells.index
    return whole.cells.index if index.isin(whole.cells.index).all() else index


def matrix(figure: str, runs: Sequence[Result], shared: Shared) -> Matrix:
    """Of runs with different seeds, in their order. Seeds with prompts of their own have one column, their figures.

    ValueError where nothing was measured.
    """
    cells = [run.evaluation[figure].cells.reindex(shared.by_seed[run.seed], fill_value=0.0) for run in runs]
    unit = runs[0].evaluation[figure].estimate.unit
    if not shared.nested or len(runs) == 1:
        return Matrix(*(np.stack([one[part] for one in cells]) for part in ("numerator", "denominator")), unit)
    sums = np.array([one[["numerator", "denominator"]].sum() for one in cells])     # (S, 2)
    if shared.kind == "share":
        return Matrix(sums[:, :1], sums[:, 1:], unit)
    if not sums[:, 1].all():
        raise ValueError("a seed has none of it")
    return Matrix.of(sums[:, :1] / sums[:, 1:], unit)


def estimate(figure: str, runs: Sequence[Result], shared: Shared | None) -> Estimate:
    """A row's figure. `shared` is None for kinds that have no rows. ValueError where it cannot be estimated."""
    if shared is None:
        kinds = {run.evaluation[figure].kind for run in runs}
        return _of_seeds([run.evaluation[figure].estimate for run in runs], kinds == {"constant"})
    found, kind = matrix(figure, runs, shared), ESTIMATED[shared.kind]
    if shared.nested and len(runs) > 1:
        return in_each_seed(_nested(found, kind, shared.count), shared)
    if (less := _of_shares(figure, runs, shared, found)) is not None:
        return less
    there = found.denominator.any(0)    # prompts that have some of it
    return kind.estimate(Matrix(found.numerator[:, there], found.denominator[:, there], found.unit), 0.95)


def _of_shares(figure: str, runs: Sequence[Result], shared: Shared, differences: Matrix) -> Estimate | None:
    """A share less its start's, by square-and-add as pairs of rows are: it has a width where all answers agree."""
    own, minus, _ = figure.partition("_minus_")
    kinds = {run.evaluation[own].kind if own in run.evaluation else None for run in runs}
    if not minus or kinds != {"share"} or shared.nested:
        return None
    having = matrix(own, runs, shared)
    if not having.denominator.all() or not differences.denominator.all():
        return None
    before = having.numerator - having.denominator * differences.numerator / differences.denominator
    start = Matrix(before.clip(0, having.denominator), having.denominator, having.unit)
    found = contrast(having, start, SHARE)
    (low,), (high,) = found.interval(0.05)
    return having.estimate(found.squares.mean[0], low, high)


def of_these_models(figure: str, runs: Sequence[Result]) -> Estimate:
    """A share for the models that there are, over all seeds, and new prompts: no other models will stand for them."""
    rows = pd.concat([run.evaluation[figure].cells for run in runs]).groupby(level=0, sort=False).sum()
    found = SHARE.estimate(Matrix(*(rows[[part]].to_numpy().T for part in ("numerator", "denominator"))), 0.95)
    return replace(found, unit=runs[0].evaluation[figure].estimate.unit, seeds=len(runs))


def in_each_seed(found: Estimate, shared: Shared) -> Estimate:
    """With the count of what every seed was measured on: of seeds with prompts of their own a matrix has one column."""
    return replace(found, n=shared.count, unit=f"{found.unit} in each seed") if shared.nested else found


def _nested(found: Matrix, kind: Kind, prompts: int) -> Estimate:
    """Student's t over seeds, which holds new prompts' part of the spread too; of shares by Wilson's interval."""
    if kind is not SHARE:
        return kind.estimate(found, 0.95)
    shares = Shares.of(found.numerator, found.denominator)
    shares = shares._replace(cells=shares.answers, prompts=np.minimum(prompts, shares.answers))  # if all answers agree
    return found.estimate(shares.squares.mean, *shares.interval(0.05))


def _of_seeds(found: Sequence[Estimate], constant: bool) -> Estimate:
    """Student's t over seeds, on these prompts, for what no rows tell; what is constant stays as it is."""
    first, seeds = found[0], len(found)
    means = np.array([one.mean for one in found])
    if seeds == 1:
        return first
    if constant and (means == first.mean).all():
        return replace(first, seeds=seeds)
    half = float(student(seeds - 1, 0.05)) * means.std(ddof=1) / np.sqrt(seeds)
    mean, n = means.mean(), min(one.n for one in found)
    return Estimate(mean, mean - half, mean + half, n, first.unit, seeds)


def common(indices: Sequence[pd.Index]) -> pd.Index:
    """What all have, in the order of the first."""
    shared = indices[0]
    for index in indices[1:]:
        shared = shared[shared.isin(index)]
    return shared


@dataclass(frozen=True)
class StartSpread:
    """How much the start model's answers differ in a score."""

    deviation: float    # standard deviation
    single: bool        # of one answer; else of the mean of a prompt's answers, which is less


def start_spread(figure: str, runs: Sequence[Result], start: str) -> StartSpread | None:
    """From what one method's runs of different seeds have: their scores and the paired differences to their starts',
    `start` being sft or base.

    Where a prompt has several answers, only their mean is known; how single ones differ is told by two seeds or more.
    """
    name = f"{figure}_minus_{start}"
    having = [run for run in runs if figure in run.evaluation and name in run.evaluation]
    if not having:
        return None
    parts = [(_means(run, figure).rename("own"), _means(run, name).rename("less")) for run in having]
    frames = [pd.concat(both, axis=1, join="inner") for both in parts]
    answers = having[0].evaluation[figure].cells["denominator"].max()
    asked = common([frame.index for frame in frames])
    if len(asked) < 2:     # seeds with prompts of their own
        frames, asked = frames[:1], frames[0].index
    if len(asked) < 2:
        return None
    means = np.stack([(frame["own"] - frame["less"]).loc[asked].to_numpy() for frame in frames])   # (S, P)
    if answers == 1 or len(means) == 1:
        return StartSpread(float(means.std(ddof=1)), bool(answers == 1))
    squares = mean_squares(means)
    seeds, prompts = squares.shape
    between = max(squares.seeds - squares.rest, 0) / prompts + max(squares.prompts - squares.rest, 0) / seeds
    return StartSpread(float(np.sqrt(between + answers * squares.rest)), True)


def _means(run: Result, figure: str) -> pd.Series:
    """Of each prompt that has some of it."""
    cells = run.evaluation[figure].cells
    cells = cells[cells["denominator"] > 0]
    return cells["numerator"] / cells["denominator"]
