"""Reward sources: what each one answers, what stops it, and that another source is another stage."""

import dataclasses
import functools
import importlib
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from algorithms.best_of_n import BestOfN
from algorithms.common.algorithm import Response
from algorithms.common.candidates import Candidates, Sampled
from algorithms.common.data.records import DataSets, Records
from algorithms.common.data.records.record import Record
from algorithms.common.data.template import Example
from algorithms.common.models.export import frozen_role
from algorithms.common.models.model import Lora
from algorithms.common.rewards.classifier import Classifier
from algorithms.common.rewards.sources import Function, Gold, Trained, TrainedOwn, Weighted, checked
from algorithms.common.runs.stages import Bench
from algorithms.common.support import provenance
from algorithms.common.support.errors import ConfigError, TrainingError
from algorithms.common.support.store import Store
from algorithms.dpo import DPO
from algorithms.ppo import PPO
from algorithms.reward_model import RewardModel
from algorithms.rrhf import RRHF
from command_line import MICRO, composed, invoke
from reward_setup import opened, response, words
from stage_setup import LAB, MODEL, RECIPE, make_bench, make_data, on_sft
from training_setup import pairs_file

THREE = [response(record="first"), response(" was bad", record="second"), response(" it", record="third")]


# What a source may answer


@pytest.mark.parametrize("values", [[1, 2.5, -3], (1.0, 2.5, -3.0), np.array([1, 2.5, -3], np.float32),
                                    torch.tensor([1, 2.5, -3]),
                                    list(torch.tensor([1, 2.5, -3])), list(np.array([1, 2.5, -3], np.float32))],
                         ids=lambda v: type(v).__name__)
def test_numbers_in_any_container(values):
    found = checked("x", lambda responses: values)(THREE)
    assert found == [1.0, 2.5, -3.0] and all(type(value) is float for value in found)


@pytest.mark.parametrize("values, message", [
    ([1.0, math.nan, 3.0], "reward x: found nan for a response to record second; expected a finite number"),
    ([1.0, 2.0, -math.inf], "reward x: found -inf for a response to record third"),
    (torch.tensor([math.inf, 1, 2]), "found inf for a response to record first"),
    ([1.0, None, 3.0], "found None for a response to record second"),
    ([1.0, "2", 3.0], "found '2' for a response to record second"),
    ([1.0, 1e39, 3.0],
     r"found 1e\+39 for a response to record second; expected a finite number, at most 3.4e\+38 in size"),
    (np.array([1.0, 2.0, -1e39]), r"found -1e\+39 for a response to record third"),
    ([True, 1.0, 1.0], "found True for a response to record first"),
    (torch.ones(3, 1), r"found \[1.0\] for a response to record first"), ([[1.0], [2.0], [3.0]], "record first"),
    ([1.0, 2.0], r"found 2 scores for 3 responses; expected one each \(first record first\)"),
    ([], "found 0 scores for 3 responses"),
    (torch.tensor(1.0), r"found float; expected a list of one number per response \(first record first\)"),
    (None, "found NoneType; expected a list"), ({"a": 1}, "found dict; expected a list")], ids=repr)
def test_anything_else_stops_with_the_record(values, message):
    with pytest.raises(TrainingError, match=message):
        checked("x", lambda responses: values)(THREE)


def test_the_largest_float32_is_a_score():
    largest = torch.finfo(torch.float32).max
    assert checked("x", lambda responses: [largest, -largest])(THREE[:2]) == [largest, -largest]
    with pytest.raises(TrainingError, match="found 10+ for a response to record second"):
        checked("x", lambda responses: [0, 10**400])(THREE[:2])


def test_no_responses_no_scores():
    assert checked("x", lambda responses: [])([]) == []


# Functions


def test_a_function_sees_prompts_and_responses():
    assert opened(Function(words))(THREE) == [4.0, 4.0, 3.0]
    assert opened(Function(functools.partial(words, weight=-0.5)))(THREE) == [-2.0, -2.0, -1.5]
    with pytest.raises(TrainingError, match="reward function: found 1 scores for 3 responses"):
        opened(Function(lambda prompts, responses: [1.0]))(THREE)


