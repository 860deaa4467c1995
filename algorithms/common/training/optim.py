"""Optimisers, and their state as tensors."""

from __future__ import annotations

import torch

from ..algorithm import Recipe
from ..support.errors import ConfigError


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
