"""Generations: what is learned of scored answers by hand, shares of prompts, and the chain of stages beneath."""

import dataclasses
import json
import logging

import pandas as pd
import pytest

from algorithms.common import candidates as candidates_module
from algorithms.common.algorithm import Need
from algorithms.common.candidates import Candidates, FromRecords, Sampled
from algorithms.common.data.records import Records
from algorithms.common.data.records.record import Record
from algorithms.common.data.template import Example
from algorithms.common.generations import read_pool, share, write_pool
from algorithms.common.models.export import frozen_role
from algorithms.common.models.sampling import Sampling, sample
from algorithms.common.runs.agenda import foretell, stages_of
from algorithms.common.runs.settings import settings
from algorithms.common.support.errors import ConfigError, TrainingError
from algorithms.common.support.seeds import derive
from algorithms.common.support.store import Store
from algorithms.dpo import OnlineDPO, extremes
from algorithms.llama2_rejection import RejectionSampling, merged
from algorithms.raft import RAFT, top_share
from algorithms.rest import ReST, ReSTEM, passing, quantile
from algorithms.rrhf import RRHF
from algorithms.sft import SFT
from command_line import composed
from letters import Letters
from stage_setup import RECIPE, make_bench, make_data, on_sft


def scored(record: str, *scores: float) -> Example:
    """A prompt whose k-th response is the token 10 + k."""
    return Example([1, 2], [[10 + k, 0] for k in range(len(scores))], [True] * len(scores), list(scores), record)


def places(examples: list[Example]) -> dict[str, list[int]]:
    """Record → which of its responses are there, in order."""
    return {one.record: [response[0] - 10 for response in one.responses] for one in examples}


A, B, C = scored("a", 0.0, 2.0, 2.0, 1.0), scored("b", 5.0, 4.0), scored("c", -1.0, -1.0)


# What is taken, by hand


def test_raft_takes_the_best_of_each_prompt_the_first_of_equals():
    found = RAFT().lessons([A, B, C])
    assert places(found) == {"a": [1], "b": [0], "c": [0]}
    assert [one.scores for one in found] == [[2.0], [5.0], [-1.0]]


def test_raft_over_the_batch_takes_as_many_whichever_prompts_they_answer():
    """5, 4, 2, 2, 1, 0, −1, −1: three prompts, so 5, 4 and the first 2."""
    assert places(RAFT(ranking="batch").lessons([A, B, C])) == {"a": [1], "b": [0, 1]}
    assert places(top_share([C, A], 5)) == {"c": [0], "a": [0, 1, 2, 3]}, "kept in their order; of equals the first"


def test_a_threshold_lets_pass_what_reaches_it():
    assert places(passing([A, B, C], 2.0)) == {"a": [1, 2], "b": [0, 1]}
    assert places(passing([A, B, C], 2.1)) == {"b": [0, 1]}
    assert places(passing([A, B, C], -1.0)) == {"a": [0, 1, 2, 3], "b": [0, 1], "c": [0, 1]}


def test_at_most_so_many_of_a_prompt_the_best_and_of_equals_the_first():
    assert places(passing([A, B], 0.0, most=1)) == {"a": [1], "b": [0]}
    assert places(passing([A, B], 0.0, most=3)) == {"a": [1, 2, 3], "b": [0, 1]}
    right = scored("r", 1.0, 0.0, 1.0, 1.0)
    assert places(passing([right], 1.0, most=2)) == {"r": [0, 2]}, "a reward that is right or wrong"


def test_a_quantile_is_a_score_of_the_dataset():
    """Sorted: −1, −1, 0, 1, 2, 2, 4, 5. Place 3.5 of 0 … 7 is the half: the higher of 1 and 2."""
    assert [quantile([A, B, C], share) for share in (0.0, 0.5, 0.75, 0.9)] == [-1.0, 2.0, 4.0, 5.0]
    equal = [scored("a", 1.0, 1.0), scored("b", 1.0)]
    assert places(passing(equal, quantile(equal, 0.9))) == {"a": [0, 1], "b": [0]}, "what all share passes"


