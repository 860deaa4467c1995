"""TRL's trainers over our records: what is refused, KTO's rows by hand; with ``-m slow``, the trainers themselves.

Our own methods from the same start, seed and recipe have the same losses and gradient norms, step by step.
"""

from __future__ import annotations

import dataclasses
import json
from functools import partial

import pytest
import torch

from algorithms.common.algorithm import Response
from algorithms.common.data.records import Record
from algorithms.common.data.template import Example
from algorithms.common.models.model import Lora
from algorithms.common.runs.settings import settings
from algorithms.common.support.errors import ConfigError, TrainingError
from algorithms.common.training.loop import walk
from algorithms.common.training.pace import Pace, measure
from algorithms.dpo import DPO, IPO
from algorithms.kto import KTO
from algorithms.sft import SFT
from algorithms.trl_hosted import OURS, TRLDPO, TRLGRPO, TRLKTO, TRLSFT, Rows
from command_line import MICRO, composed, invoke
from training_setup import examples, lines, make_context, weights
from trl_setup import SEED, compare, data, our_models, recipe  # noqa: F401

HOSTED = (TRLSFT, TRLDPO, TRLKTO, TRLGRPO)
LORA = Lora(r=8, alpha=16)


# Refused before any weights load


@pytest.mark.parametrize("kind, options, found, fix", [
    (TRLDPO, {"learning_rate": 1e-3}, "learning_rate", "recipe.lr=…"),
    (TRLDPO, {"beta": 0.2}, "beta", "algorithm.beta=…"),
    (TRLGRPO, {"beta": 0.2}, "beta", "algorithm.kl_coef=…"),
    (TRLDPO, {"label_smothing": 0.1}, "label_smothing", "algorithm.options={label_smoothing: …}"),
    (TRLKTO, {"loss_type": "kto", "push_to_hub": True}, "push_to_hub", "leave it out"),
])
def test_an_option_that_is_ours_or_nobodys_is_refused(kind, options, found, fix):
    with pytest.raises(ConfigError) as error:
        kind(options=options)
    start, end = str(error.value).split("; expected ")
    assert start == f"algorithm.options: found {found}" and end.endswith(f"; fix: {fix}")
    assert kind(options={"loss_type": "whatever"}).options


def test_options_stand_on_the_command_line():
    given = settings(composed("algorithm=trl_dpo", "algorithm.options={loss_type: [robust], label_smoothing: 0.1}"))
    assert given.algorithm.options == {"loss_type": ["robust"], "label_smoothing": 0.1}
    assert type(given.algorithm.options["loss_type"]) is list, "TRL asks"


@pytest.mark.parametrize("kind, wrong", [
    (TRLDPO, {"beta": 0.0}), (TRLKTO, {"desirable_weight": 0.0}), (TRLGRPO, {"samples": 1}), (TRLGRPO, {"clip": 1.0})])
def test_a_wrong_value_is_refused(kind, wrong):
    (key,) = wrong
    with pytest.raises(ConfigError, match=rf"^algorithm\.{key}: found "):
        kind(**wrong)


@pytest.mark.parametrize("given, fix", [
    ("recipe.inner_epochs=2", "recipe.inner_epochs=1"), ("recipe.minibatch_size=4", "recipe.minibatch_size=null"),
    ("recipe.ema=0.5", "recipe.ema=null"), ("trainer.evaluate_every=5", "trainer.evaluate_every=null")])
def test_settings_of_our_loop_are_refused_before_weights_load(given, fix, tmp_path):
    ended = invoke("algorithm=trl_dpo", *MICRO, given, f"hydra.run.dir={tmp_path}/run",
                   f"stages.folder={tmp_path}/stages")
    assert ended.status == 2 and ended.err.strip().endswith(f"; fix: {fix}"), ended.err
    assert not list(tmp_path.glob("stages/trained-*"))


def test_its_pace_is_that_of_trls_steps(tmp_path, monkeypatch):
    """A budget of tokens puts another loop in the common one's place, which is given what takes the steps."""
    context = make_context(None, tmp_path, examples(8))
    context.loop, context.target = partial(measure, asked=8), tmp_path

    def train(method, context, watch):
        for batch in watch.order():
            context.meter.tokens_sampled += 100
            watch._told(batch)

    monkeypatch.setattr(TRLDPO, "_train", train)
    TRLDPO().fit(context)
    walked = [index for batch in walk(context) for index in batch]
    assert Pace.read(tmp_path).tokens_per_step == 100 + sum(walked) / len(walked)


def test_no_records_are_said(tmp_path):
    with pytest.raises(TrainingError, match="found no records in the view 'pairs'"):
        TRLDPO().fit(make_context(None, tmp_path, []))


