"""What runs left in their folders: result.json and figures.parquet, checked field by field.

Reads these files and nothing else, so that tables can be made anywhere, without a model.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from algorithms.common.evaluation.inference.intervals import Estimate
from algorithms.common.evaluation.verdicts.pairings import AGAIN, natural

from .tables import COSTS

SCHEMA = 2
TRIALS = "trials.json"                      # in a folder whose runs are no rows of a table above it
SWEEP, MARK = "sweep.json", "job.json"      # the jobs that a sweep was asked for; one that has begun
COLUMNS = ("figure", "prompt_id", "numerator", "denominator")
ROWS = ("mean", "share", "perplexity")      # kinds of figures that are made of rows of figures.parquet
KINDS = (*ROWS, "constant", "resampled")
STOPPED, UNBEGUN = "stopped", "not started"    # a job that the same command goes on with
_DIVERGED = re.compile(r"\bnot finite\b|\bno finite\b|\bNaN\b")     # what TrainingError says of numbers


class ReportError(ValueError):
    """A result file or folder that cannot be used: says which, what was found and what was expected."""


@dataclass(frozen=True)
class Figure:
    """One figure of one run."""

    estimate: Estimate
    kind: str                           # mean | share | perplexity | constant | resampled
    cells: pd.DataFrame | None = None   # numerator and denominator by prompt_id; None for kinds that have no rows


@dataclass(frozen=True)
class Result:
    """One run, as its files tell it. A run that left none is failed and has a seed only if it was given one."""

    folder: Path
    status: str                                 # complete | failed
    algorithm: str
    seed: int | None
    overrides: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    trial: bool = False                         # every stage was shrunk: its figures say nothing of the method
    diverged: bool = False                      # failed, since training gave numbers that are not finite
    stopped: str = ""                           # how a run that is lost without being at fault ended: STOPPED | UNBEGUN
    evaluation: dict[str, Figure] = field(default_factory=dict)
    start: tuple[str, str] | None = None        # sft or base, and which: the model that training began with
    before: dict[str, Figure] = field(default_factory=dict)  # evaluation of that model
    identity: str | None = None                 # which stage it is, seeds apart: as the second part of `start`
    cost: dict[str, float] = field(default_factory=dict)  # stages stood on included
    auditor: dict[str, float] = field(default_factory=dict)  # labels and seconds of its own, which no row is charged
    budget: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None   # how a budget of tokens or seconds became steps; None: it did not
    data: dict[str, Any] = field(default_factory=dict)
    declared: dict[str, Any] = field(default_factory=dict)  # the configuration's `report`, as it was before the run
    price: float | None = None                  # of an hour, that `money` among the costs was made of
    commit: str | None = None
    device: str | None = None
    said: tuple[str, ...] = ()                  # of the judges of its answers
    raw: dict[str, Any] = field(default_factory=dict, repr=False)   # result.json whole


def marks(result: Result) -> dict[str, str]:
    """Settings that a row shows whether or not they tell it from others: it is not what its name says."""
    return {"debug": "trial"} if result.trial else {}


def collect(folders: Sequence[str | Path]) -> list[Result]:
    """All runs at or below `folders`, in the order of their paths; a job that ended without a result is failed.

    ReportError for a folder that does not exist and for a result.json that is not what a run writes.
    """
    found: dict[Path, Result] = {}
    for top in map(Path, folders):
        if not top.is_dir():
            raise ReportError(f"{top}: found no such folder; expected one with results of runs")
        trials = [path.parent for path in top.rglob(TRIALS) if path.parent != top]

        def below(name: str) -> list[Path]:
            return [path for path in top.rglob(name) if not any(folder in path.parents for folder in trials)]

        for path in below("result.json"):
            found[path.parent.resolve()] = _read(path)
        for path in below(".hydra/hydra.yaml"):
            folder = path.parent.parent
            if folder.resolve() not in found and (unfinished := _unfinished(folder, path)):
                found[folder.resolve()] = unfinished
        for path in below(SWEEP):
            found.update({one.folder.resolve(): one for one in _never_begun(path)})
    return [found[folder] for folder in sorted(found, key=natural)]


def _read(path: Path) -> Result:
    try:
        raw = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path}: found no strict JSON ({error}); expected what a run writes") from error
    get = _Fields(path, raw)
    if (schema := get("schema", int)) != SCHEMA:
        of = ", which kept no figures by prompt" if schema < SCHEMA else ""
        raise ReportError(f"{path}: schema: found {schema!r}{of}; expected {SCHEMA}; {AGAIN}")
    status = get("status", str)
    if status not in ("complete", "failed"):
        raise ReportError(f"{path}: status: found {status!r}; expected 'complete' or 'failed'")
    error, diverged, stopped = None, False, ""
    if status == "failed":
        get = _Fields(path, raw, optional=("evaluation", "cost", "data", "budget", "overrides", "seed"))
        told = _Fields(path, get("error", dict), "error.")
        kind, message = told("type", str), told("message", str)
        if kind == "Stopped":
            stopped = UNBEGUN if message.startswith(UNBEGUN) else STOPPED
        lines = (" ".join(line.split()) for line in f"{kind}: {message}".splitlines())
        error = "; ".join(line for line in lines if line).replace(":; ", ": ")
        diverged = kind == "TrainingError" and bool(_DIVERGED.search(message))
    evaluation = _evaluation(path, get("evaluation", dict)) if status == "complete" else {}
    asked, asked_start = _harness(path.parent) if status == "complete" else ({}, {})
    return Result(
        folder=path.parent, status=status, error=error, diverged=diverged, stopped=stopped,
        algorithm=get("algorithm", str), seed=get("seed", int),
        trial=raw.get("trial") is True, overrides=_overrides(path, get("overrides", list) or []),
        evaluation={**evaluation, **asked}, start=_start(path, get("start", dict, optional=True)),
        before={**_before(path, raw), **asked_start},
        identity=get("identity", str, optional=True), cost=_cost(path, get("cost", dict) or {}),
        auditor=_auditor(path, get("auditor", dict, optional=True) or {}),
        budget=get("budget", dict, optional=True) or {}, calibration=get("calibration", dict, optional=True),
        data=_data_fields(path, get("data", dict, optional=True) or {}),
        declared=_declared(path, get("config", dict, optional=True) or {}) if status == "complete" else {},
        price=_price(path, get("config", dict, optional=True) or {}) if status == "complete" else None,
        commit=get("commit", str, optional=True), device=get("device", str, optional=True), raw=raw,
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


def _evaluation(path: Path, evaluation: dict, key: str = "evaluation", rows: str = "figures.parquet"
                ) -> dict[str, Figure]:
    cells = _cells(path.parent / rows) if evaluation else {}
    figures = {}
    for name, raw in evaluation.items():
        where = f"{path}: {key}.{name}"
        get = _Fields(path, raw, f"{key}.{name}.")
        if (kind := get("kind", str)) not in KINDS:
            raise ReportError(f"{where}.kind: found {kind!r}; expected one of {', '.join(KINDS)}")
        try:
            mean, low, high = (get(part, (int, float)) for part in ("mean", "low", "high"))
            estimate = Estimate(mean, low, high, get("n", int), get("unit", str), get("seeds", int))
        except ReportError:
            raise
        except ValueError as error:
            raise ReportError(f"{where}: {error}") from error
        if estimate.seeds != 1:
            raise ReportError(f"{where}.seeds: found {estimate.seeds}; expected 1: a run trains with one seed")
        figures[name] = Figure(estimate, kind, _of_figure(where, kind, mean, cells.get(name)) if kind in ROWS else None)
    return figures


def _of_figure(where: str, kind: str, mean: float, cells: pd.DataFrame | None) -> pd.DataFrame:
    """The figure's rows, which must be those that its mean was made of."""
    total = 0 if cells is None else cells["denominator"].sum()
    if not total > 0:
        raise ReportError(f"{where}: found no rows of it in figures.parquet; expected one per prompt; {AGAIN}")
    if kind == "share" and not cells["numerator"].between(0, cells["denominator"]).all():
        raise ReportError(f"{where}: found a share's numerator outside of 0 and its denominator; {AGAIN}")
    found = cells["numerator"].sum() / total
    found = math.exp(found) if kind == "perplexity" else found
    if not math.isclose(found, mean, rel_tol=1e-6, abs_tol=1e-9):
        raise ReportError(f"{where}.mean: found {mean}, and {found} in figures.parquet; expected the files of one run; "
                          f"{AGAIN}")
    return cells


