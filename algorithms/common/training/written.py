"""What a stage's training writes: metrics that grow while it trains, and what it leaves in the end."""

from __future__ import annotations

import json
from pathlib import Path

from ..algorithm import SAMPLE, Context
from ..support.memory import peak_memory_bytes


class GrowingMetrics:
    """metrics.jsonl of a run's folder, which grows while a stage trains; in the end it is the method's own."""

    def __init__(self, folder: Path | None):
        self._path = None if folder is None else folder / "metrics.jsonl"
        self._write("w", "")

    def add(self, line: dict) -> None:
        self._write("a", json.dumps(_numbers(line), allow_nan=False) + "\n")

    def _write(self, mode: str, text: str) -> None:
        try:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with open(self._path, mode, encoding="utf-8") as file:
                    file.write(text)
        except OSError:  # what is kept of the stage is written elsewhere
            self._path = None


def _numbers(line: dict) -> dict:
    """A step's metrics without what shows a sample."""
    return {name: value for name, value in line.items() if not name.startswith(SAMPLE)}


def _write_lines(path: Path, table: list[dict]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in table)


def write_report(context: Context, lines: list[dict], seconds: float, steps: int, tokens: int, trainable: int) -> None:
    """What training leaves besides weights: metrics.jsonl, a line per step, and fit.json, what it took; where it
    sampled, also rollouts.jsonl, one of each step.
    """
    _write_lines(context.target / "metrics.jsonl", list(map(_numbers, lines)))
    shown = [{name.removeprefix(SAMPLE): value for name, value in line.items() if name.startswith(SAMPLE)}
             for line in lines]
    if any(shown):
        _write_lines(context.target / "rollouts.jsonl",
                     [{"step": line["step"], **sample} for line, sample in zip(lines, shown)])
    models, meter, records = context.models, context.meter, len(context.examples) if steps else 0
    seen = context.visited() if steps else ()
    report = {"seconds": seconds + meter.seconds, "steps": steps, "tokens_trained": tokens,
              "tokens_sampled": meter.tokens_sampled, "reward_queries": meter.reward_queries,
              "trainable_parameters": trainable,
              "peak_memory_bytes": max(peak_memory_bytes(models.device), meter.peak_memory_bytes),
              "resident_models": len(models.used), "records": records,
              "truncated": sum(context.examples[index].truncated for index in seen)}
    (context.target / "fit.json").write_text(json.dumps(report, allow_nan=False), encoding="utf-8")
