"""The gold reward of film reviews: how well a text speaks of the film, in fluent words that are not repeated.

    gold = 3 tanh(z / 3) − p         where p < 1.5, else  min(3 tanh(z / 3), 0) − p
    p    = 2 · fluency + 3 · repetition + [no end token] + max(0, 5 − words) / 2

z is the log-odds, by a linear head on the middle layer of the untuned model, that a person who wrote this would call
the film fresh; the head learned from human labels of films that nobody is evaluated on (``make_gold.py``). Fluency is
how far the untuned model's mean −log p of the response's tokens lies outside the central 95 % of human reviews.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from algorithms.common.support.digests import content_hash, file_digest, weights_digest

HEAD = Path(__file__).parent / "gold.safetensors"
BATCH = 16  # texts in one pass
SPOILT = 1.5  # penalties from which praise no longer counts
LONG = 5  # letters of a word that is not to be told again
SPARED = 1 / 12  # share of words told again that is not held against a text
LEAST_WORDS = 5


class Reading(NamedTuple):
    """What the untuned model makes of texts."""

    states: Tensor  # (N, L, H): of the text's last token at each layer asked for
    nll: Tensor  # (N,): mean −log p of the response's tokens, nats


class Head(NamedTuple):
    """The linear head, with what it must know of human reviews."""

    layer: int
    mean: Tensor  # (H,)
    scale: Tensor  # (H,)
    weight: Tensor  # (H,)
    bias: Tensor  # ()
    fluent: Tensor  # (2,): the central 95 % of −log p per token of human reviews

    def log_odds(self, states: Tensor) -> Tensor:
        """(N, H) → (N,)"""
        return (states - self.mean) / self.scale @ self.weight + self.bias


def gold_reward(z: float, nll: float, text: str, finished: bool, fluent: tuple[float, float]) -> float:
    """The module's formula. z, nll: of ``text``, the response; fluent: the range of nll that costs nothing."""
    penalty = (2 * max(0.0, fluent[0] - nll, nll - fluent[1]) + 3 * repetition(text) + (not finished)
               + max(0, LEAST_WORDS - len(text.split())) / 2)
    sentiment = 3 * math.tanh(z / 3)
    return (sentiment if penalty < SPOILT else min(sentiment, 0.0)) - penalty


def repetition(text: str) -> float:
    """The share of word pairs told again, plus that of long words told again beyond ``SPARED``."""
    words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text.lower())
    long = [word for word in words if len(word) >= LONG]
    pairs = list(zip(words, words[1:]))
    return _again(pairs) + max(0.0, _again(long) - SPARED)


def _again(items: list) -> float:
    return 1 - len(set(items)) / len(items) if items else 0.0


@torch.no_grad()
def read(model, tokenizer, prompts: list[str], responses: list[str], layers: list[int]) -> Reading:
    """Each response after its prompt, N of both, read by a causal model; tokenised apart, as everything here is."""
    rows = [(tokenizer(prompt, add_special_tokens=False).input_ids, tokenizer(text, add_special_tokens=False).input_ids)
            for prompt, text in zip(prompts, responses, strict=True)]
    size = model.config.hidden_size
    states, nll = torch.zeros(len(rows), len(layers), size), torch.zeros(len(rows))
    for part in _alike([len(prompt) + len(text) for prompt, text in rows]):
        width = max(len(rows[place][0]) + len(rows[place][1]) for place in part)
        ids, mask = torch.zeros(len(part), width, dtype=torch.long), torch.zeros(len(part), width, dtype=torch.long)
        for row, place in enumerate(part):
            whole = [*rows[place][0], *rows[place][1]]
            ids[row, :len(whole)], mask[row, :len(whole)] = torch.tensor(whole), 1  # (B, T) each
        told = model.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        for row, place in enumerate(part):
            begin, count = len(rows[place][0]), len(rows[place][1])
            end = begin + count
            states[place] = torch.stack([told.hidden_states[layer][row, end - 1].float() for layer in layers])
            if count:
                logits = model.lm_head(told.last_hidden_state[row, begin - 1:end - 1]).float()  # (T, V)
                nll[place] = cross_entropy(logits, ids[row, begin:end])
    return Reading(states, nll)


def _alike(lengths: list[int]) -> Iterator[list[int]]:
    """Places of texts of like lengths, ``BATCH`` at once."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), BATCH):
        yield order[start:start + BATCH]


@dataclass
class FilmGold:
    """(prompts, responses, finished) → gold. model: the untuned model's folder; head: a file of ``make_gold.py``."""

    model: InitVar[str]
    head: InitVar[str]
    content: str = field(init=False)  # of both, by which stages are kept

    def __post_init__(self, model: str, head: str):
        self._model, self._head = model, head
        self.content = content_hash([weights_digest(Path(model)), file_digest(head)])

    def __call__(self, prompts: list[str], responses: list[str], finished: list[bool]) -> list[float]:
        return self.of(*self.measured(prompts, responses), responses, finished)

    def of(self, z: list[float], nll: list[float], responses: list[str], finished: list[bool]) -> list[float]:
        """The gold of responses that have been measured."""
        fluent = tuple(load_head(self._head).fluent.tolist())
        return [gold_reward(*row, fluent) for row in zip(z, nll, responses, finished, strict=True)]

    def measured(self, prompts: list[str], responses: list[str]) -> tuple[list[float], list[float]]:
        """z and −log p per token of each response."""
        head = load_head(self._head)
        found = read(*load_model(self._model), prompts, responses, [head.layer])
        return head.log_odds(found.states[:, 0]).tolist(), found.nll.tolist()


@lru_cache(maxsize=1)
def load_model(folder: str):
    """The untuned model in float32 and its tokenizer, once for all that asks in this process."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder)


@lru_cache(maxsize=1)
def load_head(file: str) -> Head:
    tensors = load_file(file)
    return Head(int(tensors.pop("layer")), **tensors)


def describe(file: Path, told: dict) -> None:
    """What was measured when a head was made, beside it."""
    file.write_text(json.dumps(told, indent=2, allow_nan=False) + "\n", encoding="utf-8")
