"""A sweep as it goes on, whatever launched it: jobs done, at which stage, failed or stopped, and how long it takes.

    python -m benchmarks.watch FOLDER        # a sweep's folder; ends when its last job has, or by Ctrl-C

Reads what the jobs write of themselves (sweep.json, job.json, result.json), so it may run anywhere the folder is seen.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from algorithms.common.runs import jobs

from .results_read import SWEEP
from .tables import plain

STATES = ("done", "failed", "stopped", "running", "lost", "to come")


@dataclass(frozen=True)
class Job:
    """One job of a sweep."""

    name: str
    algorithm: str
    state: str                      # of STATES; stopped: from outside; lost: its process is gone and left no result
    seconds: float = 0.0            # since it began, or that it took
    at: str = ""                    # the stage it is at, or why it failed


@dataclass
class Overview:
    """All jobs of the sweeps in a folder."""

    jobs: list[Job] = field(default_factory=list)
    at_once: int = 1                # jobs that run beside each other

    def of(self, state: str) -> list[Job]:
        return [job for job in self.jobs if job.state == state]

    def seconds_left(self) -> float | None:
        """By what finished jobs took, those of the same method where there are any; None before the first."""
        took: dict[str, list[float]] = {}
        for job in self.of("done"):
            took.setdefault(job.algorithm, []).append(job.seconds)
        if not took:
            return None
        medians = {name: statistics.median(times) for name, times in took.items()}
        usual = statistics.median(medians.values())
        running = [max(0.0, medians.get(job.algorithm, usual) - job.seconds) for job in self.of("running")]
        waiting = [medians.get(job.algorithm, usual) for job in self.of("to come")]
        return max([(sum(running) + sum(waiting)) / max(1, self.at_once), *running])

    def lines(self) -> list[str]:
        """What is shown: counts, then a line for each job that runs, failed, was stopped or was lost."""
        counts, left = Counter(job.state for job in self.jobs), self.seconds_left()
        told = [f"{len(self.jobs)} jobs", *(f"{counts[state]} {state}" for state in STATES if counts[state])]
        if counts["running"] + counts["to come"]:
            told.append("none has finished, so nobody knows how long" if left is None else f"about {span(left)} left")
        shown = [f"{job.name}: {job.at}, {span(job.seconds)}" for job in self.of("running")]
        shown += [f"{job.name}: {state}: {job.at}" for state in ("failed", "stopped", "lost") for job in self.of(state)]
        return [", ".join(told), *(plain(line)[:200] for line in shown)]


def overview(folder: Path, now: float | None = None) -> Overview:
    """The state of the sweeps at or below a folder. FileNotFoundError where there is none."""
    found, now = Overview(), time.time() if now is None else now
    paths = sorted(folder.rglob(SWEEP))
    if not paths:
        raise FileNotFoundError(f"{folder}: found no {SWEEP}; expected the folder of a sweep that has begun; "
                                "fix: wait for it to begin, or name its hydra.sweep.dir")
    several = len(paths) > 1
    for path in paths:
        asked, begun = json.loads(path.read_text(encoding="utf-8")), jobs.marks(path.parent)
        found.at_once = max(found.at_once, asked["at_once"])
        varying = _varying([one["overrides"] for one in asked["jobs"]])
        for one in asked["jobs"]:
            where = f"{path.parent.relative_to(folder)}/" if several else ""
            name = " ".join([f"#{where}{one['num']}", str(one["algorithm"]),
                             *(given for given in one["overrides"] if given.partition("=")[0] in varying)])
            found.jobs.append(_job(name, str(one["algorithm"]), begun.get(one["num"]), now))
        more = (asked.get("trials") or 0) - len(asked["jobs"])
        found.jobs += [Job("a trial", str(asked["jobs"][0]["algorithm"]), "to come")] * max(0, more)
    return found


def _job(name: str, algorithm: str, mark: tuple[Path, dict] | None, now: float) -> Job:
    if mark is None:
        return Job(name, algorithm, "to come")
    folder, told = mark
    seconds = told.get("ended", now) - told["began"]
    if jobs.ended(folder):
        result = json.loads((folder / jobs.RESULT).read_text(encoding="utf-8"))
        if result["status"] == "complete":
            return Job(name, algorithm, "done", seconds)
        state = "stopped" if result["error"]["type"] == "Stopped" else "failed"
        return Job(name, algorithm, state, seconds, result["error"]["message"].splitlines()[0])
    stage = told["stage"] or "reading data"
    at = stage if told["steps"] is None else f"{stage}, step {told['step']} of {told['steps']}"
    if "ended" in told:
        return Job(name, algorithm, "done", seconds)  # of a task that writes no result.json
    return Job(name, algorithm, "running" if jobs.alive(folder) else "lost", seconds, at)


def _varying(overrides: Sequence[Sequence[str]]) -> set[str]:
    """Keys, but the algorithm's, whose values differ between jobs."""
    values: dict[str, set[str]] = {}
    for job in overrides:
        for one in job:
            key, _, value = one.partition("=")
            values.setdefault(key, set()).add(value)
    return {key for key, given in values.items() if len(given) > 1 and key != "algorithm"}


def span(seconds: float) -> str:
    """A time in the unit that one would say it in."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 where there is no sweep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watch", description="Watch a sweep.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="hydra.sweep.dir of a sweep that has begun")
    parser.add_argument("--once", action="store_true", help="show it once and end")
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="look so often (default: 2)")
    options = parser.parse_args(arguments)
    shown: list[str] = []
    try:
        while True:
            found = overview(options.folder)
            if (lines := found.lines()) != shown:
                if shown and sys.stdout.isatty():
                    print(f"\x1b[{len(shown)}A\x1b[J", end="")  # over what was shown before
                print("\n".join(lines), flush=True)
                shown = lines
            if options.once or not found.of("running") + found.of("to come"):
                return 0
            time.sleep(options.every)
    except FileNotFoundError as error:
        print(plain(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
