"""Hydra's config becomes typed objects here, at the edge; a wrong key or value stops before any weights load."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..support.checks import POSITIVE, one_of, require
from ..support.collector import importing
from ..support.errors import ConfigError, meant
from ..support.provenance import note

if TYPE_CHECKING:  # what a config names is imported when it is built: a task without a model does not import torch
    from ..algorithm import Algorithm, Recipe, RewardSource, TrainerConfig
    from ..evaluation.evaluate import EvalConfig
    from ..models.model import ModelConfig


@dataclass
class StagesConfig:
    folder: str | None = None  # null: the user's cache folder


MEASURED = ("tokens", "seconds")  # budgets that decide how many steps a method trains


@dataclass
class Budget:
    equal: str | None = None  # what a comparison holds equal: labels, tokens, seconds; null: nothing is claimed
    amount: float | None = None  # of tokens or seconds, what each row takes with the stages it stands on
    price_per_hour: float | None = None  # what an hour of the machine costs, in any currency

    def __post_init__(self):
        require(self, "budget", equal=one_of(("labels", *MEASURED)).or_null(), amount=POSITIVE.or_null(),
                price_per_hour=POSITIVE.or_null())
        if self.equal in MEASURED and self.amount is None:
            raise ConfigError(f"budget.amount: found null; expected how many {self.equal} each row takes, with the "
                              "stages it stands on; fix: budget.amount=…")
        if self.equal not in MEASURED and self.amount is not None:
            raise ConfigError(f"budget.amount: found {self.amount}; expected null with budget.equal="
                              f"{self.equal or 'null'}; fix: budget.equal={' or '.join(MEASURED)}")


@dataclass
class ReportConfig:
    """How the table at a sweep's end compares its rows, declared before the runs."""

    figure: str | None = None  # by which; null: gold reward where the data has one, else another; the table says why
    family: str = "all"  # all pairs of rows, or the name of the row that the others are compared with: fewer show more
    pairs: list[list[str]] = field(default_factory=list)  # of rows, compared beside those with family's row
    margin: float | None = None  # differences within it are practically equal, in the figure's unit; null: its default

    def __post_init__(self):
        if wrong := [pair for pair in self.pairs if len(pair) != 2 or pair[0] == pair[1]]:
            raise ConfigError(f"report.pairs: found {wrong[0]}; expected two rows each; fix: "
                              "report.pairs=[[rloo,ppo],[grpo,ppo]]")
        if self.margin is not None and not self.margin > 0:
            raise ConfigError(f"report.margin: found {self.margin}; expected a number above 0, in the figure's unit; "
                              "fix: report.margin=null takes the figure's default")


@dataclass
class Settings:
    """One run."""

    algorithm: Algorithm
    recipe: Recipe
    model: ModelConfig
    data: Any
    reward: RewardSource
    trainer: TrainerConfig
    eval: EvalConfig
    auditor: RewardSource
    labels: Any = None  # a judge in place of people, see feedback.py; None: the data's own
    seed: int = 0
    trial: bool = False  # everything in small, see trial.py
    objective: str | None = None  # the figure that a sweeper goes by
    auditor_half: str | None = None  # first or second: of the comparisons that the auditor learns from; null: all
    stages: StagesConfig = field(default_factory=StagesConfig)
    budget: Budget = field(default_factory=Budget)
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self):
        self.algorithm.trained_by(self.recipe)


GROUPS = ("algorithm", "recipe", "model", "data", "reward", "auditor", "trainer", "eval", "stages", "budget",
          "report")
OPTIONAL = ("labels",)  # groups that a config has where they are chosen
TOP = ("task", "seed", "trial", "objective", "auditor_half", "tune", "curves", "adapter", "beside", "runs", "judge",
       "verdicts", "vote", "harness", "rewriting", *GROUPS, *OPTIONAL)


def build(config: DictConfig, names: tuple[str, ...] = GROUPS) -> dict[str, Any]:
    """Check the named parts of a config and instantiate them. The config itself stays as it is, interpolations too."""
    for key in config:
        if key not in TOP:
            raise ConfigError(f"{key}: found no such key; {meant(key, TOP)}expected one of {', '.join(sorted(TOP))}")
    parts = {}
    for name in names:
        try:
            check(config[name], name)
        except OmegaConfBaseException as error:  # an interpolation that leads nowhere
            reason = str(error).splitlines()[0].removeprefix("KeyError raised while resolving interpolation: ")
            reason = reason.strip(chr(34))
            raise ConfigError(f"{error.full_key or name}: found ${{…}} that leads nowhere ({reason}); expected the "
                              "name of a key or variable that there is; fix: correct it") from error
    for name in names:
        if isinstance(config[name], DictConfig) and "_target_" not in config[name]:
            if inner := [key for key, one in config[name].items() if isinstance(one, DictConfig) and "_target_" in one]:
                raise ConfigError(f"{name}: found all settings under {name}.{inner[0]}, where Hydra puts what the file "
                                  f"of this choice begins with; expected them in {name}; fix: /{name}/CHOICE@_here_ "
                                  "in its defaults")
            raise ConfigError(f"{name}: found settings without _target_; expected the class that they are of; fix: "
                              "begin the file of this choice with one of the project's, as in defaults: "
                              "[NAME, _self_]")
        try:
            parts[name] = instantiate(config[name], _convert_="all")
        except Exception as error:
            cause = error.__cause__ or error
            if not isinstance(cause, ConfigError):
                raise ConfigError(f"{name}: {str(cause).splitlines()[0]}") from error
            raise ConfigError(_at(str(cause), str(error))) from None
    return parts


