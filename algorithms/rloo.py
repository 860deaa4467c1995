"""REINFORCE leave-one-out: Ahmadian et al. 2024, arXiv 2402.14740, after Kool et al. 2019.

Keeps    a whole response as one action; its return is the score less β times the log-ratio to the reference; the
         baseline of a response is the mean return of the others to its prompt.
Changes  where a batch has several steps, the ratio of whole responses is clipped (``clip``, 0.2 by default), as TRL
         does; with one step its gradient is the paper's; scores are kept within ±``score_clip``, 5.0 by default, and a
         response without end token loses ``missing_eos_penalty``, 1.0 by default, as in PPO here.
Drops    a critic, and advantages of single tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .common.algorithm import Context
from .common.rollouts import COMPARED, Estimates, Scored, WholeResponses
from .common.support.checks import require


def leave_one_out(returns: Tensor) -> Tensor:
    """(B, K) returns → (B, K): R_i − 1/(K−1) Σ_{j≠i} R_j, the paper's estimator. K ≥ 2."""
    others = (returns.sum(-1, keepdim=True) - returns) / (returns.shape[-1] - 1)  # (B, K)
    return returns - others


@dataclass
class RLOO(WholeResponses):
    samples: int = 4  # k, responses to a prompt: each is the others' baseline

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", samples=COMPARED)

    def estimate(self, context: Context, scored: Scored) -> Estimates:
        returns = scored.rewards.sum(-1)  # (B, K): R = r − β log π/π_ref
        return Estimates(leave_one_out(returns).unsqueeze(-1))
