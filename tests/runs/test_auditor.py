"""The auditor over a bench: what it learns from, what it scores, whom it is charged to; and a known reward as gold."""

import dataclasses
import functools
import json

import pandas as pd
import pytest

from algorithms.best_of_n import BestOfN
from algorithms.common.algorithm import Need, Response
from algorithms.common.data.records import DataSets, Records, pairs
from algorithms.common.data.records.record import Record
from algorithms.common.evaluation.metrics import estimate, figures
from algorithms.common.evaluation.verdicts import Pair
from algorithms.common.models.export import frozen_role
from algorithms.common.rewards.sources import Function, Gold, Trained, TrainedOwn, Weighted, retokenized
from algorithms.common.runs.auditing import ACCURACY, Auditor, CannotJudge, check_able, court_of, remarks, unjudged
from algorithms.common.runs.judging import records_of, scores
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.store import Store
from algorithms.ppo import PPO
from algorithms.reward_model import RewardModel
from algorithms.sft import SFT
from command_line import MICRO_DPO, invoke
from stage_setup import MODEL, RECIPE, make_bench, make_data, on_sft


def length(prompts, responses) -> list[float]:
    return [float(len(text)) for text in responses]


def first_letters(responses, meta) -> list[float]:
    return [float(ord(text.strip()[:1] or "a")) for text in responses]


LENGTH = functools.partial(length)


def trained(**options) -> Trained:
    return Trained(on_sft(RewardModel, normalize_on=None, **options), RECIPE)


@pytest.fixture(scope="module")
def data() -> DataSets:
    told = [Record(f"audit {i}:", [" the food was good", " the room was bad"], [1.0, 0.0]) for i in range(6)]
    return dataclasses.replace(make_data(), audit=Records.from_list(told))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "stages")


@pytest.fixture
def stages(monkeypatch) -> list[tuple]:
    """(class, number of records, seed) of what is trained, in order."""
    from algorithms.common.runs import training

    whole, found = training.train, []

    def train(bench, algorithm, *rest):
        found.append((type(algorithm).__name__, bench.view(algorithm.view)[0].fingerprint, bench.seed))
        return whole(bench, algorithm, *rest)

    monkeypatch.setattr(training, "train", train)
    return found


def test_two_auditors_of_halves_share_no_comparison(store, data):
    halves = [Auditor(make_bench(store, data, reward=trained()), trained(), half).apart.data.preferences
              for half in ("first", "second")]
    first, second = ({record.prompt for record in half} for half in halves)
    assert not first & second and first | second == {record.prompt for record in data.audit} and len(first) == 3


def test_it_learns_from_what_was_set_aside_with_another_seed_and_begins_at_the_runs_reference(store, data, stages):
    bench = make_bench(store, data, reward=trained())
    auditor, method = Auditor(bench, trained()), on_sft()
    auditor.check()
    auditor.judged(bench.evaluate(method, RECIPE), "dpo")
    assert [name for name, _, _ in stages] == ["SFT", "DPO", "RewardModel"], "one SFT, and no reward model of the run's"
    _, learned, seed = stages[-1]
    assert learned == data.audit.fingerprint != data.preferences.fingerprint and seed != bench.seed == stages[0][2]
    assert auditor.told()["labels"] == 6 and auditor.told()["seconds"] > 0
    cost = bench.cost(method, RECIPE)
    assert cost["labels"] == 10 and set(cost["stages"]) == {"reference"}, "no method is charged"
    bench.train(*(getattr(bench.reward, name) for name in ("algorithm", "recipe")))
    assert stages[-1][1:] == (pairs(data.preferences).fingerprint, bench.seed), "the run's own is another"


