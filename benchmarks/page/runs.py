"""What the page shows of single runs, from the files in their folders: answers, curves, stages, commands, settings."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from algorithms.common.evaluation.inference.wording import listed

from ..aggregation import common
from ..comparison_tables import Member
from ..costs import OWN, own_parts
from ..results_read import Result, hydra_of
from ..tables import interval, plain
from .charts import Point

PROMPTS = 32            # whose answers are shown
ANSWERED_BY = 8         # rows whose answers are shown side by side
CURVES = 12             # rows with curves of training
_POINTS = 80            # of a curve
_LETTERS = (1500, 1000, 600, 300)   # of a prompt or an answer: the first with which all take no more than _BYTES
_BYTES = 900_000
TEMPERATURE = "eval.sampling.temperature"
# Of the report of the data: field and title.
COUNTED = {"read": "rows read", "kept": "records kept", "dropped": "dropped, and why", "filtered": "filtered",
           "skipped": "skipped", "strict_pairs": "pairs with a winner", "duplicates": "duplicates",
           "contradictions": "contradictory labels", "truncated": "truncated"}
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
    prompts = next(iter(frames.values()))["prompt"]
    for letters in _LETTERS:
        found = [Asked(_cut(_text(prompts[one]), letters),
                       [_answer(label, frame.loc[one], letters) for label, frame in frames.items()], float(spread[one]))
                 for one in chosen]
        if sum(map(_size, found)) <= _BYTES:
            break
    return found


def answering(asked: Sequence[Asked]) -> list[str]:
    """The rows whose answers are shown."""
    return [answer.row for answer in asked[0].answers] if asked else []


def _size(one: Asked) -> int:
    """Bytes that it takes in the page."""
    return sum(len(escape(plain(text)).encode()) for text in (one.prompt, *(answer.response for answer in one.answers)))


def _answer(label: str, row: pd.Series, letters: int) -> Answer:
    scores = {name: float(row[name]) for name in ("gold", "proxy", "auditor") if name in row and pd.notna(row[name])}
    return Answer(label, _cut(str(row["response"]), letters), bool(row["finished"]), scores)


def _text(prompt: str) -> str:
    """A prompt as samples.parquet keeps it: text, or messages as JSON."""
    try:
        turns = json.loads(prompt)
    except ValueError:
        return prompt
    if not (isinstance(turns, list) and turns and all(isinstance(turn, dict) and "content" in turn for turn in turns)):
        return prompt
    return "\n\n".join(f"{turn.get('role', '')}: {turn['content']}" for turn in turns)


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[:letters]} … ({len(text):,} letters)"


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


def paths(members: Sequence[Member]) -> list[dict[str, Any]]:
    """How far training went from its start and what the score that it optimises was, step by step: dicts of row, seed,
    x (√KL), y, order."""
    found = []
    for member in members[:CURVES]:
        for run in member.runs:
            steps = [step for step in _lines(run.folder / "metrics.jsonl")
                     if all(isinstance(step.get(name), (int, float)) for name in ("reward/proxy", "kl/k1"))]
            every = -(-len(steps) // _POINTS)
            found += [{"row": member.label, "seed": str(run.seed), "x": sqrt(max(step["kl/k1"], 0.0)),
                       "y": step["reward/proxy"], "order": step["step"]} for step in steps[::every or 1]]
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def stage_costs(members: Sequence[Member], name: str) -> list[dict[str, Any]]:
    """Each row's cost by the stages that it stands on, means over seeds, as dicts of row, stage, order, own, value."""
    sums: dict[str, dict[str, float]] = {}
    users: dict[tuple[str, int | None, float], set[str]] = {}   # a stage of one seed is the same where it cost the same
    for member in members:
        for run in member.runs:
            below = sums.setdefault(member.label, {})
            for stage, value in own_parts(run.raw.get("cost", {}), name).items():
                below[stage] = below.get(stage, 0.0) + value / len(member.runs)
                users.setdefault((stage, run.seed, value), set()).add(member.label)
    shared = {(label, stage) for (stage, _, _), labels in users.items() if len(labels) > 1 for label in labels}
    parts = []
    for label, below in sums.items():
        order = sorted(below, key=lambda stage: (stage == OWN, list(below).index(stage)))
        for index, stage in enumerate(order):
            title = f"{stage} (shared)" if stage != OWN and (label, stage) in shared else stage
            parts.append({"row": label, "stage": title, "order": index, "own": stage == OWN, "value": below[stage],
                          "told": f"{label}, {title}: {below[stage]:,.1f}"})
    return parts


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
    """Each row by its KL to the start and its figure; those of one method that differ in one number are of one line."""
    points, lines = [], _lines_of(members)
    for member in members:
        found = member.row.estimates
        name = next((name for name in ("kl/exact", "kl/k1", "kl/bound") if name in found), None)
        if name is not None and (one := found.get(figure)) is not None:
            kl = found[name]
            of = "at most " if name == "kl/bound" else ""
            told = f"{member.label}: {interval(one)} at {of}{kl.mean:.2f} nats"
            points.append(Point(member.label, kl.mean, one.mean, one.low, one.high, told, lines.get(member.label, "")))
    return points