def _cells(path: Path) -> dict[str, pd.DataFrame]:
    """Numerators and denominators by prompt_id of each figure."""
    try:
        frame = pd.read_parquet(path)
    except FileNotFoundError:
        raise ReportError(f"{path}: found no such file; expected the figures of a finished run; {AGAIN}") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are of these
        told = " ".join(str(error).split())
        raise ReportError(f"{path}: found no Parquet that can be read ({told}); expected what a run writes; "
                          f"{AGAIN}") from error
    if missing := [name for name in COLUMNS if name not in frame]:
        raise ReportError(f"{path}: {missing[0]}: found no such column; expected {', '.join(COLUMNS)}; {AGAIN}")
    for name in COLUMNS[2:]:
        column = frame[name]
        if not pd.api.types.is_numeric_dtype(column) or not np.isfinite(column.to_numpy(float, na_value=np.nan)).all():
            raise ReportError(f"{path}: {name}: found what is no finite number; expected finite numbers; {AGAIN}")
    if (frame["denominator"] < 0).any():
        raise ReportError(f"{path}: denominator: found a negative number; expected none; {AGAIN}")
    if (twice := frame.duplicated(["figure", "prompt_id"])).any():
        one = frame[twice].iloc[0]
        raise ReportError(f"{path}: found {one['figure']} of prompt {one['prompt_id']} twice; expected once; {AGAIN}")
    return {name: part.set_index("prompt_id")[list(COLUMNS[2:])].astype(float)
            for name, part in frame.groupby("figure", sort=False)}


