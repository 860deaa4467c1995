"""What runs leave to be compared with, and how a judge's source of rewards reads the answers of finished runs."""

import dataclasses
import json
from dataclasses import replace

import pandas as pd
import pytest
from omegaconf import OmegaConf

from algorithms.common.algorithm import RewardSource
from algorithms.common.data.records import Record, Records
from algorithms.common.evaluation.verdicts import Pair, finished_runs, pairings
from algorithms.common.evaluation.verdicts.belief import Belief
from algorithms.common.rewards.sources import Function, Trained
from algorithms.common.runs import judging
from algorithms.common.runs.auditing import CannotJudge
from algorithms.common.runs.judging import Court, as_run, records_of, scores
from algorithms.common.runs.results import write_references
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.store import Store
from algorithms.reward_model import RewardModel
from command_line import composed
from letters import Letters
from report_runs import result, write_run
from stage_setup import RECIPE, make_bench, make_data, model


def test_what_a_run_leaves_to_be_compared_with(tmp_path):
    write_run(tmp_path / "0", result())
    answers = pd.DataFrame({"prompt_id": ["p0", "p0", "p1"], "sample": [0, 1, 0], "prompt": "Q", "picked": True,
                            "response": ["a", "b", "c"], "finished": [True, False, True]})
    answers.to_parquet(tmp_path / "0/samples.parquet")
    before = answers.assign(response=["x", "y", "z"], picked=[True, True, False])
    write_references(tmp_path / "0", before, {"p0": "best"})
    (run,) = finished_runs(tmp_path)
    assert [(one.left_response, one.right_response, one.sample, one.left_finished, one.right_finished)
            for one in pairings([run], "start")] == [("a", "x", 0, True, True), ("b", "y", 1, False, False)]
    with_data = [(one.left_response, one.right_response) for one in pairings([run], "data")]
    assert with_data == [("a", "best"), ("b", "best")]
    write_references(tmp_path / "0", None, {})
    assert finished_runs(tmp_path)[0].references == {}


class Seen(RewardSource):
    """Keeps what it is asked to score."""

    def __init__(self):
        self.responses = []

    def open(self, models, folders, data, batch_size):
        def score(responses):
            self.responses += responses
            return [float(len(one.text)) for one in responses]

        return score


def with_messages():
    data = make_data()
    turns = [{"role": "user", "content": "Well?"}]
    data.evaluation = Records.from_list([*data.evaluation, Record(turns, ["yes"], None, {"answer": 7})])
    return data


def test_answers_are_scored_as_their_records_are(tmp_path):
    bench, source = make_bench(Store(tmp_path), with_messages()), Seen()
    records = list(bench.data.evaluation)
    asked = [Pair(records[0].key, "eval 0:", "0", " the food", "start", " the room was", 0, True, False),
             Pair(records[-1].key, "rendered", "0", "no", "start", "yes")]
    known = records_of(bench.data, asked)
    assert scores(bench, source, [*asked, asked[0]], known) == [(9.0, 13.0), (2.0, 3.0), (9.0, 13.0)]
    finished, cut, last, _ = source.responses   # each once
    end = bench.models.template.turn_end
    assert finished.ids[-1] == end and cut.ids[-1] != end and (finished.finished, cut.finished) == (True, False)
    assert bench.models.template.decode(cut.ids) == " the room was"
    assert finished.prompt_ids == bench.models.prompt_ids("eval 0:", 6)
    assert (last.prompt, last.turns, last.meta) == ("rendered", [{"role": "user", "content": "Well?"}], {"answer": 7})
    with pytest.raises(ConfigError, match="data: found no prompt other, .* expected the data that the runs"):
        records_of(bench.data, [Pair("other", "", "0", "", "start", "")])


def test_each_seed_is_scored_with_its_own_data(tmp_path, monkeypatch):
    court = Court(composed(), Store(tmp_path), tmp_path, {"0": 5, "1": 6})
    benches = {}

    def bench(court, number):
        return benches.setdefault(number, make_bench(court.store, make_data(number), seed=number))

    monkeypatch.setattr(Court, "bench", bench)
    asked = []
    for run, number in (("1", 6), ("0", 5), ("1", 6)):
        record = bench(court, number).data.evaluation[0]
        asked.append(Pair(record.key, "eval 0:", run, " the" * len(asked), "start", " a"))
    assert court.scores(Letters(), asked) == [(0.0, 2.0), (4.0, 2.0), (8.0, 2.0)]
    assert set(benches) == {5, 6} and court.seed == 0