def _lines_of(members: Sequence[Member]) -> dict[str, str]:
    """By label the method of rows that differ from each other in one setting alone, which is a number."""
    found = {}
    for method in {member.row.algorithm for member in members}:
        rows = [member.row for member in members if member.row.algorithm == method]
        keys = {key for row in rows for key in row.settings if len({one.settings.get(key) for one in rows}) > 1}
        if len(rows) > 2 and len(keys) == 1 and all(_number(row.settings.get(key)) for row in rows for key in keys):
            found.update({row.label: method for row in rows})
    return found


def _number(text: str | None) -> bool:
    try:
        return text is None or isfinite(float(text))    # None: the default
    except ValueError:
        return False


def temperatures(members: Sequence[Member], figure: str) -> list[Point]:
    """Each row by the temperature that its reported answers were drawn at; rows alike in all else are of one line."""
    points = []
    for member in members:
        one = member.row.estimates.get(figure)
        config = member.runs[0].raw.get("config", {}) if member.runs else {}
        at = ((config.get("eval") or {}).get("sampling") or {}).get("temperature")
        if one is not None and isinstance(at, (int, float)):
            others = ", ".join(f"{key}={value}" for key, value in member.row.settings.items() if key != TEMPERATURE)
            points.append(Point(member.label, float(at), one.mean, one.low, one.high,
                                f"{member.label}: {interval(one)} at temperature {at:g}",
                                f"{member.row.algorithm} {others}".strip()))
    return points


def counted(members: Sequence[Member]) -> list[tuple[str, dict[str, str]]]:
    """What was read and left out, by the rows that it was read for."""
    said: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for member in members:
        found = [_counts(run.raw.get("data") or {}) for run in member.runs]
        told = {name: " or ".join(dict.fromkeys(one[name] for one in found if name in one))
                for one in found for name in one}
        if told:
            said.setdefault(tuple(told.items()), []).append(member.label)
    return [("all methods" if len(said) == 1 else listed(labels), dict(told)) for told, labels in said.items()]


def truncated(members: Sequence[Member]) -> list[str]:
    """By row how many texts were cut to fit, where any were; of several seeds the range."""
    found = []
    for member in members:
        cut = [run.data.get("truncated") or 0 for run in member.runs]
        if any(cut):
            found.append(f"{member.label} " + " to ".join(dict.fromkeys(f"{choose(cut):,}" for choose in (min, max))))
    return found


def _counts(data: Mapping[str, Any]) -> dict[str, str]:
    """Counts of a data report, in words."""
    found = {}
    for name, title in COUNTED.items():
        value = data.get(name)
        if isinstance(value, (int, float)) and (value or name in ("read", "kept", "truncated")):
            found[title] = f"{value:,}"
        elif isinstance(value, Mapping):
            parts = [f"{count:,} {what}" for what, count in value.items() if isinstance(count, int) and count]
            found |= {title: "; ".join(parts)} if parts else {}
    return found
