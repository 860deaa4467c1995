"""What a stage leaves behind and what a run exports: a role's weights in PEFT's own layout, at the top of a folder."""

from __future__ import annotations

import copy
import html
import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .adapters import CONFIG, SCALING, settings_of
from .errors import ConfigError
from .models import Models, Role
from .results import whole, write_json
from .roles import AdapterRoles, load_state, state
from .store import file_digest
from .template import Template

WEIGHTS = ("adapter_model.safetensors", "model.safetensors")
HEAD = "scalar_head.safetensors"
BOS = "{{ bos_token }}"
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
        save_file({key: value.detach().contiguous().cpu() for key, value in role.scalar.state_dict().items()}, folder / HEAD)


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
            load_state(models.roles, role.name, {key: value for key, value in tensors.items() if key not in besides})
    except (KeyError, ValueError) as error:
        raise ConfigError(f"adapter: found weights in {folder} that do not fit {models.config.name} ({error.args[0]}); "
                          "expected the same model and model.lora they were trained with; fix: model=… and model.lora.*"
                          ) from error
    _load_head(role, folder)


def _without_base(roles: AdapterRoles, name: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """PEFT saves an adapted embedding's own weights too; those of this very base say nothing."""
    base, role = roles.module.state_dict(), roles.named_parameters(name)
    return {key: value for key, value in tensors.items() if key in role or key not in base
            or base[key].shape != value.shape or not torch.equal(base[key].cpu(), value.to(base[key].dtype))}


def _same_scaling(config, folder: Path) -> None:
    """LoRA's alpha is in no weight: under another one the same weights are another model, and nothing would say so."""
    saved = settings_of(folder)
    for key in SCALING:
        if (saved.get(key) or False) != (getattr(config, key) or False):
            raise ValueError(f"{key} = {saved.get(key)}, here {getattr(config, key)}")


def weights_file(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"adapter: found no {' or '.join(WEIGHTS)} in {folder}; expected the folder of a run or an exported "
                      "adapter, in safetensors (pickles such as .bin are not read); fix: adapter=outputs/…")


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


def export(stage: Path, folder: Path, card: str, template: Template) -> None:
    """Copy a stage's weights to the top of a run's folder, with what text is read and answered by, and a model card."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in stage.iterdir():
        if path.name in (*WEIGHTS, HEAD, CONFIG, "config.json", "generation_config.json"):
            with whole(folder / path.name) as file:
                shutil.copyfile(path, file)
    with whole(folder / "README.md") as file:
        file.write_text(card, encoding="utf-8")
    hand_over(template, folder)


def hand_over(template: Template, folder: Path) -> None:
    """Write beside weights what they were trained with: the tokenizer with its chat template, and the tokens that end
    an answer, as transformers reads them (``generation_config.json``, and ``config.json`` where there is one).
    """
    tokenizer, ends = template.tokenizer, template.stop_ids
    written = tokenizer.chat_template
    if template.chat and isinstance(written, str) and _lacks_bos(template):
        tokenizer.chat_template = BOS + written
    tokenizer.save_pretrained(folder)
    tokenizer.chat_template = written
    end = ends[0] if len(ends) == 1 else ends
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    _settle(folder / "generation_config.json", {"eos_token_id": end, "pad_token_id": padding})
    if (folder / "config.json").is_file():
        _settle(folder / "config.json", {"eos_token_id": end} if tokenizer.pad_token_id is None else
                {"eos_token_id": end, "pad_token_id": padding})


def _lacks_bos(template: Template) -> bool:
    """Whether a prompt begins with a BOS that the tokenizer sets and the chat template does not write: transformers
    would read a conversation without it."""
    question = [{"role": "user", "content": "x"}]
    rendered = template.tokenizer(template.prompt_text(question), add_special_tokens=False).input_ids
    return template.prompt_ids(question) == [*template.bos, *rendered] != rendered


def _settle(path: Path, values: dict) -> None:
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**told, **values})


def own_template(folder: Path, asked: str | None) -> str | None:
    """The chat template that a result was trained with, as a path; ``asked`` where its folder has no tokenizer to tell.

    ConfigError where ``asked`` is another one: the model would read what it was not trained on.
    """
    settings, own = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    if not settings.is_file():
        return asked
    if not own.is_file() and json.loads(settings.read_text(encoding="utf-8")).get("chat_template"):
        raise ConfigError(f"adapter: found a chat template inside {settings}; expected it in {own.name} beside it; "
                          f"fix: AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})")
    text = own.read_text(encoding="utf-8") if own.is_file() else None
    given = None if asked is None else Path(asked).read_text(encoding="utf-8")
    if given is not None and text not in (given, BOS + given):
        trained = own.name if own.is_file() else "none"
        raise ConfigError(f"model.chat_template: found {asked}, which is not the chat template that {folder} was "
                          f"trained with ({trained}); expected that one; fix: leave model.chat_template out")
    return None if text is None else str(own)


def _plain(value) -> str:
    """One line of text for a page that renders HTML; a password inside an address is masked."""
    return html.escape(re.sub(r"://[^/@\s]+@", "://***@", " ".join(str(value).split())), quote=False)


USE = """
## Use

```python
from transformers import AutoTokenizer, GenerationConfig
from {library} import {kind}

folder = "."  # this one
tokenizer = AutoTokenizer.from_pretrained(folder)  # with the chat template of the training, where it had one
model = {kind}.from_pretrained(folder)
model.generation_config = GenerationConfig.from_pretrained(folder)  # the tokens that end an answer
```
"""


def model_card(base: str, method: str, cite: str, data: dict, results: dict, peft: bool, answers: bool) -> str:
    """A Hugging Face model card: what it is, what it was trained from and on, what was measured, how one that answers
    is loaded."""
    front = ["---", f"base_model: {json.dumps(_plain(base))}", *(["library_name: peft"] if peft else []),
             "tags: [alignment, " + method + "]", "---", ""]
    lines = [*front, f"# {method} on {_plain(base)}", "", cite.strip(), "", "## Data", ""]
    lines += [f"- {key}: {_plain(value)}" for key, value in data.items()]
    lines += ["", "## Measured", "", "| metric | mean | 95% interval | n |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {value['mean']:.4g} | {value['low']:.4g} … {value['high']:.4g} | {value['n']} |"
              for name, value in results.items()]
    library, kind = ("peft", "AutoPeftModelForCausalLM") if peft else ("transformers", "AutoModelForCausalLM")
    return "\n".join(lines) + "\n" + (USE.format(library=library, kind=kind) if answers else "")
