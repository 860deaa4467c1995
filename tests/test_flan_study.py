"""The study of instruction tuning: what is planned, its intervals by hand, and a run from end to end."""

import json

import pandas as pd
import pytest

from command_line import invoke

from algorithms.common.support.errors import ConfigError
from algorithms.common.data.instructions.task_file import read_task
from algorithms.common.evaluation.statistics import crossed
from benchmarks.flan_study import Study, StudiedTasks, arms, check, round_robin
from benchmarks.flan_tables import clusters_table, estimate, reasoning_table, tasks_table, trained_table, write

CLUSTERS = {"city": "qa", "job": "qa", "plus": "arith", "minus": "arith", "synonym": "words", "days": "far", "pets": "steps", "sums": "steps"}
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
    with pytest.raises(ConfigError, match="data.study: found music; expected clusters of the data: arith, far, qa, steps, words"):
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
                              (dict(labels="random"), "data.labels: found 'random'"), (dict(cot_examples=3), "data.cot_examples: found 3"),
                              ({}, "data.study: found the cluster qa, none of whose tasks has options")):
        with pytest.raises(ConfigError, match=message):
            check(StudiedTasks(**{"tasks": str(tmp_path), "examples": 8, "study": study, **settings}), files)
    assert {arm.settings["only"][0] for arm in arms(STUDY, CLUSTERS, 300, offset=5) if arm.part == "tasks"} == {
        round_robin([task for task in CLUSTERS if CLUSTERS[task] not in ("qa", "steps", "far")], CLUSTERS, 5 + draw)[0] for draw in range(2)}


def cells(correct, seed=0, **more):
    rows = [{"seed": seed, "unit": unit, "record": f"{unit}{i}", "variant": "plain", "correct": value}
            for unit, values in correct.items() for i, value in enumerate(values)]
    return pd.DataFrame(rows).assign(**more)


def test_an_estimate_is_of_the_same_questions_with_units_and_seeds_as_what_could_differ():
    frame = pd.concat([cells({"a": [1.0, 0.0], "b": [1.0]}), cells({"a": [1.0, 1.0], "b": [0.0]}, seed=1)])
    assert estimate(frame) == crossed([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], ["a", "a", "b"])
    base = cells({"a": [0.0], "b": [1.0], "c": [1.0]})
    assert estimate(frame, base) == crossed([[1.0, 0.0], [1.0, -1.0]], ["a", "b"]), "questions that both have"
    other = pd.concat([cells({"a": [0.0], "b": [0.0]}), cells({"a": [1.0], "b": [0.0]}, seed=1)])
    assert estimate(frame, other) == crossed([[1.0, 1.0], [0.0, 0.0]], ["a", "b"]), "seed by seed"
    assert estimate(cells({"a": [1.0, 0.0], "b": [1.0]})).n == 2, "one seed: the units alone"
    with pytest.raises(ValueError, match="nothing was asked of both"):
        estimate(frame, cells({"z": [1.0]}))


def asked(part, condition, correct, seed=0, **more):
    rows = []
    for (task, cluster, variant), values in correct.items():
        rows += [{"task": task, "cluster": cluster, "variant": variant, "unit": f"u{i}", "record": f"{task}{variant}{i}",
              "row": f"{task}:{i}", "correct": value}
                 for i, value in enumerate(values)]
    fixed = {"part": part, "condition": condition, "seed": seed, "heldout": "", "size": None, "chance": 0.25}
    return pd.DataFrame(rows).assign(**{**fixed, **more}).astype({"size": "Int64"})


def row(table, *starts):
    (line,) = [line for line in table.splitlines() if line.startswith("| " + " | ".join(starts))]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_tables_say_what_was_answered():
    city = ("city", "qa", "options")
    untuned = asked("untuned", "un-tuned", {city: [0.0, 0.0, 1.0, 0.0], ("city", "qa", "natural"): [1.0] * 4})
    tuned = [asked("clusters", "tuned", {city: [1.0, 1.0, 1.0, 0.0]}, seed, heldout="qa") for seed in (0, 1)]
    control = [asked("clusters", "random answers", {city: [0.0, 1.0, 1.0, 0.0]}, seed, heldout="qa") for seed in (0, 1)]
    found = row(clusters_table(pd.concat([untuned, *tuned, *control])), "qa", "options shown")
    assert [cell.split(" ")[0] for cell in found[2:]] == ["0.25", "0.25", "0.75", "+0.50", "-0.25", "+0.25", "+0.25"]
    ended = [untuned.assign(correct_with_end=0.0), *(one.assign(correct_with_end=1.0) for one in tuned + control)]
    found = row(clusters_table(pd.concat(ended), "correct_with_end"), "qa", "options shown")
    assert [cell.split(" ")[0] for cell in found[2:]] == ["0.25", "0.00", "1.00", "+1.00", "+1.00", "+1.00", "+0.00"]
    trained = asked("trained", "tuned", {city: [1.0, 1.0, 1.0, 1.0]})
    for name in ("qa", "all"):
        assert [cell.split(" ")[0] for cell in row(trained_table(pd.concat([untuned, trained])), name, "options shown")[2:]] == [
            "0.25", "0.25", "1.00", "+0.75"]


