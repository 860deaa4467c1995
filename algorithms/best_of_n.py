"""Best-of-n: answer n times, keep what the reward model likes best (Stiennon et al. 2020, arXiv 2009.01325; Nakano et
al. 2021, arXiv 2112.09332, WebGPT).

Keeps    n independent samples of the supervised policy; the arg-max of the reward, ties to the first drawn; the
         unbiased estimate of every smaller n from one set of N samples (WebGPT, appendix I; Gao et al. 2022, arXiv
         2210.10760).
Changes  log n − (n−1)/n is reported as what it is, an upper bound of KL(best-of-n ‖ π), π as it is sampled. Distinct
         rewards do not make it the divergence itself: it is approached only in the limit where also the probability of
         every single response vanishes; a response that keeps some leaves a gap (Beirami et al. 2024, arXiv 2401.01879,
         §3: for two equally likely outcomes the divergence stays below log 2, while the bound grows with n). The
         log-ratio of picked responses estimates no KL of the policy, so kl/k1 and kl/exact are absent for n > 1.
Drops    training: the policy is the supervised one, and all its cost is paid at each answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .common.algorithm import Algorithm
from .common.context import Context
from .common.support.errors import ConfigError
from .common.training.loop import write_report
from .common.support.memory import reset_peak_memory
from .common.models.model import Models
from .common.models.sampling import Sample, Sampling, sample
from .common.evaluation.statistics import Estimate, bootstrap


def kl_bound(n: int) -> float:
    """KL(best-of-n ‖ π) ≤ log n − (n−1)/n, in nats; nearly so where no response is likely and rewards are distinct."""
    if n < 1:
        raise ValueError(f"n is {n}; expected at least 1")
    return math.log(n) - (n - 1) / n


def expected_best(scores: Tensor, n: int, values: Tensor | None = None) -> Tensor:
    """What best-of-n gains, from N ≥ n samples a row: (B, N) → (B,), the mean over all subsets of size n.

    The best of a subset is picked by ``scores``, (B, N), and counted by ``values``, (B, N), default ``scores``. In
    stable ascending order the i-th sample is the best of C(i−1, n−1) of the C(N, n) subsets, so of equals the later one
    wins; samples are exchangeable, so that is no bias. n = 1: the mean; n = N: the best. ValueError for another n.
    """
    values = scores if values is None else values
    total = scores.shape[-1]
    if values.shape != scores.shape:
        raise ValueError(f"values are {tuple(values.shape)} but scores are {tuple(scores.shape)}")
    if not 1 <= n <= total:
        raise ValueError(f"n is {n}; expected 1 … {total}, the samples of a row")
    order = scores.argsort(dim=-1, stable=True)[..., n - 1:]  # lower ones are never the best of n
    # whole numbers divided once: C(128, 64) is beyond a float's digits, the quotient is not
    weights = [math.comb(i - 1, n - 1) / math.comb(total, n) for i in range(n, total + 1)]
    weights = torch.tensor(weights, dtype=torch.float64, device=scores.device)
    return (values.gather(-1, order).double() @ weights).to(values.dtype)


@dataclass
class BestOfN(Algorithm):
    view: str = "prompts"
    n: int = 16  # samples per answer

    uses_reward: ClassVar[bool] = True
    works_when_asked: ClassVar[bool] = True

    def __post_init__(self):
        if self.n < 1:
            raise ConfigError(f"algorithm.n: found {self.n}; expected at least 1")
        self.needs.setdefault("reference", None)  # without a supervised stage the base answers

    def fit(self, context: Context) -> None:
        """Nothing: the policy stays the copy of the reference that it starts as."""
        reset_peak_memory(context.models.device)
        write_report(context, [], seconds=0.0, steps=0, tokens=0, trainable=0)

    def respond(self, models: Models, prompts: list[list[int]], sampling: Sampling, seed: int, keys: list[str]
                ) -> list[list[Sample]]:
        return sample(models, self.role, prompts, sampling, seed, n=self.n, keys=keys)

    def figures(self, samples: pd.DataFrame, picked: pd.DataFrame) -> dict[str, Estimate]:
        """The bound at n, and the curve of all smaller n at their bounds: ``reward/gold@4``, ``kl/bound@4``."""
        prompts = len(picked)
        found = {"kl/bound": _known(kl_bound(self.n), prompts)}
        proxy = _by_prompt(samples["proxy"], prompts)
        for n in _curve(self.n):
            found[f"kl/bound@{n}"] = _known(kl_bound(n), prompts)
            for name in ("proxy", "gold"):
                if samples[name].notna().all():
                    best = expected_best(proxy, n, _by_prompt(samples[name], prompts))
                    found[f"reward/{name}@{n}"] = bootstrap(best.numpy())
        return found


def _known(value: float, count: int) -> Estimate:
    return Estimate(value, value, value, count)


def _by_prompt(column: pd.Series, prompts: int) -> Tensor:
    """(prompts, N), the last drawn first: of equals ``expected_best`` then takes the first drawn, as the evaluation."""
    return torch.from_numpy(column.to_numpy(np.float64).reshape(prompts, -1)[:, ::-1].copy())


def _curve(n: int) -> list[int]:
    """1, 2, 4, … below n, and n."""
    return [2 ** power for power in range(n.bit_length()) if 2 ** power < n] + [n]
