"""Odds ratio preference optimization: Hong et al. 2024, arXiv 2403.07691.

Keeps    one stage from the base, without a supervised policy before it or a reference beside it; the chosen response's
         likelihood, and λ times the log-sigmoid of how much larger its odds are (eqs. 6 and 7); probabilities are
         geometric means over tokens.
Changes  the likelihood is of the response alone, a mean over its tokens (eq. 2); the authors' code and TRL learn the
         prompt's tokens too.
Drops    nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .common.algorithm import Algorithm, Loss, Term
from .common.data.batches import Batch
from .common.logprobs import per_length
from .common.models.model import Models
from .common.pairs import pair_metrics
from .common.support.errors import ConfigError

CERTAIN = -1e-6  # nats a token: nearer to a probability of 1 its odds, and their gradient, are infinite


def log_odds(logprobs: Tensor) -> Tensor:
    """log p/(1 − p) of log p, any shape (eq. 4's logarithm); of p = 1 what ``CERTAIN`` gives."""
    logprobs = logprobs.clamp_max(CERTAIN)
    return logprobs - torch.log(-torch.expm1(logprobs))


def odds_ratio_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Eq. 7: −log σ of the log odds ratio, from log-probabilities averaged over tokens, each (B,) → (B,)."""
    return -logsigmoid(log_odds(chosen) - log_odds(rejected))


@dataclass
class ORPO(Algorithm):
    view: str = "pairs"
    odds_coef: float = 0.1  # λ: weight of the odds ratio's term

    compares_logprobs: ClassVar[bool] = True

    def __post_init__(self):
        if not 0 <= self.odds_coef < math.inf:
            raise ConfigError(f"algorithm.odds_coef: found {self.odds_coef}; expected a finite number, at least 0")

    def loss(self, models: Models, batch: Batch) -> Loss:
        logps = models.policy.response_logprobs(batch)  # (B, 2)
        means = per_length(logps, batch.mask)  # (B, 2)
        ratio = odds_ratio_loss(*means.unbind(1))  # (B,)
        return Loss({"sft": Term(-means[:, 0].sum()),  # eq. 2
                     "odds": Term(ratio.sum(), coefficient=self.odds_coef)}, pair_metrics(means, logps))

    def score(self, models: Models, batch: Batch) -> Tensor:
        """(B, K): log odds, by which the method ranks."""
        return log_odds(per_length(models.policy.response_logprobs(batch), batch.mask))
