"""Reward model: a scalar for a response, learned from comparisons (Stiennon et al. 2020, arXiv 2009.01325; Ouyang et al.
2022, arXiv 2203.02155, eq. 1).

Keeps    the supervised model without its unembedding, and a linear head read at the response's last token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from .common.algorithm import Algorithm, Loss, Term
from .common.batches import Batch
from .common.models import Models


def pairwise_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | None = None) -> Tensor:
    """InstructGPT eq. 1 for K = 2, from rewards, each (B,) → (B,); ``margin`` inside the log-sigmoid (Llama 2, eq. 2)."""
    return -logsigmoid(chosen - rejected - (0 if margin is None else margin))


@dataclass
class RewardModel(Algorithm):
    view: str = "pairs"

    role: ClassVar[str] = "reward"

    def add_roles(self, models: Models, seed: int) -> None:
        super().add_roles(models, seed)
        models.role("reward").add_scalar_head(1, seed=seed)

    def loss(self, models: Models, batch: Batch) -> Loss:
        rewards = models.role("reward").final_outputs(batch).squeeze(-1)  # (B, 2), the better response first
        losses = pairwise_loss(rewards[:, 0], rewards[:, 1])
        margin = (rewards[:, 0] - rewards[:, 1]).detach()
        return Loss({"reward": Term(losses.sum())}, {"rewards/margin": margin, "rewards/accuracy": (margin > 0).float()})

    def score(self, models: Models, batch: Batch) -> Tensor:
        """(B, K) rewards."""
        return models.role("reward").final_outputs(batch).squeeze(-1)
