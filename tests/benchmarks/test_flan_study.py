"""The study of instruction tuning: what is planned, its figures by hand, its page, and a run from end to end."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from algorithms.common.data.instructions.task_file import read_task
from algorithms.common.evaluation.inference.intervals import SHARE, Matrix, contrast_to_model, share
from algorithms.common.evaluation.inference.intervals import difference as shares_differ
from algorithms.common.support.errors import ConfigError
from benchmarks.flan_figures import Family, accuracy, difference
from benchmarks.flan_page import findings, holds, page, write
from benchmarks.flan_study import StudiedTasks, Study, arms, check, round_robin
from benchmarks.flan_tables import (
    Reasoning,
    accuracies_table,
    clusters_families,
    clusters_rows,
    differences_table,
    reasoning_differences_table,
    reasoning_table,
    tasks_family,
    tasks_rows,
    tasks_table,
    trained_family,
    trained_rows,
    trained_table,
)
from command_line import invoke
from few import few

CLUSTERS = {"city": "qa", "job": "qa", "plus": "arith", "minus": "arith", "synonym": "words",
            "days": "far", "pets": "steps", "sums": "steps"}
STUDY = Study(["qa", "arith"], ["qa"], "steps", "far", sizes=[1, 2, 16], draws=2, reasoning_share=0.25, seeds=2)


def planned(part, **more):
    found = [arm for arm in arms(STUDY, CLUSTERS, 300) if arm.part == part]
    return [arm for arm in found if all(getattr(arm, key) == value for key, value in more.items())]


def test_every_part_is_planned_and_nothing_is_asked_of_what_was_tuned_on():
    everything = list(arms(STUDY, CLUSTERS, 300))
    assert len({arm.name for arm in everything}) == len(everything)
    assert len(planned("trained")) == 2 and len(planned("clusters")) == 2 * 2 * 2 and len(planned("reasoning")) == 4
    for arm in planned("clusters"):
        assert arm.settings["heldout_clusters"] == [arm.heldout] and arm.clusters == (arm.heldout,)
        assert not [task for task in arm.settings["only"] if CLUSTERS[task] in (arm.heldout, "steps", "far")]
    assert {arm.settings["labels"] for arm in planned("clusters", condition="random answers")} == {"random"}


def test_chain_of_thought_is_added_to_the_other_examples_never_exchanged_for_them():
    for arm in planned("reasoning"):
        assert arm.settings["cot_examples"] == 100, "a quarter of 400: the other 300 stay"
        assert arm.settings["cot_tasks"] == ["pets", "sums"] and arm.settings["heldout_clusters"] == ["far"]
        assert set(arm.settings["only"]) == {"city", "job", "plus", "minus", "synonym"}
    assert {arm.settings["cot_target"] for arm in planned("reasoning")} == {"direct", "rationale"}


def test_the_tasks_of_a_draw_are_nested_and_of_many_clusters():
    for seed in range(2):
        sets = [planned("tasks", seed=seed, size=size)[0].settings["only"] for size in (1, 2, 3)]
        assert [len(one) for one in sets] == [1, 2, 3], "16 is more than there are: all three"
        assert sets[0] == sets[1][:1] and sets[1] == sets[2][:2]
        assert len({CLUSTERS[task] for task in sets[1]}) == 2
    orders = {tuple(round_robin(list("abcdef"), dict(zip("abcdef", "xxyyzz")), draw)) for draw in range(8)}
    assert len(orders) > 4


def test_a_cluster_the_data_does_not_have_is_refused():
    known = "arith, far, qa, steps, words"
    with pytest.raises(ConfigError, match=f"data.study: found music; expected clusters of the data: {known}"):
        list(arms(Study(["music"], ["qa"], "steps", "far"), CLUSTERS, 300))
    for settings, key in ((dict(seeds=0), "seeds"), (dict(draws=0), "draws"), (dict(sizes=[0]), "sizes"),
                          (dict(reasoning_share=1.0), "reasoning_share")):
        with pytest.raises(ConfigError, match=f"study.{key}: found"):
            Study(["qa"], ["qa"], "steps", "far", **settings)


def test_data_that_no_study_can_be_made_of_is_refused_before_anything_is_tuned(tmp_path):
    (tmp_path / "free.yaml").write_text('cluster: qa\nfile: free.jsonl\ntemplates: ["{question}"]\n', encoding="utf-8")
    files = [read_task(str(tmp_path / "free.yaml"))]
    study = Study(["qa"], ["qa"], "steps", "far")
    for settings, message in ((dict(examples=None), "data.examples: found null; expected a number"),
                              (dict(only=["a"]), r"data.only: found \['a'\]; expected None, a study sets it"),
                              (dict(heldout_clusters=["qa"]), "data.heldout_clusters: found"),
                              (dict(exclusions={"qa": ["b"]}), "data.exclusions: found"),
                              (dict(labels="random"), "data.labels: found 'random'"),
                              (dict(cot_examples=3), "data.cot_examples: found 3"),
                              ({}, "data.study: found the cluster qa, none of whose tasks has options")):
        with pytest.raises(ConfigError, match=message):
            check(StudiedTasks(**{"tasks": str(tmp_path), "examples": 8, "study": study, **settings}), files)
    pool = [task for task in CLUSTERS if CLUSTERS[task] not in ("qa", "steps", "far")]
    first = {arm.settings["only"][0] for arm in arms(STUDY, CLUSTERS, 300, offset=5) if arm.part == "tasks"}
    assert first == {round_robin(pool, CLUSTERS, 5 + draw)[0] for draw in range(2)}


def cells(correct, seed=0, **more):
    rows = [{"seed": seed, "unit": unit, "record": f"{unit}{i}", "variant": "plain", "correct": value}
            for unit, values in correct.items() for i, value in enumerate(values)]
    return pd.DataFrame(rows).assign(**more)


def ends(estimate):
    return pytest.approx((estimate.mean, estimate.low, estimate.high), abs=1e-9)


def test_questions_about_one_thing_are_one_unit_of_what_every_model_was_asked():
    first = cells({"a": [1, 1], "b": [1, 0, 0], "c": [1, 1, 1], "d": [0]})
    second = cells({"a": [1, 1], "b": [1, 1, 0], "c": [1, 1, 1], "d": [1], "e": [1]}, seed=1)
    found = accuracy(pd.concat([first, second]))
    assert (found.n, found.unit, found.seeds) == (4, "things asked about", 2), "e was asked of one"
    assert (found.mean, found.low, found.high) == pytest.approx((7 / 9, 0.044472, 0.996215), abs=1e-6)


def test_accuracies_of_one_model_by_hand():
    """1/4 right has half = t(3)·√(.25/4) = .796, so it is Wilson's of n = .1875·(1.96/.796)² = 1.14."""
    found = accuracy(cells({"a": [1], "b": [0], "c": [0], "d": [0]}))
    assert (found.low, found.high) == pytest.approx((0.0164, 0.8693), abs=2e-4)
    found = accuracy(cells({"a": [1], "b": [1], "c": [1], "d": [1]}))
    assert (found.low, found.high) == pytest.approx((4 / (4 + 1.959964**2), 1)), "four that agree are four answers"


