"""Every row answers from a stream of its own: what names it, what does not, and what independence is worth."""

import dataclasses
import hashlib
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from algorithms.best_of_n import BestOfN
from algorithms.common.algorithm import Need, RewardSource
from algorithms.common.data.records import Record, Records
from algorithms.common.evaluation.metrics import metrics
from algorithms.common.models.model import Lora
from algorithms.common.models.sampling import Sampling
from algorithms.common.rewards.sources import Trained
from algorithms.common.runs import stages, streams
from algorithms.common.support.seeds import derive, uniforms
from algorithms.common.support.store import Store
from algorithms.dpo import DPO, IPO
from algorithms.ppo import PPO
from algorithms.reward_model import RewardModel
from algorithms.sft import SFT
from few import few
from stage_setup import EVAL, RECIPE, TRAINER, AlsoReading, make_bench, make_data, model, on_sft


@dataclasses.dataclass
class Hashed(RewardSource):
    """A continuous score that tells nothing but two responses apart; the data's gold is the same."""

    salt: str = ""

    def open(self, models, folders, data, batch_size):
        return lambda responses: hashed([r.prompt for r in responses], [r.text for r in responses], salt=self.salt)


def hashed(prompts, responses, finished=None, salt=""):
    texts = (f"{salt}/{prompt}/{response}".encode() for prompt, response in zip(prompts, responses))
    return [int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**48 for text in texts]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("stages"))


def stream(bench, algorithm=None, recipe=RECIPE) -> int:
    described = bench.description(algorithm or on_sft(), recipe)
    return streams.answers(bench.seed, streams.row_identity(described), bench.eval.sampling)


def sampled(**changed):
    return dataclasses.replace(EVAL, sampling=dataclasses.replace(EVAL.sampling, **changed))


OTHER = dataclasses.replace(RECIPE, lr=2e-2)
ANOTHER_ROW = {
    "seed": lambda s: stream(make_bench(s, seed=1)),
    "method": lambda s: stream(make_bench(s), on_sft(IPO)),
    "algorithm.beta": lambda s: stream(make_bench(s), on_sft(beta=0.2)),
    "recipe": lambda s: stream(make_bench(s), recipe=OTHER),
    "the reference's recipe": lambda s: stream(make_bench(s), on_sft(recipe=OTHER)),
    "no reference": lambda s: stream(make_bench(s), DPO()),
    "data": lambda s: stream(make_bench(s, make_data(1))),
    "model.lora": lambda s: stream(make_bench(s, model=model(lora=Lora(r=8, alpha=8)))),
    "temperature": lambda s: stream(make_bench(s, eval=sampled(temperature=0.5))),
    "sft": lambda s: stream(make_bench(s), SFT()),
    "best of 1": lambda s: stream(make_bench(s, reward=Hashed()), on_sft(BestOfN, n=1)),
    "best of 2": lambda s: stream(make_bench(s, reward=Hashed()), on_sft(BestOfN, n=2)),
    "another reward": lambda s: stream(make_bench(s, reward=Hashed("x")), on_sft(BestOfN, n=2)),
    "a trained reward": lambda s: stream(make_bench(s, reward=trained()), on_sft(BestOfN, n=2)),
    "a reward trained otherwise": lambda s: stream(make_bench(s, reward=trained(OTHER)), on_sft(BestOfN, n=2)),
    "what is read beside": lambda s: stream(make_bench(s), AlsoReading(beside="prompts")),
    "other data read beside": lambda s: stream(make_bench(s, dataclasses.replace(
        make_data(), prompts=make_data(1).preferences)), AlsoReading(beside="prompts")),
}


def trained(recipe=RECIPE):
    return Trained(RewardModel(needs={"reference": Need(SFT(), RECIPE)}), recipe)


def test_any_two_rows_have_two_streams(store):
    found = {"": stream(make_bench(store)), **{name: make(store) for name, make in ANOTHER_ROW.items()}}
    assert len(set(found.values())) == len(found), found


def test_what_is_no_setting_leaves_a_row_its_stream(store, tmp_path, monkeypatch):
    own = stream(make_bench(store))
    same = {"progress": {"trainer": dataclasses.replace(TRAINER, progress=True, checkpoint_every=7)},
            "prompts": {"eval": dataclasses.replace(EVAL, prompts=2, pairs=3, batch_size=1, proxy=True)},
            "decoded at once": {"eval": sampled(batch_size=3)}, "folder": {"run_folder": tmp_path}}
    assert {name: stream(make_bench(store, **changed)) for name, changed in same.items()} == dict.fromkeys(same, own)
    for changes in ({"uses_reward": False},):
        with monkeypatch.context() as patch:
            for name, value in changes.items():
                patch.setattr(DPO, name, value)
            assert stream(make_bench(store)) == own, "code"
    monkeypatch.setattr(stages, "autocast_dtype", lambda *_: "another machine's")
    assert stream(make_bench(store)) == own
    described = make_bench(store).description(on_sft(), RECIPE)
    told = {**described, "code": "1", "needs": {"reference": {**described["needs"]["reference"], "libraries": "2"}}}
    assert streams.row_identity(told) == streams.row_identity(described)


