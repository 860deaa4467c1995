"""What a stage leaves behind and a run exports: a role's weights in PEFT's own layout, at the top of a folder."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..support.digests import file_digest
from ..support.errors import ConfigError
from .adapters import SCALING, settings_of
from .model import Models
from .role import Role
from .roles import AdapterRoles, load_state, state

WEIGHTS = ("adapter_model.safetensors", "model.safetensors")
HEAD = "scalar_head.safetensors"
PREFIX = "base_model.model."  # PEFT's names in a file: the base inside a PeftModel, no adapter name


def save_role(models: Models, name: str, folder: Path) -> None:
    """``adapter_model.safetensors`` + ``adapter_config.json`` (LoRA), or a plain model (full fine-tuning)."""
    role = models.role(name)
    _save_head(role, folder)
    if isinstance(models.roles, AdapterRoles):
        tensors = {key: value.contiguous().cpu() for key, value in state(models.roles, role.name).items()}
        save_file({f"{PREFIX}{key}": value for key, value in tensors.items()}, folder / WEIGHTS[0],
                  metadata={"format": "pt"})
        config = copy.deepcopy(models.roles.peft_config(role.name))
        config.inference_mode = True
        config.base_model_name_or_path = models.config.folder()
        config.revision = models.config.revision
        config.save_pretrained(str(folder))
    else:
        with models.roles.use(role.name):
            models.roles.module.save_pretrained(folder)


def _save_head(role: Role, folder: Path) -> None:
    if role.scalar is not None:
        head = {key: value.detach().contiguous().cpu() for key, value in role.scalar.state_dict().items()}
        save_file(head, folder / HEAD)


def _load_head(role: Role, folder: Path) -> None:
    if (folder / HEAD).is_file():
        tensors = load_file(folder / HEAD)
        role.add_scalar_head(len(tensors["bias"]))
        role.scalar.load_state_dict(tensors)


def load_role(models: Models, name: str, folder: Path) -> None:
    """Copy a saved role's weights into the role ``name``, which exists. ConfigError where they are another model's."""
    role = models.role(name)
    lora = isinstance(models.roles, AdapterRoles)
    file = weights_file(folder)
    if file.name != WEIGHTS[0 if lora else 1]:
        expected = "a LoRA adapter" if lora else "a whole model"
        raise ConfigError(f"adapter: found {file.name} in {folder}; expected {expected}, as model.lora says; "
                          f"fix: model.lora={'null' if lora else '…'}")
    tensors = load_file(file)
    try:
        if lora:
            _same_scaling(models.roles.peft_config(role.name), folder)
            own = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
            load_state(models.roles, role.name, _without_base(models.roles, role.name, own))
        else:
            with models.roles.use(role.name):  # a tied weight and a buffer may stand in the file, and are no parameters
                besides = set(models.roles.module.state_dict()) - set(models.roles.named_parameters(role.name))
            own = {key: value for key, value in tensors.items() if key not in besides}
            if own.keys() - set(models.roles.named_parameters(role.name)):
                own = _named_as_here(models.roles.module, folder) or own
            load_state(models.roles, role.name, own)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"adapter: found weights in {folder} that do not fit {models.config.name} ({error.args[0]}); "
                          "expected the same model and model.lora they were trained with; "
                          "fix: model=… and model.lora.*"
                          ) from error
    _load_head(role, folder)


def _without_base(roles: AdapterRoles, name: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """PEFT saves an adapted embedding's own weights too; those of this very base say nothing."""
    base, role = roles.module.state_dict(), roles.named_parameters(name)
    return {key: value for key, value in tensors.items() if key in role or key not in base
            or base[key].shape != value.shape or not torch.equal(base[key].cpu(), value.to(base[key].dtype))}


def _named_as_here(module: torch.nn.Module, folder: Path) -> dict[str, torch.Tensor] | None:
    """The weights of a plain model whose files name some of them otherwise than its class does, as GPT-NeoX's output
    layer; None where they are another model's."""
    try:
        whole, told = type(module).from_pretrained(folder, dtype=module.dtype, use_safetensors=True,
                                                   output_loading_info=True)
    except (OSError, RuntimeError, ValueError):
        return None
    odd = any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return None if odd else {key: value.detach() for key, value in whole.named_parameters()}


def _same_scaling(config, folder: Path) -> None:
    """LoRA's alpha is in no weight: under another one the same weights are another model, and nothing would say so."""
    saved = settings_of(folder)
    for key in SCALING:
        if (saved.get(key) or False) != (getattr(config, key) or False):
            raise ValueError(f"{key} = {saved.get(key)}, here {getattr(config, key)}")


def weights_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"adapter: found {folder}, and no such folder; expected the folder of a run or an exported "
                          "adapter; fix: correct the path")
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"adapter: found no {' or '.join(WEIGHTS)} in {folder}; expected the folder of a run or an "
                      "exported adapter, in safetensors (pickles such as .bin are not read); fix: adapter=outputs/…")


def role_digest(folder: Path) -> str:
    """Content identity of a saved role."""
    return file_digest(weights_file(folder))


def frozen_role(models: Models, name: str, folder: Path | None) -> Role:
    """A frozen role from a folder; None: it answers as the base."""
    if folder is None:
        return models.alias(name, "base")
    models.add_role(name, trainable=False)
    load_role(models, name, folder)
    return models.role(name)
