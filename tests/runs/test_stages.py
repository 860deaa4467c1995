"""Stages are kept by all that determines them: shared, built once, made again only where what matters has changed."""

import dataclasses
import json
import logging
import math
import shutil
import subprocess
import weakref
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import pytest
import torch

from algorithms.best_of_n import BestOfN
from algorithms.common.algorithm import Algorithm, Need
from algorithms.common.data.records import DataSets, LoadReport, Records, data_view
from algorithms.common.data.records.record import Record
from algorithms.common.models.model import Lora
from algorithms.common.recipe import Recipe
from algorithms.common.rewards.sources import Function, Gold
from algorithms.common.runs import measuring
from algorithms.common.runs.stages import Bench
from algorithms.common.support.errors import ConfigError, TrainingError
from algorithms.common.support.memory import released
from algorithms.common.support.store import Store
from algorithms.common.training import references
from algorithms.common.training.loop import fit
from algorithms.common.training.references import StoredLogprobs
from algorithms.dpo import DPO, IPO
from algorithms.ppo import PPO
from algorithms.reward_model import RewardModel
from algorithms.rrhf import RRHF
from algorithms.sft import SFT
from stage_setup import EVAL, LAB, RECIPE, TRAINER, AlsoReading, make_bench, make_data, model, on_sft
from training_setup import command, environment, lines, pairs_file, run


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "stages")


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The names of the stages that were really trained, in order."""
    names: list[str] = []

    def counted(self, context):
        names.append(f"{type(self).__name__}/{self.view}")
        fit(self, context)

    monkeypatch.setattr(Algorithm, "fit", counted)
    return names


def test_a_stage_is_shared_and_built_once(store, trained):
    alone = make_bench(store).train(SFT(), RECIPE, "sft")
    dpo = make_bench(store).train(on_sft(), RECIPE, "dpo")
    ipo = make_bench(store).train(on_sft(IPO), RECIPE, "ipo")
    # algorithm=sft and both references are one stage
    assert trained == ["SFT/demonstrations", "DPO/pairs", "IPO/pairs"]
    again = make_bench(store)
    assert [again.train(algorithm, RECIPE) for algorithm in (SFT(), on_sft(), on_sft(IPO))] == [alone, dpo, ipo]
    assert len(trained) == 3 and len({alone, dpo, ipo}) == 3
    assert json.loads((dpo / "fit.json").read_text())["steps"] == 3


def test_training_starts_at_the_reference(store, trained):
    """At the first step the loss is ln 2: the reference is the supervised policy and so is the policy."""
    folder = make_bench(store).train(on_sft(), RECIPE)
    first, *_, last = lines(folder)
    assert first["loss/policy"] == pytest.approx(math.log(2), abs=1e-5) != last["loss/policy"]


@pytest.mark.parametrize("reference, stages", [
    (None, ["DPO/pairs"]), (Need(SFT(view="preferred"), RECIPE), ["SFT/preferred", "DPO/pairs"])],
    ids=["base", "preferred-ft"])
def test_other_references(store, trained, reference, stages):
    bench = make_bench(store)
    algorithm = DPO(needs={"reference": reference})
    assert lines(bench.train(algorithm, RECIPE))[0]["loss/policy"] == pytest.approx(math.log(2), abs=1e-5)
    assert trained == stages
    result = bench.evaluate(algorithm, RECIPE)
    assert result.samples["logprob_reference"].notna().all()
    start = bench.start(algorithm)
    assert start.kind == ("sft" if reference else "base") and len(bench.baseline(algorithm).samples) == 4
    assert set(bench.cost(algorithm, RECIPE)["stages"]) == (set() if reference is None else {"reference"})


def test_evaluation_is_a_stage(store, trained, monkeypatch):
    first = make_bench(store).evaluate(on_sft(), RECIPE)
    monkeypatch.setattr(Bench, "models", property(lambda self: pytest.fail("nothing is left to compute")))
    second = make_bench(store).evaluate(on_sft(), RECIPE)
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        assert one.equals(other) if hasattr(one, "equals") else one == other


# Keys


def key(bench: Bench, algorithm: Algorithm = None, recipe: Recipe = RECIPE) -> str:
    return bench.store.key("trained", bench.description(algorithm or on_sft(), recipe))


def with_preferences(records: Iterable[Record]) -> DataSets:
    return dataclasses.replace(make_data(), preferences=Records.from_list(records))


CHANGES: dict[str, Callable[[Store], str]] = {
    "data": lambda s: key(make_bench(s, make_data(1))),
    "one score": lambda s: key(make_bench(s, with_preferences(
        Record(r.prompt, r.responses, r.scores if i else r.scores[::-1])
        for i, r in enumerate(make_data().preferences)))),
    "the reference's data": lambda s: key(make_bench(
        s, dataclasses.replace(make_data(), demonstrations=make_data(1).demonstrations))),
    "order of the data": lambda s: key(make_bench(s, with_preferences(reversed(list(make_data().preferences))))),
    "recipe.lr": lambda s: key(make_bench(s), recipe=dataclasses.replace(RECIPE, lr=2e-2)),
    "recipe.steps": lambda s: key(make_bench(s), recipe=dataclasses.replace(RECIPE, steps=4)),
    "recipe.betas": lambda s: key(make_bench(s), recipe=dataclasses.replace(RECIPE, betas=[0.9, 0.99])),
    "the reference's recipe": lambda s: key(make_bench(s), on_sft(recipe=dataclasses.replace(RECIPE, lr=2e-2))),
    "the reference's view": lambda s: key(make_bench(s), DPO(needs={"reference": Need(SFT(view="preferred"), RECIPE)})),
    "no reference": lambda s: key(make_bench(s), DPO()),
    "seed": lambda s: key(make_bench(s, seed=1)),
    "model.lora.r": lambda s: key(make_bench(s, model=model(lora=Lora(r=8, alpha=8)))),
    "model.lora.dropout": lambda s: key(make_bench(s, model=model(lora=Lora(r=4, alpha=8, dropout=0.1)))),
    "model.lora": lambda s: key(make_bench(s, model=model(lora=None))),
    "model.precision": lambda s: key(make_bench(s, model=model(precision="bf16"))),
    "model.max_length": lambda s: key(make_bench(s, model=model(max_length=95))),
    "model.keep": lambda s: key(make_bench(s, model=model(keep="start"))),
    "algorithm": lambda s: key(make_bench(s), on_sft(IPO)),
    "algorithm.beta": lambda s: key(make_bench(s), on_sft(beta=0.2)),
    "algorithm.label_smoothing": lambda s: key(make_bench(s), on_sft(label_smoothing=0.1)),
    # these change no more than rounding, but "the same to the bit" is what a kept stage promises
    "trainer.micro_batch_size": lambda s: key(make_bench(s, trainer=dataclasses.replace(TRAINER, micro_batch_size=4))),
    "model.attention": lambda s: key(make_bench(s, model=model(attention="sdpa"))),
    # and this the metrics that are kept with the stage
    "trainer.evaluate_every": lambda s: key(make_bench(s, trainer=dataclasses.replace(TRAINER, evaluate_every=2))),
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_key_changes_with(store, what):
    assert CHANGES[what](store) != key(make_bench(store))


@pytest.mark.parametrize("trainer", [{"progress": True}, {"trackers": ["tensorboard"]}, {"checkpoint_every": 7}],
                         ids=str)
def test_the_key_does_not_change_with(store, tmp_path, trainer):
    base = key(make_bench(store))
    assert key(make_bench(store, trainer=dataclasses.replace(TRAINER, **trainer))) == base
    assert key(make_bench(store, run_folder=tmp_path)) == base
    assert key(make_bench(store, eval=dataclasses.replace(EVAL, prompts=2))) == base


@pytest.mark.parametrize("algorithm", [DPO(), IPO(), PPO(critic="policy"), RRHF()], ids=lambda one: type(one).__name__)
def test_dropout_is_refused_where_log_probabilities_are_compared(store, algorithm):
    wet = make_bench(store, model=model(lora=Lora(r=4, alpha=8, dropout=0.1)),
                     data=dataclasses.replace(make_data(), gold=lambda *asked: []), reward=Gold())
    with pytest.raises(ConfigError, match=f"model.lora.dropout: found 0.1; expected 0 for {type(algorithm).__name__}"):
        wet.check(algorithm)
    wet.check(SFT())


def test_what_is_read_besides_the_view(store):
    """It is part of the stage's content, and must be there before anything is trained."""
    reading, data = AlsoReading(beside="prompts"), make_data()
    other = dataclasses.replace(data, prompts=make_data(1).prompts)
    assert key(make_bench(store, data), reading) != key(make_bench(store, other), reading)
    assert key(make_bench(store, data), AlsoReading()) == key(make_bench(store, other), AlsoReading())
    make_bench(store, data).check(reading)
    with pytest.raises(ConfigError, match="data: found no prompts; expected some, which AlsoReading"):
        make_bench(store, dataclasses.replace(data, prompts=Records.from_list([]))).check(reading)