def test_rest_raises_the_threshold_within_a_grow_and_lowers_the_rate():
    by_reward = {"by": "reward", "thresholds": [0.0, 2.0, 5.0]}
    taken = [places(ReST(generations=g, **by_reward).lessons([A, B, C])) for g in (1, 2, 3, 4)]
    assert taken == [{"a": [0, 1, 2, 3], "b": [0, 1]}, {"a": [1, 2], "b": [0, 1]}, {"b": [0]}, taken[0]]
    assert [ReST(generations=g).improve for g in range(1, 8)] == [0, 1, 2, 0, 1, 2, 0]
    assert places(ReST(generations=2).lessons([A, B, C])) == {"b": [0, 1]}, "the third quartile is 4"


def test_rest_em_takes_no_more_than_ten():
    many = scored("m", *[1.0] * 12)
    assert places(ReSTEM(by="reward", thresholds=[1.0]).lessons([many, C])) == {"m": list(range(10))}


def test_the_pool_joins_what_answers_one_prompt():
    winners = [scored("a", 3.0), scored("b", 1.0)]
    later = [dataclasses.replace(scored("a", 4.0), responses=[[77, 0]], key=""), scored("b", 1.0), scored("c", 0.0)]
    found = merged(winners, later)
    assert [(one.record, one.responses, one.scores) for one in found] == [
        ("a", [[10, 0], [77, 0]], [3.0, 4.0]), ("b", [[10, 0]], [1.0]), ("c", [[10, 0]], [0.0])]
    assert found[0].key != winners[0].key, "another row has another key"


def test_pairs_are_the_best_and_the_worst_and_ties_make_none():
    assert places(extremes([A, B, C])) == {"a": [1, 0], "b": [0, 1]}
    assert [one.scores for one in extremes([A, B])] == [[2.0, 0.0], [5.0, 4.0]]


def test_a_pool_that_is_kept_comes_back(tmp_path):
    write_pool(tmp_path, [A, dataclasses.replace(B, truncated=True)])
    assert read_pool(tmp_path) == [A, dataclasses.replace(B, truncated=True)]


def test_shares_walk_on_and_see_all_before_one_again():
    parts = [share(10, 4, generation, seed=1) for generation in range(1, 6)]  # 20 of 10: every prompt twice
    assert not set(parts[0]) & set(parts[1]) and len(parts[0]) == len(parts[1]) == 4
    assert set(parts[0]) | set(parts[1]) < set(parts[0]) | set(parts[1]) | set(parts[2]) == set(range(10))
    assert all(part == sorted(part) for part in parts) and share(10, 4, 1, seed=2) != parts[0]
    assert share(10, 10, 3, seed=1) == share(10, 99, 1, seed=1) == list(range(10))


def test_what_they_refuse():
    for kind, wrong in ((RAFT, {"ranking": "all"}), (RAFT, {"generations": 0}), (RAFT, {"prompts": 0}),
                        (ReST, {"thresholds": []}), (ReST, {"thresholds": [0.9, 0.5]}), (ReST, {"thresholds": [1.0]}),
                        (ReST, {"lr_decay": 0.0}), (ReSTEM, {"most": 0}), (ReST, {"by": "rank"}),
                        (RejectionSampling, {"pool": "none"}), (OnlineDPO, {"reference": "base"}),
                        (OnlineDPO, {"beta": 0.0})):
        with pytest.raises(ConfigError, match=f"algorithm.{next(iter(wrong))}: found .*; expected"):
            kind(**wrong)
    ReST(by="reward", thresholds=[1.0, 7.0])
    only = Candidates({"data": FromRecords()})
    with pytest.raises(ConfigError, match="algorithm.generations: found 2 .*; fix: algorithm.generations=1"):
        RRHF(view="ranked", generations=2, candidates=only).check(None, None)
    RRHF(view="ranked", generations=1, candidates=only).check(None, None)


# The chain of stages


def data():
    return dataclasses.replace(make_data(), prompts=Records.from_list([Record(f"prompt {i}:", []) for i in range(12)]))


def few(count: int = 3) -> Candidates:
    return Candidates({"own": Sampled(count=count)}, max_new_tokens=6)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """One for all tests that do not count what is made: their chains begin alike."""
    return Store(tmp_path_factory.mktemp("stages"))


