"""The largest number of rows of a length that trains in 24, 48 or 80 GB.

A step's peak is a line in the number of rows: it is measured for a few, and the line gives the most that stays below a
limit. Where time is left, the smallest limit's answer is run with no more memory than the limit.
"""

from __future__ import annotations

from pathlib import Path

import torch

from algorithms.common.models.model import Models
from algorithms.common.support.memory import (
    peak_memory_bytes,
    release,
    reset_peak_memory,
)
from algorithms.common.training.loop import run_losses
from algorithms.common.training.optim import build_optimizer
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.settings import CONTEXT, Lengths, Settings
from benchmarks.gpu.train import load, optimizer_of, recipe
from benchmarks.random_models import make_context, method, random_examples


def largest(peaks: dict[int, int], limit: int) -> int | None:
    """Rows at which the line through measured {rows: bytes} reaches ``limit``, rounded down; least squares, of two or
    more. None where more rows took no more memory: they are too few to tell.
    """
    rows, values = list(peaks), list(peaks.values())
    mean, level = sum(rows) / len(rows), sum(values) / len(values)
    slope = (sum((x - mean) * (y - level) for x, y in zip(rows, values)) / sum((x - mean) ** 2 for x in rows))
    return max(0, int((limit - (level - slope * mean)) // slope)) if slope > 0 else None


def measure_fits(settings: Settings, device: torch.device, journal: Journal, folder: Path) -> None:
    longest = max(settings.fit_lengths)
    models = load(settings, device, journal, longest, longest // 2)
    models.add_role("reference", trainable=False, seed=1)
    method("dpo").add_roles(models, 0)
    found: dict[int, dict[str, int | None]] = {}
    for length in settings.fit_lengths:
        peaks = {}
        for rows in settings.fit_batches:
            if journal.left() < 5:
                return
            peaks[rows] = peak(models, settings, length, rows, folder)
        found[length] = {name: largest(peaks, limit) for name, limit in settings.fit_limits.items()}
        journal.add("DPO pairs that fit", tokens=length, largest_by_line=found[length],
                    peaks_bytes={str(rows): value for rows, value in peaks.items()})
    if device.type == "cuda":
        confirm(models, settings, found, journal, folder)


def peak(models: Models, settings: Settings, length: int, rows: int, folder: Path) -> int:
    """Bytes held at most in one DPO step of ``rows`` pairs, prompt and each response half of ``length``; the
    optimiser's states included. Held by the allocator, which is what a card must have, rather than in use.
    """
    device, half = models.device, length // 2
    lengths = Lengths(half, half, rows, rows)
    examples = random_examples(rows, half, half, 2)
    context = make_context(models, folder / f"{length}-{rows}", examples, recipe(lengths), micro_batch_size=rows)
    algorithm = method("dpo")
    groups = algorithm.parameter_groups(models, context.recipe)
    optimizer = build_optimizer(optimizer_of(models, settings), groups, context.recipe, device)
    release()
    for _ in range(2):  # the second has the optimiser's states from its start
        reset_peak_memory(device)
        run_losses(algorithm, context, algorithm.experience(context, examples), list(range(rows)), train=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    held = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else peak_memory_bytes(device)
    del optimizer
    release()
    return held


def confirm(models: Models, settings: Settings, found: dict[int, dict[str, int | None]], journal: Journal,
            folder: Path) -> None:
    """Train what should fit the smallest limit, with no more than that to be had."""
    device = models.device
    name, limit = min(settings.fit_limits.items(), key=lambda item: item[1])
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    try:
        for length, answers in found.items():
            rows, too_many = answers[name] or 0, []
            while rows > 0 and journal.left() > 15:
                if fitted := _fits(models, settings, length, rows, folder):
                    journal.add("confirmed", tokens=length, limit=name, context_bytes=CONTEXT, rows=rows,
                                held_bytes=fitted, did_not_fit=too_many)
                    break
                too_many.append(rows)
                rows = int(rows * 0.9)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def _fits(models: Models, settings: Settings, length: int, rows: int, folder: Path) -> int | None:
    """Bytes held, or None where there is no room."""
    try:
        return peak(models, settings, length, rows, folder)
    except torch.OutOfMemoryError:
        release()
        return None
