"""Offline batch policy optimisation: a clipped, importance-weighted policy gradient on logged and scored responses;
after A-LoL, Baheti et al. 2023, arXiv 2305.14718, with the clipped ratio of Schulman et al. 2017, arXiv 1707.06347.

Keeps    nothing is sampled: responses and scores are the data's; a whole response is one action; its weight is the
         policy's ratio to the supervised policy, which stands for whoever wrote the data.
Changes  the advantage is a score standardised over its batch, where A-LoL fits a value of the prompt; advantages below
         0 teach too (A-LoL leaves them out: ``positive_only``, off by default); beyond the clip (``clip``, 0.9 by
         default) a response has no gradient, as in PPO's eq. 7, so that the policy stays near the data, where A-LoL
         keeps the clipped ratio as a constant weight of its likelihood.
Drops    sampling records by their advantage, weights of single tokens, a KL term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .common.algorithm import Algorithm, Context, Examples, Loss, Term
from .common.data.batches import Batch
from .common.data.template import Example
from .common.models.model import Models
from .common.policy_gradient import surrogates
from .common.support.checks import require, within


def standardised(scores: Tensor, mean: float, std: float) -> Tensor:
    """Scores, any shape, by the mean and standard deviation of their batch; 0 where nothing varies there."""
    return (scores - mean) / std if std > 0 else torch.zeros_like(scores)


class Minibatch(NamedTuple):
    batch: Batch
    mean: float  # of the scores
    std: float  # of the population


@dataclass(frozen=True, kw_only=True)
class Logged(Examples):
    """Scored responses, with the moments of their whole batch's scores."""

    mean: float
    std: float

    def select(self, indices: list[int]) -> Minibatch:
        return Minibatch(super().select(indices), self.mean, self.std)

    def metrics(self) -> dict[str, float]:
        return {"reward/logged": self.mean, "reward/logged_std": self.std}


@dataclass
class OfflinePG(Algorithm):
    view: str = "rated"
    clip: float = 0.9  # ε of a whole response's ratio
    positive_only: bool = False  # responses worse than the batch's mean teach nothing

    stores_reference: ClassVar[bool] = True
    compares_logprobs: ClassVar[bool] = True

    def __post_init__(self):
        require(self, "algorithm", clip=within("(0, 1)"))
        self.needs.setdefault("reference", None)  # without a supervised stage the reference is the base

    def experience(self, context: Context, examples: list[Example]) -> Logged:
        scores = torch.tensor([score for example in examples for score in example.scores], dtype=torch.float64)
        return Logged(context.models, examples, mean=scores.mean().item(), std=scores.std(correction=0).item())

    def loss(self, models: Models, minibatch: Minibatch) -> Loss:
        batch, mean, std = minibatch
        logps, old = models.policy.response_logprobs(batch), models.reference.response_logprobs(batch)  # (B, K) each
        advantages = standardised(batch.scores, mean, std)  # (B, K); NaN where no response is
        if self.positive_only:
            advantages = advantages.clamp_min(0)
        plain, clipped = surrogates(logps, old, advantages, batch.present, clip=self.clip)  # (B, K) each
        here = batch.present
        return Loss({"policy": Term(torch.maximum(plain, clipped).sum(), per="responses")}, {
            "policy/clip_fraction": (clipped > plain)[here].float(),
            "policy/ratio_mean": (logps - old).detach()[here].exp(), "logps/mean": logps.detach()[here]})

    def score(self, models: Models, batch: Batch) -> Tensor:
        """(B, K): log π/π_ref, by which what it learned to prefer is seen."""
        return models.policy.response_logprobs(batch) - models.reference.response_logprobs(batch)
