"""Group relative policy optimization: Shao et al. 2024 (DeepSeekMath), arXiv 2402.03300.

Keeps    a response's score among those to its prompt, standardised, as the advantage of each of its tokens; clipped
         ratios; a mean over the tokens of a response, then over responses (eq. 3); the KL to the reference in the loss,
         estimated by k3 (eq. 4), not in the reward.
Changes  the standard deviation is Bessel's, as in TRL (``std_correction``, 1 by default), with 1e-4 added; by option
         the KL is weighed by the ratio (``unbiased_kl``, off by default; on in TRL), which makes its gradient that of
         the KL (DeepSeek-AI 2025, DeepSeek-V3.2, arXiv 2512.02556); scores are kept within ±``score_clip``, 5.0 by
         default, and a response without end token loses ``missing_eos_penalty``, 1.0 by default, as in PPO here.
Drops    a critic; process supervision (§4.1.3) and the reference's renewal of the iterative form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .common.algorithm import Context, Loss, Term
from .common.logprobs import length_normalized
from .common.models.model import Models
from .common.policy_gradient import ESTIMATORS, kl_penalty
from .common.rollouts import COMPARED, Estimates, Minibatch, PolicyGradient, Scored
from .common.support.checks import Rule, one_of, require


def standardised(scores: Tensor, correction: int = 1) -> Tensor:
    """(B, K) scores → (B, K): (r − mean(r)) / std(r) over the responses to a prompt, §4.1.2."""
    spread = scores.std(-1, keepdim=True, correction=correction)  # (B, 1)
    return (scores - scores.mean(-1, keepdim=True)) / (spread + 1e-4)


@dataclass
class GRPO(PolicyGradient):
    samples: int = 8  # G, responses to a prompt; the paper has 64
    kl_coef: float = 0.04  # β: weight of the KL in the loss
    kl_estimator: str = "k3"
    std_correction: int = 1  # 1: Bessel's; 0: of the population
    unbiased_kl: bool = False  # the KL times π/π_old

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", samples=COMPARED, std_correction=Rule((0, 1).__contains__, "0 or 1"),
                kl_estimator=one_of(ESTIMATORS))  # the gradient goes through it, so it is of the tokens drawn

    def estimate(self, context: Context, scored: Scored) -> Estimates:
        return Estimates(standardised(scored.scores, self.std_correction).unsqueeze(-1))  # (B, K, 1)

    def loss(self, models: Models, minibatch: Minibatch) -> Loss:
        mask, logprobs = minibatch.batch.mask, self.logprobs(models.policy, minibatch.batch)  # (B, K, T) each
        losses, metrics = self.surrogate(logprobs, minibatch)  # (B, K, T): eq. 3 without its KL
        kl = kl_penalty(logprobs, minibatch.ref_logprobs, self.kl_estimator)  # (B, K, T), eq. 4
        if self.unbiased_kl:
            kl = kl * torch.where(mask, logprobs - minibatch.logprobs, 0).exp()
        return Loss({"policy": Term(length_normalized(losses, mask).sum(), per="responses"),
                     "kl": Term(length_normalized(kl, mask).sum(), per="responses", coefficient=self.controller.coef)},
                    metrics)
