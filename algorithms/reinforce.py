"""REINFORCE with a baseline: Williams 1992, as Ahmadian et al. 2024, arXiv 2402.14740, use it for language models.

Keeps    a whole response as one action; its return is the score less β times the log-ratio to the reference; the mean
         of all returns so far as the baseline.
Changes  the first batch, which has no past, is its own baseline; where a batch has several steps, the ratio of whole
         responses is clipped (``clip``, 0.2 by default); scores are kept within ±``score_clip``, 5.0 by default, and a
         response without end token loses ``missing_eos_penalty``, 1.0 by default, as in PPO here.
Drops    a critic, and advantages of single tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .common.algorithm import Context
from .common.policy_gradient import RunningMoments
from .common.rollouts import Estimates, Scored, WholeResponses


def less_baseline(returns: Tensor, past: RunningMoments) -> Tensor:
    """(B, K) returns → (B, K): R − b, b the mean of past ones (b_MA of 2402.14740), or theirs without a past."""
    return returns - (past.mean if past.count else returns.mean())


@dataclass
class Reinforce(WholeResponses):
    def start(self) -> None:
        super().start()
        self.returns = RunningMoments()

    def estimate(self, context: Context, scored: Scored) -> Estimates:
        returns = scored.rewards.sum(-1)  # (B, K): R = r − β log π/π_ref
        advantages = less_baseline(returns, self.returns)
        if torch.is_grad_enabled():
            self.returns.update(returns)
        return Estimates(advantages.unsqueeze(-1))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "returns": self.returns.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.returns = RunningMoments(**state["returns"])
