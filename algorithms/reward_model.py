"""Reward models: a scalar for a response, learned from comparisons (Ouyang et al. 2022, arXiv 2203.02155, eq. 1;
Stiennon et al. 2020, arXiv 2009.01325) or from ratings.

Keeps    the supervised model without its unembedding; a linear head read at the response's last token (its end token
         where there is one); one epoch (two in the recipe of ``scale=small``, where there is little data).
Changes  the head starts at zero, and so the loss at ln 2 (2009.01325 draws it with standard deviation 1/√(d + 1), and
         the first steps go to unlearning the draw); all comparisons of a prompt stand in one batch element with
         ``view: ranked``, where they are one record (InstructGPT: always); with ``view: pairs`` each stands by itself;
         the k responses of a record share its row, one forward pass for all their comparisons; ties are dropped and
         the divisor is the number of strict pairs; a penalty on rewards away from 0 (``centering``, 0.01 by default;
         Eisenstein et al. 2023, arXiv 2312.09244; InstructGPT has none: 0); by option a margin in proportion to the
         difference of scores, inside the log-sigmoid (``margin``, off by default; Touvron et al. 2023, arXiv
         2307.09288, eq. 2, has a constant for each degree of preference); by option labels that are probabilities
         (``soft_labels``, off by default; Lee et al. 2023, arXiv 2309.00267); the rewards of reference samples are
         given mean 0 and standard deviation 1 (Ziegler et al. 2019, arXiv 1909.08593, §2: there before training too,
         here after it; ``normalize_on: null`` leaves them as they are).
         By option it begins as a reward model that was trained before on other comparisons, more of them and noisier
         ones (``start``, off by default): preference-model pretraining (Askell et al. 2021, arXiv 2112.00861, §4; Bai
         et al. 2022, arXiv 2204.05862).
Drops    the mixture with a language-modelling loss; the bias that gives demonstrations a mean reward of 0 (here it is
         the reference's samples that have it).

``RatingModel`` learns absolute ratings by a head of n bins, after PaLM-rlhf-pytorch; that one samples a class as its
reward, here the reward is the expected rating, which is no draw.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from .common.algorithm import Algorithm, Context, Loss, Term
from .common.data.batches import Batch
from .common.data.soft_labels import check_probabilities
from .common.data.template import Example
from .common.models.export import load_role, scoring_digest, scoring_folder
from .common.models.model import Models
from .common.models.sampling import Sampling, sample
from .common.support.checks import NOT_NEGATIVE, at_least, one_of, require
from .common.support.errors import ConfigError, TrainingError
from .common.support.seeds import derive, permutation

if TYPE_CHECKING:
    from .common.data.records import Records

log = logging.getLogger(__name__)
MOST_BINS = 100  # of a scale that is proposed
START = "algorithm.start"


def pairwise_loss(chosen: Tensor, rejected: Tensor, margin: Tensor | float | None = None) -> Tensor:
    """InstructGPT eq. 1 for K = 2, from rewards, each (B,) → (B,); a margin inside the log-sigmoid (Llama 2)."""
    return -logsigmoid(chosen - rejected - (0 if margin is None else margin))


def soft_pairwise_loss(first: Tensor, second: Tensor, probability: Tensor) -> Tensor:
    """−[p log σ(d) + (1 − p) log σ(−d)], d = r_1 − r_2, where the first is better with probability p; each (B,) → (B,)
    (Lee et al. 2023, arXiv 2309.00267, §2.2: cross-entropy on a model's own uncertainty).
    """
    return probability * pairwise_loss(first, second) + (1 - probability) * pairwise_loss(second, first)


def mean_over_pairs(values: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """(B, K, K), (B, K), (B, K) → (B,): mean of values[i, j] over scores[i] > scores[j], both in the mask;
    none → 0."""
    better = (scores.unsqueeze(2) > scores.unsqueeze(1)) & mask.unsqueeze(2) & mask.unsqueeze(1)  # (B, K, K): i above j
    return torch.where(better, values, 0).sum((1, 2)) / better.sum((1, 2)).clamp(min=1)


def ranking_loss(rewards: Tensor, scores: Tensor, mask: Tensor, *, margin: float = 0.0) -> Tensor:
    """InstructGPT eq. 1, (B, K) → (B,): the mean of −log σ(r_i − r_j − margin · (s_i − s_j)) over the
    strictly ordered pairs of a row; none → 0. What stands outside the mask does not matter.
    """
    rewards, scores = torch.where(mask, rewards, 0), torch.where(mask, scores, 0)
    asked = margin * (scores.unsqueeze(2) - scores.unsqueeze(1))  # (B, K, K)
    return mean_over_pairs(pairwise_loss(rewards.unsqueeze(2), rewards.unsqueeze(1), asked), scores, mask)


def centering_penalty(rewards: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
    """(B, K) → (B,): the mean of (r_i + r_j)² over the same pairs: the loss itself sees differences only."""
    rewards = torch.where(mask, rewards, 0)
    return mean_over_pairs((rewards.unsqueeze(2) + rewards.unsqueeze(1)) ** 2, scores, mask)


def expected_rating(logits: Tensor, lowest: int = 1) -> Tensor:
    """(…, n) logits of the ratings lowest … lowest + n − 1 → (…,): Σ_k softmax_k · (lowest + k)."""
    ratings = torch.arange(lowest, lowest + logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(-1) * ratings).sum(-1)


def moments(rewards: Tensor) -> tuple[float, float]:
    """Mean and population standard deviation of (N,) rewards. TrainingError where they do not differ."""
    mean, std = rewards.double().mean().item(), rewards.double().std(correction=0).item()
    if not std > 1e-6 * max(1.0, abs(mean)):
        raise TrainingError(f"reward model: found rewards of mean {mean:.4g} and standard deviation {std:.3g} on "
                            f"{len(rewards)} reference samples; expected rewards that differ; fix: more steps or "
                            "another recipe.lr, or algorithm.normalize_on=null to keep raw rewards")
    return mean, std


@dataclass
class ResponseModel(Algorithm):
    """What reward models share: a role with a head, and rewards in units of their spread on reference samples."""

    normalize_on: int | None = 256  # reference samples whose rewards get mean 0 and std 1; null: raw rewards
    max_new_tokens: int = 56  # of those samples
    start: str | None = None  # the folder of a run whose reward model it begins as; null: the reference, and a new head

    role: ClassVar[str] = "reward"

    def __post_init__(self):
        require(self, "algorithm", normalize_on=at_least(2).or_null(), max_new_tokens=at_least(1))
        self.needs.setdefault("reference", None)  # without a supervised stage the reference is the base
        self.mean, self.std = 0.0, 1.0

    @property
    def outputs(self) -> int:
        """Width of the head."""
        return 1

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.normalize_on is None else ("prompts",)

    def rewards(self, models: Models, batch: Batch) -> Tensor:
        """(B, K) rewards as the head gives them."""
        return models.role(self.role).final_outputs(batch).squeeze(-1)

    def score(self, models: Models, batch: Batch) -> Tensor:
        """(B, K) rewards, normalised; 0 where a response is absent."""
        return torch.where(batch.present, (self.rewards(models, batch) - self.mean) / self.std, 0)

    def add_roles(self, models: Models, seed: int) -> None:
        super().add_roles(models, seed)
        models.role(self.role).add_scalar_head(self.outputs)
        if self.start is not None:
            log.warning("the reward model begins as that of %s, whose cost and labels are not charged here", self.start)
            load_role(models, self.role, scoring_folder(self.start, START, self.outputs))

    def check_records(self, records: Records, key: str) -> None:
        if self.start is not None:
            scoring_folder(self.start, f"{key}.start", self.outputs)

    def content(self) -> dict[str, list[str]]:
        return {} if self.start is None else {"start": scoring_digest(self.start, START, self.outputs)}

    def finish(self, context: Context) -> None:
        """Mean and spread of the trained model's rewards on what the reference answers to training prompts."""
        if self.normalize_on is not None:
            answers = self.reference_samples(context)
            self.mean, self.std = moments(self._raw(context, answers))

    def reference_samples(self, context: Context) -> list[Example]:
        models, prompts = context.models, context.data.prompts
        chosen = permutation(len(prompts), context.seed, "normalization")[:self.normalize_on]
        records = [prompts[index] for index in chosen]
        ids = [models.prompt_ids(record.prompt, self.max_new_tokens) for record in records]
        settings = Sampling(max_new_tokens=self.max_new_tokens, batch_size=context.at_once)
        drawn = sample(models, models.reference.name, ids, settings, derive(context.seed, "normalization"),
                       keys=[record.key for record in records])
        context.meter.tokens_sampled += sum(len(one.ids) for one, in drawn)
        return [Example(prompt, [one.ids], [one.finished], None, record.key)
                for record, prompt, (one,) in zip(records, ids, drawn)]

    @torch.no_grad()
    def _raw(self, context: Context, examples: list[Example]) -> Tensor:
        """(N,) raw rewards of single responses."""
        models = context.models
        return torch.tensor(models.of_each(examples, context.trainer.micro_batch_size, "scoring", "answers",
                                           lambda batch: self.rewards(models, batch)[:, 0].tolist()))

    def state_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "std": self.std}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.mean, self.std = state["mean"], state["std"]


