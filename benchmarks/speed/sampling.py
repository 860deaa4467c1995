"""Sampling against ``generate`` of transformers, which TRL samples with.

``sampling`` draws four responses to each prompt, in batches of each side's choice; the other kinds are shapes that both
sides decode alike: a prompt at a time, batches of 16 and 64 prompts, and 16 responses to one prompt at a time.
Both sample from a base with an adapter; generate is also tried with the adapter merged first, as the project does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.speed.prepare import load_models
from benchmarks.speed.request import MOST_NEW, Answer, Kind, Request
from benchmarks.speed.texts import pairs
from benchmarks.speed.training import adapted

NEVER = 1 << 30  # no token: no response ends early
STATIC, MERGED = {"cache_implementation": "static"}, {"merged": True}


@dataclass(frozen=True)
class Shape:
    """What is decoded together."""

    batch: int  # sequences
    each: int = 1  # responses to a prompt, in such a batch
    per_step: int = 2  # sequences for each of the request's steps, at least
    whole: bool = True  # all batches are full

    def prompts(self, request: Request, encode) -> list[list[int]]:
        together = self.batch if self.whole else self.each
        sequences = -(-self.per_step * request.steps // together) * together
        return [encode(text["prompt"]) for text in pairs(request, sequences // self.each)]


def ours(request: Request, shape: Shape) -> Answer:
    from algorithms.common.models.export import load_role
    from algorithms.common.models.sampling import Sampling, sample

    models = load_models(request)
    models.add_role("policy", trainable=False, seed=0)
    load_role(models, "policy", Path(request.folder) / "sampled")
    models.template.stop_ids = [NEVER]
    asked = shape.prompts(request, models.template.prompt_ids)
    settings = Sampling(MOST_NEW, 0.0 if request.parity else 1.0, batch_size=shape.batch)
    answer = Answer()
    with answer.watched(request.device):
        drawn = sample(models, "policy", asked, settings, seed=0, n=shape.each)
    return _filled(answer, [one.ids for responses in drawn for one in responses])


def generate(request: Request, shape: Shape) -> Answer:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = adapted(request, "sampled", AutoModelForCausalLM).eval()
    tokenizer = AutoTokenizer.from_pretrained(request.base, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    asked = shape.prompts(request, lambda text: tokenizer(text).input_ids)
    option = dict(request.option)
    size, merged = option.pop("batch_size", shape.batch), option.pop("merged", False)
    if request.parity:  # it has no several responses of greatest probability
        asked = [prompt for prompt in asked for _ in range(shape.each)]
        option |= {"do_sample": False}
    else:
        option |= {"do_sample": True, "temperature": 1.0, "top_k": 0, "num_return_sequences": shape.each}
        size = max(1, size // shape.each)
    answer, drawn = Answer(), []
    bf16 = torch.autocast(request.device, dtype=torch.bfloat16, enabled=request.precision == "bf16")
    with answer.watched(request.device), torch.no_grad(), bf16:
        model = model.merge_and_unload() if merged else model
        for start in range(0, len(asked), size):
            batch = tokenizer.pad({"input_ids": asked[start:start + size]}, return_tensors="pt").to(request.device)
            found = model.generate(**batch, max_new_tokens=MOST_NEW, eos_token_id=NEVER, disable_compile=True,
                                   pad_token_id=tokenizer.pad_token_id, **option)
            drawn += found[:, batch["input_ids"].shape[1]:].tolist()
    return _filled(answer, drawn)


def _filled(answer: Answer, drawn: list[list[int]]) -> Answer:
    answer.items = sum(map(len, drawn))
    answer.values = [float(token) for ids in drawn for token in ids]
    return answer


def measured(shape: Shape, *settings: dict) -> Kind:
    """``settings``: of generate, beside its own, the static cache and merged weights."""
    return Kind("tokens", {"ours": partial(ours, shape=shape), "generate": partial(generate, shape=shape)},
                {"generate": [{}, STATIC, MERGED, {**STATIC, **MERGED}, *settings]}, EXACT=True,
                SEARCHED=1.0)


KINDS = {
    "sampling": measured(Shape(64, 4, per_step=4, whole=False), {"batch_size": 32, **MERGED},
                         {"batch_size": 128}, {"batch_size": 128, **MERGED}),
    "sampling_1": measured(Shape(1, per_step=1)),
    "sampling_16": measured(Shape(16)),
    "sampling_64": measured(Shape(64)),
    "sampling_16of1": measured(Shape(16, 16)),
}
