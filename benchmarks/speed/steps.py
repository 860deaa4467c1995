"""Training steps one at a time, on a Llama of random weights and texts of given lengths."""

from __future__ import annotations

from pathlib import Path

import torch

from algorithms.common.algorithm import Algorithm, Context, Recipe
from algorithms.common.data.template import Example
from algorithms.common.models.model import Models
from algorithms.common.training.loop import Run
from benchmarks.random_models import Shape, keep_reference, make_context, random_models

RATE = 1e-5


def models_of(shape: Shape, device: str, precision: str, length: int, **options) -> Models:
    """Weights of fp32; precision: fp32 or bf16, what products are computed in. ``options``: of ``ModelConfig``."""
    models = random_models(shape, torch.device(device), "fp32", length, length - 1, gradient_checkpointing=False,
                           mixed_precision="bf16" if precision == "bf16" else "no", **options)
    models.alias("reference", "base")
    return models


def context_of(models: Models, folder: Path, examples: list[Example], batch: int, precision: str, **recipe) -> Context:
    """A training without checkpoints, all of a batch in one pass."""
    steps = -(-len(examples) // batch)
    told = Recipe(lr=RATE, batch_size=batch, steps=steps, schedule="constant", warmup=0.0, **recipe)
    return make_context(models, folder, examples, told, micro_batch_size=batch, checkpoint_every=10**9,
                        mixed_precision="bf16" if precision == "bf16" else "no")


def begun(algorithm: Algorithm, context: Context) -> Run:
    """A training after its first step, which finds its kernels and makes the optimiser's states; the reference's
    values of all records are computed before."""
    models = context.models
    algorithm.add_roles(models, 0)
    if algorithm.stores_reference:
        keep_reference(context)
    run = Run(algorithm, context)
    run.prepare(context.examples)
    run.advance()
    return run