def test_labels_are_charged_for_every_view_that_is_read(store):
    """Ten comparisons; demonstrations are their preferred responses where the data has no others."""
    source = Function(lambda prompts, responses: [0.0] * len(responses))
    for fallbacks, ptx, labels in (({}, 0.1, 0), ({"demonstrations": "preferred responses"}, 0.1, 10),
                                   ({"demonstrations": "preferred responses"}, 0.0, 0)):
        data = dataclasses.replace(make_data(), report=LoadReport(fallbacks=fallbacks))
        method = PPO(critic="policy", ptx_coef=ptx, max_new_tokens=4)
        cost = make_bench(store, data, reward=source).cost(method, dataclasses.replace(RECIPE, steps=1))
        assert cost["labels"] == labels


def judged(*scores: float) -> Record:
    return Record("q", [f" answer {i}" for i in range(len(scores))], list(scores))


RANKING, TIED, RATINGS = judged(3.0, 2.0, 2.0), judged(1.0, 1.0), [judged(1.0), judged(0.0), judged(1.0)]
BY_RATING = {"demonstrations by rating": "single responses rated 1, the highest"}
FROM_PAIRS = {"demonstrations": "preferred responses"}


@pytest.mark.parametrize("records, fallbacks, labels", [
    # 64 comparisons are as many in every view, though each has two scores
    ([judged(1.0, 0.0)] * 64, {}, {"pairs": 64, "ranked": 64, "preferred": 64, "rated": 64, "demonstrations": 0}),
    ([judged(1.0, 0.0)] * 64, FROM_PAIRS, {"prompts": 0}),
    ([judged(1.0, 0.0)] * 64, FROM_PAIRS, {"pairs": 64, "rated": 64, "demonstrations": 64}),
    # a ranking is the pairs that it orders: two of three here
    ([RANKING], FROM_PAIRS, {"pairs": 2, "ranked": 2, "preferred": 2, "rated": 2, "demonstrations": 2}),
    # a rating is one, read as a rating or where it says what is imitated
    (RATINGS, {}, {"pairs": 0, "ranked": 0, "preferred": 0, "rated": 3, "demonstrations": 0}),
    (RATINGS, BY_RATING, {"rated": 3, "demonstrations": 3}),
    # a tie orders nothing, but is a judgement of who reads its scores
    ([TIED], {}, {"pairs": 0, "ranked": 0, "rated": 1}),
    ([RANKING, TIED, *RATINGS], {}, {"pairs": 2, "ranked": 2, "preferred": 2, "rated": 6}),
], ids=["pairs", "prompts", "preferred pairs", "ranking", "ratings", "chosen by rating", "tie", "all"])
def test_a_judgement_is_one_label_in_every_view(store, records, fallbacks, labels):
    report = LoadReport(fallbacks=fallbacks)
    bench = make_bench(store, dataclasses.replace(make_data(), preferences=Records.from_list(records), report=report))
    for view, count in labels.items():
        reading = dataclasses.make_dataclass("Reading", [("view", str, view)], bases=(Algorithm,))()
        assert bench._labels(reading) == count, view