def test_the_baseline_is_the_row_of_the_stage_that_training_started_from(store):
    few = dataclasses.replace(EVAL, prompts=2)
    data = dataclasses.replace(make_data(), gold=hashed)
    for changed in ({}, {"eval": few}, {"seed": 1}):
        bench, method = make_bench(store, data, **changed), on_sft()
        row = bench.evaluate(SFT(), RECIPE)
        pd.testing.assert_frame_equal(bench.baseline(method).samples, row.samples)
        after = metrics(method, bench.evaluate(method, RECIPE), bench.baseline(method))
        before = metrics(SFT(), row, None)
        difference = after["reward/gold"].mean - before["reward/gold"].mean
        assert after["reward/gold_minus_sft"].mean == pytest.approx(difference, abs=1e-12)


def test_the_first_prompts_are_answered_alike_in_a_longer_evaluation(store):
    few, all_ = (make_bench(store, eval=dataclasses.replace(EVAL, prompts=n)).evaluate(SFT(), RECIPE) for n in (2, 4))
    assert few.samples["response"].tolist() == all_.samples["response"].tolist()[:2]


def test_training_and_evaluation_never_draw_from_one_stream(store, monkeypatch):
    """Every seed that a PPO stage, its reward model and their evaluations sample with is another."""
    from algorithms.common import rollouts
    from algorithms.common.models import sampling

    seeds, real = [], sampling.sample

    def noted(models, role, prompts, settings, seed, **options):
        seeds.append(seed)
        return real(models, role, prompts, settings, seed, **options)

    monkeypatch.setattr(rollouts, "sample", noted)
    monkeypatch.setattr(sampling, "sample", noted)
    method = on_sft(PPO, critic="policy", max_new_tokens=4)
    bench = make_bench(store, dataclasses.replace(make_data(), gold=hashed), reward=Hashed())
    bench.evaluate(method, RECIPE)
    bench.baseline(method)
    bench.evaluate_base(method)
    assert len(seeds) >= RECIPE.steps + 2 and len(set(seeds)) == len(seeds)


def test_streams_of_two_rows_are_uncorrelated(store):
    rows = [stream(make_bench(store)), stream(make_bench(store), on_sft(beta=0.2)), stream(make_bench(store), SFT())]
    drawn = [np.concatenate([uniforms(64, row, f"prompt {i}", 0) for i in range(200)]) for row in rows]
    for one, other in combinations(drawn, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / len(one) ** 0.5  # of N independent draws: 1/√N
    assert derive(0, "answers", "a") != derive(0, "answers", "b")


# What independence is worth

PROMPTS = 600


def asked(store, **changed):
    prompts = Records.from_list([Record(f"The film {i} was", []) for i in range(PROMPTS)])
    data = dataclasses.replace(make_data(), evaluation=prompts, gold=hashed)
    settings = dataclasses.replace(EVAL, prompts=PROMPTS, batch_size=64, sampling=Sampling(6, 2.0, batch_size=256))
    return make_bench(store, data, reward=Hashed(), eval=settings, **changed)


@pytest.mark.parametrize("n", few([2, 4], [0]))
def test_best_of_n_beats_a_fresh_answer_n_times_in_n_plus_one(store, n):
    """P(max of n > one more) = n/(n + 1) for a continuous score; against one of its own n it would be (2n − 1)/(2n)."""
    bench, method = asked(store), on_sft(BestOfN, n=n)
    found = metrics(method, bench.evaluate(method, RECIPE), bench.baseline(method))["win_rate/sft"].mean
    expected = n / (n + 1)
    assert abs(found - expected) < 4 * (expected * (1 - expected) / PROMPTS) ** 0.5
    assert (2 * n - 1) / (2 * n) - expected > 4 * (expected * (1 - expected) / PROMPTS) ** 0.5


@pytest.mark.slow
def test_equal_policies_give_one_answer_no_more_often_than_chance(store):
    """Best of one has the weights it started from: their answers agree as two draws of one row do."""
    bench = asked(store)
    bench.eval.sampling = Sampling(1, 1.0, batch_size=256)
    row, start = (bench.evaluate(method, RECIPE).samples for method in (on_sft(BestOfN, n=1), SFT()))
    agree = np.mean(row["response"].to_numpy() == start["response"].to_numpy())
    several = bench.evaluate(on_sft(BestOfN, n=8), RECIPE).samples["response"].to_numpy().reshape(PROMPTS, 8)
    chance = np.mean([several[:, a] == several[:, b] for a, b in combinations(range(8), 2)])
    assert 0.02 < chance < 0.8 and abs(agree - chance) < 4 * (chance * (1 - chance) / PROMPTS) ** 0.5
