"""Fair tuning: what is declared, what is proposed, the best, what it is charged; all of it once on the lab (slow)."""

import json
import math
import os
import random
import re
import signal

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from algorithms.common.runs.launching import SWEEP
from algorithms.common.support.errors import ConfigError
from benchmarks import sweeps, tuning
from benchmarks.results_read import collect
from benchmarks.sweeps import passed_on
from benchmarks.tuning import Tuning, charge, ranked, reported, sampled, search, shortened, trials
from command_line import CONF, MICRO, composed, invoke, job_overrides
from report_runs import figure, result, write_run

SPACE = {"dpo": {"algorithm.beta": "tag(log, interval(0.01, 1))", "recipe.lr": "choice(0.1, 0.2)"}}


def tuned(**fields):
    return Tuning(**{"methods": ["dpo"], "space": SPACE, "trials": 5, "seeds": [0, 1], "sweeper": "random", **fields})


@pytest.mark.parametrize("fields, told", [
    ({"seed": 1}, "tune.seed: found 1, which tune.seeds has too"),
    ({"methods": []}, "tune.methods: found none"),
    ({"methods": ["ppo"]}, "tune.space.ppo: found none"),
    ({"trials": 0}, "tune.trials: found 0; expected at least 1"),
    ({"sweeper": "ax"}, "tune.sweeper: found 'ax'"),
    ({"space": {"dpo": {"algorithm.needs.reference.recipe.lr": "choice(1, 2)"}}},
     "tune.space.dpo: found algorithm.needs"),
    ({"space": {"dpo": {"data.preferences": "choice(1, 2)"}}}, "tune.space.dpo: found data.preferences"),
    ({"stop_after": 1.5}, "tune.stop_after: found 1.5"),
    ({"stop_after": 0.5, "space": {"dpo": {"recipe.epochs": "choice(1, 2)"}}}, "tune.space.dpo: found recipe.epochs"),
    ({"space": {"dpo": {"recipe.lr": 0.1}}}, "tune.space.dpo.recipe.lr: found 0.1; expected a range"),
    ({"space": {"dpo": {"recipe.lr": "tag(log, interval(0, 1))"}}},
     r"tune.space.dpo.recipe.lr: found 'tag\(log, interval\(0, 1\)\)'; expected bounds above 0.*fix: "
     r"tag\(log, interval\(0.01, 1\)\)")])
def test_what_cannot_be_tuned_is_refused(fields, told):
    with pytest.raises(ConfigError, match=f"^{told}.*"):
        tuned(**fields)


@pytest.mark.parametrize("text, allowed", [
    ("int(interval(2, 5))", lambda value: value in (2, 3, 4, 5)), ("interval(0.5, 2)", lambda value: 0.5 <= value <= 2),
    ("choice(a, b)", lambda value: value in ("a", "b")), ("range(1, 7, 2)", lambda value: value in (1, 3, 5)),
    ("tag(log, interval(0.001, 1))", lambda value: 0.001 <= value <= 1)])
def test_values_are_of_their_range(text, allowed):
    chance = random.Random(0)
    assert all(allowed(sampled("x", text, chance)) for _ in range(50))


def test_a_range_in_logarithms_is_drawn_evenly_in_them():
    chance = random.Random(1)
    drawn = [math.log10(sampled("x", "tag(log, interval(0.0001, 1))", chance)) for _ in range(2000)]
    assert abs(sum(drawn) / 2000 + 2) < 0.15  # uniform on [-4, 0]: standard error .026


def test_random_trials_are_as_many_as_asked_and_the_same_each_time(tmp_path):
    drawn = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        arguments = search(tuned(), "dpo", folder)
        jobs = job_overrides("-m", *(one for one in arguments if not one.startswith(("hydra.", "+drawn"))))
        assert len(jobs) == 1 and "eval.split=tuning" in arguments and "seed=1000" in arguments
        assert "+drawn=trial0,trial1,trial2,trial3,trial4" in arguments
        files = sorted((folder / "conf" / "drawn").glob("*.yaml"))
        drawn.append([OmegaConf.to_container(OmegaConf.load(path)) for path in files])
        first = [one.replace(",trial1,trial2,trial3,trial4", "") for one in arguments]
        assert composed(*first).algorithm.beta == drawn[-1][0]["algorithm"]["beta"]  # as a choice that Hydra reads
    assert drawn[0] == drawn[1] and len({one["algorithm"]["beta"] for one in drawn[0]}) == 5
    assert search(tuned(seed=7), "dpo", tmp_path / "c") != search(tuned(), "dpo", tmp_path / "a")


