"""Rollouts: prompts → sampled responses → scores and per-token columns, the experience of on-policy methods.

Nothing with a vocabulary axis outlives a chunk of the head: what is kept of a rollout is (N, T) numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Callable

import torch
from torch import Tensor

from .algorithm import SAMPLE, Examples
from .batches import Batch, counts
from .context import Context
from .rewards import Response
from .sampling import Sampling, sample
from .seeds import derive
from .template import Example


@dataclass(frozen=True)
class Minibatch:
    """B rollouts as rows, and what was known of them when they were sampled, each (B, T), aligned with the response; and
    the demonstrations that are learned with them.
    """

    batch: Batch
    mask: Tensor  # bool
    logprobs: Tensor  # log π_old
    values: Tensor  # V_old
    advantages: Tensor
    returns: Tensor
    demonstrations: Batch | None


@dataclass(frozen=True, kw_only=True)
class Rollouts(Examples):
    """The experience of one batch of prompts: N rollouts of up to T tokens; ``examples`` are prompts with what was sampled.

    demonstrations: none, or one for each rollout, learned in the same minibatch; its tokens are the count "demonstrated".
    """

    mask: Tensor  # (N, T) bool
    logprobs: Tensor  # (N, T) like all that follow
    values: Tensor
    advantages: Tensor
    returns: Tensor
    figures: dict[str, float | str]
    demonstrations: list[Example] = field(default_factory=list)

    def lengths(self) -> list[int]:
        beside = [example.length for example in self.demonstrations] or [0] * len(self)
        return [own + other for own, other in zip(super().lengths(), beside)]

    def counts(self, indices: list[int]) -> dict[str, int]:
        return {**super().counts(indices), "demonstrated": counts(self._beside(indices))["tokens"]}

    def select(self, indices: list[int]) -> Minibatch:
        batch = self.models.collate([self.examples[index] for index in indices])
        width = batch.mask.shape[-1]
        columns = (self.mask, self.logprobs, self.values, self.advantages, self.returns)
        beside = self._beside(indices)
        return Minibatch(batch, *(column[indices, :width] for column in columns),
                         demonstrations=self.models.collate(beside) if beside else None)

    def _beside(self, indices: list[int]) -> list[Example]:
        return [self.demonstrations[index] for index in indices] if self.demonstrations else []

    def metrics(self) -> dict[str, float | str]:
        return self.figures


def at_once(context: Context) -> int:
    """Sequences to decode together so that their cache stays below the activations of an update.

    A token's cache is 2 · layers · kv_width numbers. Checkpointed, its activations are layers · width and one layer whole;
    else every layer keeps some ten times its width.
    """
    return context.trainer.micro_batch_size * (2 if context.models.config.gradient_checkpointing else 8)


def generate(context: Context, role: str, examples: list[Example], *, max_new_tokens: int, temperature: float,
             batch_size: int | None = None) -> list[Example]:
    """A response for each prompt by pure sampling from ``role``: anything that warps it would draw from another policy.

    examples: bare prompts; those too long to leave room for ``max_new_tokens`` are cut. batch_size: default ``at_once``.
    """
    models = context.models
    prompts = [models.fit_prompt(example.prompt, max_new_tokens) for example in examples]
    settings = Sampling(max_new_tokens, temperature, batch_size=batch_size or at_once(context))
    drawn = sample(models, role, prompts, settings, derive(context.seed, "rollout", context.step))
    if torch.is_grad_enabled():  # what is watched while training is no part of what training takes
        context.meter.tokens_sampled += sum(len(one.ids) for one, in drawn)
    return [replace(example, prompt=prompt, responses=[one.ids], finished=[one.finished], key="")
            for example, prompt, (one,) in zip(examples, prompts, drawn)]


def score(context: Context, rollouts: list[Example]) -> Tensor:
    """(N,) scores of the reward source, as they are."""
    template = context.models.template
    responses = []
    for example in rollouts:
        prompt, ids = context.prompt(example.record), example.responses[0]
        text = template.clean_response(prompt, template.decode(ids))
        responses.append(Response(template.prompt_text(prompt), text, example.prompt, ids, example.finished[0], example.record,
                                  prompt, context.record(example.record).meta))
    if torch.is_grad_enabled():
        context.meter.reward_queries += len(responses)
    return torch.tensor(context.reward(responses), device=context.models.device)


def shown(context: Context, rollouts: list[Example], scores: Tensor) -> dict[str, str | float]:
    """The first of them as text: a step's line of the sample table."""
    first, decode = rollouts[0], context.models.template.decode
    line = {"prompt": decode(first.prompt), "response": decode(first.responses[0]), "score": scores[0].item()}
    return {SAMPLE + name: value for name, value in line.items()}


@torch.no_grad()
def columns(context: Context, rollouts: list[Example], *answers: Callable[[Batch], Tensor]) -> list[Tensor]:
    """The mask, then one column per answer (a function to (B, 1, T)), each (N, T): by the training forward, in its
    micro-batches (like lengths together), so that the first update finds the same numbers.
    """
    order = sorted(range(len(rollouts)), key=lambda index: (-rollouts[index].length, index))
    longest = max(len(example.responses[0]) for example in rollouts)
    shape, device = (len(rollouts), longest), context.models.device
    mask = torch.zeros(shape, dtype=torch.bool, device=device)
    found = [torch.zeros(shape, device=device) for _ in answers]
    size = context.trainer.micro_batch_size
    for start in range(0, len(order), size):
        members = order[start:start + size]
        batch = context.models.collate([rollouts[index] for index in members])
        width = batch.mask.shape[-1]
        mask[members, :width] = batch.mask[:, 0]
        for column, answer in zip(found, answers):
            column[members, :width] = answer(batch)[:, 0]
    return [mask, *found]
