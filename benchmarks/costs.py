"""What of a run's cost is its own, and what of the stages that it stands on."""

from collections.abc import Mapping
from typing import Any

OWN = "its own"     # what no stage below a run has


def own_parts(cost: Mapping[str, Any], name: str) -> dict[str, float]:
    """A stage's cost charges those below it, each once: what is left is its own. By stage, the run's own last."""
    below = _below(cost, name)
    parts = {title: _own(stage, name) for (title, _), stage in below.items()}
    return {**parts, OWN: max(_own(cost, name), 0.0)}


def _own(stage: Mapping[str, Any], name: str) -> float:
    return (stage.get(name) or 0.0) - sum(_own(one, name) for one in _below(stage, name).values())


def _below(stage: Mapping[str, Any], name: str) -> dict[tuple[str, float], Mapping[str, Any]]:
    """All stages that one stands on, the deepest first; the same one, which costs the same, once."""
    found = {}
    for title, one in (stage.get("stages") or {}).items():
        found |= _below(one, name)
        found.setdefault((title, one.get(name) or 0.0), one)
    return found
