"""A budget of tokens or seconds as a number of steps: by hand, against what training then takes, what is left be."""

import dataclasses
import json
import logging

import pytest
from test_streams import Hashed, hashed

from algorithms.best_of_n import BestOfN
from algorithms.common.candidates import Candidates, Sampled
from algorithms.common.recipe import Recipe
from algorithms.common.runs.budgets import Steps, as_steps, priced, told
from algorithms.common.runs.settings import Budget
from algorithms.common.runs.stages import Bench
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.store import Store
from algorithms.common.training.pace import STEPS
from algorithms.ppo import PPO
from algorithms.rest import ReST
from algorithms.rrhf import RRHF
from algorithms.sft import SFT
from few import few
from stage_setup import RECIPE, make_bench, make_data, on_sft


def within(amount, beneath=0.0, per_step=10.0, per_record=0.0, batch=5, records=20) -> int:
    return Steps.within(amount, beneath, per_step, per_record, batch, records).steps


def test_steps_by_hand():
    assert within(1000) == 100 and within(1009) == 100 and within(9) == 0, "at most the budget"
    assert within(1000, beneath=100) == 90 and within(100, beneath=200) == 0
    assert within(0.3, per_step=0.1) == 3, "rounding takes no step"
    # 5 new records a step, 2 each: 20 a step until all 20 are seen, then 10
    assert within(60, per_record=2.0) == 3 and within(80, per_record=2.0) == 4 and within(900, per_record=2.0) == 86
    assert within(25, per_record=2.0, batch=50) == 0 and within(1000, per_record=2.0, batch=50) == 96, "all in a step"


def test_steps_are_the_most_that_the_budget_covers():
    """Against counting one by one."""
    for amount in (3, 57.5, 200, 1001):
        for per_record in (0.0, 0.3, 4.0):
            for batch, records in ((3, 10), (7, 7), (4, 100)):
                def cost(steps):
                    return 20 + 5.5 * steps + per_record * min(steps * batch, records)

                most = max(steps for steps in range(200) if steps == 0 or cost(steps) <= amount)
                assert within(amount, 20, 5.5, per_record, batch, records) == most


def test_a_budget_says_what_it_holds_equal():
    assert told(Budget("tokens", 100)) == {"equal": "tokens", "amount": 100} and told(Budget()) == {"equal": None}
    for wrong, message in (({"equal": "tokens"}, "budget.amount: found null; expected how many tokens each row"),
                           ({"equal": "labels", "amount": 5}, "budget.amount: found 5; expected null"),
                           ({"equal": "seconds", "amount": 0}, "budget.amount: found 0; expected"),
                           ({"price_per_hour": -1.0}, "budget.price_per_hour: found -1.0; expected")):
        with pytest.raises(ConfigError, match=message):
            Budget(**wrong)


def test_money_is_of_the_seconds_a_stage_takes():
    cost = {"seconds": 1800.0, "stages": {"reference": {"seconds": 900.0, "stages": {}}}}
    found = priced(cost, 4.0)
    assert found["money"] == 2.0 and found["stages"]["reference"]["money"] == 1.0 and priced(cost, None) == cost


# On a model


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "stages")


def spent(bench, method, recipe) -> float:
    cost = bench.cost(method, recipe)
    return cost["tokens_trained"] + cost["tokens_sampled"]


METHODS = {
    "sft": lambda: SFT(),
    "dpo": lambda: on_sft(),
    "rrhf": lambda: on_sft(RRHF, candidates=Candidates({"own": Sampled(count=3)}, max_new_tokens=6)),
    "ppo": lambda: on_sft(PPO, critic="policy", max_new_tokens=6),
}


@pytest.mark.parametrize("name", few(METHODS, ["rrhf"]))
def test_training_takes_about_the_budget_of_tokens(store, name, caplog):
    """With the stages stood on, what is sampled before and within the steps; and the budget decides, not the recipe."""
    bench, method = make_bench(store, dataclasses.replace(make_data(), gold=hashed), reward=Hashed()), METHODS[name]()
    recipe = Recipe(lr=1e-3, batch_size=4, steps=1)
    caplog.set_level(logging.INFO)
    found, steps = as_steps(bench, method, recipe, Budget("tokens", 4000), name)
    assert steps.steps == found.steps > STEPS and dataclasses.replace(found, steps=1) == recipe
    assert caplog.messages[-1] == (f"recipe.steps: found 1 with budget.amount, which pays for {steps.steps:,}, and so "
                                   "many are taken; expected one of the two; fix: leave out recipe.steps, or "
                                   "budget.amount")
    begun = [told.partition(": ")[0] for told in caplog.messages if ": SFT on " in told]
    assert begun == (["reference"] if method.needs else ["pace of sft"])
    assert (steps.beneath > 0) == bool(method.needs) and (steps.per_record > 0) == (name == "rrhf")
    assert spent(bench, method, found) == pytest.approx(4000, rel=0.15)


