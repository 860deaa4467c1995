"""SLiC-HF, sequence likelihood calibration: Zhao et al. 2023, arXiv 2305.10425.

Keeps    a hinge: the chosen response's log-probability must lead by a margin δ; a likelihood term against forgetting;
         no reference in the loss. Log-probabilities are summed over the response and its end token.
Changes  what the likelihood term keeps is the chosen response, a mean over its tokens, then over pairs; the paper has
         targets of the supervised data or the best of candidates. Its weight (``sft_coef``, 1.0 by default) is ours,
         the margin of 1.0 the paper's.
Drops    candidates of the supervised policy, ranked by a model (sample-rank): pairs are the data's, the paper's
         SLiC-HF-direct.

DPO's hinge variant has log-ratios to a reference in the place of these log-probabilities, and no likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .common.algorithm import Algorithm, Loss, Term
from .common.data.batches import Batch
from .common.logprobs import per_length
from .common.models.model import Models
from .common.pairs import pair_metrics
from .common.support.checks import NOT_NEGATIVE, require


def slic_loss(chosen: Tensor, rejected: Tensor, *, margin: float) -> Tensor:
    """max(0, δ − log π(y_w) + log π(y_l)), from summed log-probabilities in nats, each (B,) → (B,)."""
    return torch.relu(margin - chosen + rejected)


@dataclass
class SLiC(Algorithm):
    view: str = "pairs"
    margin: float = 1.0  # δ, nats
    sft_coef: float = 1.0  # λ: weight of the chosen response's likelihood

    compares_logprobs: ClassVar[bool] = True

    def __post_init__(self):
        require(self, "algorithm", margin=NOT_NEGATIVE, sft_coef=NOT_NEGATIVE)
        self.needs.setdefault("reference", None)  # where training starts; without a supervised stage the base

    def loss(self, models: Models, batch: Batch) -> Loss:
        logps = models.policy.response_logprobs(batch)  # (B, 2)
        losses = slic_loss(*logps.unbind(1), margin=self.margin)  # (B,)
        likelihood = per_length(logps, batch.mask)[:, 0]  # (B,)
        return Loss({"policy": Term(losses.sum()), "sft": Term(-likelihood.sum(), coefficient=self.sft_coef)},
                    pair_metrics(logps, logps))

    def score(self, models: Models, batch: Batch) -> Tensor:
        """(B, K): log π, by which the method ranks."""
        return models.policy.response_logprobs(batch)