def test_a_label_counts_once_for_a_method_that_reads_several_views(store):
    data = dataclasses.replace(make_data(), preferences=Records.from_list([judged(1.0, 0.0)] * 8))
    both = dataclasses.make_dataclass("Both", [("view", str, "rated"), ("reads", tuple, ("pairs", "demonstrations"))],
                                      bases=(Algorithm,))()
    assert make_bench(store, data)._labels(both) == 8


def test_ptx_and_normalization_read_more():
    assert PPO().reads == () and PPO(ptx_coef=0.1).reads == ("demonstrations",)
    assert RewardModel().reads == ("prompts",) and RewardModel(normalize_on=None).reads == ()


def test_held_out_data_matters_only_where_it_is_watched(store):
    other = dataclasses.replace(make_data(), heldout=make_data(1).heldout, evaluation=make_data(1).evaluation)
    assert key(make_bench(store, other)) == key(make_bench(store))
    watching = dataclasses.replace(TRAINER, evaluate_every=1)
    assert key(make_bench(store, other, trainer=watching)) != key(make_bench(store, trainer=watching))


def test_a_model_is_what_its_files_hold(store, tmp_path):
    """Another path to the same files is the same model; one other byte is another model under the same path."""
    copy = tmp_path / "copy"
    shutil.copytree(LAB, copy)
    moved = model(name=str(copy))
    assert key(make_bench(store, model=moved)) == key(make_bench(store))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert key(make_bench(store, model=moved)) != key(make_bench(store))