def test_differences_are_of_the_same_questions_and_seeds():
    frame = pd.concat([cells({"a": [1, 0], "b": [1]}), cells({"a": [1, 1], "b": [0]}, seed=1)])
    base = cells({"a": [0], "b": [1], "c": [1]}, seed=7)
    expected = contrast_to_model(Matrix.of([[1, 1], [1, 0]]), Matrix.of([[0, 1]]))
    found = difference(frame, base).estimate
    assert found.mean == pytest.approx(0.25), "the questions that both have, of the un-tuned model whatever its seed"
    assert (found.low, found.high) == pytest.approx(np.ravel(expected.interval(0.05)).tolist())
    other = pd.concat([cells({"a": [0], "b": [0]}),
                       *(cells({"a": [1], "b": [0]}, seed=seed) for seed in (1, 2))])
    seeds = shares_differ(Matrix.of([[1, 1], [1, 0]]), Matrix.of([[0, 0], [1, 0]]), SHARE)
    found = difference(frame, other).estimate
    assert (found.mean, found.low, found.high) == ends(seeds), "seed by seed, of those that both have"
    with pytest.raises(ValueError, match="nothing was asked of both"):
        difference(frame, cells({"z": [1]}))
    with pytest.raises(ValueError, match="no seed has answered for both"):
        difference(cells({"a": [1]}), other.assign(seed=other["seed"] + 5))


