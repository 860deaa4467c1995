"""Folders of runs as a table reads them, made by hand: result.json and figures.parquet."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.report import collect, table
from benchmarks.tables import Table, write

# spec of the estimators: mean 2 [−.349468, 4.349468]; less SFT 1.5 [−.308132, 3.308132], p .076587; the first row alone
# 1.75 [−.967531, 4.467531]
GOLD = ((1, 2, 0, 4), (2, 3, 1, 3), (0, 2, 1, 5))   # (seeds, prompts)
START = ((0, 1, 0, 1), (1, 1, 0, 0), (0, 0, 0, 2))


def figure(values, kind: str = "mean", prompts: Sequence[str] | None = None, weights=1.0,
           unit: str = "prompts") -> dict:
    """One value per prompt, p0, p1, … where they are not named."""
    values = np.asarray(values, dtype=float)
    return {"kind": kind, "unit": unit, "cells": pd.DataFrame({
        "prompt_id": prompts if prompts is not None else [f"p{index}" for index in range(len(values))],
        "numerator": values, "denominator": np.broadcast_to(np.asarray(weights, dtype=float), values.shape)})}


def known(mean: float, low: float | None = None, high: float | None = None, kind: str = "constant", n: int = 4,
          unit: str = "prompts") -> dict:
    """A figure without rows."""
    low, high = mean if low is None else low, mean if high is None else high
    return {"mean": mean, "low": low, "high": high, "n": n, "unit": unit, "seeds": 1, "kind": kind}


def result(algorithm: str = "dpo", seed: int = 0, overrides: Sequence[str] = (), figures: dict | None = None,
           **fields) -> dict:
    """A complete result.json; `figures`, by name, are those of `figure` and `known`."""
    figures = {"reward/gold": figure(GOLD[0])} if figures is None else figures
    report = {"figure": None, "family": "all", "margin": None}
    return {
        "schema": 2, "status": "complete", "algorithm": algorithm, "seed": seed, "config": {"report": report},
        "overrides": [f"algorithm={algorithm}", f"seed={seed}", *overrides], "commit": "abc1234", "versions": {},
        "device": "cpu", "data": {"read": 500, "dropped": {}, "truncated": 0, "fallbacks": {}}, "samples": 1,
        "start": {"kind": "sft", "identity": "s"}, "evaluation": {name: _told(one) for name, one in figures.items()},
        "cost": {"seconds": 10.0, "stages": {}}, "budget": {"equal": "labels"}, "figures": figures, **fields,
    }


def _told(one: dict) -> dict:
    if "cells" not in one:
        return one
    cells = one["cells"]
    mean = cells["numerator"].sum() / cells["denominator"].sum()
    mean = float(np.exp(mean) if one["kind"] == "perplexity" else mean)
    return {"mean": mean, "low": mean - 1, "high": mean + 1, "n": len(cells), "unit": one["unit"], "seeds": 1,
            "kind": one["kind"]}


def failed(algorithm: str = "ppo", seed: int = 0, message: str = "reward: found a string; expected a number",
           overrides: Sequence[str] = (), kind: str = "TrainingError") -> dict:
    """A failed run's result.json."""
    raw = result(algorithm, seed, overrides, status="failed", error={"type": kind, "message": message})
    return {key: value for key, value in raw.items() if key not in ("evaluation", "cost", "data", "budget", "figures")}


def method(algorithm: str, values, start=None, seeds: Sequence[int] | None = None, overrides: Sequence[str] = (),
           prompts: Sequence[Sequence[str]] | None = None, **fields) -> list[dict]:
    """Runs of all seeds, gold `values` (S, P); with `start`, the start's, also the differences and the win rate."""
    runs = []
    for index, gold in enumerate(np.asarray(values, dtype=float)):
        names = prompts[index] if prompts is not None else None
        figures = {"reward/gold": figure(gold, prompts=names)}
        if start is not None:
            before = np.asarray(start, dtype=float)[index]
            wins = (gold > before) + 0.5 * (gold == before)
            figures["reward/gold_minus_sft"] = figure(gold - before, prompts=names)
            figures["win_rate/sft"] = figure(wins, "share", prompts=names)
        runs.append(result(algorithm, seeds[index] if seeds is not None else index, overrides, figures, **fields))
    return runs


def save(folder: Path, *results: dict) -> Path:
    """Writes each run into a folder of its own, 0, 1, …"""
    for number, raw in enumerate(results):
        write_run(folder / str(number), raw)
    return folder


def write_run(folder: Path, raw: dict) -> None:
    """A run's files; `before`, by name, are figures of its start."""
    folder.mkdir(parents=True)
    for key, file in (("figures", "figures.parquet"), ("before", "start.parquet")):
        if key in raw:
            cells = [one["cells"].assign(figure=name) for name, one in raw[key].items() if "cells" in one]
            empty = pd.DataFrame({"figure": [], "prompt_id": [], "numerator": [], "denominator": []})
            (pd.concat(cells, ignore_index=True) if cells else empty).to_parquet(folder / file, index=False)
    raw = {key: value for key, value in raw.items() if key != "figures"}
    if before := raw.pop("before", None):
        raw["start"] = {**raw["start"], "evaluation": {name: _told(one) for name, one in before.items()}}
    text = json.dumps(raw)
    (folder / "result.json").write_text(text, encoding="utf-8")


def made(folder: Path, *results: dict) -> Table:
    """The table of these runs."""
    return table(collect([save(folder, *results)]))


def markdown(folder: Path, *results: dict) -> str:
    """Its table.md; the others lie beside it."""
    write(made(folder, *results), folder)
    return (folder / "table.md").read_text(encoding="utf-8")


def seeded(name: str, matrices: dict[str, Sequence[dict]], **fields) -> list[dict]:
    """Runs of one method: of each figure one `figure` or `known` per seed."""
    count = len(next(iter(matrices.values())))
    return [result(name, seed, figures={key: one[seed] for key, one in matrices.items()}, **fields)
            for seed in range(count)]
