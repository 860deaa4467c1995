"""A language model's own rating, a gate of two reward models, a reward model of an earlier run."""

import dataclasses
import functools
import math
import shutil

import pytest
import torch

from algorithms.common.algorithm import Response
from algorithms.common.data.records import Records
from algorithms.common.models.model import Lora, Models
from algorithms.common.rewards.earlier import Earlier
from algorithms.common.rewards.gated import Gated, gated, logit
from algorithms.common.rewards.judged import NUMBERS, Judged, alone, expected_rating, question
from algorithms.common.rewards.sources import Function, Gold, Trained
from algorithms.common.runs.settings import build
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.store import Store
from algorithms.reward_model import RatingModel, RewardModel
from command_line import composed
from stage_setup import MODEL, RECIPE, make_bench, make_data, model


def response(text=" was good", prompt=" the room", **more) -> Response:
    return Response(prompt, text, [5, 6], [7, 8, 2], True, more.pop("record", "r0"), **more)


# The rating


def test_the_expected_rating_by_hand():
    even = torch.full((10,), 0.1)
    assert expected_rating(even).item() == pytest.approx(0, abs=1e-6)         # 5.5, the middle of 1 and 10
    assert expected_rating(torch.eye(10)).tolist() == pytest.approx([2 * i / 9 - 1 for i in range(10)])
    # .2 of an 8 and .1 of a 2, the rest is no number: (1.6 + .2) / .3 = 6
    some = torch.zeros(10)
    some[7], some[1] = 0.2, 0.1
    assert expected_rating(some).item() == pytest.approx(2 * 5 / 9 - 1)


def test_ten_is_not_one():
    """As digits, P(1) holds P(10): .3 that a text begins with 1, and a third of that goes on to 10."""
    begins = torch.tensor([0.3, 0.2, 0.1]).log()
    assert alone(begins, [[4], [5], [4, 9]]).tolist() == pytest.approx([0.2, 0.2, 0.1])
    assert alone(begins, [[4], [5], [6]]).tolist() == pytest.approx([0.3, 0.2, 0.1])


def test_a_reply_cannot_write_the_question():
    text = question("v1", "ask {reply}", "say {prompt}")
    assert "\nask {reply}\n" in text and "\nsay {prompt}\n" in text


def test_a_model_is_asked_for_its_expected_rating(caplog):
    config = model(lora=None, max_length=300, max_prompt_length=1)
    models = Models(MODEL, "no")
    scorer = Judged(config, batch_size=2).open(models, {}, None, 4)
    asked = [response(), response(" bad"), response(" was", [{"role": "user", "content": "Well?"}]), response()]
    found = scorer(asked)
    assert found[0] == pytest.approx(found[3], abs=1e-5) and all(-1 < one < 1 for one in found)
    assert min(abs(one - other) for one, other in [(found[0], found[1]), (found[0], found[2])]) > 1e-4

    own = Models(dataclasses.replace(config, max_prompt_length=290), "no")
    tokenizer, module = own.template.tokenizer, own.roles.module
    prompts = [" the room", " the room", "\n\nHuman: Well?\n\nAssistant:"]
    for one, prompt, score in zip(asked, prompts, found):
        ids = own.template.prompt_ids(f"{question('v1', prompt, one.text)}\n")
        options = [tokenizer(number, add_special_tokens=False).input_ids for number in NUMBERS]

        def chance(option):
            with torch.no_grad():
                logits = module(torch.tensor([ids + option])).logits[0].double().log_softmax(-1)
            return math.exp(sum(logits[len(ids) + place - 1, token].item() for place, token in enumerate(option)))

        chances = [chance(option) for option in options]
        if options[9][:len(options[0])] == options[0]:
            chances[0] -= chances[9]
        mean = sum(number * one for number, one in enumerate(chances, 1)) / sum(chances)
        assert score == pytest.approx(2 * (mean - 1) / 9 - 1, abs=1e-4)
    assert "its beginning is cut off" not in caplog.text
    scorer([response("long " * 400)] * 2)
    assert caplog.text.count("its beginning is cut off") == 1