def test_a_difference_of_answers_that_agree_has_a_width_by_hand():
    """1 − 0 of four things each: both reach z²/(4 + z²) = .4899 inwards, 1 − .4899·√2 = .3072."""
    right, wrong = (cells({name: [value] for name in "abcd"}) for value in (1, 0))
    found = difference(right, wrong).estimate
    assert (found.mean, found.low, found.high) == pytest.approx((1, 0.30718, 1), abs=1e-4)


def test_what_stands_depends_on_how_many_were_declared():
    def apart(name, more, things=24, right=6):
        before = cells({f"{name}{i}": [float(i < right)] for i in range(things)})
        after = cells({f"{name}{i}": [float(i < right + more)] for i in range(things)})
        return difference(after, before, group="g", name=name)

    clear, slight, none = apart("clear", 16), apart("slight", 5), apart("none", 0)
    assert clear.p < 0.001 < 0.05 / 3 < slight.p < 0.05 < none.p
    family = Family([clear, slight, none, apart("another", 0)])
    assert (family.standing, family.alone) == ([clear], [slight]) and none in family.unseen
    assert Family([slight]).standing == [slight], "declared alone, it stands"
    assert not family.stands(apart("clear", 16)), "what was not declared has no mark"
    text = findings(family)
    assert text.startswith("Of 4 declared comparisons this stands: g (clear +0.67). Seen only where looked at alone, ")
    assert "too little among 4: g (slight +0.21). No difference was seen for g (none +0.00, another +0.00); " in text
    assert text.endswith("All this is about this trained model, which another may contradict: no claim about tuning.")


def asked(part, condition, correct, seed=0, **more):
    rows = []
    for (task, cluster, variant), values in correct.items():
        rows += [{"task": task, "cluster": cluster, "variant": variant, "unit": f"u{i}",
                  "record": f"{task}{variant}{i}", "row": f"{task}:{i}", "correct": value}
                 for i, value in enumerate(values)]
    fixed = {"part": part, "condition": condition, "seed": seed, "heldout": "", "size": None, "chance": 0.25}
    return pd.DataFrame(rows).assign(**{**fixed, **more}).astype({"size": "Int64"})


def row(table, *starts):
    (line,) = [line for line in table.splitlines() if line.startswith("| " + " | ".join(starts))]
    return [cell.strip() for cell in line.strip("|").split("|")]


def figures(line):
    return [cell.split(" ")[0] for cell in line]


