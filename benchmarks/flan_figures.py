"""Accuracies of a study's models and their differences, and which of the differences that were declared stand.

An accuracy is a share over models × things asked about: questions about one person, or one sum, are one thing. Its
interval is inside [0, 1] and never of zero width (`inference.shares`); differences are of the same questions, model by
model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from algorithms.common.evaluation.inference.comparisons import holm, p_values, would_show
from algorithms.common.evaluation.inference.intervals import (
    SHARE,
    Estimate,
    Matrix,
    ShareContrasts,
    contrast,
    contrast_to_model,
    share,
)

QUESTION = ("record", "variant")
THINGS = "things asked about"
ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Difference:
    """One accuracy minus another on the same questions. `group` and `name` say where: a form, and a cluster."""

    group: str
    name: str
    contrasts: ShareContrasts  # K = 1

    @cached_property
    def estimate(self) -> Estimate:
        """By its own interval, without an adjustment."""
        (low,), (high,) = self.contrasts.interval(ALPHA)
        squares = self.contrasts.squares
        models, things = squares.shape
        return Estimate(squares.mean[0], low, high, things, THINGS, models)

    @cached_property
    def p(self) -> float:
        """The level at which the interval just reaches 0."""
        return float(p_values(self.contrasts)[0])

    def smallest_shown(self, alpha: float) -> float:
        """What would have been shown with a chance of 80 %; infinite where shares cannot differ so much."""
        return float(would_show(self.contrasts, alpha)[0])


class Family:
    """Differences that were declared together, with Holm's adjustment over all of them.

    Where none of them is true, any stands in at most 5 % of studies.
    """

    def __init__(self, differences: Sequence[Difference]):
        self.differences = tuple(differences)
        adjusted = holm([one.p for one in self.differences]) if self.differences else []
        self._adjusted = dict(zip(self.differences, adjusted))

    def __len__(self) -> int:
        return len(self.differences)

    @property
    def models(self) -> int:
        """Seeds, or draws, that each difference has; 0 of no difference."""
        return self.differences[0].estimate.seeds if self.differences else 0

    @property
    def standing(self) -> list[Difference]:
        """Shown after the adjustment."""
        return [one for one in self.differences if self.stands(one)]

    @property
    def alone(self) -> list[Difference]:
        """Whose interval excludes 0, which among so many is too little."""
        return [one for one in self.differences if one.estimate.excludes_zero and not self.stands(one)]

    @property
    def unseen(self) -> list[Difference]:
        return [one for one in self.differences if not one.estimate.excludes_zero]

    def stands(self, difference: Difference) -> bool:
        """False for what was not declared."""
        return difference.estimate.excludes_zero and self._adjusted.get(difference, 1.0) <= ALPHA

    def smallest_shown(self, differences: Sequence[Difference]) -> tuple[float, float]:
        """The least and the most that would have been shown for some of the family."""
        shown = [one.smallest_shown(ALPHA / len(self)) for one in differences]
        return min(shown), max(shown)


def accuracy(frame: pd.DataFrame, on: Sequence[str] = QUESTION) -> Estimate:
    """Share of right answers to what every model of the frame was asked.

    frame: seed (tells models apart), unit (the thing asked about), correct (0 to 1), and the columns `on` that tell
    questions apart.
    """
    return share(_matrix(_cells(frame, on), _things(frame, on)))


def difference(frame: pd.DataFrame, other: pd.DataFrame, on: Sequence[str] = QUESTION, group: str = "",
               name: str = "") -> Difference:
    """frame − other, each as for `accuracy`, on the questions that both have. One other model is every seed's.

    ValueError where they have no question or no seed in common.
    """
    cells, others = _cells(frame, on), _cells(other, on)
    shared, things = cells.columns.intersection(others.columns), _things(frame, on)
    if not len(shared):
        raise ValueError("nothing was asked of both")
    if len(others) == 1:
        found = contrast_to_model(_matrix(cells[shared], things), _matrix(others[shared], things))
        return Difference(group, name, found)
    seeds = cells.index.intersection(others.index)
    if not len(seeds):
        raise ValueError("no seed has answered for both")
    first, second = (_matrix(one.loc[seeds, shared], things) for one in (cells, others))
    return Difference(group, name, contrast(first, second, SHARE))


def _cells(frame: pd.DataFrame, on: Sequence[str]) -> pd.DataFrame:
    """(models, questions) of what every model was asked."""
    return frame.pivot_table(index="seed", columns=list(on), values="correct", aggfunc="mean").dropna(axis=1)


def _things(frame: pd.DataFrame, on: Sequence[str]) -> pd.Series:
    """Question → the thing it is about."""
    return frame.drop_duplicates(list(on)).set_index(list(on))["unit"]


def _matrix(cells: pd.DataFrame, things: pd.Series) -> Matrix:
    """(models, things) of right answers and questions, from (models, questions)."""
    place, names = pd.factorize(things.loc[cells.columns])
    right = np.zeros((len(names), len(cells)))
    np.add.at(right, place, cells.to_numpy().T)
    questions = np.bincount(place).astype(float)
    return Matrix(right.T, np.tile(questions, (len(cells), 1)), THINGS)
