"""What a study of instruction tuning found, as tables in which every figure has its interval.

    python -m benchmarks.flan_tables FOLDER      # makes study.md of a finished study's files again, and prints it

Reads study.json, answers.parquet and samples.parquet and nothing else. Intervals (``statistics.crossed``) are for other
seeds, or draws of tasks, and for other things asked about: the questions about one person, or one sum, count as one.
Differences are of the same questions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from algorithms.common.evaluation import statistics
from algorithms.common.evaluation.statistics import Estimate
from benchmarks.tables import plain

OWN = "natural"  # the form the un-tuned model knows best
FORMS = {"options": "options shown", "plain": "no options", "new": "unseen template", OWN: "its own form"}
QUESTION = ["record", "variant"]


def estimate(frame: pd.DataFrame, against: pd.DataFrame | None = None, value: str = "correct", on: list[str] = QUESTION) -> Estimate:
    """Mean of ``value``, or its mean difference to ``against`` on the questions that both have, told apart by ``on``.

    frame: seed, unit, the value and the columns of ``on``. A frame of one seed is compared with each of the other's.
    """
    cells = _cells(frame, value, on)
    if against is not None:
        other = _cells(against, value, on)
        shared = cells.columns.intersection(other.columns)
        if not len(shared):
            raise ValueError("nothing was asked of both")
        if len(other) == 1:
            cells = cells[shared] - other[shared].to_numpy()
        else:
            seeds = cells.index.intersection(other.index)
            cells = cells.loc[seeds, shared] - other.loc[seeds, shared]
    units = frame.drop_duplicates(on).set_index(on)["unit"]
    return statistics.crossed(cells.to_numpy(), units.loc[cells.columns].tolist())


def _cells(frame: pd.DataFrame, value: str, on: list[str]) -> pd.DataFrame:
    """(seeds, questions) of what every seed was asked."""
    return frame.pivot_table(index="seed", columns=on, values=value, aggfunc="mean").dropna(axis=1)


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


def _same(frame: pd.DataFrame, asked: pd.DataFrame, on: list[str] = QUESTION) -> pd.DataFrame:
    """The rows of a frame that answer what was asked there too."""
    return frame.merge(asked[on].drop_duplicates(), on=on)


def trained_table(answers: pd.DataFrame) -> str:
    """Tasks tuned on: rows that were not, before and after."""
    tuned, before = _where(answers, part="trained"), _where(answers, part="untuned")
    rows = []
    for cluster in [*sorted(tuned["cluster"].unique()), None]:
        part = tuned if cluster is None else _where(tuned, cluster=cluster)
        for form in _forms(part):
            one = _where(part, variant=form)
            base = _same(before, one)
            rows.append([cluster or "all", FORMS[form], f"{one['chance'].mean():.2f}", _shown(estimate(base)), _shown(estimate(one)),
                         _shown(estimate(one, base), True)])
    return _table(["cluster", "form", "chance", "un-tuned", "tuned", "difference"], rows)


def clusters_table(answers: pd.DataFrame, value: str = "correct") -> str:
    """Each cluster held out: un-tuned, tuned on the others, tuned on the others with random answers.

    value: what counts, ``correct`` (the option alone decides) or ``correct_with_end``.
    """
    answers = answers.assign(correct=answers[value])
    left_out, before = _where(answers, part="clusters"), _where(answers, part="untuned")
    rows = []
    for cluster in left_out["heldout"].unique():
        tuned, control = (_where(left_out, heldout=cluster, condition=name) for name in ("tuned", "random answers"))
        for form in _forms(tuned):
            one, random = _where(tuned, variant=form), _where(control, variant=form)
            base, own = _same(before, one), _same(_where(before, variant=OWN), one, ["row"])
            rows.append([cluster, FORMS[form], f"{one['chance'].mean():.2f}", _shown(estimate(base)), _shown(estimate(one)),
                         _shown(estimate(one, base), True),
                         _shown(estimate(one, own, on=["row"]), True) if len(own) and form != OWN else "",
                         _shown(estimate(random, base), True), _shown(estimate(one, random), True)])
    return _table(["held out", "form", "chance", "un-tuned", "tuned", "tuned − un-tuned", "tuned − un-tuned in its own form",
                   "random answers − un-tuned", "tuned − random answers"], rows)


def tasks_table(answers: pd.DataFrame) -> str:
    """Held-out clusters by the number of tasks tuned on, over draws of tasks."""
    curve, before = _where(answers, part="tasks"), _where(answers, part="untuned")
    sizes = sorted(curve["size"].dropna().unique())
    rows = []
    for form in [form for form in _forms(curve) if form != OWN]:
        base = _same(before, _where(curve, variant=form))
        parts = [_where(curve, variant=form, size=size) for size in sizes]
        rows.append([FORMS[form], _shown(estimate(base)), *(_shown(estimate(part)) for part in parts)])
        rows.append([f"{FORMS[form]}, gain", "", *(_shown(estimate(part, base), True) for part in parts)])
    return _table(["form", "0 (un-tuned)", *(str(size) for size in sizes)], rows)


CONDITIONS = {"un-tuned": "nothing (un-tuned)", "tuned": "no reasoning tasks", "direct answers": "with direct answers to them",
              "chain of thought": "with chain of thought"}


def reasoning_table(answers: pd.DataFrame, samples: pd.DataFrame, heldout: str, states: list[str]) -> str:
    """Chain of thought after tuning without and with it: held-out tasks, tasks tuned on, and all other tasks."""
    asked = set.intersection(*(set(_where(samples, condition=name)["prompt_id"]) for name in CONDITIONS))
    samples = samples[samples["prompt_id"].isin(asked) & samples["part"].isin(("untuned", "trained", "reasoning"))]
    unseen = samples[samples["cluster"] == heldout]
    parts = {"held-out accuracy": (unseen, "accuracy/cot"), "rationale share": (unseen, "rationale/cot"),
             **{task: (_where(unseen, task=task), "accuracy/cot") for task in sorted(unseen["task"].unique())},
             "reasoning tasks tuned on": (samples[samples["cluster"] != heldout], "accuracy/cot")}
    parts = {title: _where(frame, figure=figure).rename(columns={"value": "correct"}) for title, (frame, figure) in parts.items()}
    tuned = answers[answers["part"].isin(("trained", "reasoning")) & (answers["variant"] == "options") & ~answers["task"].isin(states)]
    parts["other tasks"] = pd.concat([tuned, _same(_where(answers, part="untuned"), tuned)])

    def cell(title: str, condition: str, against: str | None = None) -> str:
        on = QUESTION if title == "other tasks" else ["prompt_id"]
        frame = _where(parts[title], condition=condition)
        if not len(frame):
            return ""
        if against is None:
            return _shown(estimate(frame, on=on))
        return _shown(estimate(frame, _where(parts[title], condition=against), on=on), True)

    rows = [[title, *(cell(part, condition) for part in parts)] for condition, title in CONDITIONS.items()]
    rows += [[f"chain of thought − {CONDITIONS[other]}", *(cell(part, "chain of thought", other) for part in parts)]
             for other in ("un-tuned", "tuned", "direct answers")]
    return _table(["tuned on", *parts], rows)


def page(told: dict, answers: pd.DataFrame, samples: pd.DataFrame) -> str:
    """The whole study as Markdown."""
    study, config = told["study"], told["config"]
    decoded = "greedily" if config["eval"]["sampling"]["temperature"] == 0 else "as the evaluation samples"
    without = f", without {', '.join(study['reasoning_states'])}, which the rationales state" if study["reasoning_states"] else ""
    parts = ["# Instruction tuning: what was declared, and what came out", "",
             f"{told['tuned_models']} tuned models, {study['seeds']} seeds, {study['draws']} draws of tasks, "
             f"{config['data']['examples']} examples each (chain of thought added to them). Accuracy by rank classification: "
             "the option whose tokens have the largest summed log-probability, the end token left out. 95 % intervals "
             "over seeds (or draws) and the things asked about; differences are of the same questions.", "",
             "## Tasks tuned on: rows that were not", "",
             "A task's `key` says what is new in these rows: people, reviews or pairs that were not tuned on, or, where each answer has "
             "one question (the day after Monday), the same question with other options.", "",
             trained_table(answers), "",
             "## Clusters held out", "", clusters_table(answers), "",
             "## Clusters held out, the end token counted", "",
             "The same questions where the end token after an option counts as well: what a row gains here and not "
             "above is learning to stop.", "",
             clusters_table(answers, "correct_with_end"), "",
             f"## Number of tasks tuned on ({', '.join(study['curve_heldout'])} held out)", "",
             "Where all tasks are taken, draws differ in the mixture's and the order's seed alone.", "",
             tasks_table(answers), "",
             f"## Chain of thought ({study['reasoning_heldout']} held out)", "",
             f"Asked for steps, answered {decoded}; other tasks: options shown{without}.", "",
             reasoning_table(answers, samples, study["reasoning_heldout"], study["reasoning_states"]), "",
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
