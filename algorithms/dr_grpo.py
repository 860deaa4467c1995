"""GRPO done right: Liu et al. 2025 (Understanding R1-Zero-Like Training), arXiv 2503.20783.

Keeps    a response's score less the mean of those to its prompt as the advantage of each of its tokens, not divided by
         their spread; a sum over tokens divided by a constant, the longest response there can be, so that long wrong
         answers cost as much a token as short ones; clipped ratios, which act where a batch has several steps (the
         recipes here: one).
Changes  a KL penalty, where one is asked for, is part of the return (``kl_coef``, 0.0 by default: the paper's runs have
         none); scores are kept within ±``score_clip``, 5.0 by default, and a response without end token loses
         ``missing_eos_penalty``, 1.0 by default, as in PPO here.
Drops    a critic, and the reference, but where the penalty needs it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .common.algorithm import Context, Loss, Term
from .common.models.model import Models
from .common.rollouts import COMPARED, Estimates, Minibatch, PolicyGradient, Scored
from .common.support.checks import require


def centred(returns: Tensor) -> Tensor:
    """(B, K) returns → (B, K): R − mean(R) over the responses to a prompt."""
    return returns - returns.mean(-1, keepdim=True)


@dataclass
class DrGRPO(PolicyGradient):
    samples: int = 8  # G, responses to a prompt
    kl_coef: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", samples=COMPARED)

    def estimate(self, context: Context, scored: Scored) -> Estimates:
        return Estimates(centred(scored.rewards.sum(-1)).unsqueeze(-1))  # (B, K, 1)

    def loss(self, models: Models, minibatch: Minibatch) -> Loss:
        losses, metrics = self.surrogate(self.logprobs(models.policy, minibatch.batch), minibatch)  # (B, K, T)
        # Σ_t, by the longest response there can be in place of |o_i|
        return Loss({"policy": Term(losses.sum() / self.max_new_tokens, per="responses")}, metrics)