def everything(prompts, responses, finished, meta, prompt_ids, response_ids):
    told = (prompts, responses, finished, meta, prompt_ids, response_ids)
    return [float(len(repr(parts))) for parts in zip(*told, strict=True)]


def by_keyword(*, meta, responses):
    return [float(one["answer"] in text) for one, text in zip(meta, responses, strict=True)]


GIVEN = {"prompts": [" the room"] * 2, "responses": [" was good", " bad"], "finished": [True, False],
         "meta": [{"answer": "good"}, {"answer": "fine"}], "prompt_ids": [[5, 6]] * 2, "response_ids": [[7, 8, 2]] * 2}
TWO = [response(meta={"answer": "good"}), response(" bad", finished=False, meta={"answer": "fine"})]


@pytest.mark.parametrize("name", GIVEN)
def test_a_function_is_given_what_it_asks_for_by_name(name):
    told = []
    one = {}
    exec(f"def reward({name}):\n    told.append({name})\n    return [0.0] * len({name})", {"told": told}, one)
    Function(one["reward"]).check(make_data())
    assert opened(Function(one["reward"]))(TWO) == [0.0, 0.0] and told == [GIVEN[name]]
    assert Function(one["reward"]).reads_meta == (name == "meta")


def test_a_function_may_ask_for_several_in_any_order():
    assert opened(Function(by_keyword))(TWO) == [1.0, 0.0]
    assert opened(Function(everything))(TWO) == [float(len(repr(parts))) for parts in zip(*GIVEN.values())]
    assert opened(Function(lambda meta, finished=None, other=3: [finished.count(True), other]))(TWO) == [1.0, 3.0]


@pytest.mark.parametrize("function, value", [
    (lambda questions, answers: [questions[0] + answers[0]], " the room was good"),
    (lambda *given: [given[0][0]], " the room"),
    (lambda prompt, response, meta: [prompt[0] + response[0] + meta[0]["answer"]], " the room was goodgood"),
    (lambda xs, ys, /: [ys[0]], " was good"), (lambda prompts, responses, **more: [str(more)], "{}"),
    (functools.partial(lambda prompts, responses, meta: [str(meta)], meta="my own"), "my own"),
    (functools.partial(lambda weight, prompts, responses: [weight], "first"), "first")])
def test_two_first_arguments_are_prompts_and_responses_whatever_they_are_called(function, value):
    source = Function(function)
    source.check(make_data())
    with pytest.raises(TrainingError, match=re.escape(f"found {value!r} for a response")):
        opened(source)(TWO[:1])


BY_VALUE = "name its arguments so, or give a value: [+]reward.function.{}=VALUE$"


@pytest.mark.parametrize("function, unknown, fix", [
    (lambda prompts, responses, answers: 0, "answers", BY_VALUE), (lambda responses, answer: 0, "answer", BY_VALUE),
    (lambda text: 0, "text", "name its arguments so$"),  # a value in its place would leave nothing to judge
    (lambda prompts, *, reference: 0, "reference", BY_VALUE),
    (lambda responses, prompts, solution, meta: 0, "solution", BY_VALUE), (math.fsum, "seq", "name its arguments so$")])
def test_a_function_that_asks_for_anything_else_is_refused(function, unknown, fix):
    for source in (Function(function), Weighted({"a": Function(function)}, {"a": 1.0})):
        with pytest.raises(ConfigError, match=f"asks for {unknown}; expected only prompts, responses, finished, meta, "
                                              f"prompt_ids, response_ids; fix: {fix.format(unknown)}"):
            source.check(make_data())
    if fix is BY_VALUE:
        Function(functools.partial(function, **{unknown: 1})).check(make_data())


@pytest.mark.parametrize("function", [lambda: 0, lambda **more: 0, lambda scale=1: 0,
                                      functools.partial(lambda text: 0, text=1)])
def test_a_function_that_asks_for_nothing_is_refused(function):
    with pytest.raises(ConfigError, match="asks for nothing that it could judge; .*; fix: let it take responses"):
        Function(function).check(make_data())


def test_what_a_function_raises_is_told_with_its_place():
    def exact(responses, meta):
        return [float(one["answer"] in response) for response, one in zip(responses, meta)]

    line = exact.__code__.co_firstlineno + 1
    told = rf"reward.function: found KeyError: 'answer' \(test_rewards.py, line {line}\); expected a number for each"
    with pytest.raises(TrainingError, match=told):
        opened(Function(exact))(THREE)


