"""Batched sampling with a key-value cache.

Prompts are left-padded with an explicit mask and prefilled once, however many samples each is to have. Every sequence
draws its uniforms from its own stream, so but for rounding its tokens do not depend on its neighbours in the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.batches import longest_first, mask_for
from ..support.checks import Rule, at_least, require, within
from ..support.phases import Phase, progress
from ..support.seeds import uniforms
from .families import head_logits, shared_rows_refusal
from .model import Models

PEAKED = 1024  # tokens that hold the nucleus of most distributions: only rows that need more are sorted in whole


@dataclass
class Sampling:
    """How responses are drawn. Temperature 0 is greedy. PPO rollouts use no warping: top_p 1, top_k 0."""

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0  # nucleus: the smallest set of tokens that holds this much probability
    top_k: int = 0  # 0: all
    min_new_tokens: int = 0  # no end token before that many
    batch_size: int = 64  # sequences decoded at the same time

    in_trial: ClassVar[dict[str, int]] = {"max_new_tokens": 16, "min_new_tokens": 16}

    def __post_init__(self):
        require(self, "sampling", max_new_tokens=at_least(1), temperature=within("[0, inf)", "0 (greedy) or more"),
                top_p=within("(0, 1]", "a share in (0, 1]"), top_k=within("[0, inf)", "0 (all) or more"),
                min_new_tokens=Rule(lambda value: 0 <= value <= self.max_new_tokens, "0 … max_new_tokens"),
                batch_size=at_least(1))


@dataclass(frozen=True)
class Sample:
    """One response: its token ids (the end token included when ``finished``)."""

    ids: list[int]
    finished: bool


def warp(logits: Tensor, settings: Sampling) -> Tensor:
    """(B, V) logits → (B, V) probabilities after temperature, top-k and top-p."""
    logits = tempered(logits, settings.temperature)
    if settings.top_k:
        kth = logits.topk(min(settings.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    probabilities = logits.softmax(-1)
    return _nucleus(probabilities, settings.top_p) if settings.top_p < 1 else probabilities


def _nucleus(probabilities: Tensor, mass: float) -> Tensor:
    """(B, V): what is outside of each row's smallest set of tokens with so much probability becomes 0."""
    kept = torch.zeros_like(probabilities)
    count = min(PEAKED, probabilities.shape[-1])
    ordered, index = probabilities.topk(count)
    wide = ordered.cumsum(-1)[:, -1] < mass
    if count == probabilities.shape[-1]:  # all tokens: rounding may leave them below the mass
        wide = torch.zeros_like(wide)
    for rows, values, places in ((~wide, ordered[~wide], index[~wide]),
                                 (wide, *probabilities[wide].sort(-1, descending=True))):
        outside = values.cumsum(-1) - values >= mass  # what stands before this token already reaches the mass
        kept[rows] = kept[rows].scatter(-1, places, values.masked_fill(outside, 0))
    return kept


