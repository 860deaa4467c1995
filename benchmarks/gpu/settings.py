"""What is measured: an 8B model on a CUDA device, or the same steps with a tiny one on a CPU (``--dry``)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.random_models import SHAPES, Shape, packed


@dataclass(frozen=True)
class Lengths:
    """One training measurement: rows of so many tokens, so many at a time."""

    prompt: int
    response: int
    batch: int  # records of an optimiser step
    micro: int  # records of a forward pass
    steps: int = 4  # the first is not counted


@dataclass(frozen=True)
class Settings:
    shape: Shape
    matrix: int  # width of the matrices whose product gives the device's rate
    sft: Lengths
    dpo: Lengths
    ppo: Lengths
    sampling: Lengths
    fit_lengths: tuple[int, ...]  # tokens of prompt and response
    fit_batches: tuple[int, ...]  # rows of one pass whose peaks the line is drawn through
    fit_limits: dict[str, int]  # name → bytes
    optimizer: str
    budgets: dict[str, float]  # part → seconds


GIB = 1 << 30
CONTEXT = 1 * GIB  # what CUDA itself and a display take of a card
FULL = Settings(
    shape=SHAPES["8b"], matrix=8192,
    sft=Lengths(1024, 1024, 2, 2, steps=6),  # rows and length of torchtune's table
    dpo=Lengths(512, 512, 8, 4), ppo=Lengths(768, 256, 8, 4, steps=2), sampling=Lengths(512, 128, 16, 16),
    fit_lengths=(1024, 2048, 4096), fit_batches=(1, 2, 4),
    fit_limits={f"{size} GB": size * GIB - CONTEXT for size in (24, 48, 80)}, optimizer="paged_adamw_8bit",
    budgets={"tests": 140, "train": 75, "ppo": 90, "sampling": 55, "fits": 80})
DRY = Settings(
    shape=SHAPES["tiny"], matrix=64, sft=Lengths(12, 12, 2, 2, steps=3), dpo=Lengths(16, 8, 4, 2, steps=3),
    ppo=Lengths(12, 6, 4, 2, steps=2), sampling=Lengths(12, 6, 4, 4), fit_lengths=(16, 32), fit_batches=(1, 2),
    fit_limits={"a small card": 1 << 62}, optimizer="adamw", budgets={part: 120 for part in FULL.budgets})


def usable_precision(device: torch.device) -> tuple[str, str | None]:
    """nf4, or bf16 and why bitsandbytes does not pack a matrix on this device."""
    try:
        layer = packed(torch.randn(64, 64, device=device, dtype=torch.bfloat16), torch.bfloat16)
        layer(torch.randn(1, 64, device=device, dtype=torch.bfloat16))
    except Exception as error:  # a missing library shows itself in many ways
        return "bf16", f"{type(error).__name__}: {error}"[:300]
    return "nf4", None