def test_the_curve_has_an_interval_over_draws():
    city = ("city", "qa", "options")
    untuned = asked("untuned", "un-tuned", {city: [0.0, 1.0]})
    draws = [asked("tasks", "tuned", {city: values}, seed, size=2) for seed, values in enumerate(([1.0, 1.0], [1.0, 0.0], [0.0, 0.0]))]
    table = tasks_table(pd.concat([untuned, *draws]))
    expected = crossed([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]], ["u0", "u1"])
    assert row(table, "options shown |")[1].startswith("0.50")
    assert row(table, "options shown |")[2] == f"0.50 [{expected.low:.2f}, {expected.high:.2f}]"
    gain = crossed([[1.0, 0.0], [1.0, -1.0], [0.0, -1.0]], ["u0", "u1"])
    assert row(table, "options shown, gain")[2] == f"+0.00 [{gain.low:+.2f}, {gain.high:+.2f}]"


def test_reasoning_is_reported_by_condition_beside_the_other_tasks():
    city = ("city", "qa", "options")
    answers = pd.concat([asked("untuned", "un-tuned", {city: [0.0, 0.0]}), asked("trained", "tuned", {city: [1.0, 0.0]}),
                         asked("reasoning", "direct answers", {city: [1.0, 0.0]}),
                         asked("reasoning", "chain of thought", {city: [1.0, 1.0]})])
    rows = [{"part": part, "condition": condition, "seed": 0, "task": task, "cluster": cluster, "prompt_id": f"{task}{i}", "unit": f"{task}{i}",
             "figure": figure, "value": value}
            for part, condition, good in (("untuned", "un-tuned", 1.0), ("trained", "tuned", 0.0),
                                          ("reasoning", "direct answers", 0.0), ("reasoning", "chain of thought", 1.0))
            for task, cluster in (("days", "far"), ("pets", "steps")) for i in range(2)
            for figure, value in (("accuracy/cot", good * i), ("rationale/cot", good))]
    rows.append({**rows[0], "prompt_id": "asked once", "unit": "asked once", "figure": "accuracy/cot"})
    stated = asked("reasoning", "chain of thought", {("pet", "qa", "options"): [1.0]})
    table = reasoning_table(pd.concat([answers, stated]), pd.DataFrame(rows), "far", ["pet"])
    with_it = row(table, "with chain of thought")
    assert [cell.split(" ")[0] for cell in with_it[1:]] == ["0.50", "1.00", "0.50", "0.50", "1.00"]
    assert row(table, "nothing")[1].startswith("0.50"), "prompts that all were asked"
    gain = row(table, "chain of thought − no reasoning tasks")
    assert [cell.split(" ")[0] for cell in gain[1:]] == ["+0.50", "+1.00", "+0.50", "+0.50", "+0.50"]


@pytest.mark.slow
def test_a_study_runs_again_from_its_store_and_in_any_number_of_processes(tmp_path):
    def study(name, stages, *more):
        ended = invoke("experiment=flan_smoke", "data.examples=64", "data.evaluation=2", "trainer.progress=false",
                       "eval.sampling.max_new_tokens=8", f"stages.folder={tmp_path / stages}", f"hydra.run.dir={tmp_path / name}", *more)
        assert ended.status == 0, ended.err
        told = json.loads((tmp_path / name / "study.json").read_text(encoding="utf-8"))
        return ended.out, told, pd.read_parquet(tmp_path / name / "answers.parquet")

    out, told, answers = study("first", "stages", "data.study.workers=2")
    assert told["tuned_models"] == 6 and set(answers["part"]) == {"untuned", "trained", "reasoning", "clusters", "tasks"}
    for heading in ("Tasks tuned on", "Clusters held out", "Number of tasks", "Chain of thought"):
        assert heading in out
    tuned = set((tmp_path / "stages").glob("trained-*"))
    assert len(tuned) == 6
    _, again, found = study("second", "stages")
    assert set((tmp_path / "stages").glob("trained-*")) == tuned, "nothing is tuned twice"
    assert found.equals(answers) and again["tuning_seconds"] == told["tuning_seconds"]
    assert study("third", "other", "data.study.workers=1")[2].equals(answers), "one process finds the same"
    page = (tmp_path / "first" / "study.md").read_text(encoding="utf-8")
    assert write(tmp_path / "first") == page and page in out


def test_data_without_a_study_is_trained_on_once(tmp_path):
    rows = [{"question": f"What is {word}?", "answer": word} for word in "one two three four five six seven eight".split()]
    (tmp_path / "echo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "echo.yaml").write_text('cluster: words\nfile: echo.jsonl\ntemplates: ["{question}", "{question} Say it."]\n',
                                        encoding="utf-8")
    ended = invoke("experiment=flan", "data=flan", f"data.tasks=[{tmp_path}]", "data.examples=8", "data.heldout=0.3", "recipe.steps=1",
                   "eval.prompts=2", "eval.sampling.max_new_tokens=4", "trainer.progress=false", f"stages.folder={tmp_path / 'stages'}",
                   f"hydra.run.dir={tmp_path / 'out'}")
    assert ended.status == 0, ended.err
    told = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert "exact_match" in told["evaluation"] and not (tmp_path / "out" / "study.md").exists()