def test_its_scores_are_those_of_its_model_on_the_picked_answers(store, data):
    bench = make_bench(store, data, reward=trained())
    auditor, method = Auditor(bench, trained()), on_sft(BestOfN, n=3)
    samples = auditor.judged(bench.evaluate(method, RECIPE), "best").samples
    picked = samples[samples["picked"]]
    assert len(samples) == 3 * len(picked) and (samples["auditor"].notna() == samples["picked"]).all()
    source, models = auditor.source, auditor.apart.models
    assert models is bench.models, "one base is loaded once"
    folder = auditor.apart.train(source.algorithm, source.recipe)
    models.clear_roles()
    frozen_role(models, "reward", folder)
    for _, row in picked.iterrows():
        example = retokenized(models, Response(row["prompt"], row["response"], [], [], row["finished"], "x"))
        alone = source.algorithm.score(models, models.collate([example]))[0, 0].item()
        assert row["auditor"] == pytest.approx(alone, abs=1e-4)


def test_what_is_kept_is_used_again_and_other_comparisons_make_another_auditor(store, data, stages):
    def judged(data: DataSets) -> pd.Series:
        bench = make_bench(store, data)
        return Auditor(bench, trained()).judged(bench.evaluate(on_sft(), RECIPE), "dpo").samples["auditor"]

    first = judged(data)
    del stages[:]
    assert judged(data).equals(first) and stages == []
    turned = Records.from_list(Record(r.prompt, r.responses, r.scores[::-1]) for r in data.audit)
    assert not judged(dataclasses.replace(data, audit=turned)).equals(first)
    assert [name for name, _, _ in stages] == ["RewardModel"], "no stage of a method depends on it"


def test_figures_beside_the_starts_and_the_agreement_with_held_out_comparisons(store, data):
    """A scorer that needs no training, whose numbers are counted here."""
    bench = make_bench(store, data)
    auditor, method = Auditor(bench, Function(LENGTH)), on_sft()
    own, start = (auditor.judged(one, "x") for one in (bench.evaluate(method, RECIPE), bench.baseline(method)))
    found = figures(method, own, start)
    lengths = [one.samples.set_index("prompt_id")["response"].str.len() for one in (own, start)]
    gains = lengths[0] - lengths[1]
    wins = (gains > 0) + 0.5 * (gains == 0)
    assert estimate(found["score/auditor"]).mean == pytest.approx(lengths[0].mean())
    assert estimate(found["score/auditor_minus_sft"]).mean == pytest.approx(gains.mean())
    assert estimate(found["win_rate/auditor"]).mean == pytest.approx(wins.mean())
    agreement = auditor.agreement()
    hits = [(len(good) > len(bad)) + 0.5 * (len(good) == len(bad))
            for good, bad in (record.responses[::-1] for record in data.heldout)]  # the second is preferred
    assert agreement.name == ACCURACY and estimate(agreement).mean == pytest.approx(sum(hits) / len(hits))
    told = auditor.told()
    assert told.pop("seconds_scoring") > 0 and told == {"labels": 0, "seconds": 0, "stages": {}}
    assert not set(figures(method, bench.evaluate(method, RECIPE), None)) & {"score/auditor", "win_rate/auditor"}


def test_it_may_have_a_base_of_its_own(store, data, stages):
    bench = make_bench(store, data)
    own = TrainedOwn(on_sft(RewardModel, normalize_on=None), RECIPE, dataclasses.replace(MODEL, max_length=80))
    auditor = Auditor(bench, own)
    auditor.check()
    scored = auditor.judged(bench.evaluate(SFT(), RECIPE), "sft").samples
    assert scored["auditor"].notna().all()
    assert [name for name, _, _ in stages] == ["SFT", "SFT", "RewardModel"], "its reference is on its base"
    assert stages[1][2] == bench.seed != stages[2][2]
    assert [reading.name for reading in auditor.readings()] == ["audit", "heldout"]


def test_without_comparisons_of_its_own_there_is_none(store):
    bench = make_bench(store)
    assert not Auditor(bench, trained()).applies and list(Auditor(bench, trained()).readings()) == []
    assert Auditor(bench, Function(LENGTH)).applies


