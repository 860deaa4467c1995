"""Roles on one base: policy, reference, reward, value are LoRA adapters over the same weights.

PEFT's own switch flips ``requires_grad`` and costs 6-36 ms; ours sets which adapter is active and nothing else. Every
gradient checkpoint remembers the role it was computed under: without that, a backward pass under another role gives
wrong gradients and no error. Full fine-tuning has the same interface over copies of the model.
"""

from __future__ import annotations

import copy
import re
import warnings
from contextlib import contextmanager, nullcontext
from typing import Iterator, Protocol

import torch
from torch import Tensor, nn

from ..support.errors import ConfigError
from .lora import adds_in_float32, replace_forward

BASE = "base"  # the role of the untouched base
MERGED_MOST = 2 << 30  # bytes of merged matrices, beside those that they stand for
MAGNITUDE = ("lora_magnitude_vector.weight", "lora_magnitude_vector")  # DoRA's, in a model and in PEFT's files


class Roles(Protocol):
    """What the rest of the code asks of roles, whether they are adapters or copies."""

    current: str

    def add(self, name: str, trainable: bool, like: str | None = None) -> None:
        """A new role, fresh or a copy of the role ``like``; fresh starts at the base's function."""

    def remove(self, name: str) -> None: ...

    def use(self, name: str): ...

    def merged(self, name: str): ...

    @property
    def module(self) -> nn.Module: ...

    def named_parameters(self, name: str) -> dict[str, nn.Parameter]: ...

    def names(self) -> list[str]: ...


class AdapterRoles:
    """LoRA adapters by name over one frozen base. The ``forward`` of PEFT's layers is replaced (``lora.py``)."""

    def __init__(self, base: nn.Module, lora_config):
        self._base, self._config = base, lora_config
        base.requires_grad_(False)
        self._peft = None
        self._layers: list = []
        self._trainable: dict[str, bool] = {}
        self._merged: str | None = None  # the role whose W + (α/r) B A stands in the base's weights, if any
        self.current = BASE

    def names(self) -> list[str]:
        return list(self._trainable)

    @property
    def module(self) -> nn.Module:
        return self._base  # PEFT puts its layers into the base itself

    def peft_config(self, name: str):
        return self._peft.peft_config[name]

    def add(self, name: str, trainable: bool, like: str | None = None) -> None:
        from peft import get_peft_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        if name == BASE or name in self._trainable:
            raise ValueError(f"role {name!r} exists already")
        self._must_not_be_merged(name)
        try:
            with warnings.catch_warnings():  # PEFT reads an attribute that transformers has renamed
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
                # half of a tied pair is adapted alone here, and merging parts the two
                warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
                if self._peft is None:
                    self._peft = get_peft_model(self._base, copy.deepcopy(self._config), adapter_name=name)
                else:
                    self._peft.add_adapter(name, copy.deepcopy(self._config))
        except ValueError as error:
            raise ConfigError(f"model.lora: found settings that do not fit this model ({error}); "
                              "expected the names of its linear layers; fix: model.lora.target_modules=all-linear or "
                              "[name, …]") from error
        self._layers = [m for m in self._base.modules() if isinstance(m, BaseTunerLayer)]
        for layer in self._layers:
            if not hasattr(layer, "_active_adapter") or not hasattr(layer, "_disable_adapters"):
                raise RuntimeError("this version of peft names its active adapter otherwise; expected the pinned range")
            replace_forward(layer)
        self._trainable[name] = trainable
        self._set_flags()
        if like is not None and like != BASE:
            source = self.named_parameters(like)
            with torch.no_grad():
                for key, parameter in self.named_parameters(name).items():
                    parameter.copy_(source[key])
        # PEFT's new layers come in train() though the base is in eval(): their dropout would be on in a frozen role
        self._base.train(self._base.training)
        self._set(self.current)

    def named_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Parameters of a role, by names that do not hold the role's: those of two roles compare key by key."""
        if name == BASE:
            return {}
        self._must_exist(name)
        # behind PEFT's own name only: a model may have a module called "value"
        mark = re.compile(rf"\.(lora_\w+)\.{re.escape(name)}(?=\.|$)")
        return {mark.sub(r".\1", key).replace(*MAGNITUDE): parameter
                for key, parameter in self._base.named_parameters() if mark.search(key)}

    def remove(self, name: str) -> None:
        self._must_exist(name)
        self._must_not_be_merged(name)
        del self._trainable[name]
        for layer in self._layers:
            layer._active_adapter = []  # PEFT would turn another one on, with its flags and a warning
        self._peft.delete_adapter(name)
        self._set_flags()
        self._set(BASE if self.current == name else self.current)

    def _set_flags(self) -> None:
        """PEFT sets ``requires_grad`` in its own way whenever adapters come or go: say again what learns."""
        for role, learns in self._trainable.items():
            for parameter in self.named_parameters(role).values():
                parameter.requires_grad_(learns)

    def _must_exist(self, name: str) -> None:
        if name != BASE and name not in self._trainable:
            # PEFT would silently compute the base
            raise KeyError(f"role {name!r}: found {[BASE, *self._trainable]}")

    def _must_not_be_merged(self, name: str) -> None:
        if self._merged is not None:
            raise RuntimeError(f"role {name!r}: found {self._merged!r} merged into the base's weights, which would "
                               "answer in its place or beside it; expected no change of roles until then; "
                               f"fix: leave merged({self._merged!r}) first")

    def _set(self, name: str) -> None:
        off = name == BASE
        for layer in self._layers:
            layer._disable_adapters = off
            if not off:
                layer._active_adapter = [name]
        self.current = name

    @contextmanager
    def use(self, name: str) -> Iterator[None]:
        """Compute under a role; ``requires_grad`` stays untouched."""
        self._must_exist(name)
        self._must_not_be_merged(name)
        before = self.current
        if name != before:
            self._set(name)
        try:
            yield
        finally:
            if self.current != before:
                self._set(before)

    @contextmanager
    def merged(self, name: str) -> Iterator[None]:
        """``use`` for many passes without a graph: under one matrix a layer, W + (α/r) B A, where all are float32 on a
        CPU (bf16 would round the sum, and a GPU's memory is for other things) and take no more than ``MERGED_MOST``.
        The base's own weights come back; until then roles that change raise RuntimeError where they are merged."""
        self._must_exist(name)
        layers = [layer for layer in self._layers if name in layer.lora_A or name in layer.lora_embedding_A]
        exact = name != BASE and all(adds_in_float32(layer, name) for layer in layers)
        if not exact or sum(layer.base_layer.weight.nbytes for layer in layers) > MERGED_MOST:
            with self.use(name):
                yield
            return
        linear = [layer.base_layer for layer in layers]
        weights = [one.weight for one in linear]
        with self.use(BASE):
            try:
                for layer, one in zip(layers, linear):
                    with torch.no_grad():
                        merged = one.weight + layer.get_delta_weight(name)
                    one.weight = nn.Parameter(merged, requires_grad=False)
                    layer.forward = one.forward  # else each call asks which adapter is on: a tenth of a short step
                self._merged = name
                yield
            finally:
                for layer, one, weight in zip(layers, linear, weights):
                    one.weight = weight
                    replace_forward(layer)
                self._merged = None


