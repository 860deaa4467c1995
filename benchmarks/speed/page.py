"""The measurements of a folder as one Markdown page."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.speed.compare import memory
from benchmarks.speed.request import Lengths

MIB = 1 << 20
HEAD = """# Speed, side by side

Ratios are the other side's figure by ours, of runs made in turn: above 1 ours is faster, or takes less. Median, and in
brackets the smallest and the largest, of the runs' own ratios, not of the columns of seconds. On a CPU the ratio of CPU
time is the one to read: where that of time differs from it, the machine did other work meanwhile, or a loader's worker
ran beside the step. Seconds are of one unit (a pair, a token, …). Memory is the peak above what the imports took (of
start, with them), with what a worker process does not share, of both sides at what is fastest: where that is one record
a pass for the other side, ours may hold more.
Both sides computed the same values, where they have any, before anything was timed. The other side ran with the fastest
of the settings that were tried, in one short run each or two; its JSON file has them all. Imports and the reading of
the base are no part of the time, but of start's. `python -m benchmarks.speed --help` says what is measured.

What they compute is the same but for these: of ranked responses (reward_k4) TRL gets every pair of them, since its loss
is of pairs; of eight pairs a pass (dpo_micro8) ours makes several where that saves padding; ppo compares the values of
its first batch; ppo_trl generates 24 tokens of each response and compares none; ppo_dpo is there for its memory alone,
as PPO takes longer than DPO by design.

Not all of it carries over to other work. Responses of a record share its prompt here, so the longer prompts are beside
responses, the more is gained (`prompt=` and `response=` ask for other lengths). On a CPU TRL computes the head's logits
of every position, of prompts and padding too, which is much where the vocabulary is large beside the model; on a GPU it
does not. Neither side compiles.
"""


def page(folder: Path) -> str:
    """Of all JSON files in the folder."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    head = ("", "size", "products", "tokens of a prompt, a response", "other side", "its settings", "our s", "its s",
            "CPU time", "time", "memory", "our MiB", "largest difference of values")
    lines = [head, ("---",) * len(head), *map(row, found)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([HEAD, table, "", *origins(found), ""])


def shown(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def row(one: dict[str, Any]) -> tuple[str, ...]:
    (_, ours), (name, other) = one["sides"].items()
    options = ", ".join(f"{key}={value}" for key, value in other["option"].items()) or "as they come"
    each = [statistics.median(run["seconds"] / run["items"] for run in side["runs"]) for side in (ours, other)]
    taken = statistics.median(memory(run) / MIB for run in ours["runs"])
    ratios = (shown(one["ratios"][key]) for key in ("cpu_seconds", "seconds", "memory"))
    same = f"{one['parity']['largest_difference']:.1e}" if one["parity"]["values"] else "no values"
    texts = ", ".join(one["lengths"])
    if one.get("data"):
        texts += f"; {one['data']} ({one['data_sha256'][:8]})"
    return (f"{one['what']}, {one['unit']}", one["size"], one["precision"], texts, name, options,
            *(f"{s:.3g}" for s in each), *ratios, f"{taken:.0f}", same)


def elsewhere(one: dict[str, Any]) -> str:
    """The versions of a side that ran in another environment."""
    other = {side: [f"{name} {version}" for name, version in told.get("versions", {}).items()
                    if version != one["versions"].get(name)] for side, told in one["sides"].items()}
    return "".join(f"; {side} with {', '.join(versions)}" for side, versions in other.items() if versions)


def origins(found: list[dict[str, Any]]) -> list[str]:
    """What they ran on and how they are made again, once for all that share it."""
    told: dict[str, list[str]] = {}
    for one in found:
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        again = (f"python -m benchmarks.speed what={one['what']} size={one['size']} device={one['device_kind']} "
                 f"precision={one['precision']} repeats={one['repeats']} steps={one['steps']}")
        other, lengths = elsewhere(one), Lengths.read(*one["lengths"])
        if lengths != Lengths():
            again += " prompt={} response={}".format(*lengths.texts)
        if one.get("data"):
            again += f" data={one['data']}"
        place = f"{one['device']}; commit {one['commit']}; {versions}{other}:"
        told.setdefault(place, []).append(f"- `{again}{' trl_ppo=PYTHON' if other else ''}`")
    return [line for place, commands in told.items() for line in (place, "", *commands, "")]