def test_kto_wants_as_many_responses_in_each_record():
    class Of:
        def __init__(self, *counts):
            self.counts = counts

        def column(self, name):
            assert name == "k"
            return self.counts

    TRLKTO().check_records(Of(2, 2), "algorithm")
    with pytest.raises(ConfigError, match="^algorithm.view: found records of 1, 2 responses"):
        TRLKTO().check_records(Of(1, 2, 1), "algorithm")


# Rows


def test_a_response_of_kto_stands_beside_another_prompts(tmp_path):
    """Two micro-batches, of records a, b and of c: the first responses of each, then the second ones."""
    three = [Example([n], [[n + 1], [n + 2]], [True] * 2, [1.0, 0.0], f"{n}") for n in (10, 20, 30)]
    rows = list(map(Rows(TRLKTO(), make_context(None, tmp_path, three), [0, 1, 2], 2).__getitem__, range(6)))
    assert [(row["prompt_ids"], row["completion_ids"], row["KL_completion_ids"], row["label"]) for row in rows] == [
        ([10], [11], [22], True), ([20], [21], [11], True), ([10], [12], [21], False), ([20], [22], [12], False),
        ([30], [31], [32], True), ([30], [32], [31], False)]
    unsure = Rows(TRLKTO(threshold=1.0), make_context(None, tmp_path, three), [0], 1)
    assert not unsure[0]["label"], "a score at the threshold is not desirable"


# The trainers


def pair(models, record: Record) -> Example:
    better, worse = (y for _, y in sorted(zip(record.scores, record.responses), reverse=True))
    return models.tokenize(Record(record.prompt, [better, worse], [1.0, 0.0], {}))


def pairs(data, models) -> list[Example]:  # noqa: F811
    return [pair(models, record) for record in data.preferences]


def demonstrations(data, models) -> list[Example]:  # noqa: F811
    return [models.tokenize(record) for record in data.demonstrations]


def thumbs(data, models) -> list[Example]:  # noqa: F811
    return [models.tokenize(Record(record.prompt, record.responses, [float(index % 2)], {}))
            for index, record in enumerate(data.demonstrations)]


@pytest.mark.slow
@pytest.mark.parametrize("ours, theirs, view, lora, micro, schedule", [
    (DPO(beta=0.2), TRLDPO(beta=0.2), pairs, LORA, 8, "linear"),
    (DPO(), TRLDPO(), pairs, LORA, 3, "cosine"),  # 2 × 4
    (DPO(), TRLDPO(), pairs, None, 8, "constant"),
    (IPO(), TRLDPO(options={"loss_type": ["ipo"]}), pairs, LORA, 8, "linear"),
    (KTO(desirable_weight=1.5, undesirable_weight=0.8), TRLKTO(desirable_weight=1.5, undesirable_weight=0.8), thumbs,
     LORA, 8, "linear"),
    (SFT(), TRLSFT(), demonstrations, LORA, 4, "linear")],
    ids=["dpo", "dpo-accumulated", "dpo-full", "ipo", "kto", "sft"])
def test_steps_are_ours(data, tmp_path, ours, theirs, view, lora, micro, schedule):  # noqa: F811
    own = dataclasses.replace(recipe(schedule, 0.1, 5e-4), warmup=0.2)
    learned, found, costs = [], [], []
    for name, method in (("ours", ours), ("theirs", theirs)):
        models = our_models(lora)
        before = weights(models)
        context = make_context(models, tmp_path / name, view(data, models), own, SEED, micro_batch_size=micro)
        method.fit(context) if method is theirs else context.loop(method, context)
        assert any((one - before[key]).abs().max() > 0 for key, one in weights(models).items())
        learned.append(weights(models))
        found.append(lines(context.target))
        costs.append((context.target / "fit.json").read_text(encoding="utf-8"))
    mine, other = found
    compare(theirs.theirs, mine, [line["loss/policy"] for line in other], [line["grad_norm"] for line in other])
    assert [line["lr"] for line in other] == pytest.approx([line["lr"] for line in mine])
    assert [line["step"] for line in other] == [line["step"] for line in mine]
    apart = torch.cat([(learned[1][key] - one).abs().flatten() for key, one in learned[0].items()])
    assert apart.mean() < 0.01 * own.lr  # a step moves a weight by about the learning rate
    one, two = map(json.loads, costs)
    for key in ("steps", "tokens_trained", "trainable_parameters", "records", "truncated", "tokens_sampled"):
        assert one[key] == two[key], key
    assert two["seconds"] > 0 and two["resident_models"] == (1 if theirs.theirs == "SFT" else 2)


