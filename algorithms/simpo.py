"""Simple preference optimization: Meng et al. 2024, arXiv 2405.14734.

Keeps    the reward is β times the mean log-probability of a response's tokens (eq. 4), which is also what sampling
         maximises; the chosen one's must lead by a margin γ (eq. 6); no reference in the loss.
Changes  γ is given as it stands in the loss (``gamma``, 1.0 by default); the authors' code takes γ/β.
Drops    nothing: the supervised policy, where training starts, is kept for the evaluation's KL alone.
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


def simpo_loss(chosen: Tensor, rejected: Tensor, *, beta: float, gamma: float) -> Tensor:
    """Eq. 6, from log-probabilities averaged over tokens, in nats, each (B,) → (B,)."""
    return -logsigmoid(beta * (chosen - rejected) - gamma)


@dataclass
class SimPO(Algorithm):
    view: str = "pairs"
    beta: float = 2.0  # scale of the reward (eq. 4)
    gamma: float = 1.0  # margin between chosen and rejected rewards

    compares_logprobs: ClassVar[bool] = True

    def __post_init__(self):
        require(self, "algorithm", beta=POSITIVE, gamma=NOT_NEGATIVE)
        self.needs.setdefault("reference", None)  # where training starts; without a supervised stage the base

    def loss(self, models: Models, batch: Batch) -> Loss:
        logps = models.policy.response_logprobs(batch)  # (B, 2)
        means = per_length(logps, batch.mask)  # (B, 2)
        losses = simpo_loss(*means.unbind(1), beta=self.beta, gamma=self.gamma)  # (B,)
        return Loss({"policy": Term(losses.sum())}, pair_metrics(self.beta * means, logps))

    def score(self, models: Models, batch: Batch) -> Tensor:
        """(B, K): the reward of eq. 4."""
        return self.beta * per_length(models.policy.response_logprobs(batch), batch.mask)
