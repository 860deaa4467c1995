"""Which random stream a row's answers are drawn from: one of its own, named by its settings.

Any two rows of a table are independent draws, also two of the same weights, and best-of-n beside the policy it samples
from: against a member of its own n samples it would win (2n−1)/(2n), against a fresh answer it wins n/(n+1). What is
no setting names nothing: code, libraries and device leave a row its stream. So does what only says how many prompts are
asked or decoded at once: the first prompts of a longer evaluation are answered alike.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..models.sampling import Sampling
from ..support.digests import content_hash
from ..support.seeds import derive

VIEWS = ("demonstrations", "preferred", "pairs", "ranked", "rated", "prompts")  # that a stage reads beside its own
STAGE = ("algorithm", "recipe", "trainer", "model", "data", "reward", "needs", *VIEWS)  # of a description: its settings
NO_SETTINGS = {"reward": ("code",), "model": ("device", "autocast")}  # parts of these that are none


def row_identity(description: dict[str, Any]) -> dict[str, Any]:
    """The settings in a stage's description, those of the stages beneath it included."""
    named = {key: _named_classes(description[key]) for key in STAGE if description.get(key) is not None}
    for part, dropped in NO_SETTINGS.items():
        if part in named:
            named[part] = {key: value for key, value in named[part].items() if key not in dropped}
    if "reward" in named:
        named["reward"] = _over_named_stages(named["reward"])
    return _over_named_stages(named)


def _over_named_stages(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, "needs": {role: need and row_identity(need) for role, need in part.get("needs", {}).items()}}


def _named_classes(part: Any) -> Any:
    """With the shared classes by their bare names:
    one that moves to another module of ``common`` is the same setting."""
    if isinstance(part, dict):
        return {key: _bare(value) if key == "class" else _named_classes(value) for key, value in part.items()}
    return [_named_classes(item) for item in part] if isinstance(part, list) else part


def _bare(name: str) -> str:
    return name.rpartition(".")[2] if name.startswith("algorithms.common.") else name


def answers(seed: int, identity: dict[str, Any], sampling: Sampling) -> int:
    """The seed of the answers of a row: of the run's seed, its identity, and how it is sampled."""
    how = {key: value for key, value in dataclasses.asdict(sampling).items() if key != "batch_size"}
    return derive(seed, "answers", content_hash({"row": identity, "sampling": how}))
