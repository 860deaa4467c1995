"""What the page shows of single runs, from the files in their folders: answers, curves, stages, commands, settings."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ..aggregation import common
from ..comparison_tables import Member
from ..results_read import Result, hydra_of
from ..tables import interval
from .charts import Point

PROMPTS = 32            # whose answers are shown
ANSWERED_BY = 8         # rows whose answers are shown side by side
CURVES = 12             # rows with curves of training
_POINTS = 80            # of a curve
_LETTERS = 1500         # of a prompt or an answer
_CURVE_OF = ("reward/proxy", "loss/policy", "loss/rank")    # the first that training left; else any loss


@dataclass(frozen=True)
class Answer:
    """What one row answered."""

    row: str
    response: str
    finished: bool
    scores: Mapping[str, float]     # by name


@dataclass(frozen=True)
class Asked:
    """One prompt and what the rows answered to it."""

    prompt: str
    answers: Sequence[Answer]
    spread: float                   # between the rows' scores; the page begins with the largest


def answers(members: Sequence[Member], score: str) -> list[Asked]:
    """The prompts at which rows differ most in `score`, a column of samples.parquet.

    Of each row the first seed's first answer. Where no answer has the score, the prompts stand as in the files.
    """
    frames = {}
    for member in members[:ANSWERED_BY]:
        path = member.runs[0].folder / "samples.parquet" if member.runs else None
        if path and path.exists():
            frame = pd.read_parquet(path)
            if "prompt_id" not in frame:  # what scores has answered nothing
                continue
            frame = frame[frame["picked"].fillna(True).astype(bool)] if "picked" in frame else frame
            frames[member.label] = frame.drop_duplicates("prompt_id").set_index("prompt_id")
    if not frames:
        return []
    shared = common([frame.index for frame in frames.values()])
    scored = pd.DataFrame({label: frame.loc[shared, score].astype(float) for label, frame in frames.items()
                           if score in frame and frame[score].notna().any()}, index=shared)
    spread = (scored.max(axis=1) - scored.min(axis=1)).fillna(0.0) if len(scored.columns) > 1 else \
        pd.Series(0.0, index=shared)
    chosen = spread.sort_values(ascending=False, kind="stable").index[:PROMPTS]
    return [Asked(_cut(_text(next(iter(frames.values())).loc[one, "prompt"])),
                  [_answer(label, frame.loc[one]) for label, frame in frames.items()], float(spread[one]))
            for one in chosen]


def _answer(label: str, row: pd.Series) -> Answer:
    scores = {name: float(row[name]) for name in ("gold", "proxy", "auditor") if name in row and pd.notna(row[name])}
    return Answer(label, _cut(str(row["response"])), bool(row["finished"]), scores)


def _text(prompt: str) -> str:
    """A prompt as samples.parquet keeps it: text, or messages as JSON."""
    try:
        turns = json.loads(prompt)
    except ValueError:
        return prompt
    if not (isinstance(turns, list) and turns and all(isinstance(turn, dict) and "content" in turn for turn in turns)):
        return prompt
    return "\n\n".join(f"{turn.get('role', '')}: {turn['content']}" for turn in turns)


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]} … ({len(text):,} letters)"


def curves(members: Sequence[Member]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """By figure of training: the rows' curves, as dicts of row, seed, x, y."""
    found: dict[str, list[dict[str, Any]]] = {}
    for member in members[:CURVES]:
        for run in member.runs:
            steps = _lines(run.folder / "metrics.jsonl")
            names = [name for name in steps[-1] if name in _CURVE_OF or name.startswith("loss/")] if steps else []
            name = next((one for one in [*_CURVE_OF, *names] if one in names), None)
            having = [step for step in steps if isinstance(step.get(name), (int, float))] if name else []
            every = -(-len(having) // _POINTS)
            found.setdefault(name, []).extend(
                {"row": member.label, "seed": str(run.seed), "x": step["step"] / having[-1]["step"], "y": step[name]}
                for step in having[::every or 1])
    yield from ((name, curve) for name, curve in found.items() if curve)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def stage_costs(members: Sequence[Member], name: str) -> list[dict[str, Any]]:
    """Each row's cost by the stages that it stands on, means over seeds, as dicts of row, stage, order, value."""
    parts = []
    for member in members:
        sums: dict[str, float] = {}
        for run in member.runs:
            for stage, value in own_parts(run.raw.get("cost", {}), name).items():
                sums[stage] = sums.get(stage, 0.0) + value / len(member.runs)
        order = sorted(sums, key=lambda stage: (stage == "its own", list(sums).index(stage)))
        parts += [{"row": member.label, "stage": stage, "order": index, "value": sums[stage],
                   "told": f"{member.label}, {stage}: {sums[stage]:,.1f}"} for index, stage in enumerate(order)]
    return parts


def own_parts(cost: Mapping[str, Any], name: str) -> dict[str, float]:
    """A stage's cost charges those below it, each once: what is left is its own. By stage, the run's own last."""
    below = _below(cost, name)
    parts = {title: _own(stage, name) for (title, _), stage in below.items()}
    return {**parts, "its own": max(_own(cost, name), 0.0)}


def _own(stage: Mapping[str, Any], name: str) -> float:
    return (stage.get(name) or 0.0) - sum(_own(one, name) for one in _below(stage, name).values())


def _below(stage: Mapping[str, Any], name: str) -> dict[tuple[str, float], Mapping[str, Any]]:
    """All stages that one stands on, the deepest first; the same one, which costs the same, once."""
    found = {}
    for title, one in (stage.get("stages") or {}).items():
        found |= _below(one, name)
        found.setdefault((title, one.get(name) or 0.0), one)
    return found


def command(run: Result) -> str:
    """What makes this run again."""
    overrides = [f"{key}={value}" for key, value in run.overrides.items()]
    return shlex.join(["python", "run.py", *run.raw.get("overrides", overrides)])


def settings(members: Sequence[Member]) -> tuple[str, dict[str, str]]:
    """The settings that all rows share, and each row's others, as YAML; of the first run of each row."""
    flat = {member.label: _flat(member.runs[0].raw.get("config", {})) for member in members if member.runs}
    if not flat:
        return "", {}
    first = next(iter(flat.values()))
    shared = {key: value for key, value in first.items()
              if all(key in one and one[key] == value for one in flat.values())} if len(flat) > 1 else {}
    return _yaml(shared), {label: _yaml({key: value for key, value in one.items() if key not in shared})
                           for label, one in flat.items()}


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    return {key: value for name, one in config.items()
            for key, value in _flat(one, f"{prefix}.{name}" if prefix else str(name)).items()}


def _yaml(settings: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(settings), sort_keys=True, allow_unicode=True, width=100) if settings else ""


def subject(runs: Sequence[Result]) -> tuple[str, str]:
    """Which models and which data the runs are about, as the command line names them."""
    models, data = {}, {}
    for run in runs:
        config = run.raw.get("config", {})
        models[str(config.get("model", {}).get("name", "?"))] = None
        given = config.get("data", {})
        data[str(given.get("path") or _choice(run, "data") or given.get("_target_", "?"))] = None
    return ", ".join(models), ", ".join(data)


def _choice(run: Result, group: str) -> str | None:
    path = run.folder / ".hydra" / "hydra.yaml"
    if not path.exists():
        return None
    return hydra_of(path)["runtime"]["choices"].get(group)


def distances(members: Sequence[Member], figure: str) -> list[Point]:
    """Each row by its KL to the start and its figure."""
    points = []
    for member in members:
        found = member.row.estimates
        name = next((name for name in ("kl/exact", "kl/k1", "kl/bound") if name in found), None)
        if name is not None and (one := found.get(figure)) is not None:
            kl = found[name]
            of = "at most " if name == "kl/bound" else ""
            told = f"{member.label}: {interval(one)} at {of}{kl.mean:.2f} nats"
            points.append(Point(member.label, kl.mean, one.mean, one.low, one.high, told))
    return points