@pytest.fixture
def bench(store):
    return lambda: make_bench(store, data(), reward=Letters())


def chained(kind, recipe=RECIPE, **options):
    """A method on supervised fine-tuning, told its recipe as a run tells it."""
    return Need(on_sft(kind, **{"candidates": few(), **options}), recipe).algorithm


def test_a_generation_stands_on_the_one_before():
    method = chained(RAFT, generations=3)
    second, first = method.needs["generation_2"].algorithm, None
    first = second.needs["generation_1"].algorithm
    assert (method.latest, second.latest, first.latest) == ("generation_2", "generation_1", "reference")
    assert [one.generations for one in (method, second, first)] == [3, 2, 1] and set(first.needs) == {"reference"}
    assert all(isinstance(one.needs["reference"].algorithm, SFT) for one in (method, second, first))
    method.trained_by(RECIPE)
    assert set(method.needs) == {"reference", "generation_2"}, "told again it stands on no more"
    assert chained(ReSTEM).start == "reference" and chained(RAFT).start == "generation_2"


def test_a_run_tells_its_method_its_recipe():
    chosen = settings(composed("algorithm=raft", "algorithm.generations=2", "recipe.lr=0.5",
                               "algorithm.needs.reference.recipe.lr=0.25"))
    assert chosen.algorithm.needs["generation_1"].recipe.lr == 0.5
    assert chosen.algorithm.needs["generation_1"].algorithm.needs["reference"].recipe.lr == 0.25


def test_a_longer_chain_trains_the_last_generation_alone(tmp_path, bench, monkeypatch):
    """And the candidates of each are of the policy before it: other tokens, under another key."""
    here, built = make_bench(Store(tmp_path), data(), reward=Letters()), []
    build = Candidates._build
    monkeypatch.setattr(Candidates, "_build", lambda self, context, prompts, policy, *more: built.append(policy)
                        or build(self, context, prompts, policy, *more))
    for generations in (2, 3):
        here.train(chained(RAFT, generations=generations), RECIPE)
    assert built == ["reference", "generation_1", "generation_2"]
    assert [len(list(here.store.entries(kind))) for kind in ("candidates", "trained")] == [3, 4]  # one is SFT
    alone = bench().description(chained(RAFT, generations=1), RECIPE)
    beneath = bench().description(chained(RAFT, generations=3), RECIPE)["needs"]["generation_2"]
    assert beneath["needs"]["generation_1"] == alone, "one that is asked for is the one that another stands on"


def test_the_second_generation_learns_from_answers_of_the_first(bench):
    """Drawn again by hand from what the first left: the very candidates of a kept stage."""
    here, method = bench(), chained(RAFT, generations=2)
    here.train(method, RECIPE)
    first = here.train(method.needs["generation_1"].algorithm, RECIPE)
    here.models.clear_roles()
    frozen_role(here.models, "left", first)
    records, seed = list(here.view("prompts")[0]), derive(derive(0, "candidates", "own", 2), 0)
    drawn = sample(here.models, "left", [here.models.prompt_ids(one.prompt, 6) for one in records],
                   Sampling(6, 1.0, batch_size=128), seed, n=3, keys=[one.key for one in records])
    by_hand = [{tuple(one.ids) for one in of_prompt} for of_prompt in drawn]
    kept = [pd.read_parquet(folder / "candidates.parquet") for _, folder in here.store.entries("candidates")]
    same = [all(tuple(row.ids) in by_hand[row.prompt] for row in frame.itertuples()) for frame in kept]
    assert {True, False} == set(same), "its own, and those of the reference"


def test_what_each_took_is_charged_once(bench):
    here, method = bench(), chained(RAFT, generations=2)
    cost = here.cost(method, RECIPE)
    first, sft = cost["stages"]["generation_1"], cost["stages"]["reference"]
    own = here.own_cost(method, RECIPE)
    for key in ("tokens_sampled", "reward_queries", "tokens_trained"):
        before = here.own_cost(method.needs["generation_1"].algorithm, RECIPE)[key]
        assert cost[key] == own[key] + before + sft[key] and own[key] > 0 and before > 0
    assert first["tokens_trained"] < cost["tokens_trained"] and first["stages"]["reference"] == sft