def test_optuna_is_given_the_same_space_and_number(tmp_path):
    arguments = search(tuned(sweeper="optuna"), "dpo", tmp_path)
    assert {"hydra.sweeper.n_trials=5", "hydra.sweeper.direction=maximize", "hydra.sweeper.max_failure_rate=1.0",
            "algorithm.beta=tag(log, interval(0.01, 1))"} <= set(arguments)


@pytest.mark.parametrize("given, told", [
    ([], "recipe.epochs=0.5"), (["recipe.steps=10"], "recipe.steps=2"), (["recipe.steps=1"], "recipe.steps=1")])
def test_a_short_trial_is_a_share_of_the_whole(given, told):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert shortened(tuned(stop_after=0.25), "dpo", [*given, "hydra/launcher=joblib"]) == told


def test_worse_trials_are_stopped_early_and_charged_too(tmp_path, monkeypatch):
    sweeps = []

    def sweep(given, common, folder):
        sweeps.append((folder.name, given))
        for number in range(5 if folder.name == "short" else 2):
            beta = 0.1 * (number + 1) if folder.name == "short" else (0.5, 0.4)[number]
            seconds = 2.0 if folder.name == "short" else 8.0
            write_run(folder / str(number), trial_run(beta, beta, seconds=seconds))

        asked(folder, 5 if folder.name == "short" else 2)

    monkeypatch.setattr(tuning, "sweep", sweep)
    monkeypatch.setattr(tuning, "shortened", lambda *arguments: "recipe.epochs=0.5")
    tried, full = tuning._tried(tuned(stop_after=0.25, keep=0.4), "dpo", [], tmp_path, None)
    assert [name for name, _ in sweeps] == ["short", "full"]
    assert "recipe.epochs=0.5" in sweeps[0][1] and "+drawn=trial0,trial1" in sweeps[1][1]
    kept = [OmegaConf.load(tmp_path / "full" / "conf" / "drawn" / f"trial{number}.yaml") for number in (0, 1)]
    assert [one.algorithm.beta for one in kept] == [0.5, 0.4]  # the best two of five
    assert sum(trial.cost["seconds"] for trial in tried) == 5 * 2 + 2 * 8 and len(full) == 2


def asked(folder, count):
    """As a sweep notes down the jobs that it asks for."""
    (folder / SWEEP).write_text(json.dumps({"jobs": [{"num": number} for number in range(count)]}))


def trial_run(beta, gold, seed=1000, seconds=10.0, identity="i"):
    stages = {"reference": {"seconds": 4.0, "tokens_trained": 5, "stages": {}}}
    cost = {"seconds": seconds + 4, "tokens_trained": 100 + 5, "labels": 8, "stages": stages}
    report = {"figure": None, "family": "all", "margin": None}
    config = {"report": report, "algorithm": {"beta": beta}, "recipe": {"lr": 0.1}}
    figures = {"reward/gold": figure([gold, gold])}
    return result("dpo", seed, figures=figures, cost=cost, config=config, identity=identity)


def test_the_best_is_reported_and_charged_what_the_trials_took(tmp_path):
    for number, (beta, gold) in enumerate([(0.1, 1.0), (0.3, 2.0), (0.2, 2.0)]):
        write_run(tmp_path / "trials" / str(number), trial_run(beta, gold, identity=f"i{number}"))
    (tmp_path / "trials" / "3").mkdir()
    (tmp_path / "trials" / "3" / "result.json").write_text(json.dumps({"status": "failed", "error": {}}))
    asked(tmp_path / "trials", 4)
    tried = trials(tmp_path / "trials", SPACE["dpo"], None)
    assert [(one.value, one.settings["algorithm.beta"], one.cost["seconds"]) for one in tried] == [
        (1.0, 0.1, 10.0), (2.0, 0.3, 10.0), (2.0, 0.2, 10.0)]
    best = ranked(tried, "maximize")[0]
    assert best.settings == {"algorithm.beta": 0.3, "recipe.lr": 0.1} and ranked(tried, "minimize")[0].value == 1
    assert reported(tuned(), "dpo", best.settings) == ["algorithm=dpo", "seed=0,1", "eval.split=evaluation",
                                              "auditor_half=second", "algorithm.beta=0.3", "recipe.lr=0.1"]
    for seed, charged in ((0, 30.0), (1000, 20.0)):  # of the trial's own seed: the very stage, trained once
        write_run(tmp_path / str(seed), trial_run(0.3, 2.0, seed, identity="i1"))
        path = tmp_path / str(seed) / "result.json"
        for _ in range(2):  # charged once
            charge(path, tried, {"trials": 4, "full": 3})
        told = json.loads(path.read_text())
        assert told["cost"]["seconds"] == 14 + charged and told["cost"]["tokens_trained"] == 105 + charged * 10
        assert told["cost"]["stages"]["tuning"]["seconds"] == charged and told["cost"]["labels"] == 8
        assert told["tuning"] == {"trials": 4, "full": 3}


