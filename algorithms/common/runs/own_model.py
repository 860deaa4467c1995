"""The model that a run was made with, for a command that names its folder and no model: from its result.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from .jobs import RESULT

log = logging.getLogger(__name__)
OURS = ("algorithms.", "benchmarks.")  # a folder may come from anywhere, and names no other code to run
ASKED = ("trust_remote_code", "chat_template", "lora")  # for the command to say, or in files of their own
SAMPLING = ("max_new_tokens", "temperature", "top_p", "top_k", "min_new_tokens")


def adopt(config: DictConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Set the config's model, and how answers are sampled, as the run in this folder had them, each where no override
    says anything of it."""
    given = {one.lstrip("+~").partition("=")[0].partition(".")[0] for one in overrides}
    told = _told(folder)
    if "model" not in given and (kind := _kind(told.get("model"))):
        own = {key: value for key, value in told["model"].items() if key not in ASKED and _is_plain({key: value})}
        OmegaConf.update(config, "model", {**own, "_target_": kind, "lora": None, "chat_template": None,
                                           "trust_remote_code": False}, merge=False)
        log.info("model: %s, as %s says", own.get("name"), folder / RESULT)
    if "eval" not in given:
        sampling = _mapping(_mapping(told.get("eval")).get("sampling"))
        for key in SAMPLING:
            if isinstance(sampling.get(key), int | float):
                OmegaConf.update(config, f"eval.sampling.{key}", sampling[key])


def _told(folder: Path) -> dict[str, Any]:
    try:
        return _mapping(_mapping(json.loads((folder / RESULT).read_text(encoding="utf-8"))).get("config"))
    except (OSError, ValueError):
        return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_plain(value: Any) -> bool:
    """Whether nothing in it names what Hydra would call or look up."""
    if isinstance(value, dict):
        return all(not (key.startswith("_") and key.endswith("_")) and _is_plain(one) for key, one in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return not isinstance(value, str) or "${" not in value


def _kind(model: Any) -> str | None:
    """The class of a model's settings, where it is one of this project's."""
    from ..models.model import ModelConfig

    target = str(_mapping(model).get("_target_"))
    if not target.startswith(OURS):
        return None
    try:
        found = get_object(target)
    except Exception:
        return None
    return target if isinstance(found, type) and issubclass(found, ModelConfig) else None
