"""What the tests of roles share: four of them on one base, and what tells them apart."""

import hashlib

import pytest
import torch

from algorithms.common.models.model import Lora

BOTH = pytest.mark.parametrize("lora", [Lora(r=4, alpha=8), None], ids=["lora", "full"])


def flags(models):
    return {name: [p.requires_grad for p in models.role(name).parameters().values()] for name in models.roles.names()}


def digest(tensors) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def four_roles(models):
    models.add_role("policy", trainable=True, seed=1)
    models.add_role("reference", trainable=False, like="policy")
    models.add_role("reward", trainable=False, seed=2)
    models.add_role("value", trainable=True, like="reward")
    return models


def loss(models, role, batch):
    values = models.role(role).token_logprobs(batch)
    return (values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum()


def gradients(models, role):
    return {key: p.grad.clone() for key, p in models.role(role).parameters().items()}
