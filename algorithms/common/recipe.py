"""Settings of training: how much is learned how fast, which belongs to a model's scale, and how the loop runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import ClassVar

from .support.checks import NOT_NEGATIVE, POSITIVE, SHARE_BELOW_1, Rule, at_least, one_of, require, within
from .support.errors import ConfigError


@dataclass
class Recipe:
    """What belongs to a model's scale rather than to a method."""

    lr: float
    batch_size: int  # records per optimiser step
    epochs: float = 1.0
    steps: int | None = None  # instead of epochs
    stop_after: int | None = None  # steps after which training ends, on the schedule of all; null: none are left out
    schedule: str = "linear"  # linear | cosine | constant, after the warm-up
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    max_grad_norm: float = 1.0
    inner_epochs: int = 1  # passes over the experience of one batch (PPO)
    minibatch_size: int | None = None  # items of an experience per optimiser step; null: all
    value_lr: float | None = None  # of a critic; null: lr
    ema: float | None = None  # d of θ̄ ← d θ̄ + (1 − d) θ after each optimiser step; θ̄ is what is kept; null: θ is

    in_trial: ClassVar[dict[str, int]] = {"steps": 2, "batch_size": 4, "inner_epochs": 2}

    def __post_init__(self):
        betas = Rule(lambda found: len(found) == 2 and all(0 <= beta < 1 for beta in found), "two numbers in [0, 1)")
        require(self, "recipe", schedule=one_of(SCHEDULES), lr=POSITIVE, batch_size=at_least(1), epochs=POSITIVE,
                steps=at_least(1).or_null(), stop_after=at_least(1).or_null(), warmup=SHARE_BELOW_1,
                weight_decay=NOT_NEGATIVE, betas=betas, max_grad_norm=POSITIVE, ema=within("(0, 1)").or_null())

    def total_records(self, records: int) -> int:
        """Records walked through in all, epochs over ``records`` of them or a number of whole steps, up to the stop."""
        scheduled = self._scheduled_records(records)
        return scheduled if self.stop_after is None else min(scheduled, self.stop_after * self.batch_size)

    def scheduled_steps(self, records: int) -> int:
        """Steps that the learning rate's schedule is made for, those after the stop included."""
        return -(-self._scheduled_records(records) // self.batch_size)

    def _scheduled_records(self, records: int) -> int:
        return self.steps * self.batch_size if self.steps is not None else max(1, round(self.epochs * records))

    def told(self, records: int) -> str:
        """What is learned how fast, in words."""
        walked = self.total_records(records)
        steps, passes = -(-walked // self.batch_size), walked / max(records, 1)
        of = f" of {self.scheduled_steps(records):,}" if self.stop_after is not None else ""
        return (f"lr {self.lr:g} ({self.schedule}), {steps:,}{of} step{'' if steps == 1 and not of else 's'}, "
                f"{self.batch_size:,} record{'' if self.batch_size == 1 else 's'} each, "
                f"{passes:.3g} epoch{'' if passes == 1 else 's'}")

    def factor(self, step: int, total: int) -> float:
        """Multiplier of the learning rate at 0-based ``step`` of ``total``."""
        warmup = round(self.warmup * total)
        if step < warmup:
            return (step + 1) / warmup
        return SCHEDULES[self.schedule]((step - warmup) / max(1, total - warmup))


SCHEDULES = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "constant": lambda done: 1.0,
}


# by accelerate's names → what it may import for it
TRACKERS = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}


@dataclass
class TrainerConfig:
    """How the loop runs, apart from what is learned how fast."""

    # Records in one pass, at most: a CPU takes fewer where that saves padding. Losses depend on it by rounding only;
    # but it also says how many rollouts are decoded together, so stages are kept by it too.
    micro_batch_size: int = 8
    mixed_precision: str = "auto"  # auto: bf16 where the hardware has it | bf16 | no
    optimizer: str = "adamw"  # adamw | paged_adamw_8bit (CUDA)
    checkpoint_every: int = 50  # steps
    evaluate_every: int | None = None  # steps; null: no evaluation on held-out records while training
    trackers: list[str] = field(default_factory=list)  # accelerate's: tensorboard, wandb, trackio
    progress: bool = True

    in_trial: ClassVar[dict[str, int]] = {"checkpoint_every": 1}

    def __post_init__(self):
        require(self, "trainer", mixed_precision=one_of(("auto", "bf16", "no")),
                optimizer=one_of(("adamw", "paged_adamw_8bit")), micro_batch_size=at_least(1),
                checkpoint_every=at_least(1), evaluate_every=at_least(1).or_null())
        unknown = set(self.trackers) - set(TRACKERS)
        if unknown:
            raise ConfigError(f"trainer.trackers: found {sorted(unknown)}; expected some of {', '.join(TRACKERS)}")
        for name in self.trackers:
            if not any(map(find_spec, TRACKERS[name])):
                raise ConfigError(f"trainer.trackers: found {name}, which is not installed; expected one that is; fix: "
                                  f"pip install {name}, or trainer.trackers=[]")