def test_the_template_is_what_it_says(store, tmp_path):
    paths = [tmp_path / name for name in ("a.jinja", "b.jinja", "c.jinja")]
    for path, text in zip(paths, ("{{ messages }}", "{{ messages }}", "{{ messages }}!")):
        path.write_text(text)
    one, same, other = (key(make_bench(store, model=model(chat_template=str(path)))) for path in paths)
    assert one == same != other


def test_views():
    with pytest.raises(ConfigError, match="algorithm.view: found 'triples'; expected one of demonstrations"):
        data_view(make_data(), "triples")


# Unfinished and damaged stages


class Killed(Exception):
    pass


def test_an_unfinished_stage_goes_on(store, tmp_path, monkeypatch, caplog):
    """In another process and output folder, checkpointing otherwise: from its last checkpoint, to the same weights."""
    caplog.set_level(logging.INFO)
    whole = make_bench(Store(tmp_path / "whole")).train(on_sft(), RECIPE)
    with monkeypatch.context() as patch:
        loss, calls = DPO.loss, []

        def dies(self, models, batch):
            calls.append(1)
            if len(calls) == 3:
                raise Killed
            return loss(self, models, batch)

        patch.setattr(DPO, "loss", dies)
        with pytest.raises(Killed):
            make_bench(store, run_folder=tmp_path / "first").train(on_sft(), RECIPE)
    caplog.clear()
    later = make_bench(store, run_folder=tmp_path / "second", trainer=dataclasses.replace(TRAINER, checkpoint_every=50))
    folder = later.train(on_sft(), RECIPE, "dpo")
    assert "dpo goes on from step 2" in caplog.text and "SFT on" not in caplog.text
    assert lines(folder) == lines(whole)
    assert (folder / "adapter_model.safetensors").read_bytes() == (whole / "adapter_model.safetensors").read_bytes()
    assert not list((store.folder / ".work").iterdir()), "checkpoints of a complete stage are gone"


def test_a_damaged_stage_is_built_again(store, trained):
    folder = make_bench(store).train(SFT(), RECIPE)
    path = folder / "adapter_model.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-4] + b"\0\0\0\1")
    assert make_bench(store).train(SFT(), RECIPE) == folder
    assert trained == ["SFT/demonstrations"] * 2 and path.read_bytes() == before


