"""The tables of a study of instruction tuning: for each part its rows, the family of declared differences, Markdown.

A frame of answers has one row per question and model: part, condition, seed, heldout, size, task, cluster, variant,
record, unit, row, chance, correct, correct_with_end (`flan_study.py`). One of samples has one row per figure of a
sampled response: part, condition, seed, task, cluster, unit, prompt_id, figure, value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from algorithms.common.evaluation.inference.intervals import Estimate
from benchmarks.flan_figures import QUESTION, Difference, Family, accuracy, difference
from benchmarks.tables import plain

OWN = "natural"  # the form the un-tuned model knows best: it shows what tuning costs, and no claim is declared for it
FORMS = {"options": "options shown", "plain": "no options", "new": "unseen template", OWN: "its own form"}
CONDITIONS = {
    "un-tuned": "nothing (un-tuned)",
    "tuned": "no reasoning tasks",
    "direct answers": "reasoning tasks with direct answers",
    "chain of thought": "reasoning tasks with chain of thought"}
HELD_OUT, OTHER_TASKS = "held-out accuracy", "other tasks"  # columns of the chain-of-thought tables
MARK = "†"


# Tasks tuned on


@dataclass(frozen=True)
class Trained:
    """A form of a cluster that was tuned on, by rows that were not."""

    cluster: str  # or "all"
    form: str
    chance: float
    untuned: Estimate
    tuned: Estimate
    gain: Difference


def trained_rows(answers: pd.DataFrame) -> list[Trained]:
    """Un-tuned and tuned, for each cluster and form, and for all clusters."""
    tuned, before = _where(answers, part="trained"), _where(answers, part="untuned")
    rows = []
    for cluster in [*sorted(tuned["cluster"].unique()), "all"]:
        part = tuned if cluster == "all" else _where(tuned, cluster=cluster)
        for form in _forms(part):
            one = _where(part, variant=form)
            base = _same(before, one)
            rows.append(Trained(cluster, form, one["chance"].mean(), accuracy(base), accuracy(one),
                                difference(one, base, group=FORMS[form], name=cluster)))
    return rows


def trained_family(rows: Sequence[Trained]) -> Family:
    """Each cluster and form but its own; "all" follows from them."""
    return Family([row.gain for row in rows if row.form != OWN and row.cluster != "all"])


def trained_table(rows: Sequence[Trained], family: Family) -> str:
    cells = [[row.cluster, FORMS[row.form], str(row.tuned.n), f"{row.chance:.2f}",
              _shown(row.untuned), _shown(row.tuned), _change(row.gain, family)] for row in rows]
    return _table(["cluster", "form", "things", "chance", "un-tuned", "tuned", "tuned − un-tuned"], cells)


# Clusters held out


@dataclass(frozen=True)
class HeldOut:
    """A form of a cluster that was not tuned on: before, tuned on the others, tuned on them with random answers."""

    cluster: str
    form: str
    chance: float
    untuned: Estimate
    tuned: Estimate
    random: Estimate
    gain: Difference  # tuned − un-tuned
    over_own_form: Difference | None  # tuned − un-tuned in its own form
    random_gain: Difference  # random answers − un-tuned
    over_random: Difference  # tuned − random answers


def clusters_rows(answers: pd.DataFrame, value: str = "correct") -> list[HeldOut]:
    """value: what counts, `correct` (the option alone decides) or `correct_with_end`."""
    answers = answers.assign(correct=answers[value])
    left_out, before = _where(answers, part="clusters"), _where(answers, part="untuned")
    rows = []
    for cluster in left_out["heldout"].unique():
        tuned, random = (_where(left_out, heldout=cluster, condition=name) for name in ("tuned", "random answers"))
        rows += [_held_out(cluster, form, _where(tuned, variant=form), _where(random, variant=form), before)
                 for form in _forms(tuned)]
    return rows


def _held_out(cluster: str, form: str, tuned: pd.DataFrame, random: pd.DataFrame, before: pd.DataFrame) -> HeldOut:
    base = _same(before, tuned)
    own = _same(_where(before, variant=OWN), tuned, ["row"]) if form != OWN else ()
    where = {"group": FORMS[form], "name": cluster}
    return HeldOut(cluster, form, tuned["chance"].mean(), accuracy(base), accuracy(tuned), accuracy(random),
                   difference(tuned, base, **where),
                   difference(tuned, own, on=["row"], **where) if len(own) else None,
                   difference(random, base, **where), difference(tuned, random, **where))


def clusters_families(rows: Sequence[HeldOut]) -> tuple[Family, Family]:
    """Each cluster and form but its own, tuned against un-tuned, and tuned against random answers."""
    declared = [row for row in rows if row.form != OWN]
    return Family([row.gain for row in declared]), Family([row.over_random for row in declared])


def accuracies_table(rows: Sequence[HeldOut]) -> str:
    cells = [[row.cluster, FORMS[row.form], str(row.tuned.n), f"{row.chance:.2f}",
              _shown(row.untuned), _shown(row.tuned), _shown(row.random)] for row in rows]
    return _table(["held out", "form", "things", "chance", "un-tuned", "tuned", "random answers"], cells)


def differences_table(rows: Sequence[HeldOut], *families: Family) -> str:
    """Differences that stand in one of the families are marked."""
    cells = []
    for row in rows:
        found = (row.gain, row.over_random, row.random_gain, row.over_own_form)
        cells.append([row.cluster, FORMS[row.form], *(_change(one, *families) if one else "" for one in found)])
    return _table(["held out", "form", "tuned − un-tuned", "tuned − random answers", "random answers − un-tuned",
                   "tuned − un-tuned in its own form"], cells)


# Number of tasks tuned on


@dataclass(frozen=True)
class Curve:
    """A form of the held-out clusters by the number of tasks tuned on."""

    form: str
    untuned: Estimate
    tuned: dict[int, Estimate]  # number of tasks → accuracy
    gains: dict[int, Difference]  # number of tasks → tuned − un-tuned
    growth: Difference | None  # most tasks − fewest, where there are two numbers


def tasks_rows(answers: pd.DataFrame) -> list[Curve]:
    """Each form but the un-tuned model's own, over draws of tasks."""
    curve, before = _where(answers, part="tasks"), _where(answers, part="untuned")
    rows = []
    for form in [form for form in _forms(curve) if form != OWN]:
        asked = _where(curve, variant=form)
        base = _same(before, asked)
        parts = {int(size): _where(asked, size=size) for size in sorted(asked["size"].dropna().unique())}
        fewest, most = min(parts), max(parts)
        rows.append(Curve(form, accuracy(base), {size: accuracy(part) for size, part in parts.items()},
                          {size: difference(part, base) for size, part in parts.items()},
                          difference(parts[most], parts[fewest], group=FORMS[form]) if most != fewest else None))
    return rows