@dataclass
class RewardModel(ResponseModel):
    """The Bradley-Terry model: P(y_i ≻ y_j) = σ(r_i − r_j)."""

    view: str = "pairs"  # or ranked: all strict pairs of a prompt in one row, its pairs weighing 1 together
    margin: float = 0.0  # reward asked for per unit of score difference (Llama 2); 0: off
    centering: float = 0.01  # weight of the centring penalty; 0: off, as in InstructGPT
    soft_labels: bool = False  # a pair's scores are probabilities: how sure the label is of its order

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", view=one_of(("pairs", "ranked")), margin=NOT_NEGATIVE, centering=NOT_NEGATIVE)
        if self.soft_labels and (self.view != "pairs" or self.margin):
            raise ConfigError(f"algorithm.soft_labels: found true with view {self.view} and margin {self.margin}; "
                              "expected pairs without a margin, whose scores are probabilities; fix: "
                              "algorithm.view=pairs algorithm.margin=0")

    def check_records(self, records: Records, key: str) -> None:
        super().check_records(records, key)
        if self.soft_labels:
            check_probabilities(records, key)

    def loss(self, models: Models, batch: Batch) -> Loss:
        rewards, scores, present = self.rewards(models, batch), batch.scores, batch.present  # each (B, K)
        losses = (soft_pairwise_loss(*rewards.unbind(1), scores[:, 0]) if self.soft_labels
                  else ranking_loss(rewards, scores, present, margin=self.margin))  # (B,)
        penalty = centering_penalty(rewards, scores, present)  # (B,)
        gaps = rewards.detach().unsqueeze(2) - rewards.detach().unsqueeze(1)  # (B, K, K)
        return Loss({"reward": Term(losses.sum()), "centering": Term(penalty.sum(), coefficient=self.centering)}, {
            "rewards/margin": mean_over_pairs(gaps, scores, present),
            "rewards/accuracy": mean_over_pairs((gaps > 0).float(), scores, present),
            "rewards/mean": rewards.detach()[present]})

    def finish(self, context: Context) -> None:
        """The normalisation goes into the head, so that a critic which starts as a copy predicts
        what it is scored by."""
        super().finish(context)
        head = context.models.role(self.role).scalar
        with torch.no_grad():
            head.weight.div_(self.std)
            head.bias.sub_(self.mean).div_(self.std)

    def score(self, models: Models, batch: Batch) -> Tensor:
        """(B, K) rewards, normalised by the head itself; 0 where a response is absent."""
        return torch.where(batch.present, self.rewards(models, batch), 0)

    def preference_logits(self, scores: Tensor) -> Tensor:
        """r_1 − r_2 in the units of training: normalised rewards would make every model as sure
        as its rewards are spread."""
        return self.std * (scores[:, 0] - scores[:, 1])


