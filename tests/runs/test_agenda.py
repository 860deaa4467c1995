"""What is said of a run's stages before weights load, and as they begin."""

import dataclasses
import logging

import pytest

from algorithms.best_of_n import BestOfN
from algorithms.common.algorithm import Need
from algorithms.common.recipe import Recipe
from algorithms.common.rewards.sources import Trained, TrainedOwn
from algorithms.common.runs.agenda import foretell, stages_of
from algorithms.common.support.errors import ConfigError, TrainingError
from algorithms.common.support.store import Store
from algorithms.dpo import DPO
from algorithms.reward_model import RewardModel
from algorithms.sft import SFT
from stage_setup import RECIPE, make_bench, model, on_sft


@pytest.fixture
def bench(tmp_path):
    return make_bench(Store(tmp_path / "store"))


def told(bench, algorithm, recipe, caplog, name="the method"):
    caplog.clear()
    caplog.set_level(logging.INFO)
    foretell(stages_of(bench, algorithm, recipe, name))
    return caplog.messages


def test_stages_come_after_what_they_stand_on_and_once(bench):
    bench.reward = Trained(on_sft(RewardModel), RECIPE)
    found = stages_of(bench, on_sft(BestOfN), RECIPE, "best")
    assert [(one.name, one.key) for one in found.values()] == [
        ("reference", "algorithm.needs.reference.recipe"), ("reward", "reward.recipe"), ("best", "recipe")]
    assert [type(one.algorithm) for one in found.values()] == [SFT, RewardModel, BestOfN]


def test_a_reward_with_a_base_of_its_own_is_looked_at_over_that_base(bench):
    base = model(max_length=60)
    bench.reward, bench.eval = TrainedOwn(RewardModel(), RECIPE, base), dataclasses.replace(bench.eval, proxy=True)
    found = stages_of(bench, on_sft(), RECIPE, "dpo")
    assert {one.name: one.bench.model for one in found.values()}["reward"] == base
    trained = bench.over(base)
    need = bench.reward.needs()["reward"]
    assert bench.store.key("trained", trained.description(need.algorithm, need.recipe)) in found


def test_a_batch_larger_than_the_data_and_steps_beyond_it_are_said(bench, caplog):
    (first, *_) = told(bench, DPO(), Recipe(lr=1e-3, batch_size=16), caplog)
    assert first.startswith("recipe.batch_size: found 16, more than the 10 records of the view pairs that the method")
    (first, *_) = told(bench, DPO(), Recipe(lr=1e-3, batch_size=4, steps=10), caplog)
    assert first == ("recipe.steps: found 10 steps, 4 records each, which go through the 10 records of the view pairs "
                     "4 times; recipe.steps=3 is once")
    needs = {"reference": Need(SFT(), Recipe(lr=1e-3, batch_size=11))}
    (first, *_) = told(bench, DPO(needs=needs), RECIPE, caplog)
    assert first.startswith("algorithm.needs.reference.recipe.batch_size: found 11")


def test_usual_settings_are_only_counted(bench, caplog):
    """A last step that is not full goes through the data once, too: there is no smaller number to fix it with."""
    assert told(bench, on_sft(), Recipe(lr=1e-3, batch_size=5, steps=2), caplog, "dpo") == [
        "stages: reference, dpo (2 in all, 0 kept)"]


def test_limits_that_cut_all_are_said_with_what_would_fit(tmp_path, caplog):
    bench = make_bench(Store(tmp_path / "store"), model=model(max_length=8, max_prompt_length=2))
    first = told(bench, DPO(), Recipe(lr=1e-3, batch_size=5), caplog)[0]
    assert first.startswith("model.max_length: found 8 (model.max_prompt_length 2), which cuts all of the first 10")
    room = int(first.split("fix: model.max_length=")[1].split()[0])
    prompts = int(first.rsplit("=", 1)[1])
    mended = make_bench(Store(tmp_path / "store"), model=model(max_length=room, max_prompt_length=prompts))
    assert told(mended, DPO(), Recipe(lr=1e-3, batch_size=5), caplog) == ["stages: the method (1 in all, 0 kept)"]


def test_answers_without_room_are_refused_before_training(tmp_path):
    bench = make_bench(Store(tmp_path / "store"), model=model(max_length=6, max_prompt_length=2))
    with pytest.raises(ConfigError, match="eval.sampling.max_new_tokens: found 6; expected less than model.max_len"):
        foretell(stages_of(bench, DPO(), RECIPE, "dpo"))


def test_a_stage_says_its_recipe_and_number_as_it_begins_and_what_it_cuts(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    bench = make_bench(Store(tmp_path / "store"), model=model(max_length=12, max_prompt_length=6))
    algorithm, recipe = on_sft(), Recipe(lr=1e-2, batch_size=4, steps=1)
    bench.number(stages_of(bench, algorithm, recipe, "dpo"))
    bench.train(algorithm, recipe, "dpo")
    begins = [text for text in caplog.messages if text.startswith("stage ")]
    assert begins == [
        "stage 1 of 2, reference: SFT on 10 records (demonstrations), lr 0.01 (linear), 3 steps, 4 records each, "
        "1.2 epochs",
        "stage 2 of 2, dpo: DPO on 10 records (pairs), lr 0.01 (linear), 1 step, 4 records each, 0.4 epochs"]
    found = list(stages_of(bench, algorithm, recipe, "dpo").values())
    assert [one.kept for one in found] == [True, True]
    cut = [text for text in caplog.messages if "records are cut to fit model.max_length=12" in text]
    total = sum(example.truncated for example in found[1].examples())
    assert total and cut[-1].startswith(f"dpo: {total} of 4 records are cut")


def test_a_scorer_that_raises_at_the_end_loses_no_answer(tmp_path, monkeypatch):
    from algorithms.common.models import sampling
    from algorithms.common.rewards.sources import Function

    broken, drawn = [True], []

    def scorer(prompts, responses):
        if broken[0]:
            raise ConnectionError("the endpoint is gone")
        return [float(len(text)) for text in responses]

    bench = make_bench(Store(tmp_path / "store"), reward=Function(scorer))
    algorithm, recipe = SFT(), Recipe(lr=1e-2, batch_size=4, steps=1)
    decode = sampling._decode
    monkeypatch.setattr(sampling, "_decode", lambda *given: drawn.append(1) or decode(*given))
    with pytest.raises(TrainingError, match="ConnectionError: the endpoint is gone"):
        bench.evaluate(algorithm, recipe, "sft", proxy=True)
    before = len(drawn)
    broken[0] = False
    found = bench.evaluate(algorithm, recipe, "sft", proxy=True)
    assert before and len(drawn) == before, "no answer is sampled again"
    assert found.samples["proxy"].tolist() == [float(len(text)) for text in found.samples["response"]]