def test_a_value_before_the_responses_leaves_them_to_be_given_by_name():
    def reward(weight, prompts, responses):
        return [weight * len(text) for text in responses]

    assert opened(Function(functools.partial(reward, weight=2)))(TWO) == [2.0 * len(one.text) for one in TWO]


def test_a_function_that_cannot_be_called_is_refused_before_training_and_its_fix_works(tmp_path, monkeypatch):
    (tmp_path / "asking.py").write_text("def reward(prompts, responses, weight):\n"
                                        "    return [weight * len(response) for response in responses]\n")
    monkeypatch.syspath_prepend(tmp_path)
    command = ["algorithm=ppo", "algorithm.critic=policy", "reward=function", "reward.function._target_=asking.reward",
               *MICRO, f"stages.folder={tmp_path}/stages", f"hydra.run.dir={tmp_path}/run", "recipe.steps=1",
               "algorithm.needs.reference.recipe.steps=1"]
    ended = invoke(*command)
    assert ended.status == 2 and ended.err.startswith("reward.function: found reward, which asks for weight; expected")
    assert not list((tmp_path / "stages").glob("trained-*"))
    source = instantiate(composed(*command, re.search(r"\+\S+=", ended.err)[0] + "2.0").reward)
    source.check(make_data())
    assert opened(source)(TWO) == [2.0 * len(one.text) for one in TWO]


HEARD: list[dict] = []


def listening(responses, meta, prompt_ids, response_ids, finished, prompts):
    HEARD.extend({"response": r, **m} for r, m in zip(responses, meta))
    assert all(prompt_ids) and all(response_ids) and len(finished) == len(prompts) == len(prompt_ids)
    return [float(len(ids)) for ids in response_ids]


def with_answers() -> DataSets:
    data = make_data()

    def answered(records):
        return Records.from_list([Record(one.prompt, [], None, {"answer": one.prompt.upper()}) for one in records])

    return dataclasses.replace(data, prompts=answered(data.prompts), evaluation=answered(data.evaluation))


@pytest.mark.parametrize("algorithm, sets", [
    (PPO(critic="policy", max_new_tokens=4), ["prompts", "evaluation"]), (BestOfN(n=2), ["evaluation"]),
    (RRHF(candidates=Candidates({"own": Sampled(count=2)}, max_new_tokens=4)), ["prompts", "evaluation"])],
    ids=["ppo", "best_of_n", "rrhf"])
def test_a_records_meta_reaches_the_function(algorithm, sets, tmp_path):
    data = with_answers()
    HEARD.clear()
    bench_with(Store(tmp_path), Function(listening), data).evaluate(dataclasses.replace(algorithm, needs={}), RECIPE)
    expected = {record.prompt.upper() for name in sets for record in getattr(data, name)}
    assert {one["answer"] for one in HEARD} == expected


def test_other_meta_is_another_stage_where_the_function_reads_it(store):
    data = with_answers()
    other = Records.from_list([Record(one.prompt, [], None, {"answer": "x"}) for one in data.prompts])
    other = dataclasses.replace(data, prompts=other)
    for function, same in ((by_keyword, False), (words, True)):
        source = Weighted({"one": Function(function)}, {"one": 1.0})
        keys = {store.key("trained", bench_with(store, source, one).description(PPO(critic="policy"), RECIPE))
                for one in (data, other)}
        assert (len(keys) == 1) == same


def test_gold():
    def gold(prompts, responses, finished):
        return [len(y) - 10.0 * (not f) for y, f in zip(responses, finished)]

    data = dataclasses.replace(make_data(), gold=gold)
    assert opened(Gold(), data=data)([response(" ab"), response(" ab", finished=False)]) == [3.0, -7.0]
    Gold().check(data)
    for source in (Gold(), Weighted({"truth": Gold()}, {"truth": 1.0})):
        with pytest.raises(ConfigError, match="this data has no gold reward; expected data=reviews"):
            source.check(make_data())


