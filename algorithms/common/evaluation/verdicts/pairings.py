"""Which answers are compared: those of finished runs, with their start's, with the data's, or with one another's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import pandas as pd

from ...support.errors import ConfigError, UserError
from .records import DATA, START

REFERENCES = "references.parquet"   # what a run leaves to be compared with: side, prompt_id, sample, response
AGAINST = (START, DATA, "round_robin")
AGAIN = "fix: run the same command again; kept stages make it quick"


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, and whose they are, see ``Verdict``."""

    prompt_id: str
    prompt: str
    left: str
    left_response: str
    right: str
    right_response: str
    sample: int = 0


@dataclass(frozen=True)
class Run:
    """The answers of a finished run, one row of ``samples.parquet`` for each."""

    name: str                   # its folder's path from the sweep's folder
    algorithm: str
    seed: int
    answers: pd.DataFrame       # prompt_id, sample, prompt, response, finished …; what was picked alone
    references: dict[str, pd.DataFrame] = field(default_factory=dict)   # start and data: prompt_id, sample, response


def finished_runs(folder: str | Path) -> list[Run]:
    """The runs at or below ``folder`` that ended well and answered prompts. UserError where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"runs: found no folder {folder}; expected that of a sweep or a run; fix: runs=multirun/…")
    found = []
    for path in sorted(folder.rglob("result.json"), key=_natural):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            status, algorithm, seed = told["status"], told["algorithm"], told["seed"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: found no result of a run ({error!r}); expected what a run writes; {AGAIN}") from error
        if status != "complete":
            continue
        samples = _frame(path.parent / "samples.parquet")
        if len(samples):
            answers = samples[samples["picked"]].reset_index(drop=True)
            file = path.parent / REFERENCES
            sides = dict(iter(_frame(file).groupby("side"))) if file.is_file() else {}
            found.append(Run(path.parent.relative_to(folder).as_posix(), algorithm, seed, answers, sides))
    if not found:
        raise UserError(f"runs: found no finished run that answers prompts in {folder}; expected at least one; "
                        "fix: runs=FOLDER of a sweep that ended")
    return found


def pairings(runs: Sequence[Run], against: str) -> Iterator[Pair]:
    """The pairs to judge, answer by answer, on the prompts that both sides have.

    against: ``start``, each run with what its training began with; ``data``, each with the answer that the data prefers;
    ``round_robin``, all runs of a seed with one another. UserError where no run has such.
    """
    if against not in AGAINST:
        raise ConfigError(f"against: found {against!r}; expected one of {', '.join(AGAINST)}")
    pairs = _round_robin(runs) if against == "round_robin" else _with(runs, against)
    first = next(pairs, None)
    if first is None:
        need = {START: "a run that began with a trained stage",
                DATA: "data whose held-out prompts have a preferred answer",
                "round_robin": "two runs of the same seed on the same prompts"}[against]
        raise UserError(f"against: found {against}, but no answers to compare with; expected {need}; fix: another of "
                        f"{', '.join(AGAINST)}, or, for runs without {REFERENCES}, run the same command again")
    yield first
    yield from pairs


def _with(runs: Sequence[Run], side: str) -> Iterator[Pair]:
    for run in runs:
        other = run.references.get(side)
        if other is not None:
            yield from _matched(run.name, run.answers, side, other)


def _round_robin(runs: Sequence[Run]) -> Iterator[Pair]:
    for first, second in combinations(runs, 2):
        if first.seed == second.seed:
            yield from _matched(first.name, first.answers, second.name, second.answers)


def _matched(left: str, ours: pd.DataFrame, right: str, theirs: pd.DataFrame) -> Iterator[Pair]:
    """An answer of ours with theirs of the same number, or with the first where they have but one."""
    other = {(key, number): text for key, number, text in zip(theirs["prompt_id"], theirs["sample"], theirs["response"])}
    for row in ours.itertuples(index=False):
        text = other.get((row.prompt_id, row.sample), other.get((row.prompt_id, 0)))
        if text is not None:
            yield Pair(row.prompt_id, row.prompt, left, row.response, right, text, int(row.sample))


def _frame(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: found no such file; expected what a finished run writes; {AGAIN}") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are of these
        raise UserError(f"{path}: found no Parquet that can be read ({' '.join(str(error).split())}); expected what a "
                        f"finished run writes; {AGAIN}") from error


def _natural(path: Path) -> list:
    return [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)] for name in path.parts]