def _at(message: str, hydra_message: str) -> str:
    """The message of a class that does not know where in the config it stands, with its key's whole path."""
    place = re.search(r"full_key: (\S+)", hydra_message)
    key, colon, rest = message.partition(": ")
    return f"{place[1]}.{key.split('.', 1)[1]}{colon}{rest}" if place and re.fullmatch(r"\w+\.[\w.]+", key) else message


def seed(config: DictConfig) -> int:
    if not isinstance(config.seed, int) or isinstance(config.seed, bool) or config.seed < 0:
        raise ConfigError(f"seed: found {config.seed!r}; expected a whole number from 0")
    return config.seed


def auditor_half(config: DictConfig) -> str | None:
    if config.auditor_half not in (None, "first", "second"):
        raise ConfigError(f"auditor_half: found {config.auditor_half!r}; expected first, second or null; "
                          "fix: auditor_half=null")
    return config.auditor_half


def at_home(config: DictConfig | ListConfig) -> None:
    """Write out every value that begins with ``~/``, a path in the user's home folder, wherever a path may stand."""
    if config._is_none():
        return
    for key in config if isinstance(config, DictConfig) else range(len(config)):
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key):
            continue
        if OmegaConf.is_config(config[key]):
            at_home(config[key])
        elif isinstance(config[key], str) and config[key].startswith("~/"):
            config[key] = os.path.expanduser(config[key])


def settings(config: DictConfig) -> Settings:
    """Everything a run needs, checked."""
    for key, tasks in (("adapter", "task=chat, task=merge or task=harness"), ("beside", "task=chat")):
        if config[key] is not None:
            raise ConfigError(f"{key}: found {config[key]!r}; expected null where a run trains; fix: {tasks}")
    if not isinstance(config.trial, bool):
        raise ConfigError(f"trial: found {config.trial!r}; expected true or false; fix: debug=trial, or leave it out")
    if not isinstance(config.objective, str | None):
        raise ConfigError(f"objective: found {config.objective!r}; expected a figure's name or null; "
                          "fix: objective=reward/gold")
    groups = (*GROUPS, *(name for name in OPTIONAL if config.get(name) is not None))
    with importing():  # what is instantiated brings torch, transformers and peft
        parts = build(config, groups)
    return Settings(**parts, seed=seed(config), trial=config.trial, objective=config.objective,
                    auditor_half=auditor_half(config))


def check(node: Any, path: str) -> None:
    """Compare a node that has a ``_target_`` dataclass with that class: names and types of keys; then its children."""
    if isinstance(node, ListConfig):
        for index, item in enumerate(node):
            check(item, f"{path}[{index}]")
    if isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"{path}: found {node}; expected a finite number")
    if not isinstance(node, DictConfig):
        return
    target, partial = node.get("_target_"), bool(node.get("_partial_"))
    kind = None if target is None else _located(target, partial, path)
    if dataclasses.is_dataclass(kind) and not partial:
        _check_fields(node, kind, path)
    for key in node:
        if OmegaConf.is_missing(node, key):
            raise ConfigError(f"{path}.{key}: found no value; expected one; fix: {path}.{key}=…")
        check(node[key], f"{path}.{key}")


def _located(target: Any, partial: bool, path: str) -> Any:
    """The class that a ``_target_`` names, or with ``_partial_`` also a function."""
    expected = "a function or a class" if partial else "a class"
    try:
        found = get_object(target)
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ConfigError(f"{path}._target_: found {target!r}, which cannot be imported ({reason}); "
                          f"expected {expected}, as MODULE.NAME; fix: correct the name, or put the module beside "
                          "run.py or into a folder on PYTHONPATH") from error
    if isinstance(found, type) or partial and callable(found):
        note(found)
        return found
    fix = f"; fix: +{path}._partial_=true, where a function is wanted" if callable(found) else ""
    raise ConfigError(f"{path}._target_: found {target!r}, a {type(found).__name__}; expected {expected}{fix}")


def _check_fields(node: DictConfig, kind: type, path: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    given = [key for key in node if key not in ("_target_", "_convert_", "_recursive_")]
    for key in given:
        if key not in fields:
            names = sorted(fields)
            raise ConfigError(f"{path}.{key}: found no such key; {meant(key, names)}expected one of {', '.join(names)}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and (name not in node or OmegaConf.is_missing(node, name)):
            raise ConfigError(f"{path}.{name}: found no value; expected {_name(f.type)}; fix: {path}.{name}=…")
    hints = typing.get_type_hints(kind)
    for key in given:
        if not OmegaConf.is_missing(node, key) and not _fits(node[key], hints[key]):
            value = OmegaConf.to_container(node[key]) if OmegaConf.is_config(node[key]) else node[key]
            raise ConfigError(f"{path}.{key}: found {value!r} ({type(value).__name__}); expected {_name(hints[key])}")


def _name(hint: Any) -> str:
    """A type as a reader of the YAML knows it."""
    if isinstance(hint, str):
        return hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(map(_name, typing.get_args(hint)))
    if hint is type(None):
        return "null"
    return str(hint).replace("typing.", "") if typing.get_args(hint) else getattr(hint, "__name__", str(hint))


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
        (kind, *_) = typing.get_args(hint) or (Any,)
        return isinstance(value, ListConfig) and all(_fits(item, kind) for item in value)
    if origin is not None or hint is dict:  # dict, Mapping, Callable, …: their own class checks what is inside
        return isinstance(value, DictConfig)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(hint, type) and hint in (str, bool):
        return isinstance(value, hint)
    return not isinstance(value, (int, float, str, bool, ListConfig))