def sampled_logprobs(logits: Tensor, drawn: Tensor, step: Tensor, stop: list[int], settings: Sampling) -> Tensor:
    """(N, V) logits → (N, V) log-probabilities of what each token was drawn from;
    −inf for what is never drawn there.

    All that ``_decode`` does to the model's distribution counts: temperature (above 0), top-k, top-p, and no end token
    (``stop``) among the first ``min_new_tokens``. step: (N,) places in the responses, from 0. drawn: (N,) the tokens
    that were: always part of it, though this forward may round another way than the one that sampled.
    """
    ends = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    ends[stop] = True
    logits = logits.float().masked_fill((step < settings.min_new_tokens).unsqueeze(-1) & ends, -torch.inf)
    kept = (warp(logits, settings) > 0).scatter(-1, drawn.unsqueeze(-1), True)
    return tempered(logits, settings.temperature).masked_fill(~kept, -torch.inf).log_softmax(-1)


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """(N, V) logits at a temperature above 0, the largest of each row 0: nothing overflows."""
    logits = logits.float()
    return (logits - logits.amax(-1, keepdim=True)) / temperature


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF sampling: (B, V), (B,) in [0, 1) → (B,) token ids; never a token of probability 0."""
    cdf = probabilities.cumsum(-1)
    if cdf.device.type != "cpu":  # a parallel scan rounds unevenly: the sum could grow at a token of probability 0
        cdf = cdf.masked_fill(probabilities == 0, 0).cummax(-1).values
    target = (uniform * cdf[:, -1]).unsqueeze(-1)
    return torch.searchsorted(cdf, target, right=True).squeeze(-1)  # uniform < 1: below the end, also after rounding


@torch.no_grad()
def sample(models: Models, role: str, prompts: list[list[int]], settings: Sampling, seed: int, n: int = 1,
           keys: list[str] | None = None, watch: Callable[[list[int]], None] | None = None) -> list[list[Sample]]:
    """n samples for each prompt (lists of token ids).

    ``keys`` name the prompts' random streams; default: their position. ``watch`` is given the new token of every
    sequence that is decoded at that time, as soon as it is drawn.
    """
    keys = keys if keys is not None else [str(index) for index in range(len(prompts))]
    results: list[list[Sample]] = [[] for _ in prompts]
    chunk = max(1, settings.batch_size // n)  # prompts at the same time
    models.used.add(name := models.role(role).name)
    # a role's other name is no adapter; in float32 the adapters of a bf16 base would draw its activations with them
    used = models.autocast() if models.weights_in_autocast else nullcontext()
    with models.roles.merged(name), used, progress("sampling", len(prompts) * n, "answers") as advance:
        for members in longest_first(list(map(len, prompts)), chunk):
            beginning = prefill(models, [prompts[index] for index in members], settings.max_new_tokens)
            for first in range(0, n, settings.batch_size):  # n beyond the batch size: several rounds over one prompt
                copies = range(first, min(n, first + settings.batch_size))
                spread = beginning.spread(len(copies), again=copies.stop < n)
                streams = _streams([keys[index] for index in members], copies, settings.max_new_tokens, seed)
                drawn = iter(_decode(models, spread, streams, settings, advance, watch))
                for index in members:
                    results[index] += islice(drawn, len(copies))
    return results


def _streams(keys: list[str], copies: range, length: int, seed: int) -> Tensor:
    """(len(keys) · len(copies), length) uniforms: a stream for each copy of each prompt, a prompt's side by side."""
    return torch.from_numpy(np.stack([uniforms(length, seed, key, copy) for key in keys for copy in copies]))


def _decode(models: Models, beginning: Prefilled, streams: Tensor, settings: Sampling, advance: Phase,
            watch: Callable[[list[int]], None] | None) -> list[Sample]:
    """Go on from B prompts that were read, under the current role. ``streams``: (B, max_new_tokens) uniforms."""
    device, model = models.device, models.roles.module
    logits, mask, next_position, cache = beginning
    width = mask.shape[1]
    seen = visible(models, mask, settings.max_new_tokens)
    stop = torch.tensor(models.template.stop_ids, device=device)
    streams = streams.to(device)
    total = len(streams)
    out = torch.zeros(total, settings.max_new_tokens, dtype=torch.long, device=device)
    length = torch.full((total,), settings.max_new_tokens, device=device)
    ended = torch.zeros(total, dtype=torch.bool, device=device)

    alive = torch.arange(total, device=device)  # rows of the batch → sequences
    whole = advance.done + total
    for step in range(settings.max_new_tokens):
        if step < settings.min_new_tokens:
            logits[:, stop] = -torch.inf
        if settings.temperature == 0:
            token = logits.argmax(-1)
        else:
            token = draw(warp(logits, settings), streams[alive, step])
        out[alive, step] = token
        if watch is not None:
            watch(token.tolist())
        over = ended[alive]  # a finished row is carried along for a while
        fresh = torch.isin(token, stop) & ~over
        over = over | fresh
        length[alive], ended[alive] = length[alive].masked_fill(fresh, step + 1), over
        done = int(over.sum())  # a device is waited for here, once a token
        if step + 1 == settings.max_new_tokens or done == len(over):
            break
        if 4 * done >= len(over):  # decode them no further once they are many
            keep = (~over).nonzero().squeeze(-1)
            cache.reorder_cache(keep)
            alive, token, seen, next_position = alive[keep], token[keep], seen[keep], next_position[keep]
        logits = model(input_ids=token.unsqueeze(-1), attention_mask=seen[..., :width + step + 1],
                       position_ids=next_position, past_key_values=cache, use_cache=True).logits[:, -1]
        next_position = next_position + 1
        advance(total / settings.max_new_tokens)
    advance(whole - advance.done)
    return [Sample(row[:n], bool(f)) for row, n, f in zip(out.tolist(), length.tolist(), ended.tolist())]