def test_figures_compare_with_where_the_first_generation_began(bench):
    here, method = bench(), chained(RAFT, generations=2)
    one, other = here.baseline(method), here.baseline(method.needs["generation_1"].algorithm)
    assert one.samples.equals(other.samples) and here.start(method).kind == "sft"


def test_the_agenda_has_every_generation_and_speaks_of_their_settings_once(bench, caplog):
    recipe = dataclasses.replace(RECIPE, batch_size=100)
    stages = stages_of(bench(), chained(RAFT, recipe, generations=3), recipe, "raft")
    assert [stage.name for stage in stages.values()] == ["reference", "generation_1", "generation_2", "raft"]
    assert {stage.key for name, stage in zip(range(4), stages.values()) if name} == {"recipe"}
    with caplog.at_level(logging.WARNING):
        foretell(stages)
    (said,) = [one.getMessage() for one in caplog.records if one.getMessage().startswith("recipe.batch_size")]
    assert "fix: recipe.batch_size=" in said


def test_improve_steps_learn_from_the_dataset_of_their_grow(bench):
    """The second of two is charged no samples; the third draws anew; the recipe's rate is halved in the second."""
    here = bench()
    chain = [chained(ReST, generations=g, thresholds=[0.0, 0.5]) for g in (1, 2, 3)]
    folders = [here.train(one, RECIPE) for one in chain]
    queries = [here.own_cost(one, RECIPE)["reward_queries"] for one in chain]
    assert queries[0] > 0 and queries[1] == 0 and queries[2] > 0
    assert [(folder / "pool.jsonl").is_file() for folder in folders] == [True, False, True]
    first = read_pool(folders[0])
    assert len(first) == 12 and max(len(one.responses) for one in first) <= 3
    lines = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) for folder in folders]
    assert lines[1]["lr/policy"] == pytest.approx(lines[0]["lr/policy"] / 2)
    assert lines[2]["lr/policy"] == pytest.approx(lines[0]["lr/policy"])
    learned = {one.record for one in passing(first, quantile(first, 0.5))}
    assert json.loads((folders[1] / "fit.json").read_text())["records"] == len(learned)


def test_the_pool_has_the_winners_of_all_generations(bench):
    here = bench()
    folders = [here.train(chained(RejectionSampling, generations=g), RECIPE) for g in (1, 2)]
    first, both = map(read_pool, folders)
    assert all(len(one.responses) == 1 for one in first)
    before = {one.record: one.responses[0] for one in first}
    assert all(one.responses[0] == before[one.record] for one in both)
    assert any(len(one.responses) == 2 for one in both)
    latest = here.train(chained(RejectionSampling, generations=2, pool="latest"), RECIPE)
    assert not (latest / "pool.jsonl").exists()


def test_a_generation_may_answer_a_part_of_the_prompts(tmp_path, monkeypatch):
    asked, make = [], Candidates.make
    monkeypatch.setattr(Candidates, "make", lambda self, context, records, *more: asked.append(
        [record.key for record in records]) or make(self, context, records, *more))
    here, one = make_bench(Store(tmp_path), data(), reward=Letters()), dataclasses.replace(RECIPE, steps=1)
    here.train(chained(RAFT, one, generations=3, prompts=4), one)
    assert [len(part) for part in asked] == [4, 4, 4] and len(set().union(*asked)) == 12
    asked.clear()
    half = dataclasses.replace(RECIPE, steps=None, epochs=0.5)
    stage = here.train(chained(RAFT, half, generations=2), half)
    assert [len(part) for part in asked] == [6, 6] and not set(asked[0]) & set(asked[1])
    fit = json.loads((stage / "fit.json").read_text())
    assert (fit["records"], fit["steps"]) == (6, 2), "all that was answered is learned, four at a time"


