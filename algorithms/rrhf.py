"""RRHF, rank responses to align with human feedback: Yuan et al. 2023, arXiv 2304.05302.

Keeps    length-normalised log-probabilities (eq. 1), the hinge without margin on every pair that the scores order
         (eq. 2), the likelihood of the best response (eqs. 3, 4) and their plain sum (eq. 5); candidates made and
         scored before training; no reference, no KL, no critic: one model in training; by option the iterated form
         IP-n (``generations`` = n), which samples anew from the trained model.
Changes  candidates are four samples at temperature 1 by default (the paper: four diverse beams at temperature 0.8,
         and the data's two responses; diverse beams, at temperature 1, another model and the data's own responses by
         option); the likelihood is a mean over tokens (``likelihood="sum"`` is eq. 4), so k = 1 is supervised
         fine-tuning exactly; L is a mean over prompts, whose candidates share a row, those of the same text once. The
         authors' code edits its labels in place before it looks for the ignored ones, so it divides by the padded
         length; here lengths are counted from the mask and nothing is edited.
Drops    candidates drawn anew while training (their "OP-32"), which needs a KL term to hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .common.algorithm import Context, Examples, Loss, Term
from .common.data.batches import Batch
from .common.data.template import Example
from .common.generations import Generations
from .common.logprobs import length_normalized
from .common.models.model import Models
from .common.support.checks import at_least, one_of, require

PER = {"mean": "best_tokens", "sum": "rows"}  # what the likelihood's sum over tokens is divided by, over a whole step


def ordered_pairs(scores: Tensor, mask: Tensor) -> Tensor:
    """(B, K), (B, K) → (B, K, K) bool: [i, j] where both exist and i is scored below j. Equal scores make no pair."""
    return (scores.unsqueeze(2) < scores.unsqueeze(1)) & mask.unsqueeze(2) & mask.unsqueeze(1)


def rank_loss(values: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """Eq. 2: Σ max(0, p_i − p_j) over pairs with r_i < r_j, (B, K), (B, K), (B, K) → (B,)."""
    values = values.masked_fill(~mask, 0)  # whatever stands there must reach no gradient
    excess = torch.relu(values.unsqueeze(2) - values.unsqueeze(1))  # (B, K, K)
    return (excess * ordered_pairs(scores, mask)).sum((1, 2))


def best(scores: Tensor, mask: Tensor) -> Tensor:
    """Eq. 3: arg-max of the scores, (B, K), (B, K) → (B,); the first of equals, the first without scores (NaN)."""
    return scores.nan_to_num(nan=-torch.inf).masked_fill(~mask, -torch.inf).argmax(-1)


@dataclass(frozen=True)
class Ranked(Examples):
    """Counts the best responses' tokens too."""

    def counts(self, indices: list[int]) -> dict[str, int]:
        tokens = 0
        for example in (self.examples[index] for index in indices):
            # float32, as in a batch: what is equal there is equal here
            first = 0 if example.scores is None else int(torch.tensor(example.scores).argmax())
            tokens += len(example.responses[first])
        return {**super().counts(indices), "best_tokens": tokens}


@dataclass
class RRHF(Generations):
    generations: int = 1  # IP-n
    rank_weight: float = 1.0  # of the ranking term; the paper found 10 and 100 worse
    length_penalty: float = 1.0  # exponent of the length in eq. 1
    likelihood: str = "mean"  # mean | sum (eq. 4) over the best response's tokens

    compares_logprobs: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", rank_weight=at_least(0), length_penalty=at_least(0), likelihood=one_of(PER))

    def experience(self, context: Context, examples: list[Example]) -> Ranked:
        return Ranked(context.models, examples)

    def loss(self, models: Models, batch: Batch) -> Loss:
        logprobs = models.policy.token_logprobs(batch)  # (B, K, T)
        values = length_normalized(logprobs, batch.mask, length_penalty=self.length_penalty)  # (B, K), eq. 1
        ranking = rank_loss(values, batch.scores, batch.present)  # (B,)
        chosen = best(batch.scores, batch.present)  # (B,)
        likelihood = logprobs.sum(-1).gather(1, chosen.unsqueeze(1)).squeeze(1)  # (B,), −eq. 4
        pairs = ordered_pairs(batch.scores, batch.present)
        right = (values.unsqueeze(2) < values.unsqueeze(1))[pairs].float()  # one value per pair
        return Loss({"rank": Term(ranking.sum(), coefficient=self.rank_weight),  # eq. 5
                     "policy": Term(-likelihood.sum(), per=PER[self.likelihood])},
                    {"rank/accuracy": right, "logps/best": likelihood.detach()})

    def score(self, models: Models, batch: Batch) -> Tensor:
        """(B, K): p of eq. 1, by which the method ranks."""
        return length_normalized(models.policy.token_logprobs(batch), batch.mask, length_penalty=self.length_penalty)


@dataclass
class IteratedRRHF(RRHF):
    """IP-n: each generation ranks fresh samples of the one before, and goes on training it."""

    generations: int = 3