def test_tuning_nothing_is_refused(tmp_path):
    ended = invoke("task=tune", f"hydra.run.dir={tmp_path}")
    assert ended.status == 2 and ended.err.startswith("tune: found no choice") and ended.err.endswith("fix: tune=lab\n")


def test_a_stage_that_several_trials_share_is_charged_once(tmp_path):
    for number in range(3):
        write_run(tmp_path / str(number), trial_run(0.1, 1.0, identity="same"))
    asked(tmp_path, 3)
    write_run(tmp_path / "best", trial_run(0.1, 1.0, seed=0, identity="same"))
    charge(tmp_path / "best" / "result.json", trials(tmp_path, SPACE["dpo"], None), {})
    assert json.loads((tmp_path / "best" / "result.json").read_text())["cost"]["stages"]["tuning"]["seconds"] == 10


def test_trials_of_an_earlier_sweep_in_the_folder_are_none_of_this_one(tmp_path):
    for number in range(3):
        write_run(tmp_path / str(number), trial_run(0.1, number, identity=f"i{number}"))
    asked(tmp_path, 2)
    assert [one.value for one in trials(tmp_path, SPACE["dpo"], None)] == [0.0, 1.0]


def test_a_trial_that_ended_without_the_objective_is_charged_and_told_apart_from_one_that_did_not_end(tmp_path):
    write_run(tmp_path / "0", trial_run(0.1, 1.0))
    asked(tmp_path, 2)
    tried = trials(tmp_path, SPACE["dpo"], "kl/exact")
    assert [(one.value, one.cost["seconds"]) for one in tried] == [(None, 10.0)] and not tuning.valued(tried)
    assert "1 of 5 trials ended, none of which has a finite kl/exact" in tuning.without_best(tuned(), "kl/exact", tried)
    assert "none of 5 trials came to its end" in tuning.without_best(tuned(), "kl/exact", [])


def test_each_sweep_has_the_objective_and_the_experiment_that_are_asked_for(tmp_path):
    given = ["experiment=tune", "objective=kl/exact", "tune.direction=minimize", "seed=3", "task=tune", "debug=trial"]
    common = passed_on(given, ["hydra/launcher=joblib", "hydra.run.dir=x"], tuning.OWN)
    assert common == ["task=run", "experiment=tune", "objective=kl/exact", "debug=trial", "hydra/launcher=joblib"]
    other = passed_on(["experiment=flan_smoke", "tune=lab"], [], tuning.OWN)
    mine = composed(*other, "algorithm=sft", "recipe.lr=1e-3")
    assert mine.task._target_ == composed().task._target_, "task=run stands above an experiment's own task"
    assert mine.data.examples == 1280 and mine.recipe.lr == 1e-3 and composed(*common[:-1]).objective == "kl/exact"
    assert "hydra.sweeper.direction=minimize" in search(tuned(sweeper="optuna", direction="minimize"), "dpo", tmp_path)


def test_drawn_settings_stand_above_an_experiment(tmp_path):
    _, searched = given = tuning.drawn([{"recipe.lr": 0.25}], tmp_path)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        mine = compose("config", [*passed_on(["experiment=flan_smoke"], [], tuning.OWN), "algorithm=sft", *given])
    assert searched.startswith("hydra.searchpath") and mine.recipe.lr == 0.25, "the experiment says 2e-3"


@pytest.mark.parametrize("given, told", [
    (["experiment=compare", "hydra.mode=RUN"], "hydra.sweeper.params: found a sweep over algorithm with task=tune"),
    (["objective=reward/glod"], "objective: found reward/glod, which is no figure.*fix: objective=reward/gold$")])
def test_tuning_refuses_what_no_trial_could_be_judged_by_before_the_first(tmp_path, given, told):
    ended = invoke("task=tune", "tune=lab", *given, f"hydra.run.dir={tmp_path}")
    assert ended.status == 2 and re.match(told, ended.err.strip())


