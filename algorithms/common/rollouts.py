"""Rollouts: prompts → sampled responses → scores and per-token columns;
and the base of methods that learn from them.

K responses to a prompt are prefilled once, share its row, and stay together in a minibatch. Nothing with a vocabulary
axis outlives a chunk of the head: what is kept of B prompts is (B, K, T) numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Callable, ClassVar

import torch
from torch import Tensor

from .algorithm import SAMPLE, Algorithm, Context, Examples, Loss, Response, Term
from .data.batches import Batch
from .data.cuts import tell_cut_prompts
from .data.template import Example
from .models.model import Models
from .models.role import Role
from .models.sampling import Sampling, sample
from .policy_gradient import (
    ESTIMATORS,
    FULL,
    MISSING_EOS,
    SCALINGS,
    KLController,
    RunningMoments,
    advantage_figures,
    kl_figures,
    kl_penalty,
    ratio_metrics,
    response_surrogates,
    reward_figures,
    score_figures,
    shape_rewards,
    shape_scores,
    surrogates,
    whiten,
)
from .support.checks import NOT_NEGATIVE, POSITIVE, Rule, at_least, one_of, require, within
from .support.clock import Clock
from .support.errors import ConfigError
from .support.phases import in_parts
from .support.seeds import derive

COMPARED = Rule(at_least(2).allows, "at least 2, since a response is compared with the others to its prompt; "
                "fix: algorithm.samples=2")  # of ``samples``, where the baseline is theirs


@dataclass(frozen=True)
class Scored:
    """K responses to each of B prompts, up to T tokens long, with what advantages are estimated from."""

    examples: list[Example]  # B prompts with what was sampled
    mask: Tensor  # (B, K, T) bool
    finished: Tensor  # (B, K) bool: responses that end with the end token
    logprobs: Tensor  # (B, K, T): log π_old, at the temperature of the rollouts, as are the reference's
    ref_logprobs: Tensor  # (B, K, T): log π_ref
    scores: Tensor  # (B, K): scaled, clipped, and less what a missing end costs
    rewards: Tensor  # (B, K, T): the KL penalty at every token, and the score at the last; 0 outside the mask


@dataclass(frozen=True)
class Estimates:
    """What an update learns towards: (B, K, T) each, or (B, K, 1) where the tokens of a response share a number.

    A method that learns towards more than advantages adds to it.
    """

    advantages: Tensor

    def figures(self, mask: Tensor) -> dict[str, float]:
        """Of a whole batch, (B, K, T) mask; before advantages are whitened."""
        return advantage_figures(self.advantages, mask)

    def select(self, indices: list[int], width: int) -> "Estimates":
        """Those of some prompts, as wide as their longest response."""
        return type(self)(*(getattr(self, f.name)[indices, :, :width] for f in fields(self)))


@dataclass(frozen=True)
class Minibatch:
    """B prompts with their responses as rows, and what was known of them before, aligned with ``batch.mask``."""

    batch: Batch
    logprobs: Tensor  # (B, K, T): log π_old
    ref_logprobs: Tensor  # (B, K, T): log π_ref
    estimates: Estimates


@dataclass(frozen=True, kw_only=True)
class Rollouts(Examples):
    """The experience of one batch of prompts. An item is a prompt with its K responses, so that they share a row."""

    logprobs: Tensor  # (B, K, T), as is the next
    ref_logprobs: Tensor
    estimates: Estimates
    figures: dict[str, float | str]

    def select(self, indices: list[int]) -> Minibatch:
        batch = super().select(indices)
        width = batch.mask.shape[-1]
        logprobs, ref_logprobs = (column[indices, :, :width] for column in (self.logprobs, self.ref_logprobs))
        return Minibatch(batch, logprobs, ref_logprobs, self.estimates.select(indices, width))

    def metrics(self) -> dict[str, float | str]:
        return self.figures


# From prompts to columns of numbers


def generate(context: Context, role: str, examples: list[Example], *, max_new_tokens: int, temperature: float,
             samples: int = 1, batch_size: int | None = None) -> list[Example]:
    """``samples`` responses to each prompt by pure sampling: anything that warps it would draw from another policy.

    examples: bare prompts; those too long to leave room for ``max_new_tokens`` are cut. batch_size: by default
    ``Context.at_once``.
    """
    models = context.models
    prompts = [context.to_answer(example, max_new_tokens) for example in examples]
    if "rollouts" not in context.said and tell_cut_prompts(f"{context.name}, step {context.step + 1}", [
            example.prompt for example in examples], prompts, models.config.max_length, max_new_tokens):
        context.said.add("rollouts")  # other steps' are like the first's
    settings = Sampling(max_new_tokens, temperature, batch_size=batch_size or context.at_once)
    drawn = sample(models, role, prompts, settings, derive(context.seed, "rollout", context.step), n=samples)
    if torch.is_grad_enabled():  # what is watched while training is no part of what training takes
        context.meter.tokens_sampled += sum(len(one.ids) for responses in drawn for one in responses)
    return [replace(example, prompt=prompt, responses=[one.ids for one in responses],
                    finished=[one.finished for one in responses], key="")
            for example, prompt, responses in zip(examples, prompts, drawn)]


def score(context: Context, rolled: list[Example]) -> Tensor:
    """(B, K) scores of the reward source, as they are."""
    template = context.models.template
    responses = []
    for example in rolled:
        prompt = context.prompt(example.record)
        rendered = template.prompt_text(prompt)
        for ids, finished in zip(example.responses, example.finished):
            text = template.clean_response(prompt, template.decode(ids))
            meta = context.record(example.record).meta
            responses.append(Response(rendered, text, example.prompt, ids, finished, example.record, prompt, meta))
    if torch.is_grad_enabled():
        context.meter.reward_queries += len(responses)
    return torch.tensor(context.reward(responses), device=context.models.device).view(len(rolled), -1)


def shown(context: Context, rolled: list[Example], scores: Tensor) -> dict[str, str | float]:
    """The first of them as text: a step's line of the sample table."""
    first, decode = rolled[0], context.models.template.decode
    line = {"prompt": decode(first.prompt), "response": decode(first.responses[0]), "score": scores[0, 0].item()}
    return {SAMPLE + name: value for name, value in line.items()}


