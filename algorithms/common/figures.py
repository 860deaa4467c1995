"""What was found of one trained model, before any interval: a figure is Σ numerator / Σ denominator over its prompts.

Seeds and methods are compared prompt by prompt, so rows are kept and finished intervals are made from them last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

COLUMNS = ("prompt_id", "numerator", "denominator")


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure, a row of ``COLUMNS`` for each prompt that has it, or for each other unit that it counts."""

    name: str
    rows: pd.DataFrame  # prompt_id: str; numerator, denominator: float64, the latter above 0
    kind: str = "mean"  # mean | share (numerators from 0 to their denominators) | perplexity (nats, tokens)
    unit: str = "prompts"  # what a row is of, in the plural

    @classmethod
    def of(cls, name: str, prompts: Iterable[str], values: ArrayLike, weights: ArrayLike = 1.0, kind: str = "mean",
           unit: str = "prompts") -> "Figure":
        """Of N values, of which a prompt may have several: their sum, and that of their ``weights``, (N,) or 1 each."""
        ids = [str(prompt) for prompt in prompts]
        weights = np.broadcast_to(np.asarray(weights, dtype=np.float64), len(ids))
        frame = pd.DataFrame(dict(zip(COLUMNS, (ids, np.asarray(values, dtype=np.float64), weights))))
        return cls(name, frame.groupby("prompt_id", sort=False, as_index=False).sum(), kind, unit)

    def less(self, before: "Figure", name: str) -> "Figure":
        """On the prompts that both have: a prompt's mean here less its mean there, every prompt weighing the same."""
        both = self.rows.merge(before.rows, on="prompt_id", suffixes=("", "_before"), validate="one_to_one")
        difference = both["numerator"] / both["denominator"] - both["numerator_before"] / both["denominator_before"]
        return Figure.of(name, both["prompt_id"], difference, unit=self.unit)


@dataclass(frozen=True)
class Known:
    """A figure without rows: a constant of the method, or one whose interval was found by resampling."""

    name: str
    mean: float
    low: float
    high: float
    n: int
    kind: str  # constant | resampled
    unit: str = "prompts"  # what n counts

    @classmethod
    def constant(cls, name: str, value: float, n: int) -> "Known":
        return cls(name, value, value, value, n, "constant")


@dataclass(frozen=True)
class Apart:
    """The mean of one number for each prompt, of prompts that another seed may not see: there are no rows to join."""

    name: str
    values: Sequence[float]
    unit: str  # what a value is of, in the plural