def test_grows_answer_other_prompts_than_the_one_before(tmp_path, monkeypatch):
    """Two Improve steps each: the first Grow answers four of twelve prompts, the second the next four."""
    asked, make = [], Candidates.make
    monkeypatch.setattr(Candidates, "make", lambda self, context, records, *more: asked.append(
        [record.key for record in records]) or make(self, context, records, *more))
    here, one = make_bench(Store(tmp_path), data(), reward=Letters()), dataclasses.replace(RECIPE, steps=1)
    here.train(chained(ReST, one, generations=3, prompts=4, thresholds=[0.0, 0.5]), one)
    keys = [record.key for record in here.view("prompts")[0]]
    assert asked == [[keys[place] for place in share(12, 4, number, seed=0)] for number in (1, 2)]
    assert [ReST(generations=g).drawings for g in range(1, 8)] == [1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("length", [{"steps": 3}, {"steps": None, "epochs": 0.75}])
def test_a_generation_that_is_stopped_is_a_checkpoint_of_the_whole(tmp_path, length):
    """The same prompts, answers and rates up to there, after generations that were not stopped."""
    here = make_bench(Store(tmp_path), data(), reward=Letters())
    whole = dataclasses.replace(RECIPE, batch_size=3, **length)
    stopped = dataclasses.replace(whole, stop_after=2)
    folders = [here.train(chained(RAFT, recipe, generations=2), recipe) for recipe in (whole, stopped)]
    lines = [[{key: value for key, value in json.loads(line).items() if key not in ("tokens_per_second",
             "peak_memory_bytes") and not key.startswith("timing/")}
              for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in folders]
    assert len(lines[0]) == 3 and lines[1] == lines[0][:2]
    assert len(list(here.store.entries("candidates"))) == 2, "found, not drawn again"


@pytest.mark.parametrize("reference, anchor", [("latest", "generation_1"), ("first", "reference")])
def test_online_dpo_is_held_to_the_policy_that_answered_or_to_the_first(bench, reference, anchor):
    method = chained(OnlineDPO, generations=2, reference=reference)
    assert method.anchor == anchor
    stage = bench().train(method, RECIPE)
    line = json.loads((stage / "metrics.jsonl").read_text().splitlines()[0])
    gap = abs(line["logps/chosen_change"])
    assert (gap < 1e-4) == (reference == "latest"), "it starts where the latest generation is"
    assert chained(OnlineDPO, generations=1).anchor == "reference"


def test_nothing_to_learn_from_is_told(bench):
    with pytest.raises(TrainingError, match="found no answer to learn from among the candidates; expected some; fix:"):
        bench().train(chained(ReSTEM, generations=1, by="reward", thresholds=[1e9]), RECIPE)


class Killed(Exception):
    pass


def test_killed_in_a_later_generation_it_goes_on_there(tmp_path, monkeypatch):
    def start(folder):
        here = make_bench(Store(tmp_path / folder), data(), reward=Letters())
        return here.train(chained(RAFT, generations=2), RECIPE)

    whole, loss, calls = start("whole"), RAFT.loss, []

    def dies(self, models, batch):
        calls.append(self.generations)
        if calls.count(2) == 2:
            raise Killed
        return loss(self, models, batch)

    with monkeypatch.context() as patch:
        patch.setattr(RAFT, "loss", dies)
        with pytest.raises(Killed):
            start("killed")
    monkeypatch.setattr(RAFT, "loss", lambda self, *given: calls.append(self.generations) or loss(self, *given))
    monkeypatch.setattr(candidates_module.Candidates, "_build", lambda *_: pytest.fail("they were made before"))
    calls.clear()
    resumed = start("killed")
    assert calls == [2, 2], "of three steps the first was done"
    assert (resumed / "adapter_model.safetensors").read_bytes() == (whole / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_generations_climb(tmp_path):
    """The reward counts letters: each generation's candidates have more of them than the one before had."""
    here = make_bench(Store(tmp_path), data(), reward=Letters())
    recipe, means = dataclasses.replace(RECIPE, steps=30, lr=1e-2), []
    for generations in (1, 2, 3):
        method = chained(RAFT, recipe, generations=generations, candidates=few(8))
        here.evaluate(method, recipe)
        scores = method.state_dict()["candidates/mean"]
        means.append(sum(scores) / len(scores))
    assert means[0] < means[1] < means[2]
