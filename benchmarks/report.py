"""Result files → one table: Markdown, CSV, LaTeX and terminal.

    python -m benchmarks.report FOLDER…      # rebuilds the table of the runs below these folders and prints it

Reads the files that runs left (result.json) and nothing else, so a table can be made again anywhere, without a model.
Rows are algorithms, told apart by the overrides that vary besides the seed; several seeds become one row.
"""

import argparse
import json
import logging
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback

from algorithms.common.evaluation.statistics import Estimate, over_seeds
from benchmarks.tables import Row, Table, plain, print_table, write

log = logging.getLogger(__name__)

SCHEMA = 1
exit_code = 0  # of the process: 1 once a multirun's job has failed; run.py exits with it

COSTS = ("seconds", "tokens_trained", "tokens_sampled", "labels", "reward_queries", "peak_memory_bytes", "resident_models",
         "trainable_parameters")


class ReportError(ValueError):
    """A result file or folder that cannot be used: says which, what was found and what was expected."""


@dataclass(frozen=True)
class Result:
    """One run, as its result.json tells it. A run that left none is failed and has a seed only if it was given one."""

    folder: Path
    status: str                                 # complete | failed
    algorithm: str
    seed: int | None
    overrides: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    evaluation: dict[str, Estimate] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)  # stages stood on included
    budget: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    commit: str | None = None
    device: str | None = None


def collect(folders: Sequence[str | Path]) -> list[Result]:
    """All runs at or below `folders`, in the order of their paths; a job that ended without a result is failed.

    ReportError for a folder that does not exist and for a result.json that is not what a run writes.
    """
    found: dict[Path, Result] = {}
    for top in map(Path, folders):
        if not top.is_dir():
            raise ReportError(f"{top}: found no such folder; expected one with results of runs")
        for path in top.rglob("result.json"):
            found[path.parent.resolve()] = _read(path)
        for path in top.rglob(".hydra/hydra.yaml"):
            folder = path.parent.parent
            if folder.resolve() not in found and (unfinished := _unfinished(folder, path)):
                found[folder.resolve()] = unfinished
    return [found[folder] for folder in sorted(found, key=_natural)]


def table(results: Sequence[Result]) -> Table:
    """One row per algorithm and setting, failed jobs after their algorithm's rows, and what a reader must know."""
    varying = _varying(results)
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault((result.algorithm, _settings(result, varying)), []).append(result)
    rows, notes = [], []
    for (algorithm, settings), members in groups.items():
        complete = [result for result in members if result.status == "complete"]
        repeated = len({result.seed for result in complete}) < len(complete)  # the same run twice is no second seed
        for runs in ([[result] for result in complete] if repeated else [complete] if complete else []):
            row, missing = _row(algorithm, dict(settings), runs, runs[0].folder.name if repeated else "")
            rows.append(row)
            notes += missing
        for result in members:
            if result.status == "failed":
                rows.append(Row(algorithm, dict(settings), (result.seed,), origin=_origin(result), error=result.error))
    return Table(rows, [*_held_equal(results), *_meaning(rows), *notes, *_data(results), *_origins(results),
                        *(f"{row.label}: {_cut(row.error)}." for row in rows if row.error is not None)])


class TableCallback(Callback):
    """At the end of a multirun: writes the table into the sweep's folder, prints it, and sets `exit_code`."""

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        global exit_code
        before, exit_code = exit_code, 1  # Hydra only warns when a callback raises; the process must not end with 0
        folder = Path(config.hydra.sweep.dir)
        results = collect([folder])
        if results:
            made = table(results)
            write(made, folder)
            print_table(made)
            log.info("table.md, table.csv and table.tex are in %s", folder)
        exit_code = 1 if any(result.status == "failed" for result in results) else before


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 where the folders hold nothing that can be shown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Make the table of finished runs.")
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="searched for result.json, at any depth")
    parser.add_argument("--out", help="where table.md, table.csv and table.tex go (default: FOLDER, if it is only one)")
    options = parser.parse_args(arguments)
    try:
        results = collect(options.folders)
        if not results:
            raise ReportError(f"{', '.join(options.folders)}: found no result.json; expected the folder of a run")
        made = table(results)
        out = options.out or (options.folders[0] if len(options.folders) == 1 else None)
        if out is not None:
            write(made, out)
    except (ReportError, OSError) as error:
        print(plain(str(error)), file=sys.stderr)
        return 2
    print_table(made)
    return 0


# Reading