@dataclass
class RatingModel(ResponseModel):
    """A classifier of the records' scores, whole ratings lowest … lowest + bins − 1; reward:
    the expected rating."""

    view: str = "rated"
    bins: int = 5
    lowest: int = 1  # the worst rating: 0 for scales such as 0-4, or for thumbs with bins = 2

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", bins=at_least(2))

    @property
    def outputs(self) -> int:
        return self.bins

    def rewards(self, models: Models, batch: Batch) -> Tensor:
        return expected_rating(models.role(self.role).final_outputs(batch), self.lowest)

    def check_records(self, records: Records, key: str) -> None:
        super().check_records(records, key)
        found = sorted({score for scores in records.column("scores") for score in scores or ()})
        allowed = range(self.lowest, self.lowest + self.bins)
        if not found or all(score in allowed for score in found):
            return
        least, most = found[0], found[-1]
        fix = f"{key}.lowest={least:g} {key}.bins={max(most - least + 1, 2):g}"
        if not all(score.is_integer() for score in found) or most - least >= MOST_BINS:
            fix = "round them by data.mapper, or a reward_model where a prompt has several responses"
        raise ConfigError(f"{key}.lowest: found ratings from {least:g} to {most:g}; expected whole ratings "
                          f"{allowed[0]} to {allowed[-1]}; fix: {fix}")

    def loss(self, models: Models, batch: Batch) -> Loss:
        logits = models.role(self.role).final_outputs(batch)[batch.present]  # (N, bins)
        ratings = batch.scores[batch.present]  # (N,)
        losses = cross_entropy(logits, ratings.long() - self.lowest, reduction="none")  # (N,)
        error = (expected_rating(logits.detach(), self.lowest) - ratings).abs()
        return Loss({"reward": Term(losses.sum(), per="responses")}, {"ratings/error": error})
