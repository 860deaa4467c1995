"""What policy-gradient methods share, as pure tensor functions: KL penalties, rewards, advantages, clipped losses, and
the figures that all of them log.

Sources: PPO, Schulman et al. 2017, arXiv 1707.06347; GAE, Schulman et al. 2015, arXiv 1506.02438; the KL controller,
Ziegler et al. 2019, arXiv 1909.08593, §2.2; k1, k2 and k3, Schulman 2020, "Approximating KL divergence".
Shapes: B sequences of up to T tokens; masks are bool, and what stands outside them never matters, NaN included. (B, T)
may be (B, K, T) everywhere, with (B, K) for (B,): K responses to each of B prompts.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

ESTIMATORS = {  # of KL(π ‖ π_ref) from y ∼ π, with u = log π_ref − log π
    "k1": lambda u: -u,  # unbiased, may be negative
    "k2": lambda u: u.square() / 2,  # biased, low variance
    "k3": lambda u: torch.expm1(u) - u,  # unbiased, never negative
}
FULL = "full"  # not an estimate: the sum over the whole vocabulary at every state


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor, estimator: str) -> Tensor:
    """Per-token estimates of KL(π ‖ π_ref) in nats: (B, T), (B, T) → (B, T).
    ValueError for an unknown estimator."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator: found {estimator!r}; expected one of {', '.join(ESTIMATORS)}")
    return ESTIMATORS[estimator](ref_logprobs - logprobs)


def shape_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """(B,), (B, T), (B, T) → (B, T): −kl_coef · kl at every token, and the score added at the last masked one."""
    rewards = torch.where(mask, -kl_coef * kl, 0)
    last = mask & (mask.flip(-1).cumsum(-1).flip(-1) == 1)  # (B, T): nothing of the mask comes after it
    return rewards + torch.where(last, scores.unsqueeze(-1), 0)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantages (1506.02438 eq. 16), (B, T) each → advantages, returns (B, T).

    Masked-out positions are skipped. An episode ends after its last masked token, with value 0 there. Returns are
    advantages + values.
    """
    rewards, values = torch.where(mask, rewards, 0), torch.where(mask, values, 0)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[..., 0])  # (B,)
    for t in reversed(range(values.shape[-1])):
        here = mask[..., t]
        delta = rewards[..., t] + gamma * next_value - values[..., t]
        advantage = delta + gamma * lam * next_advantage
        advantages[..., t] = torch.where(here, advantage, 0)
        next_value = torch.where(here, values[..., t], next_value)
        next_advantage = torch.where(here, advantage, next_advantage)
    return advantages, advantages + values


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the mask, any shape → scalar; an empty mask gives 0."""
    return torch.where(mask, x, 0).sum() / mask.sum().clamp_min(1)


def masked_variance(x: Tensor, mask: Tensor) -> Tensor:
    """Population variance over the mask, any shape → scalar."""
    x = torch.where(mask, x, 0)  # before the subtraction: a gradient of 0 · NaN would be NaN
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """(B, T) → (B, T): variance 1 and mean 0 over the mask (its own mean without ``shift_mean``), 0 outside."""
    x = torch.where(mask, x, 0)
    mean = masked_mean(x, mask)
    whitened = (x - mean) * torch.rsqrt(masked_variance(x, mask) + 1e-8)
    return torch.where(mask, whitened if shift_mean else whitened + mean, 0)


def surrogates(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *, clip: float | None
               ) -> tuple[Tensor, Tensor]:
    """(B, T) each → −A ρ and −A clip(ρ, 1 − ε, 1 + ε), (B, T) each, with ρ = π/π_old;
    0 outside the mask.

    1707.06347 eq. 7, negated, is the mean of the larger one over the mask. Without ``clip`` both are the first (eq. 6).
    """
    ratio = torch.where(mask, logprobs - old_logprobs, 0).exp()
    advantages = torch.where(mask, advantages, 0)
    return -advantages * ratio, -advantages * (ratio if clip is None else ratio.clamp(1 - clip, 1 + clip))


def response_surrogates(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, *,
                        clip: float | None) -> tuple[Tensor, Tensor]:
    """(B, K, T) log-probabilities, (B, K, 1) advantages, (B, K, T) mask → those of ``surrogates`` of whole responses,
    (B, K) each: each is one action, of probability Π_t π(y_t | …). An empty one gives 0.
    """
    new, old = (torch.where(mask, each, 0).sum(-1) for each in (logprobs, old_logprobs))  # (B, K) each
    return surrogates(new, old, advantages.squeeze(-1), mask.any(-1), clip=clip)