def _read(path: Path) -> Result:
    try:
        raw = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path}: found no strict JSON ({error}); expected what a run writes") from error
    get = _Fields(path, raw)
    if get("schema", int) != SCHEMA:
        raise ReportError(f"{path}: schema: found {raw['schema']!r}; expected {SCHEMA}")
    status = get("status", str)
    if status not in ("complete", "failed"):
        raise ReportError(f"{path}: status: found {status!r}; expected 'complete' or 'failed'")
    error = None
    if status == "failed":
        get = _Fields(path, raw, optional=("evaluation", "cost", "data", "budget", "overrides", "seed"))
        told = _Fields(path, get("error", dict), "error.")
        error = " ".join(f"{told('type', str)}: {told('message', str)}".split())
    return Result(
        folder=path.parent, status=status, error=error, algorithm=get("algorithm", str), seed=get("seed", int),
        overrides=_overrides(path, get("overrides", list) or []),
        evaluation=_evaluation(path, get("evaluation", dict) or {}), cost=_cost(path, get("cost", dict) or {}),
        budget=get("budget", dict, optional=True) or {},
        data=_data_fields(path, get("data", dict, optional=True) or {}),
        commit=get("commit", str, optional=True), device=get("device", str, optional=True),
    )


class _Fields:
    """Typed access to an object's fields with errors that name file and field."""

    def __init__(self, path: Path, raw: Any, prefix: str = "", optional: Sequence[str] = ()):
        self.path, self.raw, self.prefix, self.optional = path, raw, prefix, optional
        if not isinstance(raw, dict):
            raise ReportError(f"{path}: {prefix.rstrip('.') or 'file'}: found a {_kind(raw)}; expected an object")

    def __call__(self, name: str, kind: type | tuple[type, ...], optional: bool = False) -> Any:
        value = self.raw.get(name)
        if value is None and (optional or name in self.optional):
            return None
        if not isinstance(value, kind) or isinstance(value, bool) or isinstance(value, float) and math.isinf(value):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            shown = repr(value)[:60] if name in self.raw else "nothing"
            expected = " or ".join(_NAMES[one] for one in kinds)
            raise ReportError(f"{self.path}: {self.prefix}{name}: found {shown}; expected {expected}")
        return value


_NAMES = {dict: "an object", list: "a list", str: "a string", int: "an integer", float: "a number"}


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > len(dict(pairs)):
        raise ValueError("an object has a key twice")
    return dict(pairs)


def _overrides(path: Path, overrides: list) -> dict[str, str]:
    if odd := [one for one in overrides if not isinstance(one, str)]:
        raise ReportError(f"{path}: overrides: found {odd[0]!r}; expected strings such as 'algorithm=dpo'")
    return {key.lstrip("+"): value for key, _, value in (one.partition("=") for one in overrides)}


def _evaluation(path: Path, evaluation: dict) -> dict[str, Estimate]:
    estimates = {}
    for metric, raw in evaluation.items():
        get = _Fields(path, raw, f"evaluation.{metric}.")
        try:
            estimates[metric] = Estimate(*(get(name, (int, float)) for name in ("mean", "low", "high")), get("n", int))
        except ReportError:
            raise
        except ValueError as error:
            raise ReportError(f"{path}: evaluation.{metric}: {error}") from error
    return estimates


def _cost(path: Path, cost: dict) -> dict[str, float]:
    """The totals, which charge the stages a method stands on. What nobody measured is absent."""
    get = _Fields(path, cost, "cost.")
    found = {name: get(name, (int, float), optional=True) for name in COSTS}
    return {name: value for name, value in found.items() if value is not None}


def _data_fields(path: Path, data: dict) -> dict[str, Any]:
    get = _Fields(path, data, "data.")
    dropped = get("dropped", dict, optional=True) or {}
    by_reason = _Fields(path, dropped, "data.dropped.")
    fallbacks = _Fields(path, get("fallbacks", dict, optional=True) or {}, "data.fallbacks.")
    return {"read": get("read", int, optional=True), "truncated": get("truncated", int, optional=True),
            "dropped": {reason: by_reason(reason, int) for reason in dropped},
            "fallbacks": {name: fallbacks(name, str) for name in fallbacks.raw}}


def _unfinished(folder: Path, path: Path) -> Result | None:
    """A job that Hydra started and that left no result; None for tasks that write none (inspect, chat, merge)."""
    try:
        hydra = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]
        choices, overrides = hydra["runtime"]["choices"], hydra["overrides"]["task"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ReportError(f"{path}: found no job configuration of Hydra ({error!r})") from error
    if choices.get("task", "run") != "run":
        return None
    given = _overrides(path, overrides)
    seed = int(given["seed"]) if re.fullmatch(r"\d+", given.get("seed", "")) else None
    return Result(folder, "failed", str(choices.get("algorithm", "?")), seed, given,
                  error="no result.json: the job was killed or is still running")


def _natural(path: Path) -> list:
    return [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)] for name in path.parts]