class Prefilled(NamedTuple):
    """Prompts that have been read, each the beginning of one or several sequences."""

    logits: Tensor  # (B, V) of the first token
    mask: Tensor  # (B, P)
    position: Tensor  # (B, 1) of the first token
    cache: Any

    def spread(self, copies: int, again: bool = False) -> "Prefilled":
        """``copies`` sequences of each, side by side; ``again``: this one is spread once more,
        so its cache is left alone."""
        cache = copy.deepcopy(self.cache) if again else self.cache
        if copies > 1:
            cache.reorder_cache(torch.arange(len(self.mask), device=self.mask.device).repeat_interleave(copies))
        return Prefilled(*(part.repeat_interleave(copies, 0) for part in self[:3]), cache)


def prefill(models: Models, prompts: list[list[int]], new_tokens: int) -> Prefilled:
    """Read every prompt once, under the current role; the cache has room for ``new_tokens``."""
    width = max(map(len, prompts))
    cache, groups = _cache(models, width + new_tokens), models.passes(list(map(len, prompts)), most=len(prompts))
    if len(groups) == 1 or not _attends_by_position(models):
        return _read(models, prompts, cache)
    logits, position = [], []
    for rows in groups:
        part = _read(models, [prompts[row] for row in rows], _cache(models, len(prompts[rows[0]])))
        _take_in(cache, part.cache, rows, len(prompts), width)
        logits.append(part.logits)
        position.append(part.position)
    order = torch.tensor(sum(groups, []), device=models.device).argsort()
    return Prefilled(torch.cat(logits)[order], _mask(prompts, models.device), torch.cat(position)[order], cache)


def _take_in(cache: Any, part: Any, rows: list[int], total: int, width: int) -> None:
    """Keys and values of some of ``total`` prompts into the first ``width`` places for all, at their right end."""
    for number, (layer, own) in enumerate(zip(cache.layers, part.layers)):
        if not layer.is_initialized:
            cache.update(*(states.new_zeros(1).expand(total, states.shape[1], width, states.shape[-1])
                           for states in (own.keys, own.values)), number)
        for there, states in ((layer.keys, own.keys), (layer.values, own.values)):
            there[rows, :, width - states.shape[2]:width] = states


def _mask(prompts: list[list[int]], device: torch.device) -> Tensor:
    """(B, P), padding on the left."""
    width = max(map(len, prompts))
    return torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)


def _read(models: Models, prompts: list[list[int]], cache: Any) -> Prefilled:
    """All in one pass."""
    mask = _mask(prompts, models.device)
    ids = torch.tensor([[0] * (mask.shape[1] - len(prompt)) + prompt for prompt in prompts], device=models.device)
    position = mask.cumsum(-1) - mask  # exclusive: the first real token stands at 0
    module = models.roles.module.eval()
    states = getattr(module, module.base_model_prefix)(input_ids=ids, attention_mask=mask, position_ids=position,
                                                       past_key_values=cache, use_cache=True).last_hidden_state
    # the whole model's own head takes (B, 1, H) out of (B, T, H), for which the CPU copies its weight B times
    logits = head_logits(module, states[:, -1].contiguous())
    return Prefilled(logits, mask, position[:, -1:] + 1, cache)


def visible(models: Models, mask: Tensor, new_tokens: int) -> Tensor:
    """(B, P) mask of prompts → what a new token attends to: of P + ``new_tokens`` places, cut where it stands itself.

    (B, 1, 1, P + N), as attention takes it, where rows that share a prompt bring such masks too and the model's code is
    that of transformers, which makes none of its own at every step then. (B, P + N) elsewhere.
    """
    seen = torch.cat([mask, mask.new_ones(len(mask), new_tokens)], -1)
    if models.layout == "shared" and _attends_by_position(models) and not models.config.trust_remote_code:
        return mask_for(models.config.attention, seen.bool()[:, None, None], models.mask_dtype)
    return seen


def _cache(models: Models, size: int):
    """With places made once (no concatenation a step) where that can be, dynamic elsewhere."""
    from transformers import Cache, DynamicCache
    from transformers.cache_utils import DynamicLayer

    from .cache import GrowingLayer

    cache = DynamicCache(config=models.hf_config)
    if _attends_by_position(models):
        return Cache(layers=[GrowingLayer(size) if type(layer) is DynamicLayer else layer for layer in cache.layers])
    return cache


def _attends_by_position(models: Models) -> bool:
    """Whether all layers attend to everything, by position ids."""
    return shared_rows_refusal(models.hf_config) is None
