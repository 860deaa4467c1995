"""One measured point of a curve, in a process of its own: python -m benchmarks.speed.scaling.point POINT, as JSON; the
last line is its answer."""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from benchmarks.speed.side import resident

KINDS = ("k", "length", "size", "records", "jobs")
MIB = 1 << 20


@dataclass(frozen=True)
class Point:
    """Where on which curve."""

    kind: str
    line: str  # of several in one picture
    x: int


class Spread(NamedTuple):
    """A figure over the runs of a point."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """What is read off a point's runs."""

    title: str  # with its unit
    of: Callable[[dict[str, float]], float | None]  # of a run; None where the run has none
    drawn: bool = True


def per(key: str, title: str, unit: str = "items", factor: float = 1.0, drawn: bool = True) -> Figure:
    """A run's number by that of another."""
    return Figure(title, lambda run: factor * run[key] / run[unit], drawn)


def memory(run: dict[str, float]) -> float:
    """MiB, the peak above what the imports took."""
    return max(0.0, run["peak_bytes"] - run["imported_bytes"]) / MIB


MEMORY = Figure("peak memory, MiB", memory)


def spread(figure: Figure, runs: list[dict[str, float]]) -> Spread | None:
    """None where no run has the figure."""
    found = [value for value in map(figure.of, runs) if value is not None]
    return Spread(statistics.median(found), min(found), max(found)) if found else None


def kind(what: str):
    """The module that measures it."""
    return importlib.import_module(f"benchmarks.speed.scaling.{what}")


def ran(point: Point) -> dict[str, float]:
    """A point's numbers from a process of its own. RuntimeError where it failed."""
    from benchmarks.speed.compare import watched

    with tempfile.TemporaryDirectory() as work:
        return watched("benchmarks.speed.scaling.point", {**asdict(point), "work": work}, work)


def answer(kind_name: str, line: str, x: int, work: str) -> dict[str, Any]:
    module = kind(kind_name)
    importlib.import_module("peft")
    before = resident()
    return {"imported_bytes": before, **module.measure(Point(kind_name, line, x), work)}


def no_more_than_there_is() -> None:
    """What asks for more memory than is free fails, rather than the machine. Nothing where the system cannot."""
    try:
        import resource
    except ImportError:
        return
    import psutil

    free = psutil.virtual_memory().available
    resource.setrlimit(resource.RLIMIT_DATA, (free, resource.getrlimit(resource.RLIMIT_DATA)[1]))


if __name__ == "__main__":
    no_more_than_there_is()
    told = json.loads(sys.argv[1])
    print(json.dumps(answer(told["kind"], told["line"], told["x"], told["work"])))