def test_rows_that_it_cannot_use_are_found_before_anything_is_trained(store, data):
    end = make_bench(store).template.end_texts[0]
    bad = Records.from_list([Record("audit:", [f" the {end} food", " it"], [1.0, 0.0],
                                    {"source": "x.jsonl", "line": 7})])
    bench = make_bench(store, dataclasses.replace(data, audit=bad))
    with pytest.raises(Exception, match=r"x\.jsonl:7: "):
        bench.check(on_sft(), Auditor(bench, trained()).readings())
    bench.check(on_sft())


# Its verdicts


def held(count: int) -> Records:
    return Records.from_list([Record(f"held {i}:", [" the food was good", " the room was bad"], [1.0, 0.0])
                              for i in range(count)])


def test_a_judge_that_must_be_trained_is_an_auditor(store, data, stages):
    bench = make_bench(store, dataclasses.replace(data, heldout=held(40)))
    source = Trained(on_sft(RewardModel, normalize_on=None), dataclasses.replace(RECIPE, steps=12))
    record = data.evaluation[0]
    pair = Pair(record.key, record.prompt, "0", " the food was good", "start", " the room was bad")
    apart, believed = court_of(bench, source)
    ((left, right),) = scores(apart, source, [pair], records_of(data, [pair]))
    assert (believed.labels, believed.mean, believed.n) == (len(data.audit), 1.0, 40) and believed.able
    assert left > right
    assert stages[-1][0] == "RewardModel"
    assert stages[-1][1:] == (data.audit.fingerprint, Auditor(bench, source).apart.seed)


def test_it_gives_no_verdict_where_it_cannot_judge(store, data):
    bench = make_bench(store, dataclasses.replace(data, heldout=held(4)))  # Wilson of 4 of 4: from .51 on
    with pytest.raises(CannotJudge, match=r"judge: found an auditor that .* agrees with .*; it cannot judge; expected "
                                          r"at least 0\.55 at the lower end"):
        check_able(court_of(bench, trained())[1])
    with pytest.raises(ConfigError, match=r"judge: found a source that must be trained.*fix: data\.audit="):
        court_of(make_bench(store), trained())
    with pytest.raises(CannotJudge, match="judge: found no held-out comparison to know it by; expected at least"):
        court_of(make_bench(store, dataclasses.replace(data, heldout=Records.from_list([]))), trained())
    assert court_of(bench, Function(LENGTH)) == (bench, None)


# What it must not be


@pytest.mark.parametrize("reward",
                         [Function(LENGTH), Weighted({"a": trained(), "b": Function(functools.partial(length))},
                                                               {"a": 1.0, "b": 0.5})], ids=["itself", "a part"])
def test_the_reward_of_the_methods_is_neither_auditor_nor_gold(store, data, reward):
    bench = make_bench(store, data, reward=reward)
    with pytest.raises(ConfigError, match="auditor: found the reward that methods are trained on; expected another"):
        Auditor(bench, Function(LENGTH)).check()
    bench = make_bench(store, dataclasses.replace(data, gold=Function(LENGTH)), reward=reward)
    with pytest.raises(ConfigError,
                       match=r"data\.gold: found the reward that methods are trained on; expected another"):
        bench.check(on_sft())
    Auditor(bench, trained()).check()


def test_a_reward_model_of_the_same_settings_is_another_model(store, data):
    Auditor(make_bench(store, data, reward=trained()), trained()).check()


@pytest.mark.parametrize("gold", [trained(), Gold(), Weighted({"a": trained()}, {"a": 1.0})])
def test_gold_is_known_and_not_learned(store, data, gold):
    bench = make_bench(store, dataclasses.replace(data, gold=gold), reward=trained())
    with pytest.raises(ConfigError, match=r"data\.gold: found .*; expected a function or a classifier, which is known"):
        bench.check(on_sft())


