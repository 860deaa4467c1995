"""What a study of instruction tuning found, as tables in which every figure has its interval.

    python -m benchmarks.flan_tables FOLDER      # makes study.md of a finished study's files again, and prints it

Reads study.json, answers.parquet and samples.parquet and nothing else. Where models were tuned with several seeds,
seeds and questions are both resampled (``statistics.seeds_and_prompts``); the questions about one thing (a person, a sum)
are resampled as one. Over draws of tasks the interval is Student's t.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from algorithms.common import statistics
from algorithms.common.statistics import Estimate
from benchmarks.tables import plain

FORMS = {"options": "options shown", "plain": "no options", "new": "unseen template"}
OWN = "natural"  # the form the un-tuned model knows best


def estimate(frame: pd.DataFrame, against: pd.DataFrame | None = None, value: str = "correct") -> Estimate:
    """Mean of ``value`` over seeds and units, or its mean difference to ``against`` on the same units.

    frame: seed, task, unit and the value. A frame of one seed is compared with each of the other's.
    """
    cells = _cells(frame, value)
    if against is None:
        return _interval(cells.to_numpy())
    other = _cells(against, value)
    shared = cells.columns.intersection(other.columns)
    if not len(shared):
        raise ValueError("nothing was asked of both")
    if len(other) == 1:
        difference = cells[shared].to_numpy() - other[shared].to_numpy()
    else:
        seeds = cells.index.intersection(other.index)
        difference = cells.loc[seeds, shared].to_numpy() - other.loc[seeds, shared].to_numpy()
    return _interval(difference)


def _cells(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """(seeds, units): the mean over the questions of a unit."""
    return frame.pivot_table(index="seed", columns=["task", "unit"], values=value, aggfunc="mean").dropna(axis=1)


def _interval(matrix) -> Estimate:
    return statistics.seeds_and_prompts(matrix) if len(matrix) > 1 else statistics.bootstrap(matrix[0])


def _shown(found: Estimate, sign: bool = False) -> str:
    form = "+.2f" if sign else ".2f"
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, [":---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(plain(cell) for cell in row) + " |" for row in lines)


def _forms(frame: pd.DataFrame) -> list[str]:
    return [form for form in FORMS if (frame["variant"] == form).any()]


def _where(frame: pd.DataFrame, **values) -> pd.DataFrame:
    for name, value in values.items():
        frame = frame[frame[name] == value]
    return frame


def trained_table(answers: pd.DataFrame) -> str:
    """Tasks tuned on: held-out questions, before and after."""
    tuned, before = _where(answers, part="trained"), _where(answers, part="untuned")
    rows = []
    for cluster in [*sorted(tuned["cluster"].unique()), None]:
        name, part, base = "all", tuned, before
        if cluster is not None:
            name, part, base = cluster, _where(tuned, cluster=cluster), _where(before, cluster=cluster)
        for form in _forms(part):
            one = _where(part, variant=form)
            same = base.merge(one[["record", "variant"]].drop_duplicates(), on=["record", "variant"])
            rows.append([name, FORMS[form], f"{one['chance'].mean():.2f}", _shown(estimate(same)), _shown(estimate(one)),
                         _shown(estimate(one, same), True)])
    return _table(["cluster", "form", "chance", "un-tuned", "tuned", "difference"], rows)


def clusters_table(answers: pd.DataFrame) -> str:
    """Each cluster held out: un-tuned, tuned on the others, tuned on the others with random answers."""
    left_out, before = _where(answers, part="clusters"), _where(answers, part="untuned")
    rows = []
    for cluster in left_out["heldout"].unique():
        own = _where(before, cluster=cluster, variant=OWN)
        tuned, control = (_where(left_out, heldout=cluster, condition=name) for name in ("tuned", "random answers"))
        for form in _forms(tuned):
            one, random = _where(tuned, variant=form), _where(control, variant=form)
            base = before.merge(one[["record", "variant"]].drop_duplicates(), on=["record", "variant"])
            rows.append([cluster, FORMS[form], f"{one['chance'].mean():.2f}", _shown(estimate(own)) if len(own) else "",
                         _shown(estimate(base)), _shown(estimate(one)), _shown(estimate(one, base), True),
                         _shown(estimate(random, base), True), _shown(estimate(one, random), True)])
    return _table(["held out", "form", "chance", "un-tuned, its own form", "un-tuned", "tuned", "tuned − un-tuned",
                   "random answers − un-tuned", "tuned − random answers"], rows)


def tasks_table(answers: pd.DataFrame) -> str:
    """Held-out clusters by the number of tasks tuned on: mean over draws, with a t-interval."""
    curve, before = _where(answers, part="tasks"), _where(answers, part="untuned")
    sizes = sorted(curve["size"].dropna().unique())
    rows = []
    for form in _forms(curve):
        asked = curve.loc[curve["variant"] == form, ["record", "variant"]].drop_duplicates()
        cells = [FORMS[form], _shown(estimate(before.merge(asked, on=["record", "variant"])))]
        for size in sizes:
            draws = [part["correct"].mean() for _, part in _where(curve, variant=form, size=size).groupby("seed")]
            cells.append(_shown(statistics.over_seeds(draws)) if len(draws) > 1 else f"{draws[0]:.2f}")
        rows.append(cells)
    return _table(["form", "0 (un-tuned)", *(str(size) for size in sizes)], rows)


CONDITIONS = {"un-tuned": "nothing (un-tuned)", "tuned": "no reasoning tasks", "direct answers": "with direct answers to them",
              "chain of thought": "with chain of thought"}


def reasoning_table(answers: pd.DataFrame, samples: pd.DataFrame, heldout: str) -> str:
    """Chain of thought after tuning without and with it: held-out tasks, tasks tuned on, and all other tasks."""
    rows = []
    other = answers[answers["part"].isin(("trained", "reasoning")) & (answers["variant"] == "options")]
    without = _where(other, condition="tuned")
    for condition, title in CONDITIONS.items():
        own = _where(samples, condition=condition)
        cells = [title]
        for figure in ("accuracy/cot", "rationale/cot"):
            cells.append(_figure(own[own["cluster"] == heldout], figure))
        for task in sorted(samples.loc[samples["cluster"] == heldout, "task"].unique()):
            cells.append(_figure(own[own["task"] == task], "accuracy/cot"))
        cells.append(_figure(own[own["cluster"] != heldout], "accuracy/cot"))
        if condition == "un-tuned":
            asked = without[["record", "variant"]].drop_duplicates()
            cells += [_shown(estimate(_where(answers, part="untuned").merge(asked, on=["record", "variant"]))), ""]
        else:
            mine = _where(other, condition=condition)
            cells += [_shown(estimate(mine)), "" if condition == "tuned" else _shown(estimate(mine, without), True)]
        rows.append(cells)
    tasks = sorted(samples.loc[samples["cluster"] == heldout, "task"].unique())
    return _table(["tuned on", "held-out accuracy", "rationale share", *tasks, "reasoning tasks tuned on", "other tasks (options)",
                   "difference"], rows)


def _figure(samples: pd.DataFrame, figure: str) -> str:
    part = samples[(samples["figure"] == figure) & (samples["part"].isin(("untuned", "trained", "reasoning")))]
    return _shown(estimate(part.rename(columns={"prompt_id": "unit"}), value="value")) if len(part) else ""


def page(told: dict, answers: pd.DataFrame, samples: pd.DataFrame) -> str:
    """The whole study as Markdown."""
    study, config = told["study"], told["config"]
    parts = ["# Instruction tuning: what was declared, and what came out", "",
             f"{told['tuned_models']} tuned models, {study['seeds']} seeds, {study['draws']} draws of tasks, "
             f"{config['data']['examples']} examples each (chain of thought added to them). Accuracy by rank classification: "
             "the option with the largest summed log-probability. 95 % intervals: seeds and questions resampled; over draws "
             "Student's t.", "",
             "## Tasks tuned on, questions held out", "", trained_table(answers), "",
             "## Clusters held out", "", clusters_table(answers), "",
             f"## Number of tasks tuned on ({', '.join(study['curve_heldout'])} held out)", "", tasks_table(answers), "",
             f"## Chain of thought ({study['reasoning_heldout']} held out; answers sampled greedily)", "",
             reasoning_table(answers, samples, study["reasoning_heldout"]), "",
             f"Made with: commit {told['commit']}; device {told['device']}; {told['tuning_seconds']:.0f} s of tuning.", ""]
    return "\n".join(parts)


def write(folder: Path) -> str:
    """study.md of the files in ``folder``, and its text."""
    told = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    text = page(told, pd.read_parquet(folder / "answers.parquet"), pd.read_parquet(folder / "samples.parquet"))
    (folder / "study.md").write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(write(Path(name)))