def test_the_pace_is_kept_and_trains_nothing(store, monkeypatch):
    bench, method, budget = make_bench(store), on_sft(PPO, critic="policy", max_new_tokens=6), Budget("seconds", 60.0)
    bench.reward = Hashed()
    first = as_steps(bench, method, RECIPE, budget, "ppo")
    assert method.state_dict() == on_sft(PPO, critic="policy").state_dict(), "its state is that of a run that begins"
    kept = sorted(path.name.partition("-")[0] for path in store.folder.glob("*-*"))
    assert kept == ["pace", "trained"], "the start's stage alone"
    again = make_bench(store, reward=Hashed())
    monkeypatch.setattr(Bench, "models", property(lambda self: pytest.fail("nothing is left to measure")))
    assert as_steps(again, method, RECIPE, budget, "ppo") == first, "so that what was killed goes on"
    assert again.store.key("trained", again.description(method, first[0])) != again.store.key(
        "trained", again.description(method, dataclasses.replace(first[0], steps=first[0].steps + 1)))


def test_the_pace_of_records_is_their_tokens(store):
    bench = make_bench(store)
    pace = bench.pace(SFT(), Recipe(lr=1e-3, batch_size=10, steps=1), "sft")
    lengths = [bench.models.tokenize(record).length for record in bench.view("demonstrations")[0]]
    assert pace.tokens_per_step == pytest.approx(sum(lengths)), "ten records a step, all of them"
    assert pace.tokens_per_record == 0 and 0 < pace.seconds_per_step < 60


def test_what_is_drawn_is_paced_by_the_prompts_that_were_asked_not_by_those_that_were_selected(store):
    method = on_sft(ReST, generations=1, thresholds=[0.99],
                    candidates=Candidates({"own": Sampled(count=3)}, max_new_tokens=6))
    bench, recipe = make_bench(store, reward=Hashed()), dataclasses.replace(RECIPE, steps=9)
    pace, prompts = bench.pace(method, recipe, "rest"), len(bench.view("prompts")[0])
    assert prompts <= STEPS * recipe.batch_size, "it asks all of them"
    sampled = bench.own_cost(method, recipe)["tokens_sampled"]
    assert pace.tokens_per_record * prompts == pytest.approx(sampled)


def test_a_budget_too_small_says_how_much_is_enough(store):
    bench, method = make_bench(store), on_sft()
    with pytest.raises(ConfigError, match="budget.amount: found 10 tokens; expected at least .* fix: ") as told:
        as_steps(bench, method, RECIPE, Budget("tokens", 10), "dpo")
    least = int(str(told.value).rpartition("=")[2])
    assert as_steps(bench, method, RECIPE, Budget("tokens", least), "dpo")[1].steps == 1, "the fix works"
    with pytest.raises(ConfigError):
        as_steps(bench, method, RECIPE, Budget("tokens", least - 1), "dpo")


def test_what_takes_no_steps_is_left_as_it_is(store):
    bench = make_bench(store, reward=Hashed())
    assert as_steps(bench, on_sft(BestOfN), RECIPE, Budget("tokens", 10), "best_of_n") == (RECIPE, None)
    assert as_steps(bench, on_sft(), RECIPE, Budget("labels"), "dpo") == (RECIPE, None)
    assert not list(store.folder.glob("pace-*"))


def test_a_method_that_steps_by_itself_is_refused(store):
    @dataclasses.dataclass
    class Hosted(SFT):
        def fit(self, context):
            """Its own trainer."""

    with pytest.raises(ConfigError, match="budget.equal: found .*, but Hosted takes its steps by itself"):
        as_steps(make_bench(store), Hosted(), RECIPE, Budget("tokens", 1000), "hosted")


@pytest.mark.slow
def test_the_steps_stand_in_the_result(tmp_path):
    from command_line import MICRO_DPO, invoke

    command = [*MICRO_DPO, "budget.equal=tokens", "budget.amount=12000", "budget.price_per_hour=3.6",
               f"stages.folder={tmp_path}/stages"]
    ended = invoke(*command, f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 0, ended.err
    found = json.loads((tmp_path / "run/result.json").read_text())
    steps = found["calibration"]["steps"]
    assert found["budget"] == {"equal": "tokens", "amount": 12000} and found["config"]["recipe"]["steps"] == steps > 2
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == steps
    assert found["cost"]["money"] == pytest.approx(found["cost"]["seconds"] / 1000)
    assert found["cost"]["stages"]["reference"]["money"] > 0
    assert f"dpo: 12,000 tokens are {steps} steps" in ended.out
