"""Parity, the search for the other side's best settings, and interleaved runs, each in a process of its own."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from algorithms.common.support.checkout import project
from benchmarks.speed.request import PARITY_STEPS, Request
from benchmarks.speed.side import kind

ROOT = project()
REORDERS = "train_sampling_strategy"  # a setting under which steps have other records
TOLERANCE = {"fp32": 3e-5, "bf16": 3e-2}  # relative, of a step's loss on responses of up to SHORT tokens
SHORT = 96


class Apart(Exception):
    """The sides do not compute the same."""


def run(request: Request) -> dict[str, Any]:
    """One side's answer, with what was seen of its process from outside. RuntimeError where it failed."""
    elsewhere = request.side == getattr(kind(request.what), "ELSEWHERE", None)
    python = request.python if elsewhere else sys.executable
    with tempfile.TemporaryDirectory() as work:
        try:
            return watched("benchmarks.speed.side", asdict(replace(request, work=work)), work, python)
        except RuntimeError as error:
            raise RuntimeError(f"{request.what}, {request.side} with {request.option}: {error}") from error


def watched(module: str, asked: dict[str, Any], work: str, python: str = sys.executable) -> dict[str, Any]:
    """What ``python -m module JSON`` answers in its last line, with its seconds and the most memory it had, both seen
    from outside. RuntimeError with the end of its errors where it failed. work: where its caches lie.
    """
    # caches of its own: nothing is found that an earlier run has left
    places = {"HF_HOME": f"{work}/hf", "XDG_CACHE_HOME": f"{work}/cache",
              "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    began = time.monotonic()
    with subprocess.Popen([python, "-m", module, json.dumps(asked)], cwd=ROOT,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **places},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watch = Watch(process.pid)
        output, errors = process.communicate()
        peak = watch.stop()
    seconds = time.monotonic() - began
    if process.returncode:
        raise RuntimeError(errors.strip()[-1500:] or f"ended with {process.returncode}")
    return {**json.loads(output.strip().splitlines()[-1]), "process_seconds": seconds, "peak_bytes": peak}


class Watch:
    """The most memory that a process and those it starts have resident, looked at from outside."""

    EVERY = 0.2  # seconds; the kernel's own mark of the process misses nothing between two looks

    def __init__(self, pid: int):
        import psutil

        self._process, self._peak, self._over = psutil.Process(pid), 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        import psutil

        process = self._process
        while not self._over.wait(self.EVERY):
            try:
                # what they share with their parent, as a forked worker does nearly all, is counted there
                others = sum(child.memory_full_info().uss for child in process.children(recursive=True))
                self._peak = max(self._peak, process.memory_info().rss + others, high_water(process.pid))
            except psutil.Error:  # one of them is gone
                continue

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak


def high_water(pid: int) -> int:
    """The kernel's own mark of a process, which misses nothing between two looks; 0 where there is none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def largest_difference(values: dict[str, list[float]]) -> float:
    """Relative, between the sides' values one by one. Apart where they are not as many."""
    (first, one), (second, other) = values.items()
    if len(one) != len(other):
        raise Apart(f"found {len(one)} values of {first} for {len(other)} of {second}")
    return max((abs(a - b) / max(abs(a), abs(b), 1e-9) for a, b in zip(one, other)), default=0.0)


def tolerance_of(request: Request) -> float:
    """Relative. A preference's margin is a difference of sums over responses' tokens: so is its rounding."""
    if getattr(kind(request.what), "EXACT", False):
        return 0.0
    return TOLERANCE[request.precision] * max(1.0, request.lengths.response[1] / SHORT)


def check_parity(request: Request, settings: dict[str, dict]) -> dict[str, float]:
    """Both sides on the same few steps; Apart where they differ. settings: of each side."""
    measured = kind(request.what)
    tolerance = tolerance_of(request)
    if not getattr(measured, "COMPARED", True):
        return {"values": 0.0, "largest_difference": 0.0, "tolerance": tolerance}
    # the first loss is before any update, and that of DPO is ln 2 whatever the model
    asked = replace(request, steps=min(getattr(measured, "PARITY", PARITY_STEPS), max(request.steps, 2)), parity=True)
    values = {side: run(replace(asked, side=side, option=option))["values"] for side, option in settings.items()}
    found = largest_difference(values)
    if found > tolerance:
        shown = {side: [round(value, 6) for value in one[:4]] for side, one in values.items()}
        raise Apart(f"found values that differ by {found:.2g} with {settings}: {shown}; expected at most {tolerance:g}")
    return {"values": float(len(next(iter(values.values())))), "largest_difference": found, "tolerance": tolerance}


def options_of(measured: Any, side: str) -> list[dict]:
    """The settings of a side that are tried."""
    return measured.OPTIONS.get(side, [{}])


def best_option(request: Request, options: list[dict]) -> tuple[dict, list[dict]]:
    """The fastest of a side's settings, in fewer steps than are timed, and the seconds of each (None: it failed).

    On a CPU by CPU time, which other work disturbs less. The two that come first are run once more; their faster run
    counts.
    """
    steps = math.ceil(getattr(kind(request.what), "SEARCHED", 0.5) * request.steps)
    clock = "cpu_seconds" if request.device == "cpu" else "seconds"

    def timed(option: dict) -> dict:
        found = run(replace(request, option=option, steps=steps))
        return {"option": option, "seconds": found["seconds"], "cpu_seconds": found["cpu_seconds"]}

    tried: list[dict] = []
    for option in options:
        try:
            tried.append(timed(option))
        except RuntimeError as error:
            tried.append({"option": option, "seconds": None, "error": str(error)[-300:]})
    worked = sorted((one for one in tried if one["seconds"] is not None), key=lambda one: one[clock])
    if not worked:
        raise RuntimeError(f"{request.what}, {request.side}: none of its settings worked: {tried}")
    if len(worked) > 1:
        again = [timed(one["option"]) for one in worked[:2]]
        worked, tried = sorted(worked[:2] + again, key=lambda one: one[clock]), tried + again
    return worked[0]["option"], tried


def ratio(runs: dict[str, list[dict]], value) -> dict[str, float]:
    """Other side over ours, of runs made one after the other: median and extremes."""
    ours, other = (runs[side] for side in runs)
    found = [value(b) / value(a) for a, b in zip(ours, other)]
    return {"median": statistics.median(found), "low": min(found), "high": max(found)}


def compare(request: Request, repeats: int) -> dict[str, Any]:
    """All of one kind: parity, search, parity of what was found, A B B A …, ratios. Apart where parity fails:
    nothing is timed then."""
    measured = kind(request.what)
    first = {side: options_of(measured, side)[0] for side in measured.SIDES}
    parity = check_parity(request, first)
    sides: dict[str, dict[str, Any]] = {}
    for side, option in first.items():
        options = options_of(measured, side)
        best, tried = best_option(replace(request, side=side), options) if len(options) > 1 else (option, [])
        sides[side] = {"option": best, "searched": tried, "runs": []}
    best = {side: told["option"] for side, told in sides.items()}
    if best != first and not any(REORDERS in option for option in best.values()):
        again = check_parity(request, best)
        parity["largest_difference"] = max(parity["largest_difference"], again["largest_difference"])
    for turn in range(repeats):
        for side, told in list(sides.items())[::-1 if turn % 2 else 1]:
            answered = run(replace(request, side=side, option=told["option"]))
            told["versions"] = answered.pop("versions", {})
            told["runs"].append({key: value for key, value in answered.items() if key != "values"})
    runs = {side: told["runs"] for side, told in sides.items()}
    return {"what": request.what, "unit": measured.UNIT, "size": request.size, "device_kind": request.device,
            "precision": request.precision, "lengths": request.lengths.texts, "steps": request.steps,
            "repeats": repeats, "parity": parity, "sides": sides,
            "ratios": {"seconds": ratio(runs, lambda one: one["seconds"] / one["items"]),
                       "cpu_seconds": ratio(runs, lambda one: one["cpu_seconds"] / one["items"]),
                       "memory": ratio(runs, memory)}}


def memory(one: dict) -> int:
    """Bytes of a run: on a GPU what was allocated there, else what its process had above what the imports took."""
    return one.get("device_bytes") or max(1, one["peak_bytes"] - one["imported_bytes"])
