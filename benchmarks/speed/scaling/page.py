"""The curves of a folder as one Markdown page, with a picture each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.curve_parts import markdown
from benchmarks.speed.scaling.picture import picture
from benchmarks.speed.scaling.point import KINDS, Figure, Spread, kind, spread

FOLDER = "scaling"  # beside the page: figures and pictures
HEAD = """# How cost grows

Every point is the median of runs in processes of their own, in brackets the smallest and the largest; the runs of all
points of a curve took turns. Memory is the peak, seen from outside, above what the imports took. In the pictures bars
are from the smallest to the largest run. `python -m benchmarks.speed.scaling --help` says what is measured.
"""
Found = dict[tuple[str, int], dict[str, Spread]]  # line and x → by its title a figure


def write(out: Path) -> None:
    """Pictures and page of what was measured so far."""
    sections, origins = [], []
    for what in KINDS:
        path = out / FOLDER / f"{what}.json"
        if not path.is_file():
            continue
        measured = json.loads(path.read_text(encoding="utf-8"))
        found = figures(measured["points"], kind(what).FIGURES)
        if found:
            path.with_suffix(".svg").write_text(picture(found, kind(what).X, kind(what).FIGURES), encoding="utf-8")
        sections.append(section(what, measured, found))
        origins.append(origin(measured))
    text = "\n\n".join([HEAD.rstrip(), *sections, "\n".join(origins)]) + "\n"
    (out / "scaling.md").write_text(text, encoding="utf-8")


def figures(points: Sequence[dict[str, Any]], asked: Sequence[Figure]) -> Found:
    """Of the points that were measured."""
    return {(one["line"], one["x"]): {figure.title: found for figure in asked
                                      if (found := spread(figure, one["runs"])) is not None}
            for one in points if one["runs"]}


def section(what: str, measured: dict[str, Any], found: Found) -> str:
    module = kind(what)
    parts = [f"## {module.TITLE}", module.WORDS]
    if found:
        parts.append(f"![{module.TITLE}: cost against {module.X}]({FOLDER}/{what}.svg)")
        parts.append(table(found, module.X, module.FIGURES))
        if said := module.sentence(found):
            parts.append(said)
    parts += [f"Left out: {one['line']}, {one['x']:,}: {one['failed']}" for one in measured["points"] if one["failed"]]
    return "\n\n".join(parts)


def table(found: Found, x: str, asked: Sequence[Figure]) -> str:
    lines = {line for line, _ in found}
    rows = [[f"{at:,}", *([line] if len(lines) > 1 else []), *(shown(of.get(figure.title)) for figure in asked)]
            for (line, at), of in found.items()]
    return markdown([x, *([""] if len(lines) > 1 else []), *(figure.title for figure in asked)], rows)


def shown(value: Spread | None) -> str:
    """Three digits of each, without a bracket where all runs have the same."""
    if value is None:
        return ""
    median, *ends = map(number, value)
    return median if set(ends) == {median} else f"{median} [{', '.join(ends)}]"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def origin(measured: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in measured["versions"].items())
    most = f" most={measured['most']}" if measured["what"] == "records" else ""
    again = f"python -m benchmarks.speed.scaling what={measured['what']} repeats={measured['repeats']}{most}"
    return f"- `{again}`: {measured['device']}; commit {measured['commit']}; {versions}"
