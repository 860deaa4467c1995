"""What losses over pairs, the chosen response first, share."""

from __future__ import annotations

from torch import Tensor


def pair_metrics(rewards: Tensor, logps: Tensor) -> dict[str, Tensor]:
    """By pair, from a method's rewards and log-probabilities of (chosen, rejected), (B, 2) each. An equal reward is no
    hit.
    """
    rewards, logps = rewards.detach(), logps.detach()
    return {"rewards/chosen": rewards[:, 0], "rewards/rejected": rewards[:, 1],
            "rewards/margin": rewards[:, 0] - rewards[:, 1],
            "rewards/accuracy": (rewards[:, 0] > rewards[:, 1]).float(),
            "logps/chosen": logps[:, 0], "logps/rejected": logps[:, 1]}
