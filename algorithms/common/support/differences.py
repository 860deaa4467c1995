"""What makes two descriptions of stages differ, in words."""

import json
import re
from collections.abc import Iterator
from typing import Any

CODE = "code"  # the part of a description that maps modules to digests, see provenance.py
NAMED = 3  # parts that a line of the log names
_SHOWN = 40  # characters of a value in it
_DIGEST = re.compile(r"[0-9a-f]{16,}")


def differences(kept: dict, wanted: dict) -> list[str]:
    """The parts that differ, settings before code, each once: ``recipe.lr 0.001 → 0.0005``, ``code of a.module``."""
    before, after = dict(_leaves(kept)), dict(_leaves(wanted))
    places = [place for place in {**after, **before} if before.get(place) != after.get(place)]
    settings = [_setting(place, before.get(place), after.get(place)) for place in places if CODE not in place]
    code = [f"code of {place[-1]}" for place in places if CODE in place]
    return list(dict.fromkeys([*settings, *code]))


def listed(parts: list[str]) -> str:
    more = len(parts) - NAMED
    return ", ".join(parts[:NAMED]) + (f" and {more} more" if more > 0 else "")


def value_at(description: dict, place: str) -> Any:
    """What stands at a dotted place of it; None where nothing does."""
    value: Any = description
    for part in place.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every place and its value as JSON; an empty dict is a value too."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*place, key))
    else:
        yield place, json.dumps(value, sort_keys=True, ensure_ascii=False)


def _setting(place: tuple[str, ...], before: str | None, after: str | None) -> str:
    shown = [value if value is not None else "nothing" for value in (before, after)]
    if any(len(value) > _SHOWN or _DIGEST.search(value) for value in shown):
        return ".".join(place)
    return f"{'.'.join(place)} {shown[0]} → {shown[1]}"