def test_tables_say_what_was_answered():
    city = ("city", "qa", "options")
    untuned = asked("untuned", "un-tuned", {city: [0, 0, 1, 0], ("city", "qa", "natural"): [1] * 4})
    tuned = [asked("clusters", "tuned", {city: [1, 1, 1, 0]}, seed, heldout="qa") for seed in (0, 1)]
    control = [asked("clusters", "random answers", {city: [0, 1, 1, 0]}, seed, heldout="qa") for seed in (0, 1)]
    rows = clusters_rows(pd.concat([untuned, *tuned, *control]))
    assert row(accuracies_table(rows), "qa", "options shown")[2:5] == ["4", "0.25", "0.25 [0.02, 0.87]"]
    assert figures(row(accuracies_table(rows), "qa", "options shown")[5:]) == ["0.75", "0.50"]
    assert figures(row(differences_table(rows), "qa", "options shown")[2:]) == ["+0.50", "+0.25", "+0.25", "-0.25"]
    ended = [untuned.assign(correct_with_end=0.0), *(one.assign(correct_with_end=1.0) for one in tuned + control)]
    rows = clusters_rows(pd.concat(ended), "correct_with_end")
    assert figures(row(accuracies_table(rows), "qa", "options shown")[4:]) == ["0.00", "1.00", "1.00"]
    assert figures(row(differences_table(rows), "qa", "options shown")[2:]) == ["+1.00", "+0.00", "+1.00", "+1.00"]
    rows = trained_rows(pd.concat([untuned, asked("trained", "tuned", {city: [1, 1, 1, 1]})]))
    for name in ("qa", "all"):
        found = row(trained_table(rows, Family([])), name, "options shown")[2:]
        assert figures(found) == ["4", "0.25", "0.25", "1.00", "+0.75"] and found[3] == "1.00 [0.51, 1.00]"
    assert [one.name for one in trained_family(rows).differences] == ["qa"], "`all` is no comparison of its own"


def test_a_difference_that_stands_is_marked():
    city, things = ("city", "qa", "options"), 24
    untuned = asked("untuned", "un-tuned", {city: [0] * things, ("city", "qa", "natural"): [1] * things})
    tuned = asked("clusters", "tuned", {city: [1] * things}, heldout="qa")
    rows = clusters_rows(pd.concat([untuned, tuned, tuned.assign(condition="random answers")]))
    gains, over_random = clusters_families(rows)
    gain, over, random_gain, own = row(differences_table(rows, gains, over_random), "qa", "options shown")[2:]
    assert gain.startswith("+1.00 [+0.80, +1.00] †"), "1 − √2·z²/(24 + z²)"
    assert over == "+0.00 [-0.14, +0.14]", "z²/(24 + z²)"
    assert "†" not in random_gain + own + over, "not declared, and not there"


def test_the_curve_is_over_draws_and_more_tasks_are_compared_with_fewer():
    city = ("city", "qa", "options")
    untuned = asked("untuned", "un-tuned", {city: [0, 1]})
    draws = [asked("tasks", "tuned", {city: values}, seed, size=2)
             for seed, values in enumerate(([1, 1], [1, 0], [0, 0]))]
    rows = tasks_rows(pd.concat([untuned, *draws]))
    table = tasks_table(rows, tasks_family(rows))
    expected = share(Matrix.of([[1, 1], [1, 0], [0, 0]]))
    assert row(table, "options shown |")[1:] == [f"0.50 [{accuracy(untuned).low:.2f}, {accuracy(untuned).high:.2f}]",
                                                 f"0.50 [{expected.low:.2f}, {expected.high:.2f}]"]
    assert row(table, "options shown, gain")[1] == "" and row(table, "options shown, gain")[2].startswith("+0.00 [-")
    assert not len(tasks_family(rows)), "one number of tasks has nothing to grow from"
    more = [one.assign(size=16, correct=1.0).astype({"size": "Int64"}) for one in draws]
    rows = tasks_rows(pd.concat([untuned, *draws, *more]))
    table = tasks_table(rows, tasks_family(rows))
    assert row(table, "form")[1:] == ["0 (un-tuned)", "2", "16", "16 − 2"]
    assert figures(row(table, "options shown |")[1:]) == ["0.50", "0.50", "1.00", "+0.50"]


