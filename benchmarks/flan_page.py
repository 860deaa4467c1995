"""What a study of instruction tuning found, as a page: what is compared, what its intervals are for, what stands.

    python -m benchmarks.flan_page FOLDER      # makes study.md of a finished study's files again, and prints it

Reads study.json, answers.parquet and samples.parquet and nothing else. Each section declares the differences that it is
about (a `Family`); all others are printed for reading and claim nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from algorithms.common.evaluation.inference.wording import listed, would_be_seen
from benchmarks.flan_figures import Difference, Family
from benchmarks.flan_tables import (
    MARK,
    Reasoning,
    accuracies_table,
    clusters_families,
    clusters_rows,
    differences_table,
    reasoning_differences_table,
    reasoning_table,
    rounded,
    tasks_family,
    tasks_rows,
    tasks_table,
    trained_family,
    trained_rows,
    trained_table,
)


def page(told: dict, answers: pd.DataFrame, samples: pd.DataFrame) -> str:
    """The whole study as Markdown. told: study.json; answers, samples: see `flan_tables.py`."""
    study = told["study"]
    seeds, draws = holds(study["seeds"], "seed", "seeds"), holds(study["draws"], "draw of tasks", "draws of tasks")
    sections = [
        _opening(told),
        _trained_section(answers, seeds),
        _clusters_section(answers, seeds),
        _with_end_section(answers, seeds),
        _tasks_section(answers, study["curve_heldout"], draws),
        _reasoning_section(answers, samples, told, seeds),
        [f"Made with: commit {told['commit']}; device {told['device']}; {told['tuning_seconds']:.0f} s of tuning."]]
    return "\n\n".join(paragraph for section in sections for paragraph in section) + "\n"


def holds(models: int, one: str, several: str) -> str:
    """What a section's intervals are for, given how many seeds or draws there are."""
    if models == 1:
        return (f"There is 1 {one}: an interval holds for this trained model on new things asked about, and another "
                f"{one} is not covered.")
    text = f"Intervals hold for new {several} and new things asked about; there are {models} {several}."
    return text + " Two leave intervals about four times too wide: take 3 or more." if models == 2 else text


def findings(family: Family) -> str:
    """Which of the declared differences stand, which are seen alone, and what could have been seen of the others."""
    count = _count(len(family), "declared comparison")
    stand = "this stands" if len(family.standing) == 1 else "these stand"
    sentences = [f"Of {count} {stand}: {_named(family.standing)}." if family.standing else f"Of {count} none stands."]
    if family.alone:
        sentences.append(f"Seen only where looked at alone, which is too little among {len(family)}: "
                         f"{_named(family.alone)}.")
    if family.unseen:
        sentences.append(f"No difference was seen for {_named(family.unseen)}; "
                         f"{would_be_seen(*family.smallest_shown(family.unseen))}.")
    if family.models == 1:
        sentences.append("All this is about this trained model, which another may contradict: no claim about tuning.")
    return " ".join(sentences)


def _named(differences: Sequence[Difference]) -> str:
    """options shown (qa +0.16, nature +0.42) and no options (qa +0.44)."""
    groups: dict[str, list[str]] = {}
    for one in differences:
        groups.setdefault(one.group, []).append(f"{one.name} {rounded(one.estimate.mean):+.2f}".strip())
    return listed([f"{group} ({', '.join(members)})" for group, members in groups.items()])


def _opening(told: dict) -> list[str]:
    study = told["study"]
    models = [_count(told["tuned_models"], "tuned model"), _count(study["seeds"], "seed"),
              _count(study["draws"], "draw of tasks", "draws of tasks")]
    made = (f"{', '.join(models)}, {told['config']['data']['examples']} examples each (chain of thought added to "
            "them). Accuracy by rank classification: the option whose tokens have the largest summed "
            "log-probability, the end token left out.")
    intervals = ("Intervals are 95 %; each section says what they hold for. Questions about one person, or one "
                 "sum, are about one thing, and `things` counts these. An accuracy has Wilson's interval for as "
                 "many answers as its spread over models and things is worth; a difference is of the same "
                 "questions, model by model, and its interval joins those of its two accuracies (square-and-add). "
                 "The un-tuned model is one: the intervals of its own accuracies hold for it on new things.")
    declared = (f"What a section declares to compare is one set, or two. {MARK} marks the differences that stand in "
                f"their set (Holm's adjustment): were none of a set true, any of it would have a {MARK} in at most "
                "5 % of studies. The intervals are of each difference alone, without that adjustment. What was not "
                f"declared is for reading and has no {MARK}.")
    return ["# Instruction tuning: what was declared, and what came out", made, intervals, declared]


