"""RRHF, rank responses to align with human feedback: Yuan et al. 2023, arXiv 2304.05302.

Keeps    length-normalised log-probabilities (eq. 1), the hinge without margin on every pair that the scores order
         (eq. 2), the likelihood of the best response (eqs. 3, 4) and their plain sum (eq. 5); candidates made and
         scored before training; no reference, no KL, no critic: one model in training.
Changes  candidates are four samples at temperature 1 by default (the paper: four diverse beams at temperature 0.8,
         and the data's two responses; diverse beams, at temperature 1, another model and the data's own responses by
         option); the likelihood is a mean over tokens (``likelihood="sum"`` is eq. 4), so k = 1 is supervised
         fine-tuning exactly; L is a mean over prompts, whose candidates share a row. The authors' code edits its
         labels in place before it looks for the ignored ones, so it divides by the padded length; here lengths are
         counted from the mask and nothing is edited.
Drops    candidates drawn anew while training (their "OP-32"), which needs a KL term to hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from .common.algorithm import Algorithm, Apart, Context, Examples, Loss, RewardSource, Term
from .common.candidates import Candidates
from .common.data.batches import Batch
from .common.data.template import Example
from .common.logprobs import length_normalized
from .common.models.model import ModelConfig, Models
from .common.support.checks import at_least, one_of, require
from .common.support.memory import release

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
class RRHF(Algorithm):
    view: str = "prompts"
    candidates: Candidates = field(default_factory=Candidates)
    rank_weight: float = 1.0  # of the ranking term; the paper found 10 and 100 worse
    length_penalty: float = 1.0  # exponent of the length in eq. 1
    likelihood: str = "mean"  # mean | sum (eq. 4) over the best response's tokens

    compares_logprobs: ClassVar[bool] = True

    def __post_init__(self):
        require(self, "algorithm", rank_weight=at_least(0), length_penalty=at_least(0), likelihood=one_of(PER))
        self.needs.setdefault("reference", None)  # without a supervised stage the base answers
        self._rewards: dict[str, list[float]] = {}  # of the candidates that were trained on, one for each prompt

    @property
    def uses_reward(self) -> bool:
        return self.candidates.scores == "reward"

    @property
    def labelled(self) -> tuple[str, ...]:
        """A reward source judges anew: of the data's labels none are left but those that chose what it judges."""
        chosen = self.view in ("demonstrations", "preferred") and self.candidates.takes_responses
        return (self.view,) if chosen or self.candidates.scores == "records" else ()

    def check(self, source: RewardSource | None, model: ModelConfig) -> None:
        self.candidates.check(self.view)

    def content(self) -> dict[str, Any]:
        return self.candidates.content()

    def fit(self, context: Context) -> None:
        """Make the candidates of the records that training will see, then train on them."""
        seen = context.visited()
        made = self.candidates.make(context, [context.records[i] for i in seen], [context.examples[i] for i in seen])
        for index, example in zip(seen, made.examples):
            context.examples[index] = example
        if context.heldout:  # watched, not learned from: free of charge
            context.heldout = self.candidates.make(context, list(context.heldout_records), context.heldout).examples
        for key, value in made.cost.items():
            setattr(context.meter, key, value)
        rewards = made.frame.groupby("prompt")["score"]
        self._rewards = {"candidates/mean": rewards.mean().tolist(), "candidates/best": rewards.max().tolist()}
        context.reward = None  # a reward model of its own goes before training begins
        release()
        super().fit(context)

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

    def figures(self, samples: pd.DataFrame, picked: pd.DataFrame) -> list[Apart]:
        """The rewards of what it learned from, over its training prompts: the mean and the best candidate's."""
        return [Apart(name, values, "training prompts") for name, values in self._rewards.items()]

    def state_dict(self) -> dict[str, Any]:
        return self._rewards

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rewards = state