# Rows and notes


def _varying(results: Sequence[Result]) -> list[str]:
    """Overrides that differ between runs and make them different things; absent is a value of its own."""
    keys = dict.fromkeys(key for result in results for key in result.overrides)
    return [key for key in keys if key not in ("seed", "algorithm") and not key.startswith(("hydra.", "stages."))
            and len({result.overrides.get(key) for result in results}) > 1]


def _settings(result: Result, varying: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, result.overrides[key]) for key in varying if key in result.overrides)


def _row(algorithm: str, settings: dict[str, str], runs: Sequence[Result], origin: str) -> tuple[Row, list[str]]:
    row = Row(algorithm, settings, tuple(sorted(result.seed for result in runs)), origin)
    notes = []
    for metric in dict.fromkeys(name for result in runs for name in result.evaluation):
        measured = [result.evaluation[metric] for result in runs if metric in result.evaluation]
        row.estimates[metric] = over_seeds(measured) if len(measured) > 1 else measured[0]
        if len(measured) < len(runs):
            notes.append(f"{row.label}: {metric} is from {len(measured)} of {len(runs)} seeds.")
    for name in COSTS:
        if measured := [result.cost[name] for result in runs if name in result.cost]:
            row.costs[name] = sum(measured) / len(measured)
    return row, notes


def _origin(result: Result) -> str:
    return result.folder.name if result.seed is None else f"seed {result.seed}"


def _cut(message: str, length: int = 300) -> str:
    """A message short enough for a note; table.csv has it whole."""
    message = message.rstrip(".")
    return message if len(message) <= length else message[:length] + " …"


def _held_equal(results: Sequence[Result]) -> list[str]:
    """What the runs share by design; a comparison across budgets must not pass for one under a common budget."""
    said: dict[str, list[str]] = {}
    for result in results:
        if result.status == "complete":
            budget = dict(result.budget)
            text = str(budget.pop("equal", None) or "nothing")
            rest = [f"{key} {value}" for key, value in budget.items() if isinstance(value, (str, int, float))]
            said.setdefault(text + (f" ({', '.join(rest)})" if rest else ""), []).append(result.algorithm)
    if len(said) > 1:
        parts = "; ".join(f"{text} for {', '.join(dict.fromkeys(names))}" for text, names in said.items())
        return [f"Held equal: not the same in all rows: {parts}."]
    labels = sorted({result.cost["labels"] for result in results if result.cost.get("labels")})
    if "labels" in said and len(labels) > 1:
        return [f"Not held equal: labels were to be, but rows used {', '.join(f'{count:,.0f}' for count in labels)}."]
    return [f"Held equal: {text}." for text in said]


def _meaning(rows: Sequence[Row]) -> list[str]:
    counts = {len(row.seeds) for row in rows if row.error is None}
    notes = []
    if any(count > 1 for count in counts):
        notes.append("Rows of several seeds: mean and 95% t-interval over seeds; costs are means over seeds.")
    if 1 in counts:
        notes.append("Rows of one seed: 95% bootstrap interval over prompts. With one seed the intervals hold for "
                     "these trained models, not for the algorithm.")
    if any("kl/bound" in row.estimates for row in rows):
        notes.append("KL (bound) is the upper bound log n − (n−1)/n of best-of-n, the other KL columns are measured.")
    if counts:
        notes.append("Costs include those of the stages a method stands on (labels, memory: the largest).")
    return notes


def _data(results: Sequence[Result]) -> list[str]:
    said: dict[str, list[str]] = {}
    for result in results:
        data = result.data
        parts = [f"read {data['read']}"] if data.get("read") is not None else []
        if dropped := {reason: n for reason, n in data.get("dropped", {}).items() if n}:
            parts.append(f"dropped {sum(dropped.values())} ({', '.join(f'{r} {n}' for r, n in dropped.items())})")
        parts += [f"truncated {data['truncated']}"] if data.get("truncated") else []
        parts += [f"{name} ← {source}" for name, source in data.get("fallbacks", {}).items()]
        if parts:
            said.setdefault("; ".join(parts), []).append(result.algorithm)
    if len(said) == 1:
        return [f"Data: {text}." for text in said]
    return [f"Data of {', '.join(dict.fromkeys(names))}: {text}." for text, names in said.items()]


def _origins(results: Sequence[Result]) -> list[str]:
    commits, devices = (sorted({getattr(result, name) for result in results} - {None}) for name in ("commit", "device"))
    parts = [f"commit {', '.join(commits)}"] * bool(commits) + [f"device {', '.join(devices)}"] * bool(devices)
    return [f"Made with: {'; '.join(parts)}."] if parts else []


if __name__ == "__main__":
    sys.exit(main())
