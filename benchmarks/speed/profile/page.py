"""Where time goes, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.curve_parts import markdown
from benchmarks.speed.profile.groups import FUNCTIONS, OPERATORS, OTHER, PRODUCTS

FOLDER = "profile"  # beside the page: its figures
REST = "other, Python included"
HEAD = """# Where time goes

Self time of the operators of PyTorch by kind, of work of a fixed shape; "other, Python included" is the time of the
same work without the profiler less all of them, so what the profiler adds to each operator is taken from it. On a GPU
the times are the device's. `python -m benchmarks.speed.profile --help` says what is measured.
"""


def page(folder: Path) -> str:
    """Of all JSON files in the folder."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return "\n\n".join([HEAD.rstrip(), *map(section, found)]) + "\n"


def section(found: Mapping[str, Any]) -> str:
    trained = [part for part in found["parts"] if part["part"] != "loading"]
    loaded = [part for part in found["parts"] if part["part"] == "loading"]
    parts = [f"## {found['size']}, {found['device_kind']}, {found['precision']}"]
    if trained:
        parts += [operators_table(trained, found["product_rate"]), *notes(trained)]
    for part in loaded:
        parts += ["Loading a file of comparisons (Python's functions by cProfile, their shares of the time without it; "
                  "what consists of many short calls is overstated):", loading_table(part)]
        parts += largest(part["phases"], "other functions")
    return "\n\n".join([*parts, origin(found)])


def rest(phase: Mapping[str, Any]) -> float:
    """Seconds that no operator took; below 0 where the profiler added more than there is."""
    return phase["seconds"] - sum(phase["groups"].values())


def operators_table(parts: Sequence[Mapping[str, Any]], rate: float) -> str:
    phases = [(part, phase) for part in parts for phase in part["phases"]]
    rows = [[group, *(cell(phase["groups"].get(group, 0.0), phase["seconds"], part["count"])
                      for part, phase in phases)] for group in [*OPERATORS, OTHER]]
    rows.append([REST, *(cell(max(0.0, rest(phase)), phase["seconds"], part["count"]) for part, phase in phases)])
    rows.append(["measured without the profiler", *(duration(phase["seconds"] / part["count"])
                                                    for part, phase in phases)])
    rows.append(["matrix products, GFLOP/s", *(products(phase, rate) for _, phase in phases)])
    table = markdown(["", *(phase["phase"] for _, phase in phases)], rows)
    return f"{table}\n\nA product of two large matrices in the same precision: {rate / 1e9:.3g} GFLOP/s."


def cell(seconds: float, whole: float, count: int) -> str:
    return f"{duration(seconds / count)}, {100 * seconds / whole:.0f} %" if seconds else "0"


def duration(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def products(phase: Mapping[str, Any], rate: float) -> str:
    seconds = phase["groups"].get(PRODUCTS, 0.0)
    if not seconds:
        return ""
    return f"{phase['flop'] / seconds / 1e9:.3g}, {100 * phase['flop'] / seconds / rate:.0f} %"


def notes(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What stands in no group by name, and where the profiler's own time shows."""
    phases = [phase for part in parts for phase in part["phases"]]
    said = largest(phases, OTHER)
    added = [f"{phase['phase']} {-100 * rest(phase) / phase['seconds']:.0f} %" for phase in phases if rest(phase) < 0]
    if added:
        said.append("Under the profiler the operators took more than the whole takes without it, so nothing is left "
                    f"for what stands beside them: {'; '.join(added)}.")
    return said


def largest(phases: Sequence[Mapping[str, Any]], what: str) -> list[str]:
    """The most of what fits no pattern, by phase."""
    named = [f"{phase['phase']}: " + ", ".join(f"`{name}` {100 * seconds / phase['seconds']:.1f} %"
                                               for name, seconds in phase["largest"].items())
             for phase in phases if phase["largest"]]
    return [f"The most of {what}: {'; '.join(named)}."] if named else []


def loading_table(part: Mapping[str, Any]) -> str:
    (phase,) = part["phases"]
    rows = [[group if group != OTHER else "other functions", duration(phase["groups"].get(group, 0.0) / part["count"]),
             f"{100 * phase['groups'].get(group, 0.0) / phase['seconds']:.0f} %"] for group in [*FUNCTIONS, OTHER]]
    rows.append(["measured without the profiler", duration(phase["seconds"] / part["count"]), "100 %"])
    return markdown(["", "a record", "share"], rows)


def origin(found: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    again = (f"python -m benchmarks.speed.profile size={found['size']} device={found['device_kind']} "
             f"precision={found['precision']}")
    return f"`{again}`: {found['device']}; commit {found['commit']}; {versions}"