def test_a_gold_reward_that_the_data_lacks_stops_before_anything_is_trained(tmp_path):
    ended = invoke("algorithm=ppo", "reward=gold", "data=file", f"data.path={pairs_file(tmp_path / 'p.jsonl')}",
                   f"stages.folder={tmp_path / 'stages'}", f"hydra.run.dir={tmp_path / 'out'}")
    assert ended.status == 2 and "this data has no gold reward" in ended.err
    assert not list((tmp_path / "stages").glob("trained-*"))


# Sums


def test_a_weighted_sum():
    source = Weighted({"length": Function(words), "ones": Function(lambda prompts, responses: [1.0] * len(prompts))},
                      {"length": 0.5, "ones": -2.0})
    assert opened(source)(THREE) == [0.0, 0.0, -0.5]


def test_the_part_that_fails_is_named():
    source = Weighted({"length": Function(words),
                       "odd": Function(lambda prompts, responses: [math.nan] * len(prompts))},
                      {"length": 1.0, "odd": 0.0})
    with pytest.raises(TrainingError, match="reward function: found nan for a response to record first"):
        opened(source)(THREE)


TRAINED = Trained(RewardModel(), RECIPE)


@pytest.mark.parametrize("sources, weights, message", [
    ({}, {}, "reward.weights: found"), ({"a": Gold()}, {}, r"found \[\] for the sources \['a'\]"),
    ({"a": Gold()}, {"b": 1.0}, r"found \['b'\] for the sources \['a'\]"),
    ({"a": Gold()}, {"a": math.inf}, "reward.weights.a: found inf"),
    ({"a": Gold()}, {"a": "1"}, "reward.weights.a: found '1'"),
    ({"a": TRAINED, "b": TRAINED}, {"a": 1.0, "b": 1.0}, "found 2 trained sources on the run's base")])
def test_sums_that_cannot_be(sources, weights, message):
    with pytest.raises(ConfigError, match=message):
        Weighted(sources, weights)


# Trained sources


def reward_model() -> RewardModel:
    return on_sft(RewardModel, normalize_on=4, max_new_tokens=6)


@dataclasses.dataclass
class Asking(DPO):
    """DPO that asks its reward source, and writes down what it was told."""

    uses_reward = True

    def fit(self, context):
        self.told = context.reward([Response(text, " good", context.models.prompt_ids(text, 8), [40, 41, 2], True, text)
                                    for text in (" the room", " the staff was")])
        super().fit(context)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("stages"))


def bench_with(store, source, data=None) -> Bench:
    return make_bench(store, data, reward=source)


def test_a_trained_source_is_the_reward_model(store):
    source, algorithm = Trained(reward_model(), RECIPE), on_sft(Asking)
    bench = bench_with(store, source)
    bench.train(algorithm, RECIPE)
    folder = bench.train(reward_model(), RECIPE)
    assert json.loads((folder / "state.json").read_text()) == source.algorithm.state_dict() != {"mean": 0.0, "std": 1.0}
    models = make_bench(store).models
    frozen_role(models, "reward", folder)
    rows = [Example(models.prompt_ids(text, 8), [[40, 41, 2]], [True], None, text)
            for text in (" the room", " the staff was")]
    with torch.no_grad():
        expected = models.role("reward").final_outputs(models.collate(rows))[:, 0, 0]  # normalised by the head itself
    assert algorithm.told == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_source_on_a_base_of_its_own(store, tmp_path):
    """Another folder, another LoRA rank: trained apart, on a supervised stage of its own; asked with its own tokens."""
    shutil.copytree(LAB, tmp_path / "other")
    own = dataclasses.replace(MODEL, name=str(tmp_path / "other"), lora=Lora(r=8, alpha=8))
    source, algorithm = TrainedOwn(reward_model(), RECIPE, own), on_sft(Asking)
    bench = bench_with(store, source)
    bench.train(algorithm, RECIPE)
    folder = make_bench(store, model=own).train(reward_model(), RECIPE)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 8
    assert "reward" not in bench.models.roles.names(), "it is no role of the policy's base"
    scorer = source.open(bench.models, {"reward": folder}, bench.data, 2)
    whole, cut = (scorer([response(" was good", finished=finished)])[0] for finished in (True, False))
    assert whole != cut, "an unfinished response has no end token there either"
    longer = response(" was bad and the staff was great", record="b")
    assert scorer([response(" was good", record="a"), longer])[0] == pytest.approx(whole, abs=1e-4)
    cost = bench.cost(algorithm, RECIPE)["stages"]
    assert set(cost) == {"reference", "reward"} and set(cost["reward"]["stages"]) == {"reference"}