@pytest.mark.slow
def test_grpo_learns_from_our_rewards_and_counts_what_it_takes(data, tmp_path, monkeypatch):  # noqa: F811
    import trl

    begin, told = trl.GRPOTrainer.__init__, {}

    def begun(self, **given):
        told.update(vars(given["args"]))
        begin(self, **given)

    monkeypatch.setattr(trl.GRPOTrainer, "__init__", begun)
    models, k, length, steps, size = our_models(LORA), 4, 6, 3, 4
    records = [Record(record.prompt, [], None, {"place": place})
               for place, record in enumerate(data.demonstrations)][:10]
    context = make_context(models, tmp_path, [models.tokenize(record) for record in records],
                           dataclasses.replace(recipe("constant", 0.0, 1e-2), batch_size=size, steps=None, epochs=1.0),
                           SEED, micro_batch_size=2)
    context.records = records
    asked: list[list[Response]] = []

    def reward(responses: list[Response]) -> list[float]:
        asked.append(responses)
        return [float(sum(token % 7 for token in response.ids)) for response in responses]

    context.reward = reward
    before = weights(models)
    TRLGRPO(samples=k, kl_coef=0.1, clip=0.3, temperature=0.7, max_new_tokens=length,
            options={"scale_rewards": "none"}).fit(context)
    expected = {"num_generations": k, "beta": 0.1, "epsilon": 0.3, "temperature": 0.7, "max_completion_length": length,
                "scale_rewards": "none"}
    assert {key: told[key] for key in expected} == expected
    assert any((one - before[key]).abs().max() > 0 for key, one in weights(models).items())
    responses = [response for batch in asked for response in batch]
    assert len(asked) == steps and len(responses) == steps * size * k  # 10 records are three batches: 2 come again
    keys = [response.record for response in responses[::k]]
    assert len(set(keys)) == 10 and keys == [one.record for one in responses[1::k]]
    for response in responses:
        record = next(one for one in records if one.key == response.record)
        assert (response.source, response.meta) == (record.prompt, record.meta)
        assert response.prompt_ids == models.prompt_ids(record.prompt, length)
        assert 0 < len(response.ids) <= length
        assert response.finished == (response.ids[-1] in models.template.stop_ids)
        assert response.finished or len(response.ids) == length
        ids = response.ids[:-1] if response.finished else response.ids
        assert response.text.strip() == models.template.decode(ids).strip()
    fit = json.loads((context.target / "fit.json").read_text(encoding="utf-8"))
    sampled = sum(len(response.ids) for response in responses)
    assert (fit["tokens_sampled"], fit["reward_queries"], fit["steps"]) == (sampled, len(responses), steps)
    assert fit["tokens_trained"] == sampled + sum(len(response.prompt_ids) for response in responses[::k])
    found = lines(context.target)
    means = [sum(reward(batch)) / len(batch) for batch in list(asked)]
    assert [line["reward"] for line in found] == pytest.approx(means)
    shown = [json.loads(line) for line in (context.target / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()]
    firsts = [models.template.decode(batch[0].prompt_ids) for batch in asked[:steps]]
    assert [line["prompt"] for line in shown] == firsts


@pytest.mark.slow
def test_our_base_stays_as_it_is_and_nothing_is_sent(data, tmp_path, monkeypatch):  # noqa: F811
    from trl.trainer import base_trainer

    def sent(*_, **__):
        raise AssertionError("telemetry")

    monkeypatch.setattr(base_trainer, "send_telemetry", sent)
    monkeypatch.delenv("CI", raising=False)
    models = our_models(LORA)
    base, forward = models.roles.module, models.roles.module.forward.__func__
    kept = {key: value.clone() for key, value in base.state_dict().items() if ".policy" not in key}
    tokenizer = dict(models.template.tokenizer.special_tokens_map)
    context = make_context(models, tmp_path, pairs(data, models), dataclasses.replace(recipe("linear", 0.0, 1e-3),
                                                                                      steps=2), SEED)
    TRLDPO().fit(context)
    assert base.forward.__func__ is forward and models.template.tokenizer.special_tokens_map == tokenizer
    assert {key for key, value in base.state_dict().items() if key in kept and not value.equal(kept[key])} == set()
    assert models.roles.names() == ["reference", "policy"]
    assert not list(context.work.iterdir()), "nothing is left behind"


@pytest.mark.slow
def test_what_trl_refuses_is_an_error_of_the_options(data, tmp_path):  # noqa: F811
    models = our_models(LORA)
    context = make_context(models, tmp_path, pairs(data, models), recipe("linear", 0.0, 1e-3), SEED)
    with pytest.raises(ConfigError, match="^algorithm.options: found .*exo_pair.*Label smoothing must be greater"):
        TRLDPO(options={"loss_type": ["exo_pair"]}).fit(context)


@pytest.mark.slow
@pytest.mark.parametrize("kind", HOSTED)
def test_keys_are_trls(kind):
    trl = pytest.importorskip("trl")
    known = {one.name for one in dataclasses.fields(getattr(trl, f"{kind.theirs}Config"))}
    assert set(kind.free) <= known and set(kind.names.values()) <= known
    assert not set(kind.free) & {*OURS, *kind.names.values()}
    assert set(OURS) - {"max_length"} <= known  # GRPO's has none
    assert kind().content() == {"trl": trl.__version__}