def test_reference_logprobs_are_computed_once(store, monkeypatch):
    computed: list[int] = []
    compute = StoredLogprobs.compute

    def counted(self, examples):
        computed.append(len(examples))
        return compute(self, examples)

    monkeypatch.setattr(StoredLogprobs, "compute", counted)
    epoch = Recipe(lr=1e-2, batch_size=4, epochs=1.0)
    make_bench(store).train(on_sft(), epoch)
    assert computed == [10]
    for algorithm, recipe in ((on_sft(beta=0.7), epoch), (on_sft(IPO), epoch),
                              (on_sft(), dataclasses.replace(epoch, lr=1e-3)),
                              (on_sft(), dataclasses.replace(epoch, batch_size=2, epochs=2.0))):
        make_bench(store).train(algorithm, recipe)
    make_bench(store, with_preferences(reversed(list(make_data().preferences)))).train(on_sft(), epoch)
    assert computed == [10], "β, loss, learning rate, batch and order change no reference"
    more = with_preferences([*make_data().preferences, Record("new:", [" a", " b"], [1.0, 0.0])])
    make_bench(store, more).train(on_sft(), epoch)
    assert computed == [10, 1]
    make_bench(store).train(on_sft(recipe=dataclasses.replace(RECIPE, lr=2e-2)), epoch)
    assert computed == [10, 1, 10], "another supervised policy"