def _trained_section(answers: pd.DataFrame, scope: str) -> list[str]:
    rows = trained_rows(answers)
    family = trained_family(rows)
    new = ("A task's `key` says what is new in these rows: people, reviews or pairs that were not tuned on, or, "
           "where each answer has one question (the day after Monday), the same question with other options.")
    declared = "Declared: tuned against un-tuned, for each cluster and form but its own; `all` is for reading."
    return ["## Tasks tuned on: rows that were not", new, f"{scope} {declared}", trained_table(rows, family),
            findings(family)]


def _clusters_section(answers: pd.DataFrame, scope: str) -> list[str]:
    rows = clusters_rows(answers)
    gains, over_random = clusters_families(rows)
    what = ("Each cluster is left out in turn: un-tuned, tuned on the others, and tuned on the others with random "
            "answers, which teach the form of an answer and nothing else.")
    declared = ("Declared, for each cluster and form but its own, as two sets: tuned against un-tuned (does tuning "
                "help on tasks it has not seen?), and tuned against random answers (is it the answers that help?).")
    return ["## Clusters held out", what, f"{scope} {declared}", accuracies_table(rows),
            differences_table(rows, gains, over_random), f"Tuned against un-tuned. {findings(gains)}",
            f"Tuned against random answers. {findings(over_random)}"]


def _with_end_section(answers: pd.DataFrame, scope: str) -> list[str]:
    rows = clusters_rows(answers, "correct_with_end")
    what = ("The same questions where the end token after an option counts as well: what a row gains here and not "
            "above is learning to stop.")
    return ["## Clusters held out, the end token counted", what, f"{scope} No comparison was declared: for reading.",
            accuracies_table(rows), differences_table(rows)]


def _tasks_section(answers: pd.DataFrame, heldout: Sequence[str], scope: str) -> list[str]:
    rows = tasks_rows(answers)
    family = tasks_family(rows)
    declared = "There is one number of tasks, so no comparison was declared."
    if len(family):
        declared = ("Declared: the most tasks against the fewest, draw by draw, for each form; gains over the un-tuned "
                    "model are for reading.")
    return [f"## Number of tasks tuned on ({', '.join(heldout)} held out)",
            "Where all tasks are taken, draws differ in the mixture's and the order's seed alone.",
            f"{scope} {declared} All rest on {_count(rows[0].untuned.n, 'thing')} asked about.",
            tasks_table(rows, family), *([findings(family)] if len(family) else [])]


def _reasoning_section(answers: pd.DataFrame, samples: pd.DataFrame, told: dict, scope: str) -> list[str]:
    study, sampling = told["study"], told["config"]["eval"]["sampling"]
    reasoning = Reasoning(answers, samples, study["reasoning_heldout"], study["reasoning_states"])
    family = reasoning.family()
    decoded = "greedily" if sampling["temperature"] == 0 else "as the evaluation samples"
    states = study["reasoning_states"]
    without = f", without {', '.join(states)}, which the rationales state" if states else ""
    declared = "Declared: held-out accuracy after tuning with chain of thought against each of the three others."
    return [f"## Chain of thought ({study['reasoning_heldout']} held out)",
            f"Asked for steps, answered {decoded}; other tasks: options shown{without}.", f"{scope} {declared}",
            reasoning_table(reasoning), reasoning_differences_table(reasoning, family), findings(family)]


def _count(count: int, one: str, several: str | None = None) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {several or one + 's'}"


def write(folder: Path) -> str:
    """study.md of the files in `folder`, and its text."""
    told = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    text = page(told, pd.read_parquet(folder / "answers.parquet"), pd.read_parquet(folder / "samples.parquet"))
    (folder / "study.md").write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(write(Path(name)))