def test_a_judge_that_is_trained_learns_of_the_half_that_the_runs_auditor_did(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(judging, "court_of", lambda bench, source, half: (seen.append(half) or bench, None))
    monkeypatch.setattr(Court, "bench", lambda court, number: make_bench(court.store))
    record = make_data().evaluation[0]
    for half in ("second", None):
        court = Court(composed(*([f"auditor_half={half}"] if half else [])), Store(tmp_path), tmp_path, {"0": 0})
        court.scores(Letters(), [Pair(record.key, "eval 0:", "0", " the", "start", " a")])
    assert seen == ["second", None]
    halves = composed("auditor_half=third")
    with pytest.raises(ConfigError, match="auditor_half: found 'third'; expected first, second or null"):
        Court(halves, Store(tmp_path), tmp_path, {"0": 0}).scores(Letters(), [Pair(record.key, "", "0", "", "s", "")])


def test_seeds_whose_auditor_cannot_judge_get_no_verdict(tmp_path, monkeypatch, caplog):
    able = {5: Belief(8, 0.8, 0.7, 0.9, 40, True), 6: Belief(8, 0.6, 0.5, 0.7, 40, False)}
    monkeypatch.setattr(judging, "court_of", lambda bench, source, half: (bench, able[bench.seed]))
    monkeypatch.setattr(Court, "bench", lambda court, number: make_bench(court.store, make_data(number), seed=number))
    court = Court(composed(), Store(tmp_path), tmp_path, {"0": 5, "1": 6})
    asked = [Pair(make_data(number).evaluation[0].key, "eval 0:", run, " the", "start", " a")
             for run, number in (("1", 6), ("0", 5))]
    source = Letters()
    assert court.scores(source, asked) == [None, (4.0, 2.0)]
    assert "seed 6: judge: found an auditor that learned from 8 comparisons, agrees with 0.600 [0.500" in caplog.text
    assert [court.belief(source, run) for run in "01"] == [able[5], able[6]]
    with pytest.raises(CannotJudge, match=r"expected at least 0\.55 at the lower end; fix: more comparisons"):
        court.scores(source, asked[:1])


def longer(responses):
    return [float(len(one)) for one in responses]


def shorter(responses):
    return [-float(len(one)) for one in responses]


def test_a_judge_is_another_where_what_it_learned_from_or_stands_on_is(tmp_path, monkeypatch):
    data = make_data()

    def told(source, **changed):
        nonlocal court
        court = Court(composed(), Store(tmp_path), tmp_path, {"0": 5, "1": 5})
        audit = {"audit": changed.pop("audit", data.heldout)}
        bench = make_bench(court.store, dataclasses.replace(data, **audit), **changed)
        monkeypatch.setattr(Court, "bench", lambda court, number: bench)
        return court.identity(source, "0")

    court, trained = None, Trained(RewardModel(), RECIPE)
    first = told(trained)
    assert first == told(trained) == court.identity(trained, "1") and court.identity(trained, "gone") is None
    assert first == told(trained, seed=3), "seeds have the same settings"
    others = [told(trained, audit=data.preferences), told(trained, model=model(precision="bf16")),
              told(Trained(RewardModel(), replace(RECIPE, steps=4))), told(Function(longer)), told(Function(shorter))]
    assert len({first, *others}) == 6
    assert told(Function(longer)) == told(Function(longer), model=model(precision="bf16"), audit=None)


def test_the_runs_own_settings_are_read_again(tmp_path):
    told = result(config={"data": {"_target_": "some.Data", "path": "pairs.jsonl"}, "model": {"name": "m"}, "seed": 3})
    run = tmp_path / "0"
    write_run(run, told)
    config = composed("eval.prompts=7")
    found = as_run(config, run, ["task=judge", "eval.prompts=7", "runs=x"])
    assert (found.data.path, found.model.name, found.eval.prompts, found.seed) == ("pairs.jsonl", "m", 7, 0)
    assert found.auditor_half is None
    tuned = tmp_path / "tuned"
    write_run(tuned, {**told, "config": {**told["config"], "auditor_half": "second"}})
    assert as_run(config, tuned, []).auditor_half == "second", "the first chose the settings"
    assert as_run(composed("auditor_half=first"), tuned, ["auditor_half=first"]).auditor_half == "first"
    kept = as_run(config, run, ["data=file", "model=hub"])
    assert (kept.data, kept.model) == (config.data, config.model)
    config = composed("data.audit=8", "+reward@data.gold=function", "+data.gold.function._target_=some.function")
    changed = as_run(config, run, ["data.audit=8", "+reward@data.gold=function", "+data.gold.function._target_=f"])
    assert (changed.data.path, changed.data.audit) == ("pairs.jsonl", 8), "a key of a group is not the group"
    assert changed.data.gold.function._target_ == "some.function"
    secret = {key: value for key, value in told.items() if key != "figures"} | {"config": {"data": {"token": "***"}}}
    (run / "result.json").write_text(json.dumps(secret))
    with pytest.raises(ConfigError, match="data: found settings .* that hold a secret.* fix: data=…"):
        as_run(config, run, [])
    assert OmegaConf.to_container(as_run(config, run, ["data=file"]).eval) == OmegaConf.to_container(config.eval)
