"""ReST, reinforced self-training: Gulcehre et al. 2023, arXiv 2308.08998.

Keeps    Grow: several responses to each prompt from the latest policy, scored, make a dataset; Improve, several times:
         the policy learns, by likelihood, those whose score reaches a threshold that rises from one Improve to the next
         (filter F(x, y; τ) and objective J(θ) of algorithm 1), each going on from the policy before it at a lower
         learning rate (``lr_decay``, 0.5 by default, per Improve of a Grow).
Changes  a generation is one Improve, so each is kept, shown and charged by itself; every ``len(thresholds)`` of them
         there is a new Grow. Thresholds are quantiles of the dataset's scores by default (``by: reward``: scores); a
         score at the threshold passes (the paper's must exceed it), so that a quantile many share keeps them.
         Responses of the same text to a prompt count once; those of a prompt that pass share a row. The thresholds, the
         number of answers and the halved rate are ours: the paper's are of its own rewards.
Drops    the original dataset beside the samples (to have it: ``view: demonstrations`` with the source FromRecords);
         offline losses other than likelihood; stopping an Improve by the reward of held-out answers.

ReST-EM (Singh et al. 2023, arXiv 2312.06585) has one Improve per Grow, samples alone, at most ``most`` = 10 responses
to a prompt (of 32 or 64 samples at temperature 0.7, top-k 40; here 8 by default, so the limit binds where there are
more), and trains each generation anew from where the first began, so that nothing is learned twice. Its reward
is right or wrong (``by: reward``, ``thresholds: [1.0]``); with a learned one the threshold is a quantile, by default.
Its first policy is the pretrained model: ``needs.reference=null``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .common.algorithm import Context, Recipe
from .common.data.template import Example
from .common.generations import Candidates, Imitation, own_samples, taken, write_pool
from .common.models.model import Models
from .common.support.checks import Rule, at_least, one_of, require, within


def passing(examples: list[Example], threshold: float, most: int | None = None) -> list[Example]:
    """F(x, y; τ) = 1 where r(x, y) ≥ τ: the prompts that have such responses, with these in their order.

    most: of each prompt so many at most, the best, of equals the first.
    """
    found = []
    for example in examples:
        places = [k for k, score in enumerate(example.scores) if score >= threshold]
        if most is not None:
            places = sorted(sorted(places, key=lambda k: -example.scores[k])[:most])
        if places:
            found.append(taken(example, places))
    return found


def quantile(examples: list[Example], share: float) -> float:
    """The score of a response below which lies that share of all scores; between two of them the higher."""
    return float(np.quantile(np.concatenate([one.scores for one in examples]), share, method="higher"))


@dataclass
class Thresholded(Imitation):
    candidates: Candidates = own_samples(8)
    by: str = "quantile"  # what the thresholds are: quantile, of the dataset's scores | reward, scores themselves
    thresholds: list[float] = field(default_factory=list)
    most: int | None = None  # responses to a prompt that are learned; None: all that pass

    def __post_init__(self):
        super().__post_init__()
        rising = Rule(lambda found: found and all(a < b for a, b in zip(found, found[1:])), "numbers that rise")
        shares = Rule(lambda found: found and all(0 <= a < b for a, b in zip(found, [*found[1:], 1.0])),
                      "numbers in [0, 1) that rise")
        require(self, "algorithm", by=one_of(("quantile", "reward")), most=at_least(1).or_null())
        require(self, "algorithm", thresholds=shares if self.by == "quantile" else rising)

    @property
    def improve(self) -> int:
        """Which Improve of its Grow a generation is, from 0."""
        return (self.generations - 1) % len(self.thresholds)

    @property
    def drawings(self) -> int:
        """One a Grow."""
        return (self.generations - 1) // len(self.thresholds) + 1

    def lessons(self, examples: list[Example]) -> list[Example]:
        threshold = self.thresholds[self.improve]  # τ_i
        if self.by == "quantile" and examples:
            threshold = quantile(examples, threshold)
        return passing(examples, threshold, self.most)

    def gather(self, context: Context) -> list[Example]:
        """The first Improve of a Grow draws the dataset, those after it learn from the same."""
        pool = self.earlier(context) if self.improve else self.draw(context)
        self.note(pool)
        if self.improve + 1 < len(self.thresholds):
            write_pool(context.target, pool)
        return self.lessons(pool)


@dataclass
class ReST(Thresholded):
    thresholds: list[float] = field(default_factory=lambda: [0.5, 0.75, 0.9])  # of the Improve steps of a Grow
    lr_decay: float = 0.5  # of the recipe's learning rate, from one Improve of a Grow to the next

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", lr_decay=within("(0, 1]"))

    def parameter_groups(self, models: Models, recipe: Recipe) -> list[dict]:
        (group,) = super().parameter_groups(models, recipe)
        return [{**group, "name": "policy", "lr": recipe.lr * self.lr_decay ** self.improve}]


@dataclass
class ReSTEM(Thresholded):
    """ReST-EM: every generation is trained from where the first began, on the latest policy's samples alone."""

    thresholds: list[float] = field(default_factory=lambda: [0.75])
    most: int | None = 10

    @property
    def start(self) -> str:
        return "reference"
