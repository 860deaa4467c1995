"""How cost grows: with responses to a prompt, length, the model, the file and the sweep.

    python -m benchmarks.speed.scaling [what=k,length,size,records,jobs] [repeats=3] [most=100000]
                                       [out=benchmarks/results/speed]

what     k: RRHF for 1 to 16 responses to a prompt, on shared and on plain rows; length: DPO on texts of 64 to 1,024
         tokens, sdpa and eager; size: DPO by Llamas of 1M to 100M parameters; records: files of 1,000 comparisons and
         more; jobs: sweeps of 1, 2 and 4 jobs, against single runs
repeats  runs of each point; those of a curve's points take turns
most     comparisons of the longest file, by powers of ten from 1,000
out      where scaling.md goes, with figures and pictures in scaling/

Every run is a process of its own, on the CPU. A point whose runs fail, as for want of memory, is left out, and the page
says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from algorithms.common.support.checkout import project
from benchmarks.speed.arguments import parse
from benchmarks.speed.scaling.point import KINDS, Point, kind, ran


@dataclass(frozen=True)
class Plan:
    """The command line."""

    what: tuple[str, ...] = KINDS
    repeats: int = 3
    most: int = 100_000
    out: str = str(project() / "benchmarks/results/speed")


def measured(points: list[Point], repeats: int, run: Callable[[Point], dict[str, float]] = ran) -> list[dict[str, Any]]:
    """Each point's runs, made in turn; one that fails once is run no more, has no runs, and says why."""
    found = [{**asdict(point), "runs": [], "failed": None} for point in points]
    for repeat in range(repeats):
        for point, told in zip(points, found):
            if told["failed"]:
                continue
            try:
                told["runs"].append(run(point))
            except RuntimeError as error:
                told["runs"], told["failed"] = [], (str(error).strip().splitlines() or ["no reason"])[-1][-300:]
            what = told["failed"] or "measured"
            print(f"{point.kind}, {point.line}, {point.x}, run {repeat + 1}: {what}", flush=True)
    return found


def main(arguments: list[str]) -> int:
    """0 where every point was measured, 1 where one was left out."""
    if set(arguments) & {"--help", "-h"}:
        print(__doc__)
        return 0
    plan = parse(Plan, arguments, {"what": KINDS})
    from algorithms.common.runs.results import commit, device_name, versions, write_json
    from benchmarks.speed.scaling.page import FOLDER, write

    out, failed = Path(plan.out), False
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    for what in plan.what:
        points = measured(kind(what).points(plan.most), plan.repeats)
        failed = failed or any(one["failed"] for one in points)
        about = {"what": what, "commit": commit(), "versions": versions(), "device": device_name()}
        write_json(out / FOLDER / f"{what}.json", {**about, "repeats": plan.repeats, "most": plan.most,
                                                   "points": points})
        write(out)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