def test_trials_are_no_rows_of_the_table_above_them(tmp_path):
    write_run(tmp_path / "trials" / "dpo" / "0", trial_run(0.1, 1.0))
    write_run(tmp_path / "runs" / "dpo" / "0", trial_run(0.1, 1.0, 0))
    (tmp_path / "trials" / tuning.TRIALS).write_text("{}")
    assert [run.seed for run in collect([tmp_path])] == [0]
    assert [run.seed for run in collect([tmp_path / "trials"])] == [1000]


@pytest.mark.parametrize("experiment", ["tune", "zoo"])
def test_a_declared_space_is_of_keys_that_there_are(experiment):
    declared = composed(f"experiment={experiment}")
    assert set(declared.tune.methods) <= set(declared.tune.space)
    for method, space in declared.tune.space.items():
        composed(f"algorithm={method}", *(f"{key}=1" for key in space))  # Hydra refuses a key that it does not know


def test_the_zoo_has_every_method_that_leaves_an_answer_and_one_rule_for_what_is_tried():
    """A factor of three either way of what a method has by itself."""
    declared = composed("experiment=zoo")
    known = {path.stem for path in (CONF / "algorithm").glob("*.yaml") if not path.stem.startswith("trl_")}
    assert set(declared.tune.methods) == set(declared.tune.space) == known - {"reward_model", "rating_model"}
    for method, space in declared.tune.space.items():
        own = composed(f"algorithm={method}")
        for key, text in space.items():
            low, high = map(float, re.fullmatch(r"tag\(log, interval\((.*), (.*)\)\)", text).groups())
            middle = OmegaConf.select(own, key)
            assert middle / low == pytest.approx(3, rel=0.05) and high / middle == pytest.approx(3, rel=0.05), (method, key)


def test_a_method_of_which_nothing_is_tried_is_reported_as_it_is(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(tuning, "sweep", lambda given, common, folder: made.append((given, folder)))
    config = composed("experiment=tune", "tune.methods=[best_of_n]", "+tune.space.best_of_n={}", "tune.seeds=[0,1]")
    monkeypatch.setattr(tuning.HydraConfig, "get", lambda: OmegaConf.create(
        {"overrides": {"hydra": []}, "sweeper": {"params": None}}))
    tuning.run(config, "tune", tmp_path, [])
    assert made == [(["algorithm=best_of_n", "seed=0,1", "eval.split=evaluation", "auditor_half=second"],
                     tmp_path / "runs" / "best_of_n")]


def test_ctrl_c_reaches_a_sweep_and_is_waited_for(tmp_path, monkeypatch):
    code = ("import pathlib, signal, sys, time\nfolder = pathlib.Path(sys.argv[-1].partition('=')[2])\n"
            "try:\n (folder / 'begun').touch(); time.sleep(30)\nexcept KeyboardInterrupt:\n"
            " (folder / 'table').touch(); sys.exit(130)")
    script = tmp_path / "run.py"
    script.write_text(code)
    monkeypatch.setattr(sweeps, "RUN", script)
    watcher = os.fork()
    if not watcher:
        while not (tmp_path / "begun").exists():
            os.sched_yield()
        os.kill(os.getppid(), signal.SIGINT)
        os._exit(0)
    with pytest.raises(KeyboardInterrupt):
        sweeps.sweep([], [], tmp_path)
    assert (tmp_path / "table").exists()
    os.waitpid(watcher, 0)


@pytest.mark.slow
@pytest.mark.parametrize("sweeper", ["random", "optuna"])
def test_tuning_on_the_lab(tmp_path, sweeper):
    if sweeper == "optuna":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="extra launchers")
    ended = invoke("experiment=tune", *MICRO, "tune.methods=[sft,dpo]", "tune.trials=2", "tune.seeds=[0]",
                   f"tune.sweeper={sweeper}", f"stages.folder={tmp_path}/stages", f"hydra.run.dir={tmp_path}/out")
    assert ended.status == 0, ended.err
    rows = collect([tmp_path / "out"])
    assert [(run.algorithm, run.seed) for run in rows] == [("dpo", 0), ("sft", 0)]
    assert all(run.raw["cost"]["stages"]["tuning"]["seconds"] > 0 for run in rows)
    assert all(run.raw["config"]["eval"]["split"] == "evaluation" for run in rows)
    assert len(collect([tmp_path / "out" / "trials"])) == 4
    assert "with 2 trials each, of which 2 were trained to their end" in ended.out
    assert (tmp_path / "out" / "report.html").exists()
