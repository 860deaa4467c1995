"""A sweep of jobs that share stages, against the same jobs one by one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from algorithms.common.support.checkout import project
from benchmarks.speed.request import Answer
from benchmarks.speed.scaling.point import Figure, Point, Spread, per

ROOT = project()
BETAS = (0.05, 0.1, 0.2, 0.4)  # what the jobs differ in
SWEEP, KEPT, APART = "one sweep", "one by one, one store", "one by one, a store each"
TITLE = "Jobs of a sweep"
WORDS = ("DPO on the reviews lab in small (`debug=trial`) with m values of β, all stages missing at the beginning: as "
         "one sweep; one by one over the same store, so that every stage is built by the job that first needs it, "
         "which is the sum of the jobs' own parts; and one by one, each over a store of its own. CPU seconds are of "
         "whole processes, their start included.")
X = "m, jobs"
SECONDS = per("cpu_seconds", "CPU seconds", unit="one")
FIGURES = (SECONDS, Figure("stages built", lambda run: run["built"]),
           Figure("different ones among them", lambda run: run["different"], drawn=False),
           Figure("peak memory, MiB", lambda run: run["peak_bytes"] / (1 << 20), drawn=False))


def points(most: int) -> list[Point]:
    return [Point("jobs", line, x) for x in (1, 2, 4) for line in (SWEEP, KEPT, APART)]


def commands(point: Point, work: Path) -> list[list[str]]:
    def command(number: int, *more: str, betas: tuple[float, ...], store: int) -> list[str]:
        return [sys.executable, str(ROOT / "run.py"), *more, "algorithm=dpo", "debug=trial", "trainer.progress=false",
                f"algorithm.beta={','.join(map(str, betas))}", f"stages.folder={work / f'stages{store}'}",
                f"hydra.run.dir={work / f'run{number}'}", f"hydra.sweep.dir={work / f'run{number}'}"]

    if point.line == SWEEP:
        return [command(0, "-m", betas=BETAS[:point.x], store=0)]
    return [command(job, betas=(beta,), store=job if point.line == APART else 0)
            for job, beta in enumerate(BETAS[:point.x])]


def measure(point: Point, work: str) -> dict[str, float]:
    answer, folder = Answer(items=point.x), Path(work)
    with answer.watched("cpu"):
        for command in commands(point, folder):
            done = subprocess.run(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True,
                                  text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command[1:])}: {(done.stderr or done.stdout).strip()[-1000:]}")
    built = entries(folder)
    return {"seconds": answer.seconds, "cpu_seconds": answer.cpu_seconds, "items": answer.items, "one": 1,
            "built": sum(built.values()), "different": len(built)}


def entries(work: Path) -> Counter[str]:
    """Stages by their names, which are of their content, and in how many stores each was built."""
    return Counter(path.parent.name for path in work.glob("stages*/*/manifest.json"))


def sentence(found: dict[tuple[str, int], dict[str, Spread]]) -> str:
    said = []
    for m in sorted({x for _, x in found}):
        if m > 1 and all((line, m) in found for line in (SWEEP, KEPT, APART)):
            swept, kept, apart = (found[line, m][SECONDS.title].median for line in (SWEEP, KEPT, APART))
            said.append(f"{m} jobs as one sweep take {swept / kept:.2f} of the sum of their own parts, and "
                        f"{swept / apart:.2f} of what they take apart.")
    return " ".join(said)
