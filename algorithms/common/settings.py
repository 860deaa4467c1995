"""Hydra's config becomes typed objects here, at the edge; a wrong key or value stops before any weights load."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .algorithm import Algorithm
from .context import TrainerConfig
from .errors import ConfigError
from .evaluation import EvalConfig
from .models import ModelConfig
from .optim import Recipe

SECRET = re.compile(r"key|token(?!s|iz)|password|passwd|secret|credential", re.IGNORECASE)


@dataclass
class StagesConfig:
    folder: str | None = None  # null: the user's cache folder


@dataclass
class Budget:
    equal: str | None = None  # what a comparison holds equal: labels; null: nothing is claimed

    def __post_init__(self):
        if self.equal not in (None, "labels"):
            raise ConfigError(f"budget.equal: found {self.equal!r}; expected labels or null")


@dataclass
class Settings:
    """One run."""

    algorithm: Algorithm
    recipe: Recipe
    model: ModelConfig
    data: Any
    trainer: TrainerConfig
    eval: EvalConfig
    seed: int = 0
    adapter: str | None = None
    stages: StagesConfig = field(default_factory=StagesConfig)
    budget: Budget = field(default_factory=Budget)


GROUPS = ("algorithm", "recipe", "model", "data", "trainer", "eval", "stages", "budget")


def build(config: DictConfig, names: tuple[str, ...] = GROUPS) -> dict[str, Any]:
    """Check the named parts of a config and instantiate them."""
    parts = {}
    for name in names:
        try:
            OmegaConf.resolve(config[name])
        except OmegaConfBaseException as error:
            raise ConfigError(f"{name}: {str(error).splitlines()[0]}") from error
        check(config[name], name)
    for name in names:
        try:
            parts[name] = instantiate(config[name], _convert_="all")
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(cause, ConfigError):
                raise cause from None
            raise ConfigError(f"{name}: {str(cause).splitlines()[0]}") from error
    return parts


def settings(config: DictConfig) -> Settings:
    if not isinstance(config.seed, int) or isinstance(config.seed, bool):
        raise ConfigError(f"seed: found {config.seed!r}; expected a whole number")
    return Settings(**build(config), seed=config.seed, adapter=config.adapter)


def check(node: Any, path: str) -> None:
    """Compare a node that has a ``_target_`` dataclass with that class: names and types of its keys; then its children."""
    if isinstance(node, ListConfig):
        for index, item in enumerate(node):
            check(item, f"{path}[{index}]")
    if not isinstance(node, DictConfig):
        return
    target = node.get("_target_")
    kind = None
    if target is not None and not node.get("_partial_"):
        try:
            kind = get_class(target)
        except Exception as error:
            raise ConfigError(f"{path}._target_: found {target!r}, which cannot be imported ({error}); expected a class") from error
    if kind is not None and dataclasses.is_dataclass(kind):
        _check_fields(node, kind, path)
    for key in node:
        check(node[key], f"{path}.{key}")


def _check_fields(node: DictConfig, kind: type, path: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    given = [key for key in node if key not in ("_target_", "_convert_", "_recursive_")]
    for key in given:
        if key not in fields:
            raise ConfigError(f"{path}.{key}: found no such key; expected one of {', '.join(sorted(fields))}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and (name not in node or OmegaConf.is_missing(node, name)):
            raise ConfigError(f"{path}.{name}: found no value; expected {_name(f.type)}; fix: {path}.{name}=…")
    hints = typing.get_type_hints(kind)
    for key in given:
        if not _fits(node[key], hints[key]):
            raise ConfigError(f"{path}.{key}: found {OmegaConf.to_container(node[key]) if OmegaConf.is_config(node[key]) else node[key]!r}"
                              f" ({type(node[key]).__name__}); expected {_name(hints[key])}")


def _name(hint: Any) -> str:
    return hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint).replace("typing.", "")


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if isinstance(value, DictConfig) and "_target_" in value:
        return not (isinstance(hint, type) and hint in (int, float, str, bool))
    if origin in (list, tuple) or hint is list:
        return isinstance(value, ListConfig) and all(_fits(item, (typing.get_args(hint) or (Any,))[0]) for item in value)
    if origin is not None or hint is dict:  # dict, Mapping, Callable, …: their own class checks what is inside
        return isinstance(value, DictConfig)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(hint, type) and hint in (str, bool):
        return isinstance(value, hint)
    return not isinstance(value, (int, float, str, bool, ListConfig))


def masked(config: DictConfig) -> dict:
    """The config as plain data, resolved, with whatever is a secret by name or came from the environment masked."""

    def walk(value: Any, raw: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {str(k): walk(v, raw.get(k) if isinstance(raw, dict) else None, str(k)) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(v, r, key) for v, r in zip(value, raw if isinstance(raw, list) else [None] * len(value))]
        secret = isinstance(value, str) and (SECRET.search(key) or isinstance(raw, str) and "oc.env" in raw)
        return "***" if secret else value

    return walk(OmegaConf.to_container(config, resolve=True), OmegaConf.to_container(config, resolve=False), "")


def explain_overrides(overrides: list[str], config_folder: str) -> list[str]:
    """For overrides that name no key: which keys there are. Used after Hydra has refused to compose."""
    from hydra import compose, initialize_config_dir

    keys = [re.split(r"[=]", item, maxsplit=1)[0] for item in overrides if "=" in item and not item.startswith(("-", "~", "+", "hydra"))]
    folder = Path(config_folder)
    groups = [item for item in overrides if (folder / re.split(r"[=@]", item)[0]).is_dir()]
    keys = [key for key in keys if not (folder / key.split("@")[0]).is_dir()]
    with initialize_config_dir(config_folder, version_base="1.3"):
        try:
            config = compose("config", overrides=[g for g in groups if "," not in g])
        except Exception:
            config = compose("config")
    messages = []
    for key in keys:
        node, walked = config, []
        for part in key.split("."):
            if not isinstance(node, DictConfig):
                break
            if part not in node:
                where = ".".join([*walked, part])
                allowed = ", ".join(sorted(str(name) for name in node if name != "_target_"))
                messages.append(f"{where}: found no such key; expected one of {allowed}")
                break
            walked.append(part)
            node = node[part]
    return messages
