"""Contrastive preference optimization: Xu et al. 2024, arXiv 2401.08417.

Keeps    DPO's loss with a uniform distribution in the reference's place (eq. 3), so that log-probabilities, summed over
         the response and its end token, are compared alone; and the chosen response's likelihood beside it.
Changes  the likelihood is a mean over a response's tokens, then over pairs (in TRL's CPO over all tokens of a
         micro-batch), and has a weight (``sft_coef``, 1.0 by default).
Drops    triplets of translations: pairs are the data's.

It differs from SimPO by sums in place of means, no margin, and the likelihood; from DPO with an SFT term by having no
reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from .common.algorithm import Algorithm, Loss, Term
from .common.data.batches import Batch
from .common.logprobs import per_length
from .common.models.model import Models
from .common.pairs import pair_metrics
from .common.support.checks import NOT_NEGATIVE, POSITIVE, require


def cpo_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """Eq. 3, from summed log-probabilities in nats, each (B,) → (B,)."""
    return -logsigmoid(beta * (chosen - rejected))


@dataclass
class CPO(Algorithm):
    view: str = "pairs"
    beta: float = 0.1  # scale of the log-probabilities' difference
    sft_coef: float = 1.0  # weight of the chosen response's likelihood

    compares_logprobs: ClassVar[bool] = True

    def __post_init__(self):
        require(self, "algorithm", beta=POSITIVE, sft_coef=NOT_NEGATIVE)
        self.needs.setdefault("reference", None)  # where training starts; without a supervised stage the base

    def loss(self, models: Models, batch: Batch) -> Loss:
        logps = models.policy.response_logprobs(batch)  # (B, 2)
        losses = cpo_loss(*logps.unbind(1), beta=self.beta)  # (B,)
        likelihood = per_length(logps, batch.mask)[:, 0]  # (B,)
        return Loss({"policy": Term(losses.sum()), "sft": Term(-likelihood.sum(), coefficient=self.sft_coef)},
                    pair_metrics(self.beta * logps, logps))

    def score(self, models: Models, batch: Batch) -> Tensor:
        """(B, K): β log π, by which the method ranks."""
        return self.beta * models.policy.response_logprobs(batch)
