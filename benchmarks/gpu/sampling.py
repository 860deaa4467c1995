"""Sampling: the project's decoding against ``generate``, the same prompts, the same number of tokens."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from algorithms.common.models.model import Models
from algorithms.common.models.sampling import Sampling, sample
from algorithms.common.support.memory import peak_memory_bytes, reset_peak_memory
from benchmarks.gpu import flops
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.settings import Lengths, Settings
from benchmarks.gpu.train import load
from benchmarks.random_models import random_examples

KINDS = {"greedy": 0.0, "drawn": 1.0}  # → temperature


def measure_sampling(settings: Settings, device: torch.device, journal: Journal, folder: Path) -> None:
    lengths = settings.sampling
    models = load(settings, device, journal, lengths.prompt + lengths.response, lengths.prompt)
    models.template.stop_ids = [settings.shape.vocabulary - 1]
    models.add_role("policy", trainable=False, seed=1)
    prompts = [example.prompt for example in random_examples(lengths.batch, lengths.prompt, 1, 1)]
    short = Lengths(lengths.prompt, 4, lengths.batch, lengths.micro)
    ours(models, prompts, short, 0.0), generated(models, prompts, short, 0.0)  # both have found their kernels
    for kind, temperature in KINDS.items():
        answers = {}
        for side, draw in (("ours", ours), ("generate", generated)):
            reset_peak_memory(device)
            start = time.monotonic()
            answers[side] = draw(models, prompts, lengths, temperature)
            flops.wait(device)
            seconds = time.monotonic() - start
            tokens = sum(map(len, answers[side]))
            journal.add(f"sampling, {kind}, {side}", lengths=vars(lengths), seconds=seconds, tokens=tokens,
                        tokens_per_second=tokens / seconds, peak_bytes=peak_memory_bytes(device))
            if journal.left() < 1.5 * seconds:
                return
        if temperature == 0:
            journal.add("sampling, agreement", same_first_tokens=agreement(answers["ours"], answers["generate"]))


def agreement(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Share of the tokens before the first difference, mean over sequences. In bf16 two layouts of one cache may round
    a near-tie either way, and all that follows differs.
    """
    shares = []
    for one, other in zip(ours, theirs):
        same = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
        shares.append(same / max(len(one), len(other)))
    return sum(shares) / len(shares)


def ours(models: Models, prompts: list[list[int]], lengths: Lengths, temperature: float) -> list[list[int]]:
    settings = Sampling(lengths.response, temperature, batch_size=lengths.batch)
    return [one.ids for one, in sample(models, "policy", prompts, settings, seed=0)]


@torch.no_grad()
def generated(models: Models, prompts: list[list[int]], lengths: Lengths, temperature: float) -> list[list[int]]:
    """transformers' ``generate`` with its static cache, under the same role."""
    ids = torch.tensor(prompts, device=models.device)
    options = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    with models.roles.use("policy"), models.autocast():
        module = models.roles.module.eval()
        found = module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=lengths.response,
                                eos_token_id=models.template.stop_ids, pad_token_id=0, cache_implementation="static",
                                disable_compile=True, **options)
    return found[:, ids.shape[1]:].tolist()