def test_what_a_rating_model_cannot_be():
    with pytest.raises(ConfigError, match="reward.model.lora: found adapters; .* fix: reward.model.lora=null"):
        Judged(MODEL)
    with pytest.raises(ConfigError, match="reward.prompt: found 'v0'"):
        Judged(model(lora=None), prompt="v0")
    with pytest.raises(ConfigError, match="^reward.model.name: "):
        Judged(model(lora=None, name="no/such/folder")).check(None)


# The gate


def test_the_gate_by_hand():
    """TV-07: (R_s, R_h, tagged) → R_c."""
    assert gated(logit(0.10), logit(0.9), False) == pytest.approx(-2.197225, abs=1e-6)
    assert gated(logit(0.5), logit(0.9), False) == pytest.approx(2.197225, abs=1e-6)
    assert gated(logit(0.5), logit(0.9), True) == 0
    assert gated(logit(0.2), logit(0.9), False, threshold=0.3) == logit(0.2)
    assert abs(logit(0.0)) == pytest.approx(13.8155, abs=1e-3) and logit(1.0) == pytest.approx(-logit(0.0))


def scores_of(table):
    return Function(functools.partial(lambda responses, table: [table[one] for one in responses], table=table))


def gate(**settings):
    safety, helpfulness = {"a": -3.0, "b": 1.0, "c": 0.5}, {"a": 5.0, "b": 2.0, "c": -1.0}
    return Gated({"safety": scores_of(safety), "helpfulness": scores_of(helpfulness)}, **settings)


def score(source, tags=(False, False, False)):
    asked = [response(text, meta={"unsafe": tag}) for text, tag in zip("abc", tags)]
    return source.open(None, {}, make_data(), 4)(asked)


def test_a_gated_source_gives_each_response_its_score():
    assert score(gate()) == [-3.0, 2.0, -1.0]
    assert score(gate(tagged="unsafe"), (False, True, False)) == [-3.0, 1.0, -1.0]
    assert score(gate(threshold=0.7)) == [-3.0, 2.0, 0.5]       # σ(.5) = .62 is below, σ(1) = .73 is not
    helpful = scores_of(dict.fromkeys("abc", 7))
    shares = Gated({"safety": scores_of({"a": 0.1, "b": 0.5, "c": 0.9}), "helpfulness": helpful},
                   probabilities=["safety"])
    assert score(shares) == pytest.approx([-2.197225, 7, 7], abs=1e-6)
    assert gate(tagged="unsafe").reads_meta and not gate().reads_meta


def test_gates_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="reward.sources: found safety; expected safety and helpfulness"):
        Gated({"safety": Gold()})
    with pytest.raises(ConfigError, match="reward.threshold: found 1.5"):
        gate(threshold=1.5)
    with pytest.raises(ConfigError, match="reward.probabilities: found .*; expected names among safety"):
        gate(probabilities=["kindness"])
    with pytest.raises(ConfigError, match="reward.probabilities: found helpfulness, which scores -1 to 5"):
        score(gate(probabilities=["helpfulness"]))
    with pytest.raises(ConfigError, match="reward.tagged: found 'unsafe', which no prompt's meta has"):
        gate(tagged="unsafe").check(make_data())
    data = make_data()
    data.prompts = Records.from_list([dataclasses.replace(one, meta={"unsafe": True}) for one in data.prompts])
    gate(tagged="unsafe").check(data)
    both = {name: Trained(RewardModel(), RECIPE) for name in ("safety", "helpfulness")}
    with pytest.raises(ConfigError, match="found 2 trained sources on the run's base, .* fix: trained_own or earlier"):
        Gated(both)


# An earlier run's reward model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder with the weights of a reward model, and the bench that trained it."""
    store = Store(tmp_path_factory.mktemp("stages"))
    bench = make_bench(store, reward=Trained(RewardModel(normalize_on=None), RECIPE))
    return bench, bench.scored(bench.reward)["reward"]


def test_an_earlier_reward_model_scores_as_it_did(trained, caplog):
    bench, folder = trained
    asked = [response(), response(" it was bad", record="r1")]
    bench.models.clear_roles()
    expected = bench.reward.load(bench.models, {"reward": folder}, bench.data, 4)(asked)
    bench.models.clear_roles()
    source = Earlier(str(folder))
    source.check(bench.data)
    found = source.load(bench.models, {}, bench.data, 4)(asked)
    assert found == pytest.approx(expected, abs=1e-5) and found[0] != found[1]
    again = source.load(bench.models, {}, bench.data, 4)(asked)     # beside the role that is there
    assert again == found and f"that of {folder}, whose cost and labels are not charged here" in caplog.text
    bench.models.clear_roles()


