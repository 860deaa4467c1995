"""A judge's preferences over many pairs, as a kept stage: what was said stays, whatever ends the process."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...support.errors import UserError
from ...support.phases import progress
from .judge import Judge
from .pairings import Pair

if TYPE_CHECKING:
    from ...support.store import Store

LABELS, TOLD, SAID = "labels.json", "told.json", "said.jsonl"


@dataclass(frozen=True)
class Court:
    """See ``verdicts.Court``: a judge that is shown two answers needs no more of it."""

    store: Store
    seed: int
    mixed_precision: str


def ask(judge: Judge, pairs: list[Pair], court: Court, target: Path, work: Path) -> None:
    """Fill ``target`` with the shares of every pair; what was said stays in ``work`` whatever ends the process."""
    from ...models.precision import pick_device
    from ...support.memory import peak_memory_bytes, release, reset_peak_memory

    reset_peak_memory(device := pick_device())
    said, seconds = _kept(work / SAID)
    rest, began = [pair for pair in pairs if pair.sample not in said], time.monotonic()
    with open(work / SAID, "a", encoding="utf-8") as file, progress("labels", len(pairs), "pairs") as advance:
        advance(len(said))
        for pair, shares in judge.shares(rest, court) if rest else ():
            said[pair.sample] = shares
            file.write(json.dumps([pair.sample, shares, seconds + time.monotonic() - began]) + "\n")
            file.flush()
            advance(1)
    if lacking := len(pairs) - len(said):
        raise UserError(f"labels: found no answer of {judge.name} on {lacking} of {len(pairs)} pairs; expected one on "
                        "each; fix: run the same command again, which asks for these alone")
    release()
    cost = {"seconds": seconds + time.monotonic() - began, "tokens_trained": 0, "tokens_sampled": 0,
            "reward_queries": 0, "labels": 0, "peak_memory_bytes": peak_memory_bytes(device), "resident_models": 1,
            "trainable_parameters": 0}
    (target / LABELS).write_text(json.dumps([said[pair.sample] for pair in pairs]), encoding="utf-8")
    (target / TOLD).write_text(json.dumps({"cost": cost}), encoding="utf-8")


def _kept(path: Path) -> tuple[dict[int, list[float | None]], float]:
    """What an earlier try was told, and the seconds that it took; a line that a kill cut off is asked for again."""
    said, seconds = {}, 0.0
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            number, shares, seconds = json.loads(line)
        except ValueError:
            continue
        said[number] = shares
    return said, seconds