class CopyRoles:
    """Full fine-tuning: every role is a copy of the base. For small models."""

    def __init__(self, base: nn.Module):
        base.requires_grad_(False)
        self._copies: dict[str, nn.Module] = {BASE: base}
        self.current = BASE

    def names(self) -> list[str]:
        return [name for name in self._copies if name != BASE]

    @property
    def module(self) -> nn.Module:
        return self._copies[self.current]

    def add(self, name: str, trainable: bool, like: str | None = None) -> None:
        if name in self._copies:
            raise ValueError(f"role {name!r} exists already")
        self._copies[name] = copy.deepcopy(self._copies[like or BASE])
        self._copies[name].requires_grad_(trainable)

    def remove(self, name: str) -> None:
        if name == BASE or name not in self._copies:
            raise KeyError(f"role {name!r}: found {self.names()}")
        del self._copies[name]
        self.current = BASE if self.current == name else self.current

    def named_parameters(self, name: str) -> dict[str, nn.Parameter]:
        return {} if name == BASE else dict(self._copies[name].named_parameters())

    @contextmanager
    def use(self, name: str) -> Iterator[None]:
        if name not in self._copies:
            raise KeyError(f"role {name!r}: found {list(self._copies)}")
        before, self.current = self.current, name
        try:
            yield
        finally:
            self.current = before

    merged = use


def enable_checkpointing(module: nn.Module, roles: Roles) -> None:
    """Gradient checkpointing whose recomputation happens under the role of the forward pass.

    Also in train() as then: a frozen role's forward in between sets eval(), and LoRA dropout would be lost.
    """

    @contextmanager
    def recompute(role: str):
        with roles.use(role):
            module, training = roles.module, roles.module.training
            if not training:
                module.train()
            try:
                yield
            finally:
                if not training:
                    module.eval()

    def replay():
        return nullcontext(), recompute(roles.current)

    module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": replay})


def state(roles: Roles, name: str) -> dict[str, Tensor]:
    return {key: parameter.detach() for key, parameter in roles.named_parameters(name).items()}


def load_state(roles: Roles, name: str, tensors: dict[str, Tensor]) -> None:
    """Copy tensors into a role; anything missing or left over is an error."""
    own = roles.named_parameters(name)
    if set(own) != set(tensors):
        missing, extra = sorted(set(own) - set(tensors))[:3], sorted(set(tensors) - set(own))[:3]
        raise KeyError(f"role {name!r}: missing {missing}, unexpected {extra}")
    shapes = [key for key in own if own[key].shape != tensors[key].shape]  # copy_ would broadcast
    if shapes:
        raise ValueError(f"role {name!r}: {shapes[0]} is {tuple(tensors[shapes[0]].shape)}, "
                         f"expected {tuple(own[shapes[0]].shape)}")
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(tensors[key])