def squared_errors(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float
                   ) -> tuple[Tensor, Tensor]:
    """(B, T) each → (V − R)², and the same for V kept within ``clip`` of V_old, (B, T) each; 0 outside the mask.

    The critic's loss is half the mean of the larger one over the mask.
    """
    within = torch.clamp(values, old_values - clip, old_values + clip)
    return torch.where(mask, values - returns, 0) ** 2, torch.where(mask, within - returns, 0) ** 2


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(R − V) / Var(R) over the mask, (B, T) each → scalar; 0 where the returns do not vary."""
    spread = masked_variance(returns, mask)
    return torch.where(spread > 0, 1 - masked_variance(returns - values, mask) / spread.clamp_min(1e-12), 0)


@dataclass
class KLController:
    """The coefficient of the KL penalty: fixed, or steered to a ``target`` (1909.08593, §2.2)."""

    coef: float
    target: float | None = None  # nats per response; None: fixed
    horizon: float = 10_000.0  # episodes

    def update(self, kl: float, episodes: int) -> None:
        """``kl``: mean over responses of the KL summed over their tokens."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coef *= 1 + error * episodes / self.horizon


@dataclass
class RunningMoments:
    """Mean and variance of all scores so far, batch by batch (Chan et al. 1979, parallel variance)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # Σ (x − mean)²

    def update(self, values: Tensor) -> None:
        """(B,) scores."""
        values = values.double()
        count, mean = values.numel(), values.mean().item()
        total, gap = self.count + count, mean - self.mean
        self.squares += ((values - mean) ** 2).sum().item() + gap**2 * self.count * count / total
        self.mean += gap * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Bessel-corrected; 1 where nothing varies yet."""
        std = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return std if std > 1e-8 else 1.0

    def state_dict(self) -> dict[str, float]:
        return asdict(self)


SCALINGS = {
    "none": lambda scores, moments: scores,
    "scale": lambda scores, moments: scores / moments.std,
    "normalize": lambda scores, moments: (scores - moments.mean) / moments.std,
}
MISSING_EOS = {  # what becomes of the score of a response without end token
    "subtract": lambda scores, penalty: scores - penalty,
    "replace": lambda scores, penalty: torch.full_like(scores, -penalty),
}


def shape_scores(scores: Tensor, finished: Tensor, moments: RunningMoments, *, scaling: str, clip: float | None,
                 missing_eos: str, penalty: float) -> Tensor:
    """(B,) scores → (B,): by the running moments (``SCALINGS``), clipped to ± ``clip``, then punished where not
    ``finished``.
    """
    scores = SCALINGS[scaling](scores, moments)
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    return torch.where(finished, scores, MISSING_EOS[missing_eos](scores, penalty))


# What is logged, of a whole batch of responses


def kl_figures(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> dict[str, float]:
    """KL(π ‖ π_ref) in nats, a response's sum, mean over responses; a token's entropy,
    as −log π of what was drawn."""
    sums = {name: torch.where(mask, kl_penalty(logprobs, ref_logprobs, name), 0).sum(-1).mean().item()
            for name in ("k1", "k3")}
    return {"kl/k1": sums["k1"], "kl/k3": sums["k3"], "policy/entropy": -masked_mean(logprobs, mask).item()}


def score_figures(scores: Tensor, mask: Tensor, finished: Tensor) -> dict[str, float]:
    """Of raw scores (B,), lengths in tokens by the (B, T) mask, and who came to an end (B,)."""
    lengths = mask.sum(-1).float()
    ended = finished.float().mean().item()
    return {"reward/proxy": scores.mean().item(), "reward/proxy_std": scores.std(correction=0).item(),
            "length/mean": lengths.mean().item(), "length/std": lengths.std(correction=0).item(),
            "eos_rate": ended, "truncation_rate": 1 - ended}


def reward_figures(rewards: Tensor, scores: Tensor) -> dict[str, float]:
    """Of rewards (B, T), already 0 outside the mask, a response's sum; and how much of it is not the score (B,)."""
    return {"reward/shaped": rewards.sum(-1).mean().item(),
            "reward/non_score": (rewards.sum(-1) - scores).mean().item()}


def advantage_figures(advantages: Tensor, mask: Tensor) -> dict[str, float]:
    """(B, T), (B, T): their mean and standard deviation over tokens."""
    return {"advantage/mean": masked_mean(advantages, mask).item(),
            "advantage/std": masked_variance(advantages, mask).sqrt().item()}


def ratio_metrics(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """(B, T) each → by token of the mask: ρ = π/π_old, and ½ (log ρ)², which estimates KL(π_old ‖ π)."""
    change = (logprobs.detach() - old_logprobs)[mask]  # (N,): log ρ
    return {"policy/approx_kl": change**2 / 2, "policy/ratio_mean": change.exp(), "policy/ratio_max": change.exp()}
