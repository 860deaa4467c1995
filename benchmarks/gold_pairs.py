"""Pairs of trained models that the true reward decides: what else ranks models is held against them."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import pandas as pd

from algorithms.common.evaluation.inference.intervals import Estimate, Matrix, difference

from .comparison_tables import Member
from .results_read import Result

GOLD = "reward/gold"
Decided = tuple[tuple[str, str], Result, Result, Estimate]     # labels, runs, first − second in gold


def less(own: pd.DataFrame, minus: pd.DataFrame) -> Estimate:
    """own − minus of a figure's cells (numerator, denominator), on the prompts that both have."""
    common = own.index.intersection(minus.index)
    return difference(*(Matrix(*(one.loc[common, [part]].to_numpy().T for part in ("numerator", "denominator")))
                        for one in (own, minus)))


def decided(members: Sequence[Member]) -> Iterator[Decided]:
    """The pairs of rows in each seed that gold decides."""
    for one, other in combinations(members, 2):
        for first in one.runs:
            for second in (run for run in other.runs if run.seed == first.seed):
                if all(GOLD in run.evaluation for run in (first, second)):
                    gold = less(first.evaluation[GOLD].cells, second.evaluation[GOLD].cells)
                    if gold.excludes_zero:
                        yield (one.label, other.label), first, second, gold