def _before(path: Path, raw: dict) -> dict[str, Figure]:
    start = _Fields(path, raw)("start", dict, optional=True) or {}
    evaluation = _Fields(path, start, "start.")("evaluation", dict, optional=True) or {}
    return _evaluation(path, evaluation, "start.evaluation", "start.parquet")


def _harness(folder: Path) -> tuple[dict[str, Figure], dict[str, Figure]]:
    """What lm-evaluation-harness found of a run and of its start, where task=harness asked it."""
    path = folder / "harness.json"
    if not path.is_file():
        return {}, {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except ValueError as error:
        raise ReportError(f"{path}: found no strict JSON ({error}); expected what task=harness writes") from error
    get = _Fields(path, raw)
    start = _Fields(path, get("start", dict), "start.")
    return (_evaluation(path, get("evaluation", dict), rows="harness.parquet"),
            _evaluation(path, start("evaluation", dict), "start.evaluation", "harness_start.parquet"))


def _start(path: Path, start: dict | None) -> tuple[str, str] | None:
    get = _Fields(path, start or {}, "start.")
    kind, identity = get("kind", str, optional=True), get("identity", str, optional=True)
    return None if kind is None or identity is None else (kind, identity)


def _declared(path: Path, config: dict) -> dict[str, Any]:
    report = _Fields(path, config, "config.")("report", dict, optional=True) or {}
    get = _Fields(path, report, "config.report.")
    kinds = {"figure": str, "family": str, "margin": (int, float)}
    found = {key: get(key, kind, optional=True) for key, kind in kinds.items() if report.get(key) is not None}
    pairs = get("pairs", list, optional=True)
    return {**found, "pairs": tuple(map(tuple, pairs))} if pairs else found


def _price(path: Path, config: dict) -> float | None:
    budget = _Fields(path, config, "config.")("budget", dict, optional=True) or {}
    return _Fields(path, budget, "config.budget.")("price_per_hour", (int, float), optional=True)


def _cost(path: Path, cost: dict) -> dict[str, float]:
    """The totals, which charge the stages a method stands on. What nobody measured is absent."""
    get = _Fields(path, cost, "cost.")
    found = {name: get(name, (int, float), optional=True) for name in COSTS}
    return {name: value for name, value in found.items() if value is not None}


def _auditor(path: Path, auditor: dict) -> dict[str, float]:
    get = _Fields(path, auditor, "auditor.")
    return {name: get(name, (int, float)) for name in ("labels", "seconds")} if auditor else {}


def _data_fields(path: Path, data: dict) -> dict[str, Any]:
    get = _Fields(path, data, "data.")
    dropped = get("dropped", dict, optional=True) or {}
    by_reason = _Fields(path, dropped, "data.dropped.")
    fallbacks = _Fields(path, get("fallbacks", dict, optional=True) or {}, "data.fallbacks.")
    return {"read": get("read", int, optional=True), "truncated": get("truncated", int, optional=True),
            "dropped": {reason: by_reason(reason, int) for reason in dropped},
            "fallbacks": {name: fallbacks(name, str) for name in fallbacks.raw}}


def hydra_of(path: Path) -> dict[str, Any]:
    """What a job's hydra.yaml holds."""
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["hydra"]


def _unfinished(folder: Path, path: Path) -> Result | None:
    """A job that Hydra started and that left no result; None for tasks that write none (inspect, chat, merge)."""
    try:
        hydra = hydra_of(path)
        choices, overrides = hydra["runtime"]["choices"], hydra["overrides"]["task"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ReportError(f"{path}: found no job configuration of Hydra ({error!r})") from error
    if choices.get("task", "run") != "run":
        return None
    given = _overrides(path, overrides)
    return Result(folder, "failed", str(choices.get("algorithm", "?")), _seed(given.get("seed", "")), given,
                  error="no result.json: the job was killed or is still running", trial=choices.get("debug") == "trial")


def _never_begun(path: Path) -> list[Result]:
    """The jobs of a sweep of runs that no launcher came to, by what it was asked for."""
    try:
        asked = json.loads(path.read_text(encoding="utf-8"))
        begun = {json.loads(mark.read_text(encoding="utf-8"))["num"] for mark in path.parent.rglob(MARK)}
        begun |= {int(hydra_of(one)["job"]["num"]) for one in path.parent.rglob(".hydra/hydra.yaml")
                  if not (one.parent.parent / MARK).exists()}
        if asked["task"] != "run":
            return []
        return [Result(path.parent / f"{job['num']}", "failed", str(job["algorithm"]), _seed(str(job["seed"])),
                       _overrides(path, job["overrides"]), error=f"{UNBEGUN}: the sweep did not come to it",
                       stopped=UNBEGUN)
                for job in asked["jobs"] if job["num"] not in begun]
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ReportError(f"{path}: found no list of a sweep's jobs ({error!r}); {AGAIN}") from error


def _seed(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d+", text) else None