def tasks_family(rows: Sequence[Curve]) -> Family:
    """Most tasks against fewest, for each form."""
    return Family([row.growth for row in rows if row.growth])


def tasks_table(rows: Sequence[Curve], family: Family) -> str:
    sizes = [*rows[0].tuned]
    grows = [f"{sizes[-1]} − {sizes[0]}"] if len(family) else []
    cells = []
    for row in rows:
        growth = [_change(row.growth, family)] if row.growth else []
        cells.append([FORMS[row.form], _shown(row.untuned), *map(_shown, row.tuned.values()), *growth])
        cells.append([f"{FORMS[row.form]}, gain", "", *map(_change, row.gains.values()), *("" for _ in growth)])
    return _table(["form", "0 (un-tuned)", *map(str, sizes), *grows], cells)


# Chain of thought


class Reasoning:
    """What the chain-of-thought tables have, by column and condition.

    parts: {column: frame of all conditions}. against: {(column, other condition): chain of thought − other}, None where
    nothing was asked. heldout: the cluster of reasoning tasks that were not tuned on. states: tasks whose answers the
    rationales tell, so no "other tasks" here.
    """

    def __init__(self, answers: pd.DataFrame, samples: pd.DataFrame, heldout: str, states: Sequence[str]):
        self.parts = dict(self._sampled(self._asked_of_all(samples), heldout))
        self.parts[OTHER_TASKS] = self._ranked(answers, states)
        self.others = [name for name in CONDITIONS if name != "chain of thought"]
        self.against = {(column, other): self._difference(column, other)
                        for other in self.others for column in self.parts}

    @staticmethod
    def _asked_of_all(samples: pd.DataFrame) -> pd.DataFrame:
        asked = set.intersection(*(set(_where(samples, condition=name)["prompt_id"]) for name in CONDITIONS))
        return samples[samples["prompt_id"].isin(asked) & samples["part"].isin(("untuned", "trained", "reasoning"))]

    @staticmethod
    def _sampled(samples: pd.DataFrame, heldout: str) -> Iterator[tuple[str, pd.DataFrame]]:
        samples = samples.rename(columns={"value": "correct"})
        unseen, seen = samples[samples["cluster"] == heldout], samples[samples["cluster"] != heldout]
        yield HELD_OUT, _where(unseen, figure="accuracy/cot")
        yield "rationale share", _where(unseen, figure="rationale/cot")
        for task in sorted(unseen["task"].unique()):
            yield task, _where(unseen, task=task, figure="accuracy/cot")
        yield "reasoning tasks tuned on", _where(seen, figure="accuracy/cot")

    @staticmethod
    def _ranked(answers: pd.DataFrame, states: Sequence[str]) -> pd.DataFrame:
        tuned = answers[answers["part"].isin(("trained", "reasoning")) & ~answers["task"].isin(states)]
        tuned = _where(tuned, variant="options")
        return pd.concat([tuned, _same(_where(answers, part="untuned"), tuned)])

    def accuracy(self, column: str, condition: str) -> Estimate | None:
        """None where nothing was asked."""
        frame = _where(self.parts[column], condition=condition)
        return accuracy(frame, self._told_apart_by(column)) if len(frame) else None

    def _difference(self, column: str, other: str) -> Difference | None:
        first, second = (_where(self.parts[column], condition=name) for name in ("chain of thought", other))
        if not len(first):
            return None
        return difference(first, second, self._told_apart_by(column), 
                          f"{column}, chain of thought against", CONDITIONS[other])

    @staticmethod
    def _told_apart_by(column: str) -> Sequence[str]:
        return QUESTION if column == OTHER_TASKS else ["prompt_id"]

    def family(self) -> Family:
        """Held-out accuracy after tuning with chain of thought, against each other condition."""
        return Family([one for (column, _), one in self.against.items() if column == HELD_OUT and one])