def test_what_a_judge_refuses_stands_under_its_own_key(store, data):
    bad = Function(lambda responses, rubric: [0.0])
    bench = make_bench(store, dataclasses.replace(data, gold=bad))
    with pytest.raises(ConfigError,
                       match=r"data\.gold\.function: found .*rubric.*\+data\.gold\.function\.rubric=VALUE"):
        bench.check(on_sft())
    with pytest.raises(ConfigError, match=r"auditor\.function: found .*rubric.*\+auditor\.function\.rubric=VALUE"):
        Auditor(make_bench(store, data), bad).check()


# A known reward as gold


def test_a_known_reward_gives_gold_outside_the_lab(store, data):
    bench, method = make_bench(store, dataclasses.replace(data, gold=Function(LENGTH))), on_sft()
    bench.check(method)
    own, start = bench.evaluate(method, RECIPE), bench.baseline(method)
    found = figures(method, own, start)
    lengths = [one.samples.set_index("prompt_id")["response"].str.len() for one in (own, start)]
    assert estimate(found["reward/gold"]).mean == pytest.approx(lengths[0].mean())
    assert estimate(found["reward/gold_minus_sft"]).mean == pytest.approx((lengths[0] - lengths[1]).mean())
    assert "win_rate/sft" in found
    model = RewardModel(needs={"reference": Need(SFT(), RECIPE)}, normalize_on=None)
    judged = bench.evaluate(model, RECIPE).pairs
    assert judged["gold_chosen"].tolist() == [len(record.responses[1]) for record in data.heldout]
    other = make_bench(store, dataclasses.replace(data, gold=Function(functools.partial(first_letters))))
    found = figures(method, other.evaluate(method, RECIPE), None)
    assert estimate(found["reward/gold"]).mean > 90, "another is a new stage"


def test_methods_may_not_be_rewarded_by_what_gold_names(store, data):
    bench = make_bench(store, dataclasses.replace(data, gold=Function(LENGTH)), reward=Gold())
    with pytest.raises(ConfigError, match="reward: found gold, which is the source that data.gold names"):
        bench.check(PPO(needs={"reference": Need(SFT(), RECIPE)}, critic="policy"))


# The command line


def test_a_run_leaves_the_auditors_figures_and_says_how_far_it_can_be_believed(tmp_path):
    short = [f"auditor.{one}" for one in ("recipe.steps=2", "recipe.batch_size=4", "algorithm.normalize_on=4",
                                          "algorithm.needs.reference.recipe.steps=2")]
    ended = invoke(*MICRO_DPO, "data.audit=8", *short, f"stages.folder={tmp_path / 'stages'}",
                   f"hydra.run.dir={tmp_path / 'run'}")
    assert ended.status == 0, ended.err
    told = json.loads((tmp_path / "run/result.json").read_text())
    assert {"score/auditor", "score/auditor_minus_sft", "win_rate/auditor", ACCURACY} <= set(told["evaluation"])
    assert told["auditor"]["labels"] == 8 and told["cost"]["labels"] == 32
    rows = pd.read_parquet(tmp_path / "run/figures.parquet")
    assert {"score/auditor", ACCURACY} <= set(rows["figure"])
    assert "auditor" in pd.read_parquet(tmp_path / "run/samples.parquet")
    assert "Auditor: agrees with 0." in ended.out and "nothing is said by it" in ended.out, "8 pairs cannot show .55"


def test_answers_that_nobody_scored_are_said_to_be_such():
    own = ["accuracy/heldout", "length/mean", "perplexity/heldout"]
    (told,) = unjudged(own)
    assert told.startswith("no judge scored these answers")
    for judged in ([*own, "reward/gold"], [*own, "score/auditor"], [*own, "win_rate/auditor"], own[1:], own[:1]):
        assert unjudged(judged) == [], "or answers nothing, or has no comparisons"


def test_remarks_are_none_where_nothing_is_to_be_said(store):
    bench, method = make_bench(store), on_sft()
    assert remarks(figures(method, bench.evaluate(method, RECIPE), bench.baseline(method))) == []