def test_a_cost_counts_the_models_beside_the_runs_base(store, classifiers, monkeypatch):
    """Policy, reference and critic of PPO, and each reward model that lies in memory with them."""
    own = TrainedOwn(reward_model(), RECIPE, dataclasses.replace(MODEL, lora=Lora(r=2, alpha=8)))
    classifier = Classifier(str(classifiers["one"]), max_length=64)
    sources = {"function": (Function(words), 3), "own": (own, 4), "classifier": (classifier, 4),
               "trained": (Trained(reward_model(), RECIPE), 4),
               "sum": (Weighted({"a": own, "b": classifier, "c": classifier, "d": Function(words)},
                                dict.fromkeys("abcd", 0.5)), 6)}
    for name, (source, models) in sources.items():
        method = on_sft(PPO, critic="policy", max_new_tokens=4)
        cost = bench_with(store, source).cost(method, dataclasses.replace(RECIPE, steps=1))
        assert cost["resident_models"] == models, name


def test_an_answers_cost_counts_them_too(store, classifiers):
    classifier, method = Classifier(str(classifiers["one"]), max_length=64), on_sft(BestOfN, n=2)
    for source, models in ((Function(words), 1), (classifier, 2)):
        assert bench_with(store, source).cost(method, RECIPE)["resident_models"] == models


def test_a_sum_with_a_trained_part(store):
    parts = {"trained": Trained(reward_model(), RECIPE), "length": Function(words)}
    told = {}
    for name, source in {"trained": parts["trained"], "sum": Weighted(parts, {"trained": 2.0, "length": 0.5})}.items():
        algorithm = on_sft(Asking)
        bench_with(store, source).train(algorithm, dataclasses.replace(RECIPE, lr=5e-3))  # no kept stage answers
        told[name] = algorithm.told
    assert told["sum"] == pytest.approx([2 * told["trained"][0] + 0.5 * 3, 2 * told["trained"][1] + 0.5 * 4], abs=1e-5)


# Identity


def more_words(prompts, responses):
    return words(prompts, responses)


def key(store, source, data=None) -> str:
    return store.key("trained", bench_with(store, source, data).description(on_sft(Asking), RECIPE))


def test_another_source_is_another_stage(store, classifiers):
    sources = {
        "gold": Gold(), "function": Function(words), "other function": Function(more_words),
        "argument": Function(functools.partial(words, weight=2.0)),
        "other argument": Function(functools.partial(words, weight=3.0)),
        "classifier": Classifier(str(classifiers["one"])),
        "classifier's class": Classifier(str(classifiers["three"]), label=1),
        "other class": Classifier(str(classifiers["three"]), label=2),
        "rendering": Classifier(str(classifiers["one"]), input="text"),
        "trained": TRAINED, "normalised otherwise": Trained(RewardModel(normalize_on=None), RECIPE),
        "recipe": Trained(RewardModel(), dataclasses.replace(RECIPE, lr=3e-2)),
        "after sft": Trained(reward_model(), RECIPE), "own": TrainedOwn(RewardModel(), RECIPE, MODEL),
        "own rank": TrainedOwn(RewardModel(), RECIPE, dataclasses.replace(MODEL, lora=Lora(r=8, alpha=8))),
        "sum": Weighted({"a": Gold(), "b": Function(words)}, {"a": 1.0, "b": 1.0}),
        "weight": Weighted({"a": Gold(), "b": Function(words)}, {"a": 1.0, "b": 2.0}),
        "part": Weighted({"a": Gold(), "b": Function(more_words)}, {"a": 1.0, "b": 1.0}),
    }
    keys = {name: key(store, source) for name, source in sources.items()}
    assert len(set(keys.values())) == len(keys)
    assert key(store, Function(words)) == keys["function"]
    assert key(store, Trained(RewardModel(), RECIPE)) == keys["trained"]


