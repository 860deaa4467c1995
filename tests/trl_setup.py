"""What the comparisons with TRL share: a start, the data and its order, TRL's arguments, its losses of each step."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from algorithms.common.algorithm import Algorithm, Context
from algorithms.common.data.records import Record
from algorithms.common.data.template import Example
from algorithms.common.data.tokenized import batch_indices
from algorithms.common.models.export import save_role
from algorithms.common.models.model import Lora, ModelConfig, Models
from algorithms.common.recipe import Recipe
from algorithms.common.training.loop import fit
from benchmarks.lab.reviews_data import ReviewsData
from training_setup import ROOT, randomize

STEPS, BATCH, SEED = 20, 8, 3
BASE = ROOT / "benchmarks/lab/reviews"
TOLERANCE = 3e-5


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("trl")
    # 100 records: twenty steps of eight go through them once and a half
    return ReviewsData(demonstrations=100, preferences=100, prompts=1, tuning=0, evaluation=1).load(0)


def our_models(lora: Lora | None) -> Models:
    config = ModelConfig(name=str(BASE), precision="fp32", lora=lora, attention="eager", gradient_checkpointing=False,
                         max_length=256, max_prompt_length=128)
    models = Models(config, "no", device=torch.device("cpu"))
    models.add_role("reference", trainable=False, seed=1)
    if lora is not None:
        randomize(models, "reference", scale=0.02)  # a start that is not the base, as after a supervised stage
    models.add_role("policy", trainable=True, like="reference")
    return models


def their_model(lora: Lora | None, start):
    """The same weights as our policy's, as TRL takes them."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="eager")
    return base if lora is None else PeftModel.from_pretrained(base, start, is_trainable=True)


def fitted(method: Algorithm, context: Context) -> Path:
    """Trains; the folder of the policy that it started from."""
    save_role(context.models, "policy", context.target)
    start = context.target.parent / "start"
    os.rename(context.target, start)
    context.target.mkdir()
    fit(method, context)
    return start


def pairs_of(records: Iterable[Record]) -> list[tuple]:
    """(prompt, chosen, rejected) of each."""
    return [(r.prompt, *[y for _, y in sorted(zip(r.scores, r.responses), reverse=True)]) for r in records]


def recipe(schedule: str, weight_decay: float, lr: float) -> Recipe:
    return Recipe(lr=lr, batch_size=BATCH, steps=STEPS, schedule=schedule, warmup=0.0, weight_decay=weight_decay,
                  betas=[0.9, 0.95], max_grad_norm=1.0)


def ordered(examples: list[Example], order_of: int) -> list[int]:
    return [i for step in range(STEPS) for i in batch_indices(order_of, BATCH, STEPS * BATCH, step, SEED)]


def arguments(kind, folder, recipe_: Recipe, accumulation: int, **options):
    return kind(output_dir=str(folder), per_device_train_batch_size=BATCH // accumulation,
                gradient_accumulation_steps=accumulation, max_steps=STEPS, learning_rate=recipe_.lr,
                lr_scheduler_type=recipe_.schedule, warmup_steps=0, optim="adamw_torch", adam_beta1=recipe_.betas[0],
                adam_beta2=recipe_.betas[1], adam_epsilon=1e-8, weight_decay=recipe_.weight_decay,
                max_grad_norm=recipe_.max_grad_norm, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True,
                bf16=False, gradient_checkpointing=False, max_length=None, train_sampling_strategy="sequential",
                disable_tqdm=True, seed=0, **options)


def train_theirs(kind, accumulation: int, **options) -> tuple[list[float], list[float], object]:
    """(loss of each step unrounded, gradient norms, trainer)."""
    parts: list[float] = []

    class Recording(kind):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            parts.append(loss.item())
            return loss

    trainer = Recording(**options)
    trainer.train()
    losses = [sum(parts[i:i + accumulation]) for i in range(0, len(parts), accumulation)]
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    return losses, norms, trainer


def compare(name: str, ours: list[dict], losses: list[float], norms: list[float]) -> None:
    assert len(ours) == len(losses) == len(norms) == STEPS
    totals = [sum(value for key, value in line.items() if key.startswith("loss/")) for line in ours]
    relative = [abs(total - loss) / abs(loss) for total, loss in zip(totals, losses)]
    norm = [abs(line["grad_norm"] - other) / other for line, other in zip(ours, norms)]
    print(f"\n{name}: largest relative difference of losses {max(relative):.1e}, of gradient norms {max(norm):.1e}; "
          f"losses {losses[0]:.6f} … {losses[-1]:.6f}")
    assert losses[0] != losses[-1], "it trains"
    assert max(relative) < TOLERANCE
    assert max(norm) < TOLERANCE
