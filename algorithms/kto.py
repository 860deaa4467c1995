"""Kahneman-Tversky Optimization: Ethayarajh et al. 2024, arXiv 2402.01306 (equations as its first version counts them).

Keeps    desirable and undesirable responses, each by itself; the value of eq. 7, a logistic function of the log-ratio's
         distance to a reference point z; z estimated from responses after other prompts, never below 0, and no part
         of the gradient.
Changes  z is of the whole batch, before its first step, whatever the micro-batches; where records have several
         responses, all of them stand after the next prompt; a score above ``threshold``, 0.5 by default, is desirable.
Drops    weights chosen by class counts: they are settings, both 1 here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .common.algorithm import Algorithm, Context, Examples, Loss, Term
from .common.data.batches import Batch
from .common.data.template import Example
from .common.models.model import Models
from .common.rollouts import columns
from .common.support.checks import POSITIVE, Rule, require


def kto_loss(ratios: Tensor, desirable: Tensor, point: float, *, beta: float, desirable_weight: float = 1.0,
             undesirable_weight: float = 1.0) -> Tensor:
    """λ_y − v(x, y) of eq. 7, from (N,) log-ratios u and the reference point z in nats, and (N,) bool → (N,)."""
    signs = torch.where(desirable, 1.0, -1.0)
    weights = torch.where(desirable, desirable_weight, undesirable_weight)  # λ_D, λ_U
    return weights * (1 - torch.sigmoid(signs * beta * (ratios - point)))


class Minibatch(NamedTuple):
    batch: Batch
    point: float  # nats


@dataclass(frozen=True, kw_only=True)
class Referred(Examples):
    """Rated responses with the reference point of their whole batch."""

    point: float

    def select(self, indices: list[int]) -> Minibatch:
        return Minibatch(super().select(indices), self.point)

    def metrics(self) -> dict[str, float]:
        return {"kl/mismatched": self.point}


def mismatched(models: Models, examples: list[Example]) -> list[Example]:
    """The responses of each record after the next one's prompt, cut where both would be too long; none after its own.
    """
    previous = [*examples[-1:], *examples[:-1]]
    return [Example(models.fit_prompt(one.prompt, len(ids)), [ids], [finished], None, one.record)
            for one, other in zip(examples, previous) if one.prompt != other.prompt
            for ids, finished in zip(other.responses, other.finished)]


@dataclass
class KTO(Algorithm):
    view: str = "rated"
    beta: float = 0.1  # inverse temperature of the implicit reward: how soon the value saturates
    threshold: float = 0.5  # a score above it is desirable
    desirable_weight: float = 1.0  # λ_D
    undesirable_weight: float = 1.0  # λ_U

    stores_reference: ClassVar[bool] = True  # of the records; mismatched responses are computed in each step
    compares_logprobs: ClassVar[bool] = True

    def __post_init__(self):
        require(self, "algorithm", beta=POSITIVE, desirable_weight=POSITIVE, undesirable_weight=POSITIVE,
                threshold=Rule(math.isfinite, "a finite number"))
        self.needs.setdefault("reference", None)  # without a supervised stage the reference is the base

    def experience(self, context: Context, examples: list[Example]) -> Referred:
        models, point = context.models, 0.0
        others = mismatched(models, examples)
        if others:  # a last batch of one record has none
            logps, refs = columns(context, others, models.policy.token_logprobs, models.reference.token_logprobs)
            point = max(0.0, (logps - refs).sum(-1).mean().item())  # z of §4.1: an estimate of KL(π ‖ π_ref)
        return Referred(models, examples, point=point)

    def loss(self, models: Models, minibatch: Minibatch) -> Loss:
        batch, point = minibatch
        ratios = self._ratios(models, batch)[batch.present]  # (N,): log π/π_ref
        desirable = batch.scores[batch.present] > self.threshold  # (N,)
        losses = kto_loss(ratios, desirable, point, beta=self.beta, desirable_weight=self.desirable_weight,
                          undesirable_weight=self.undesirable_weight)
        rewards = self.beta * ratios.detach()
        return Loss({"policy": Term(losses.sum(), per="responses")}, {
            "rewards/chosen": rewards[desirable], "rewards/rejected": rewards[~desirable],
            "labels/desirable": desirable.float()})

    def _ratios(self, models: Models, batch: Batch) -> Tensor:
        return models.policy.response_logprobs(batch) - models.reference.response_logprobs(batch)  # (B, K)

    def score(self, models: Models, batch: Batch) -> Tensor:
        """(B, K): the implicit reward β log π/π_ref."""
        return self.beta * self._ratios(models, batch)
