"""Recipes: how much is learned how fast. Optimisers and schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from ..support.errors import ConfigError


@dataclass
class Recipe:
    """What belongs to a model's scale rather than to a method."""

    lr: float
    batch_size: int  # records per optimiser step
    epochs: float = 1.0
    steps: int | None = None  # instead of epochs
    schedule: str = "linear"  # linear | cosine | constant, after the warm-up
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    max_grad_norm: float = 1.0
    inner_epochs: int = 1  # passes over the experience of one batch (PPO)
    minibatch_size: int | None = None  # items of an experience per optimiser step; null: all
    value_lr: float | None = None  # of a critic; null: lr

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"recipe.schedule: found {self.schedule!r}; expected one of {', '.join(SCHEDULES)}")
        for ok, key, expected in ((0 < self.lr < math.inf, "lr", "a finite number above 0"),
                                  (self.batch_size >= 1, "batch_size", "at least 1"),
                                  (0 < self.epochs < math.inf, "epochs", "a finite number above 0"),
                                  (self.steps is None or self.steps >= 1, "steps", "at least 1, or null"),
                                  (0 <= self.warmup < 1, "warmup", "a share in [0, 1)"),
                                  (0 <= self.weight_decay < math.inf, "weight_decay", "a finite number, at least 0"),
                                  (len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas",
                                   "two numbers in [0, 1)"),
                                  (0 < self.max_grad_norm < math.inf, "max_grad_norm", "a finite number above 0")):
            if not ok:
                raise ConfigError(f"recipe.{key}: found {getattr(self, key)}; expected {expected}")

    def total_records(self, records: int) -> int:
        """Records walked through in all, epochs over ``records`` of them or a number of whole steps."""
        return self.steps * self.batch_size if self.steps is not None else max(1, round(self.epochs * records))

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


def build_optimizer(name: str, groups: list[dict], recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """``name``: "adamw", or "paged_adamw_8bit" (bitsandbytes; its states spill to host memory, CUDA only)."""
    options = {"lr": recipe.lr, "betas": tuple(recipe.betas), "weight_decay": recipe.weight_decay}
    if name == "adamw":
        return torch.optim.AdamW(groups, **options)
    if device.type != "cuda":
        raise ConfigError(f"trainer.optimizer: found {name} on {device.type}; expected a CUDA device; "
                          "fix: trainer.optimizer=adamw")
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit(groups, **options)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """State as tensors by "parameter index.name", and the plain numbers apart."""
    tensors, numbers = {}, {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, parameter in enumerate(parameters):
        for key, value in optimizer.state.get(parameter, {}).items():
            (tensors if isinstance(value, torch.Tensor) else numbers)[f"{index}.{key}"] = value
    return tensors, numbers


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor],
                           numbers: dict[str, float]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for source in (tensors, numbers):
        for name, value in source.items():
            index, key = name.split(".", 1)
            parameter = parameters[int(index)]
            if isinstance(value, torch.Tensor) and key != "step":
                value = value.to(parameter.device)
            optimizer.state[parameter][key] = value
