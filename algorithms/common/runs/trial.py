"""``debug=trial``: whatever is asked for, in small, so that each part is tried once before hours are spent on it.

A class says what it is in a trial by ``in_trial``: key → the most it may be (of a list: how many of its first items).
A smaller value stays; one that is not set becomes that. So a method, a data source or a reward that is added later
shrinks itself, and whatever stands beneath others (a reward model, its start) shrinks with them.
"""

from __future__ import annotations

from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

MARK = "trial"  # of its results, beside the method's name
WARNING = ("trial: every stage takes a few steps on a little data, so its figures say nothing of the method; "
           "without debug=trial it is run in full")


def shrink(config: DictConfig) -> None:
    """Change the composed config of a trial into what its classes say; what cannot be read is left for its check."""
    _walk(config)


def _walk(node: Any) -> None:
    if isinstance(node, DictConfig) and not node._is_none():
        for key, most in getattr(_class(node), "in_trial", {}).items():
            if key in node and not OmegaConf.is_missing(node, key):
                node[key] = _least(node[key], most)
        for key in node:
            if not OmegaConf.is_missing(node, key):
                _walk(node[key])
    elif isinstance(node, ListConfig) and not node._is_none():
        for item in node:
            _walk(item)


def _least(value: Any, most: int) -> Any:
    if isinstance(value, ListConfig):
        return value[:most]
    if value is None:
        return most
    return min(value, most) if isinstance(value, int) and not isinstance(value, bool) else value


def _class(node: DictConfig) -> Any:
    """The class that a node is of, by its ``_target_``; None where it has none that can be imported."""
    if "_target_" not in node or node.get("_partial_"):
        return None
    try:
        return get_object(node["_target_"])
    except Exception:  # the check of the whole config says what is wrong with it, in its place
        return None