def response_mask(rolled: list[Example], device: torch.device) -> Tensor:
    """(B, K, T) bool: the tokens of each response, its end token included."""
    lengths = torch.tensor([[len(response) for response in example.responses] for example in rolled], device=device)
    return torch.arange(int(lengths.max()), device=device) < lengths.unsqueeze(-1)


@torch.no_grad()
def columns(context: Context, rolled: list[Example], *answers: Callable[[Batch], Tensor]) -> list[Tensor]:
    """One column per answer (a function of a batch to (B, K, T)), (B, K, T) each, 0 outside the mask.

    By the training forward, in its micro-batches (like lengths together), so that the first update finds the same
    numbers.
    """
    longest = max(len(response) for example in rolled for response in example.responses)
    shape = (len(rolled), len(rolled[0].responses), longest)
    found = [torch.zeros(shape, device=context.models.device) for _ in answers]
    parts = context.models.passes([example.length for example in rolled], context.trainer.micro_batch_size)
    for members in in_parts("log-probabilities of rollouts", parts, "prompts"):
        batch = context.models.collate([rolled[index] for index in members])
        width = batch.mask.shape[-1]
        for column, answer in zip(found, answers):
            column[members, :, :width] = answer(batch)
    return found


# The base of the methods


@dataclass
class PolicyGradient(Algorithm):
    """A policy that learns from K responses of its own to each prompt, held close to a reference by a KL penalty.

    A method says how advantages are estimated (``estimate``); it needs to define no more. The loss is that of the
    clipped ratio (1707.06347 eq. 7), whose gradient is REINFORCE's where every batch has one step.
    """

    view: str = "prompts"
    samples: int = 1  # responses to a prompt
    kl_coef: float = 0.05  # β: weight of the KL penalty in the reward; where the controller starts
    kl_estimator: str = "k1"  # k1 | k2 | k3 | full (the whole vocabulary), of the penalty
    kl_target: float | None = None  # nats per response the controller steers to; null: β stays
    kl_horizon: float = 10_000.0  # episodes, of the controller
    clip: float | None = 0.2  # ε of the policy's ratio; null: it is not clipped
    whiten_advantages: bool = False  # over the batch's tokens; over its responses, where they have one advantage each
    score_scaling: str = "none"  # none | scale | normalize, by the scores so far
    score_clip: float | None = 5.0  # scores are kept within ± this; null: off, as in the papers
    missing_eos: str = "subtract"  # subtract | replace: what the penalty does to the score of an unfinished response
    missing_eos_penalty: float = 1.0
    target_kl: float | None = None  # a batch is left before a step with KL(π_old ‖ π) over 1.5 × this; null: never
    temperature: float = 1.0  # of the rollouts, and of every log-probability; the evaluation has its own
    max_new_tokens: int = 56  # of a rollout
    rollout_batch_size: int | None = None  # sequences decoded together; null: what the memory of an update holds

    in_trial: ClassVar[dict[str, int]] = {"samples": 4, "max_new_tokens": 16}
    uses_reward: ClassVar[bool] = True
    compares_logprobs: ClassVar[bool] = True

    def __post_init__(self):
        require(self, "algorithm", kl_estimator=one_of((*ESTIMATORS, FULL)), score_scaling=one_of(SCALINGS),
                missing_eos=one_of(MISSING_EOS), kl_coef=NOT_NEGATIVE, missing_eos_penalty=NOT_NEGATIVE,
                kl_horizon=POSITIVE, temperature=POSITIVE, kl_target=POSITIVE.or_null(), score_clip=POSITIVE.or_null(),
                target_kl=POSITIVE.or_null(), clip=within("(0, 1)").or_null(), samples=at_least(1),
                max_new_tokens=at_least(1), rollout_batch_size=at_least(1).or_null())
        if self.kl_target is not None and not self.kl_coef:
            raise ConfigError(f"algorithm.kl_target: found {self.kl_target} with algorithm.kl_coef=0, which stays 0 "
                              "however it is steered; expected kl_coef above 0, or kl_target=null")
        self.needs.setdefault("reference", None)  # without a supervised stage the reference is the base
        self.start()

    def start(self) -> None:
        """The state of a run that begins."""
        self.controller = KLController(self.kl_coef, self.kl_target, self.kl_horizon)
        self.moments = RunningMoments()

    def fit(self, context: Context) -> None:
        episodes = context.recipe.batch_size * self.samples
        if self.kl_target is not None and self.kl_horizon <= 0.2 * episodes:
            raise ConfigError(f"algorithm.kl_horizon: found {self.kl_horizon}; expected more than a fifth of a batch's "
                              f"responses ({episodes}), or one batch can turn the KL coefficient negative; fix: raise "
                              "it, or lower recipe.batch_size")
        self.start()  # no trace of a run that was cut off before its first checkpoint
        super().fit(context)

    def experience(self, context: Context, examples: list[Example]) -> Rollouts:
        """Sample, score, penalise by the KL, estimate advantages, whiten. Held-out prompts move no state."""
        models, learning, clock = context.models, torch.is_grad_enabled(), Clock()
        rolled = self.sample(context, examples)  # B prompts with K responses each
        clock.lap("timing/rollout")
        scores = score(context, rolled)  # (B, K)
        if learning:
            self.moments.update(scores)
        scored = self.penalise(context, rolled, scores)  # rewards (B, K, T)
        estimates = self.estimate(context, scored)  # advantages (B, K, T) or (B, K, 1)
        clock.lap("timing/score")
        figures = {**self._figures(scored, scores), **estimates.figures(scored.mask),
                   **shown(context, rolled, scores), **clock.laps}
        if learning:
            self.controller.update(figures["kl/k1"], scores.numel())
        if self.whiten_advantages:
            advantages, mask = estimates.advantages, scored.mask
            if advantages.shape != mask.shape:  # (B, K, 1): a response counts once, however long it is
                mask = mask.any(-1, keepdim=True)
            estimates = replace(estimates, advantages=whiten(advantages, mask))
        return Rollouts(models, rolled, logprobs=scored.logprobs, ref_logprobs=scored.ref_logprobs,
                        estimates=estimates, figures=figures)

    def sample(self, context: Context, examples: list[Example]) -> list[Example]:
        """y ∼ π_old(· | x), K for each prompt."""
        return generate(context, self.role, examples, samples=self.samples, max_new_tokens=self.max_new_tokens,
                        temperature=self.temperature, batch_size=self.rollout_batch_size)

    def penalise(self, context: Context, rolled: list[Example], scores: Tensor) -> Scored:
        """(B, K) raw scores → rewards r_t = −β KL_t, with the shaped score at the last token."""
        models = context.models
        mask = response_mask(rolled, models.device)
        logprobs, refs = columns(context, rolled, *(partial(self.logprobs, role)
                                                    for role in (models.policy, models.reference)))  # (B, K, T) each
        finished = torch.tensor([example.finished for example in rolled], device=models.device)  # (B, K)
        shaped = shape_scores(scores, finished, self.moments, scaling=self.score_scaling, clip=self.score_clip,
                              missing_eos=self.missing_eos, penalty=self.missing_eos_penalty)  # (B, K)
        rewards = shape_rewards(shaped, self.penalty(context, rolled, logprobs, refs), mask,
                                kl_coef=self.controller.coef)
        return Scored(rolled, mask, finished, logprobs, refs, shaped, rewards)

    def penalty(self, context: Context, rolled: list[Example], logprobs: Tensor, refs: Tensor) -> Tensor:
        """(B, K, T): KL(π_old ‖ π_ref) at every token, estimated from what was drawn, or over the vocabulary."""
        if self.kl_estimator != FULL:
            return kl_penalty(logprobs, refs, self.kl_estimator)
        models = context.models
        kl, = columns(context, rolled, partial(models.policy.token_kl, other=models.reference,
                                               temperature=self.temperature))
        return kl

    def logprobs(self, role: Role, batch: Batch) -> Tensor:
        """(B, K, T): log π(y_t | x, y_<t) of what was sampled, at the temperature of the rollouts."""
        return role.token_logprobs(batch, temperature=self.temperature)

    def estimate(self, context: Context, scored: Scored) -> Estimates:
        """Advantages of what was sampled. What a method remembers moves only while gradients are enabled."""
        raise NotImplementedError(f"{type(self).__name__} is a policy gradient, so it needs to estimate advantages")

    def _figures(self, scored: Scored, scores: Tensor) -> dict[str, float]:
        """What every method logs of a batch of rollouts; (B, K) raw scores."""
        return {"kl/coef": self.controller.coef, **reward_figures(scored.rewards, scored.scores),
                **kl_figures(scored.logprobs, scored.ref_logprobs, scored.mask),
                **score_figures(scores, scored.mask, scored.finished)}

    def loss(self, models: Models, minibatch: Minibatch) -> Loss:
        losses, metrics = self.surrogate(self.logprobs(models.policy, minibatch.batch), minibatch)  # (B, K, T)
        return Loss({"policy": Term(losses.sum(), per="tokens")}, metrics)

    def surrogate(self, logprobs: Tensor, minibatch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, K, T) log π → the clipped loss of every token (1707.06347 eq. 7), (B, K, T),
        and how far π has moved."""
        old, advantages, mask = minibatch.logprobs, minibatch.estimates.advantages, minibatch.batch.mask
        plain, clipped = surrogates(logprobs, old, advantages, mask, clip=self.clip)  # (B, K, T) each
        return torch.maximum(plain, clipped), {"policy/clip_fraction": (clipped > plain)[mask].float(),
                                               **ratio_metrics(logprobs, old, mask)}

    def stop(self, values: dict[str, float]) -> bool:
        return self.target_kl is not None and values["policy/approx_kl"] > 1.5 * self.target_kl

    def state_dict(self) -> dict[str, Any]:
        return {"kl_coef": self.controller.coef, "scores": self.moments.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.controller.coef, self.moments = state["kl_coef"], RunningMoments(**state["scores"])


@dataclass
class WholeResponses(PolicyGradient):
    """A policy gradient to which a response is one action; the loss is a mean over responses."""

    def loss(self, models: Models, minibatch: Minibatch) -> Loss:
        logprobs, old, mask = self.logprobs(models.policy, minibatch.batch), minibatch.logprobs, minibatch.batch.mask
        plain, clipped = response_surrogates(logprobs, old, minibatch.estimates.advantages, mask,
                                             clip=self.clip)  # (B, K) each
        return Loss({"policy": Term(torch.maximum(plain, clipped).sum(), per="responses")},
                    {"policy/clip_fraction": (clipped > plain)[mask.any(-1)].float(),
                     **ratio_metrics(logprobs, old, mask)})