def sampled(good, tasks=(("days", "far"), ("pets", "steps")), seeds=1):
    """Chain of thought of the second of two prompts a task, where `good` has the condition."""
    parts = {"un-tuned": "untuned", "tuned": "trained", "direct answers": "reasoning", "chain of thought": "reasoning"}
    return pd.DataFrame([
        {"part": part, "condition": condition, "seed": seed, "task": task, "cluster": cluster,
         "prompt_id": f"{task}{i}", "unit": f"{task}{i}", "figure": figure, "value": value}
        for condition, part in parts.items() for seed in range(1 if condition == "un-tuned" else seeds)
        for task, cluster in tasks for i in range(2)
        for figure, value in (("accuracy/cot", i * (condition in good)), ("rationale/cot", float(condition in good)))])


def test_reasoning_is_reported_by_condition_beside_the_other_tasks():
    city = ("city", "qa", "options")
    answers = pd.concat([asked("untuned", "un-tuned", {city: [0, 0]}), asked("trained", "tuned", {city: [1, 0]}),
                         asked("reasoning", "direct answers", {city: [1, 0]}),
                         asked("reasoning", "chain of thought", {city: [1, 1]}),
                         asked("reasoning", "chain of thought", {("pet", "qa", "options"): [1]})])
    samples = sampled(("un-tuned", "chain of thought"))
    once = samples.iloc[:1].assign(prompt_id="asked once", unit="asked once")
    reasoning = Reasoning(answers, pd.concat([samples, once]), "far", ["pet"])
    table, family = reasoning_table(reasoning), reasoning.family()
    assert figures(row(table, "reasoning tasks with chain")[1:]) == ["0.50", "1.00", "0.50", "0.50", "1.00"]
    assert figures(row(table, "nothing")[1:]) == ["0.50", "1.00", "0.50", "0.50", "0.00"], "prompts that all were asked"
    assert row(table, "things")[1:] == ["2", "2", "2", "2", "2"]
    table = reasoning_differences_table(reasoning, family)
    assert figures(row(table, "no reasoning tasks")[1:]) == ["+0.50", "+1.00", "+0.50", "+0.50", "+0.50"]
    assert [one.name for one in family.differences] == ["nothing (un-tuned)", "no reasoning tasks",
                                                        "reasoning tasks with direct answers"]


def told(seeds, draws):
    study = {"seeds": seeds, "draws": draws, "curve_heldout": ["qa"], "reasoning_heldout": "far",
             "reasoning_states": ["pet"]}
    config = {"data": {"examples": 8}, "eval": {"sampling": {"temperature": 0.0}}}
    return {"study": study, "config": config, "tuned_models": 6, "commit": "c0ffee", "device": "cpu",
            "tuning_seconds": 3.2}


def answered(seeds, draws):
    """All parts of a study; tuned models are right more often, the un-tuned one always in its own form."""
    tasks, forms = (("city", "qa"), ("plus", "arith")), ("options", "plain", "new", "natural")

    def arm(part, condition, right, seed, only=None, **more):
        questions = {(task, cluster, form): [float(form == "natural" or (i + seed) % 8 < right) for i in range(16)]
                     for task, cluster in tasks for form in forms if only in (None, cluster)}
        return asked(part, condition, questions, seed, **more)

    parts = [arm("untuned", "un-tuned", 2, 0)]
    for seed in range(seeds):
        parts.append(arm("trained", "tuned", 8, seed))
        parts += [arm("reasoning", name, 7, seed) for name in ("direct answers", "chain of thought")]
        parts += [arm("clusters", name, right, seed, only, heldout=only)
                  for only in ("qa", "arith") for name, right in (("tuned", 6), ("random answers", 3))]
    parts += [arm("tasks", "tuned", size + 2, draw, "qa", size=size) for draw in range(draws) for size in (1, 4)]
    found = pd.concat(parts, ignore_index=True)
    return found.assign(correct_with_end=found["correct"])


