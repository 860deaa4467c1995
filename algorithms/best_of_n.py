"""Best-of-n: answer n times, keep what the reward model likes best (Stiennon et al. 2020, arXiv 2009.01325; Nakano et
al. 2021, arXiv 2112.09332, WebGPT).

Keeps    n independent samples of the supervised policy; the arg-max of the reward, ties to the first drawn; the
         unbiased estimate of every smaller n from one set of N samples (WebGPT, appendix I; Gao et al. 2022, arXiv
         2210.10760).
Changes  log n − (n−1)/n is reported as what it is, an upper bound of KL(best-of-n ‖ π), π as it is sampled.
         Distinct rewards do not make it the divergence itself: it is approached only in the limit where also the
         probability of every single response vanishes; a response that keeps some leaves a gap (Beirami et al. 2024,
         arXiv 2401.01879, §3: for two equally likely outcomes the divergence stays below log 2, while the bound grows
         with n). The log-ratio of picked responses estimates no KL of the policy, so kl/k1 and kl/exact are absent for
         n > 1.
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

from .common.algorithm import Algorithm, Context, Figure, Known
from .common.models.model import Models
from .common.models.sampling import Sample, Sampling, sample
from .common.support.checks import at_least, require


def kl_bound(n: int) -> float:
    """KL(best-of-n ‖ π) ≤ log n − (n−1)/n, in nats;
    nearly so where no response is likely and rewards are distinct."""
    if n < 1:
        raise ValueError(f"n is {n}; expected at least 1")
    return math.log(n) - (n - 1) / n


def expected_best(scores: Tensor, n: int, values: Tensor | None = None) -> Tensor:
    """What best-of-n gains, from N ≥ n samples a row: (B, N) → (B,), the mean over all subsets of size n.

    The best of a subset is picked by ``scores``, (B, N), and counted by ``values``, (B, N), default ``scores``. In
    stable ascending order the i-th sample is the best of C(i−1, n−1) of the C(N, n) subsets, so of equals the later
    one wins; samples are exchangeable, so that is no bias. n = 1: the mean; n = N: the best. ValueError for another n.
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
    n: int = 16  # candidates of an answer

    uses_reward: ClassVar[bool] = True
    works_when_asked: ClassVar[bool] = True
    in_trial: ClassVar[dict[str, int]] = {"n": 4}
    declines: ClassVar[tuple[str, ...]] = ("micro_batches", "resume")  # it takes no steps

    def __post_init__(self):
        require(self, "algorithm", n=at_least(1))
        self.needs.setdefault("reference", None)  # without a supervised stage the base answers

    def fit(self, context: Context) -> None:
        """Nothing: the policy stays the copy of the reference that it starts as."""

    def respond(self, models: Models, prompts: list[list[int]], sampling: Sampling, seed: int, keys: list[str],
                answers: int = 1) -> list[list[list[Sample]]]:
        """(P, ``answers``, n): the samples of a prompt in the order of their streams, n by n."""
        drawn = sample(models, self.role, prompts, sampling, seed, n=answers * self.n, keys=keys)
        return [[of_prompt[first:first + self.n] for first in range(0, len(of_prompt), self.n)] for of_prompt in drawn]

    def figures(self, samples: pd.DataFrame, picked: pd.DataFrame) -> list[Figure | Known]:
        """The bound at n, and the curve of all smaller n at their bounds: ``reward/gold@4``, ``kl/bound@4``."""
        prompts = picked["prompt_id"].nunique()
        found: list[Figure | Known] = [Known.constant("kl/bound", kl_bound(self.n), prompts)]
        proxy = self._by_answer(samples["proxy"])
        for n in _curve(self.n):
            found.append(Known.constant(f"kl/bound@{n}", kl_bound(n), prompts))
            for name in ("proxy", "gold"):
                if samples[name].notna().all():
                    best = expected_best(proxy, n, self._by_answer(samples[name]))  # (answers,)
                    found.append(Figure.of(f"reward/{name}@{n}", samples["prompt_id"].iloc[::self.n], best.numpy()))
        return found

    def _by_answer(self, column: pd.Series) -> Tensor:
        """(answers, n), the last drawn first: of equals ``expected_best`` then takes the first drawn, as the evaluation
        does."""
        return torch.from_numpy(column.to_numpy(np.float64).reshape(-1, self.n)[:, ::-1].copy())


def _curve(n: int) -> list[int]:
    """1, 2, 4, … below n, and n."""
    return [2 ** power for power in range(n.bit_length()) if 2 ** power < n] + [n]
