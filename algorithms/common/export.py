"""What a stage leaves behind and what a run exports: a role's weights in PEFT's own layout, at the top of a folder."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from .errors import ConfigError
from .models import Models, Role
from .roles import AdapterRoles, load_state, state
from .store import file_digest

WEIGHTS = ("adapter_model.safetensors", "model.safetensors")


def save_role(models: Models, name: str, folder: Path) -> None:
    """``adapter_model.safetensors`` + ``adapter_config.json`` (LoRA), or a plain model (full fine-tuning)."""
    role = models.role(name)
    if isinstance(models.roles, AdapterRoles):
        tensors = {key: value.contiguous().cpu() for key, value in state(models.roles, role.name).items()}
        # PEFT's names: the base inside a PeftModel, no adapter name
        save_file({f"base_model.model.{key}": value for key, value in tensors.items()}, folder / WEIGHTS[0],
                  metadata={"format": "pt"})
        config = copy.deepcopy(models.roles.peft_config(role.name))
        config.inference_mode = True
        config.base_model_name_or_path = models.config.folder()
        config.revision = models.config.revision
        config.save_pretrained(str(folder))
    else:
        with models.roles.use(role.name):
            models.roles.module.save_pretrained(folder)


def load_role(models: Models, name: str, folder: Path) -> None:
    """Copy a saved role's weights into the role ``name``, which exists."""
    role = models.role(name)
    if isinstance(models.roles, AdapterRoles):
        prefix = "base_model.model."
        tensors = {key.removeprefix(prefix): value for key, value in load_file(folder / WEIGHTS[0]).items()}
        load_state(models.roles, role.name, tensors)
    else:
        with models.roles.use(role.name):
            model = models.roles.module
            missing, unexpected = model.load_state_dict(load_file(folder / WEIGHTS[1]), strict=False)
            tied = {key for key, value in model.state_dict().items() if any(
                value.data_ptr() == other.data_ptr() for k, other in model.state_dict().items() if k != key)}
            if unexpected or set(missing) - tied:
                raise KeyError(f"{folder}: missing {sorted(set(missing) - tied)[:3]}, unexpected {unexpected[:3]}")


def weights_file(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"adapter: found no {' or '.join(WEIGHTS)} in {folder}; expected the folder of a run or an exported "
                      "adapter; fix: adapter=outputs/…")


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


def export(stage: Path, folder: Path, card: str) -> None:
    """Copy a stage's weights to the top of a run's folder, with a model card."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in stage.iterdir():
        if path.name in (*WEIGHTS, "adapter_config.json", "config.json", "generation_config.json"):
            shutil.copyfile(path, folder / path.name)
    (folder / "README.md").write_text(card, encoding="utf-8")


def model_card(base: str, method: str, cite: str, data: dict, results: dict, peft: bool) -> str:
    """A Hugging Face model card: what it is, what it was trained from and on, what was measured."""
    front = ["---", f"base_model: {json.dumps(base)}", *(["library_name: peft"] if peft else []),
             "tags: [alignment, " + method + "]", "---", ""]
    lines = [*front, f"# {method} on {base}", "", cite.strip(), "", "## Data", ""]
    lines += [f"- {key}: {value}" for key, value in data.items()]
    lines += ["", "## Measured", "", "| metric | mean | 95% interval | n |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {value['mean']:.4g} | {value['low']:.4g} … {value['high']:.4g} | {value['n']} |"
              for name, value in results.items()]
    return "\n".join(lines) + "\n"