@pytest.mark.parametrize(("seeds", "draws"), few([(3, 5), (1, 1)], [0]))
def test_every_interval_of_the_page_is_possible_and_the_page_says_what_it_is_for(seeds, draws):
    text = page(told(seeds, draws), answered(seeds, draws), sampled(("un-tuned", "chain of thought"), seeds=seeds))
    intervals = re.findall(r"([+-]?\d\.\d\d) \[([+-]?\d\.\d\d), ([+-]?\d\.\d\d)\]", text)
    assert len(intervals) == text.count("[") and "±" not in text
    for figure, low, high in intervals:
        least = -1 if figure[0] in "+-" else 0
        assert least <= float(low) <= float(figure) <= float(high) <= 1 and float(low) < float(high)
    scopes = text.count("this trained model on new things asked about"), text.count("Intervals hold for new seeds")
    assert scopes == ((5, 0) if seeds == 1 else (0, 4))
    assert ("Intervals hold for new draws of tasks and new things asked about; there are 5" in text) == (draws == 5)
    assert ("no claim about tuning" in text) == (seeds == 1)
    assert text.count("Of 6 declared comparisons") == 3 and text.count("Of 3 declared comparisons") == 2
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles[1:3] == ["## Clusters held out", "## Clusters held out, the end token counted"]
    assert "†" not in text.split(titles[2])[1].split(titles[3])[0]


def test_two_seeds_are_said_to_be_few():
    assert holds(2, "seed", "seeds").endswith("Two leave intervals about four times too wide: take 3 or more.")
    assert "Two" not in holds(3, "seed", "seeds") + holds(1, "seed", "seeds")


@pytest.mark.slow
def test_a_study_runs_again_from_its_store_and_in_any_number_of_processes(tmp_path):
    def study(name, stages, *more):
        ended = invoke("experiment=flan_smoke", "data.examples=64", "data.evaluation=2", "trainer.progress=false",
                       "eval.sampling.max_new_tokens=8", f"stages.folder={tmp_path / stages}",
                       f"hydra.run.dir={tmp_path / name}", *more)
        assert ended.status == 0, ended.err
        told = json.loads((tmp_path / name / "study.json").read_text(encoding="utf-8"))
        return ended.out, told, pd.read_parquet(tmp_path / name / "answers.parquet")

    out, told, answers = study("first", "stages", "data.study.workers=2")
    assert told["tuned_models"] == 6
    assert set(answers["part"]) == {"untuned", "trained", "reasoning", "clusters", "tasks"}
    for heading in ("Tasks tuned on", "Clusters held out", "Number of tasks", "Chain of thought"):
        assert heading in out
    tuned = set((tmp_path / "stages").glob("trained-*"))
    assert len(tuned) == 6
    _, again, found = study("second", "stages")
    assert set((tmp_path / "stages").glob("trained-*")) == tuned, "nothing is tuned twice"
    assert found.equals(answers) and again["tuning_seconds"] == told["tuning_seconds"]
    assert study("third", "other", "data.study.workers=1")[2].equals(answers), "one process finds the same"
    text = (tmp_path / "first" / "study.md").read_text(encoding="utf-8")
    assert write(tmp_path / "first") == text and text in out


def test_data_without_a_study_is_trained_on_once(tmp_path):
    words = "one two three four five six seven eight".split()
    rows = [{"question": f"What is {word}?", "answer": word} for word in words]
    (tmp_path / "echo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = 'cluster: words\nfile: echo.jsonl\ntemplates: ["{question}", "{question} Say it."]\n'
    (tmp_path / "echo.yaml").write_text(task, encoding="utf-8")
    ended = invoke("experiment=flan", "data=flan", f"data.tasks=[{tmp_path}]", "data.examples=8", "data.heldout=0.3",
                   "recipe.steps=1", "eval.prompts=2", "eval.sampling.max_new_tokens=4", "trainer.progress=false",
                   f"stages.folder={tmp_path / 'stages'}", f"hydra.run.dir={tmp_path / 'out'}")
    assert ended.status == 0, ended.err
    told = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert "exact_match" in told["evaluation"] and not (tmp_path / "out" / "study.md").exists()