def test_a_classifier_is_what_its_files_hold(store, classifiers, tmp_path):
    def of(folder):
        source = Classifier(str(folder))
        return source.content(), key(store, Weighted({"a": source}, {"a": 1.0}))

    folder = tmp_path / "copy"
    shutil.copytree(classifiers["one"], folder)
    (one, _), (copy, _) = of(classifiers["one"]), of(folder)
    assert one == copy
    before = of(folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert of(folder)[0] != before[0] and of(folder)[1] != before[1]


def test_an_edited_function_is_another_reward(store, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    (tmp_path / "my_helper.py").write_text("")
    for number, helper in ((1, ""), (2, ""), (1, ""), (1, "# a comment"), (1, "SETTING = 1")):
        (tmp_path / "my_reward.py").write_text(
            f"import my_helper\ndef reward(prompts, responses):\n    return [{number}.0] * len(prompts)\n")
        (tmp_path / "my_helper.py").write_text(helper)
        importlib.invalidate_caches()
        monkeypatch.setattr(provenance, "SOURCES", provenance.Sources())  # as a new process reads them
        keys.append(key(store, Function(importlib.import_module("my_reward").reward)))
    assert keys[0] == keys[2] == keys[3] and len({keys[0], keys[1], keys[4]}) == 3


def scaled(weight: float, seen: list | None = None):
    """A function made of settings, as a factory in a configuration makes it; it may fill what it holds."""
    def score(prompts: list[str], responses: list[str]) -> list[float]:
        if seen is not None:
            seen.append(len(responses))
        return [weight] * len(responses)

    return score


@dataclasses.dataclass
class Scaled:
    weight: float

    def score(self, prompts: list[str], responses: list[str]) -> list[float]:
        return [self.weight] * len(responses)

    __call__ = score


def test_what_a_function_encloses_is_part_of_it(store):
    assert key(store, Function(scaled(1.0))) == key(store, Function(scaled(1.0))) != key(store, Function(scaled(2.0)))
    filled = scaled(1.0, [])
    before = key(store, Function(filled))
    filled([], ["a"])
    assert key(store, Function(filled)) == before, "its key does not change while it works"
    for of in (lambda weight: Scaled(weight), lambda weight: Scaled(weight).score):
        assert key(store, Function(of(1.0))) == key(store, Function(of(1.0))) != key(store, Function(of(2.0)))
    with pytest.raises(ConfigError, match="content cannot be told; expected a function, a dataclass"):
        key(store, Function(scaled(object())))


def test_the_gold_reward_is_part_of_what_it_trains(store):
    golds = [dataclasses.replace(make_data(), gold=functools.partial(words, weight=weight)) for weight in (1.0, 2.0)]
    for source in (Gold(), Weighted({"gold": Gold()}, {"gold": 1.0})):
        assert key(store, source, golds[0]) != key(store, source, golds[1])
    assert key(store, Function(words), golds[0]) == key(store, Function(words), golds[1])


def test_the_prompts_of_the_statistics_are_part_of_the_model(store):
    """Its mean and deviation come from answers to them; a raw one does not depend on them."""
    other = dataclasses.replace(make_data(), prompts=Records.from_list([Record("another:", [])]))
    for algorithm, same in ((RewardModel(), False), (RewardModel(normalize_on=None), True)):
        keys = [store.key("trained", make_bench(store, data).description(algorithm, RECIPE))
                for data in (make_data(), other)]
        assert (keys[0] == keys[1]) == same


SECRET = "sk-Zx81QqLm"


def asks_a_service(prompts, responses, api_key="", headers=None, weight=1.0):
    assert api_key == headers["token"] == SECRET
    return words(prompts, responses, weight)


def test_a_secret_argument_stays_out_of_the_store(store):
    source = Function(functools.partial(asks_a_service, api_key=SECRET, headers={"token": SECRET}, weight=4.0))
    bench = bench_with(store, source)
    bench.evaluate(on_sft(Asking), RECIPE)
    manifests = [path.read_text() for path in store.folder.rglob("manifest.json")]
    assert any("asks_a_service" in text and '"weight": 4.0' in text
               for text in manifests), "the other arguments are told"
    assert not [path for path in store.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_an_object_whose_content_cannot_be_told_is_refused(store):
    class Scores:
        def __call__(self, prompts, responses):
            return [0.0] * len(prompts)

    with pytest.raises(ConfigError, match="whose content cannot be told; expected a function, a dataclass"):
        key(store, Function(Scores()))