def test_two_reward_models_and_a_rule(trained):
    """The whole of it: what the gate scores is the one or the other model's."""
    bench, folder = trained
    other = RewardModel(normalize_on=None, centering=0.5)
    source = Gated({"safety": Earlier(str(folder)), "helpfulness": Trained(other, RECIPE)}, threshold=0.5)
    asked = [response(text, record=text) for text in (" a", " b was good", " it is bad", " food", " the staff")]
    folders = bench.scored(source)
    bench.models.clear_roles()
    found = source.load(bench.models, folders, bench.data, 4)(asked)
    parts = source.opened(bench.models, folders, bench.data, 4)
    safety, helpful = parts["safety"](asked), parts["helpfulness"](asked)
    assert found == [one if one < 0 else another for one, another in zip(safety, helpful)]
    assert set(folders) == {"helpfulness.reward"} and source.content()["safety"] == Earlier(str(folder)).content()
    bench.models.clear_roles()


def test_folders_without_a_reward_model_are_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match="reward.run: found no scalar_head.*; fix: reward.run=outputs/"):
        Earlier(str(tmp_path)).check(None)
    bench, folder = trained
    rated = bench.train(RatingModel(bins=2, lowest=0, normalize_on=None), RECIPE)
    with pytest.raises(ConfigError, match="reward.run: found a head of 2 outputs .*; expected one of 1"):
        Earlier(str(rated)).check(None)
    shutil.copytree(folder, tmp_path / "run")
    wide = make_bench(bench.store, model=model(lora=Lora(r=8, alpha=8)))
    with pytest.raises(ConfigError, match="adapter: found weights in .* that do not fit"):
        Earlier(str(tmp_path / "run")).load(wide.models, {}, bench.data, 4)


@pytest.mark.parametrize("overrides, kind", [
    (["reward=judged", "reward.model.name=some/model"], Judged), (["reward=earlier", "reward.run=outputs/x"], Earlier),
    (["reward=gated", "reward.sources.safety.run=outputs/x"], Gated)])
def test_the_configs_have_the_classes_defaults(overrides, kind):
    source = build(composed(*overrides), ("reward",))["reward"]
    assert type(source) is kind
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            assert getattr(source, field.name) == field.default


# Preference-model pretraining


def test_a_reward_model_begins_as_the_one_before_it(trained, tmp_path):
    """Before its first step it scores as that one, of whatever learning rate 0 keeps it at."""
    bench, folder = trained
    run = shutil.copytree(folder, tmp_path / "run")
    still = dataclasses.replace(RECIPE, lr=1e-12, steps=1)
    other = make_bench(bench.store, make_data(7))       # other comparisons
    after = other.train(RewardModel(normalize_on=None, start=str(run)), still)
    fresh = other.train(RewardModel(normalize_on=None), still)
    asked = [response(), response(" it was bad", record="r1")]

    def scores(folder):
        bench.models.clear_roles()
        found = Earlier(str(folder)).load(bench.models, {}, bench.data, 4)(asked)
        bench.models.clear_roles()
        return found

    assert scores(after) == pytest.approx(scores(folder), abs=1e-4)
    assert max(abs(one - two) for one, two in zip(scores(fresh), scores(folder))) > 1e-2


def test_where_it_begins_is_part_of_its_stage_and_is_looked_at_before(trained, tmp_path):
    bench, folder = trained
    run = shutil.copytree(folder, tmp_path / "run")
    begun = RewardModel(normalize_on=None, start=str(run))
    before = bench.description(begun, RECIPE)
    assert before != bench.description(RewardModel(normalize_on=None), RECIPE)
    bench.checked(begun)
    with pytest.raises(ConfigError, match="algorithm.start: found a head of 1 outputs .*; expected one of 5: "):
        bench.checked(RatingModel(lowest=0, start=str(run)))
    (run / "scalar_head.safetensors").unlink()
    with pytest.raises(ConfigError, match="algorithm.start: found no scalar_head.safetensors in .*; fix: "):
        bench.checked(begun)