def reasoning_table(reasoning: Reasoning) -> str:
    rows = []
    for condition, title in CONDITIONS.items():
        found = [reasoning.accuracy(part, condition) for part in reasoning.parts]
        rows.append([title, *(_shown(one) if one else "" for one in found)])
    found = [reasoning.accuracy(part, "chain of thought") for part in reasoning.parts]
    rows.append(["things", *(str(one.n) if one else "" for one in found)])
    return _table(["tuned on", *reasoning.parts], rows)


def reasoning_differences_table(reasoning: Reasoning, family: Family) -> str:
    rows = []
    for other in reasoning.others:
        found = [reasoning.against[part, other] for part in reasoning.parts]
        rows.append([CONDITIONS[other], *(_change(one, family) if one else "" for one in found)])
    return _table(["chain of thought − …", *reasoning.parts], rows)


# Cells


def _where(frame: pd.DataFrame, **values) -> pd.DataFrame:
    """Rows whose columns have these values."""
    for name, value in values.items():
        frame = frame[frame[name] == value]
    return frame


def _same(frame: pd.DataFrame, asked: pd.DataFrame, on: Sequence[str] = QUESTION) -> pd.DataFrame:
    """The rows of a frame that answer what was asked there too."""
    return frame.merge(asked[list(on)].drop_duplicates(), on=list(on))


def _forms(frame: pd.DataFrame) -> list[str]:
    return [form for form in FORMS if (frame["variant"] == form).any()]


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, [":---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(plain(cell) for cell in row) + " |" for row in lines)


def _shown(found: Estimate) -> str:
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _change(difference: Difference, *families: Family) -> str:
    """A difference with its sign and interval, marked where it stands in one of the families."""
    mean, low, high = map(rounded, (difference.estimate.mean, difference.estimate.low, difference.estimate.high))
    mark = f" {MARK}" if any(family.stands(difference) for family in families) else ""
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]{mark}"


def rounded(value: float) -> float:
    """To two digits, and 0 without a sign."""
    return round(value, 2) + 0.0
