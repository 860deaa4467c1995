"""Which answers are compared: those of finished runs, with their start's, with the data's, or with one another's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import pandas as pd

from ...support.checks import at_least, one_of, require
from ...support.errors import ConfigError, UserError
from .records import DATA, START

REFERENCES = "references.parquet"   # what a run leaves to be compared with: side, prompt_id, sample, response, finished
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
    left_finished: bool = True  # whether it ends by itself
    right_finished: bool = True


@dataclass
class Comparison:
    """What a judge is asked about."""

    against: str | None = None  # start | data | round_robin; null: start and data, as far as the runs have them
    prompts: int | None = None  # at most so many; null: all

    def __post_init__(self):
        require(self, "verdicts", against=one_of(AGAINST).or_null(), prompts=at_least(1).or_null())

    def pairs(self, runs: Sequence[Run]) -> list[Pair]:
        """UserError where there is nothing to compare with."""
        chosen = self.against or [side for side in (START, DATA) if any(side in run.references for run in runs)]
        found = [pair for against in ([chosen] if isinstance(chosen, str) else chosen or [START])
                 for pair in pairings(runs, against)]
        asked = set(list(dict.fromkeys(pair.prompt_id for pair in found))[:self.prompts])
        return [pair for pair in found if pair.prompt_id in asked]


@dataclass(frozen=True)
class Run:
    """The answers of a finished run, one row of ``samples.parquet`` for each."""

    name: str                   # its folder's path from the sweep's folder
    seed: int
    answers: pd.DataFrame       # prompt_id, sample, prompt, response, finished …; what was picked alone
    references: dict[str, pd.DataFrame] = field(default_factory=dict)   # start, data: as in the file


def finished_runs(folder: str | Path) -> list[Run]:
    """The runs at or below ``folder`` that ended well and answered prompts. UserError where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"runs: found no folder {folder}; expected that of a sweep or a run; fix: runs=multirun/…")
    found = []
    for path in sorted(folder.rglob("result.json"), key=natural):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            status, seed = told["status"], told["seed"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: found no result of a run ({error!r}); expected what a run writes; "
                            f"{AGAIN}") from error
        if status != "complete":
            continue
        samples = read_frame(path.parent / "samples.parquet")
        if len(samples):
            answers = samples[samples["picked"]].reset_index(drop=True)
            file = path.parent / REFERENCES
            sides = dict(iter(read_frame(file).groupby("side"))) if file.is_file() else {}
            found.append(Run(name_of(path.parent, folder), seed, answers, sides))
    if not found:
        raise UserError(f"runs: found no finished run that answers prompts in {folder}; expected at least one; "
                        "fix: runs=FOLDER of a sweep that ended")
    return found


def name_of(run: Path, folder: Path) -> str:
    """A run's name in the verdicts of a folder at or above its own."""
    return run.resolve().relative_to(folder.resolve()).as_posix()


def pairings(runs: Sequence[Run], against: str) -> Iterator[Pair]:
    """The pairs to judge, answer by answer, on the prompts that both sides have.

    against: ``start``, each run with what its training began with; ``data``, each with the answer that the data
    prefers; ``round_robin``, all runs of a seed with one another, by their first answers. UserError where no run has
    such.
    """
    if against not in AGAINST:
        raise ConfigError(f"verdicts.against: found {against!r}; expected one of {', '.join(AGAINST)}")
    pairs = _round_robin(runs) if against == "round_robin" else _with(runs, against)
    first = next(pairs, None)
    if first is None:
        need = {START: "a run that began with a trained stage",
                DATA: "data whose held-out prompts have a preferred answer",
                "round_robin": "two runs of the same seed on the same prompts"}[against]
        raise UserError(f"verdicts.against: found {against}, but no answers to compare with; expected {need}; fix: "
                        f"another of {', '.join(AGAINST)}, or, for runs without {REFERENCES}, run the same command "
                        "again")
    yield first
    yield from pairs


def _with(runs: Sequence[Run], side: str) -> Iterator[Pair]:
    for run in runs:
        if (other := run.references.get(side)) is not None:
            yield from _matched(run.name, run.answers, side, other)


def _round_robin(runs: Sequence[Run]) -> Iterator[Pair]:
    firsts = [run.answers[run.answers["sample"] == 0] for run in runs]
    for (one, ours), (other, theirs) in combinations(zip(runs, firsts), 2):
        if one.seed == other.seed:
            yield from _matched(one.name, ours, other.name, theirs)


def _matched(left: str, ours: pd.DataFrame, right: str, theirs: pd.DataFrame) -> Iterator[Pair]:
    """An answer of ours with theirs of the same number, or with the first where they have but one."""
    other = {(row.prompt_id, row.sample): row for row in theirs.itertuples(index=False)}
    for row in ours.itertuples(index=False):
        match = other.get((row.prompt_id, row.sample)) or other.get((row.prompt_id, 0))
        if match is not None:
            yield Pair(row.prompt_id, row.prompt, left, row.response, right, match.response, int(row.sample),
                       bool(row.finished), bool(match.finished))


def read_frame(path: Path) -> pd.DataFrame:
    """A file that a run has left. UserError where it is not there or cannot be read."""
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: found no such file; expected what a finished run writes; {AGAIN}") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are of these
        raise UserError(f"{path}: found no Parquet that can be read ({' '.join(str(error).split())}); expected what a "
                        f"finished run writes; {AGAIN}") from error


def natural(path: Path) -> list:
    return [[int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)] for name in path.parts]