def test_the_reference_pass_is_part_of_the_cost(store, monkeypatch):
    """Charged where it is computed and where it is found, and what is only watched is not."""
    compute, slow, clock = StoredLogprobs.compute, 0.5, [100.0]

    def slowly(self, examples):
        clock[0] += slow
        return compute(self, examples)

    monkeypatch.setattr(references, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(StoredLogprobs, "compute", slowly)
    taken = []
    monkeypatch.setattr(Algorithm, "fit",
                        lambda self, context: (fit(self, context), taken.append(context.meter.seconds)))
    watched = dataclasses.replace(TRAINER, evaluate_every=3)
    epoch = Recipe(lr=1e-2, batch_size=4, epochs=1.0)
    folders = [make_bench(store, trainer=watched).train(on_sft(beta=beta), epoch) for beta in (0.1, 0.2)]
    assert taken[0] == 0, "supervised fine-tuning has no reference pass"
    assert taken[1] == taken[2] == pytest.approx(slow)
    for folder in folders:
        assert json.loads((folder / "fit.json").read_text())["seconds"] > taken[1]


@pytest.mark.parametrize("target, where", [(StoredLogprobs, "training"), (measuring, "evaluation of training")])
def test_no_memory_left_outside_a_step_says_what_to_lower(store, monkeypatch, target, where):
    def greedy(*_, **__):
        raise MemoryError

    bench = make_bench(store)
    monkeypatch.setattr(target, "compute" if target is StoredLogprobs else "evaluate", greedy)
    with pytest.raises(TrainingError,
                       match=f"^{where}: found no memory left on .*4 rows in one scoring pass.*fix: lower "
                                            "eval.batch_size or eval.sampling.batch_size$"):
        bench.evaluate(on_sft(), RECIPE)


def test_a_dropped_bench_frees_its_models(store):
    bench = make_bench(store)
    bench.train(SFT(), RECIPE)
    models = weakref.ref(bench.models)
    with released():
        assert models() is not None
        del bench
    assert models() is None


# The command line, in processes of its own


@pytest.mark.slow
def test_two_processes_build_every_stage_once(tmp_path):
    data = pairs_file(tmp_path / "pairs.jsonl")
    processes = [subprocess.Popen(
        command(data, tmp_path / "stages", f"hydra.run.dir={tmp_path / name}", steps=20), cwd=tmp_path,
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for name in ("one", "two")]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    together = "\n".join(outputs)
    for built in (": SFT on", ": DPO on", "of them computed now"):
        assert together.count(built) == 1, together
    assert lines(tmp_path / "one", timing=True) == lines(tmp_path / "two", timing=True)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert results[0]["evaluation"] == results[1]["evaluation"]


@pytest.mark.slow
def test_a_failing_job_lets_the_others_run(tmp_path):
    data = pairs_file(tmp_path / "pairs.jsonl")
    sweep = ["recipe.lr=1e-3,1e30", f"data.path={data},missing.jsonl", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    program, script, *overrides = command(data, tmp_path / "stages", *sweep, algorithm="sft")
    done = run([program, script, "-m", *overrides], tmp_path)
    assert done.returncode == 1, done.stderr
    results = [json.loads((tmp_path / "sweep" / name / "result.json").read_text()) for name in "0123"]
    assert [result["status"] for result in results] == ["complete", "failed", "failed", "failed"]
    assert results[0]["evaluation"]
    assert results[1]["error"]["type"] == "TrainingError" and "lower recipe.lr" in results[1]["error"]["message"]
    assert all("missing.jsonl" in result["error"]["message"] for result in results[2:])
    table = (tmp_path / "sweep" / "table.md").read_text()
    assert "failed" in table and "missing.jsonl" in table
    assert "Traceback" not in done.stderr, "the user's errors need none"


@pytest.mark.slow
@pytest.mark.parametrize("overrides, message", [
    (["recipe.lr=1e30", "trainer.checkpoint_every=50"], "step 2: found a loss that is not finite"),
    (["recipe.lr=1e30", "recipe.steps=1"], "step 1: found parameters that give no finite numbers"),
    (["recipe.lr=-1"], "recipe.lr: found -1"),
    (["recipe.lr=inf"], "recipe.lr: found inf"),
    (["data.path=missing.jsonl"], "missing.jsonl"),
    (["trainer.trackers=[wandb]"], "found wandb, which is not installed")], ids=str)
def test_a_failing_run_says_so_once(tmp_path, overrides, message):
    done = run([*command(pairs_file(tmp_path / "pairs.jsonl"), tmp_path / "stages", algorithm="sft"),
                f"hydra.run.dir={tmp_path / 'run'}", *overrides], tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count(message) == 1 and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_need_that_is_no_stage_is_refused(tmp_path):
    """What is left of another algorithm's override, as with a key under algorithm.needs of one that needs nothing."""
    bench = make_bench(Store(tmp_path))
    with pytest.raises(ConfigError, match="algorithm.needs.reference: found dict; expected a stage"):
        bench.check(SFT(needs={"reference": {"recipe": {"steps": 4}}}))
    bench.check(SFT())


def test_full_fine_tuning_of_bf16_weights_is_refused(store):
    """Half a step of bf16 is 1/512 of a weight: of 0.02 it takes 4e-5, and Adam moves it by the learning rate."""
    assert torch.tensor(0.02, dtype=torch.bfloat16) + 3e-5 == torch.tensor(0.02, dtype=torch.bfloat16)
    bench = make_bench(store, model=model(lora=None, precision="bf16"))
    for algorithm in (SFT(), on_sft()):
        with pytest.raises(ConfigError,
                           match="(?s)model.precision: found bf16 with model.lora null.*fix: model.precision=fp32"):
            bench.check(algorithm)
    bench.reward = Function(lambda prompts, responses: [0.0] * len(responses))
    bench.check(BestOfN(n=2))  # nothing is trained
    make_bench(store, model=model(lora=None)).check(SFT())
    make_bench(store, model=model(precision="bf16")).check(SFT())


def test_four_bit_weights_are_refused_where_they_would_be_trained(store):
    bench = make_bench(store, model=model(lora=None, precision="nf4"))
    with pytest.raises(ConfigError, match="model.lora: found null with precision nf4.* fix: model.precision=fp32"):
        bench.check(SFT())
    bench.reward = Function(lambda prompts, responses: [0.0] * len(responses))
    bench.check(BestOfN(n=2))


def test_descriptions_pass_through_what_hides_secrets(tmp_path):
    bench = make_bench(Store(tmp_path))
    bench.hide = lambda description: {**description, "seed": "***"}
    assert bench.description(SFT(), Recipe(lr=1e-3, batch_size=4))["seed"] == "***"
