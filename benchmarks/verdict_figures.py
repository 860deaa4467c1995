"""Verdicts beside finished runs as figures of these runs, so that tables show and compare them.

``win_rate/JUDGE``: of a run's answers against those of the model that its training began with; ``win_rate_data/JUDGE``:
against the answers that the data prefers, both with ties half; ``score/JUDGE``: the mean score of its answers, of
judges that score. Prompts without a verdict count in none, nor do verdicts of answers that a run no longer has. A judge
that was shown not to look at answers makes no figure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from algorithms.common.evaluation.inference.intervals import MEAN, SHARE, Matrix
from algorithms.common.evaluation.verdicts.belief import Belief, beliefs
from algorithms.common.evaluation.verdicts.pairings import name_of
from algorithms.common.evaluation.verdicts.rates import outcomes, quality
from algorithms.common.evaluation.verdicts.records import DATA, FILE, START, read
from algorithms.common.evaluation.verdicts.standing import standing

from .results_read import Figure, Result

WIN_RATES = {START: "win_rate", DATA: "win_rate_data"}


def with_verdicts(results: Sequence[Result], folders: Sequence[str | Path]) -> list[Result]:
    """The results with the figures of every ``verdicts.parquet`` at or below the folders, and what must be said."""
    results = list(results)
    for path in sorted({found.resolve() for top in folders for found in Path(top).rglob(FILE)}):
        found = standing(read(path), path.parent)
        places = {place: name_of(run.folder, path.parent) for place, run in enumerate(results)
                  if run.status == "complete" and run.folder.resolve().is_relative_to(path.parent)}
        believed = beliefs(found.verdicts)
        said = [note for judge in found.stale for note in found.told(judge)]
        for judge, rows in outcomes(found.verdicts).groupby("judge", sort=False):
            told = quality(rows)
            said += [f"{judge} is {told.verdict}."] if told.verdict else []
            seeds = {name: results[place].seed for place, name in places.items()}
            said += [f"{judge}, {one}." for one in by_seed(believed.get(judge, {}), seeds)]
            if told.unread.mean:
                said.append(f"{judge}: no verdict on {told.unread.mean:.1%} of {told.pairs:,} pairs.")
            for name, by_run in _figures(judge, rows) if told.judges else []:
                prompts = _asked(by_run, seeds)
                for place, run in places.items():
                    if run in by_run and name not in results[place].evaluation:  # a run may have it of its own
                        found_here = _figure(by_run[run], prompts[results[place].seed], name)
                        own = {**results[place].evaluation, name: found_here}
                        results[place] = replace(results[place], evaluation=own)
        for place in places:
            results[place] = replace(results[place], said=(*results[place].said, *said))
    return results


def by_seed(believed: dict[str, Belief], seeds: dict[str, int | None]) -> list[str]:
    """How far a judge that was trained can be believed, for each seed that has an auditor of its own.

    believed: of the runs it judges. seeds: of all runs, by name.
    """
    found = {seed: one for run, one in believed.items() if (seed := seeds.get(run)) is not None}
    return [f"seed {seed}: {found[seed]}" for seed in sorted(found)]


def _figures(judge: str, rows: pd.DataFrame) -> Iterator[tuple[str, dict[str, pd.DataFrame]]]:
    """Name, and by run the values, prompt_id and value."""
    for side, name in WIN_RATES.items():
        part = rows[(rows["right"] == side) & rows["win"].notna()]
        yield f"{name}/{judge}", {run: of[["prompt_id", "win"]].set_axis(["prompt_id", "value"], axis=1)
                                  for run, of in part.groupby("left")}
    columns = ["run", "prompt_id", "sample", "value"]
    sides = [rows[[side, *columns[1:3], f"{side}_score"]].set_axis(columns, axis=1) for side in ("left", "right")]
    scored = pd.concat(sides, ignore_index=True).dropna(subset="value")
    scored = scored[~scored["run"].isin(WIN_RATES)].drop_duplicates(["run", "prompt_id", "sample"])
    yield f"score/{judge}", {run: of[["prompt_id", "value"]] for run, of in scored.groupby("run")}


def _asked(by_run: dict[str, pd.DataFrame], seeds: dict[str, int | None]) -> dict[int | None, pd.Index]:
    """The prompts that some run of a seed has a value for: a run that has none counts nothing there."""
    found: dict[int | None, dict[str, None]] = {}
    for run, values in by_run.items():
        if run in seeds:
            found.setdefault(seeds[run], {}).update(dict.fromkeys(values["prompt_id"]))
    return {seed: pd.Index(prompts) for seed, prompts in found.items()}


def _figure(values: pd.DataFrame, prompts: pd.Index, name: str) -> Figure:
    by_prompt = values.groupby("prompt_id")["value"]
    cells = pd.DataFrame({"numerator": by_prompt.sum(), "denominator": by_prompt.count().astype(float)})
    there = Matrix(cells["numerator"].to_numpy()[None], cells["denominator"].to_numpy()[None])
    kind = "mean" if name.startswith("score/") else "share"
    estimate = there.estimate(*np.repeat(there.squares().mean, 3)) if kind == "mean" and len(cells) < 2 else \
        (SHARE if kind == "share" else MEAN).estimate(there, 0.95)
    return Figure(estimate, kind, cells.reindex(prompts, fill_value=0.0))
