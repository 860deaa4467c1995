"""The one loop: 8×1 equals 1×8, every record once an epoch, schedules and AdamW by hand, errors that help, Ctrl-C."""

import gc
import itertools
import json
import math
import signal
import subprocess
import time
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from algorithms.common.algorithm import Algorithm, Loss, Term
from algorithms.common.data.batches import longest_first
from algorithms.common.data.records import Record, Records
from algorithms.common.data.template import Example
from algorithms.common.data.tokenized import Tokenized, batch_indices, visited
from algorithms.common.models.model import Lora
from algorithms.common.recipe import Recipe, TrainerConfig
from algorithms.common.support.errors import ConfigError, TrainingError
from algorithms.common.support.seeds import derive, permutation, uniforms
from algorithms.common.training.loop import evaluate_loss, fit, micro_batches
from algorithms.dpo import DPO, IPO
from algorithms.sft import SFT
from training_setup import (
    OneWeight,
    command,
    environment,
    examples,
    lines,
    make_context,
    pairs_file,
    randomize,
    run,
    two_roles,
    weights,
)

# Normalisation: a minibatch is one thing, however it is cut


@pytest.mark.parametrize("algorithm", [SFT(), SFT(train_on_prompt=True), DPO(beta=0.5), IPO()],
                         ids=["sft", "sft-prompt", "dpo", "ipo"])
@pytest.mark.parametrize("size", [1, 3])
def test_eight_times_one_equals_one_times_eight(make_models, tmp_path, algorithm, size):
    """Unequal lengths, clipped gradients, several steps: the same losses, gradient norms and parameters."""
    data = examples(24, responses=1 if isinstance(algorithm, SFT) else 2)
    found = {}
    for micro in (size, 8):
        models = two_roles(make_models())
        recipe = Recipe(lr=1e-3, batch_size=8, epochs=1.0, max_grad_norm=0.05)
        context = make_context(models, tmp_path / str(micro), data, recipe, micro_batch_size=micro)
        fit(algorithm, context)
        found[micro] = lines(context.target), weights(models)
    (small, small_weights), (large, large_weights) = found.values()
    assert len(small) == 3 and large[0]["grad_norm"] > 0.05, "clipping acts"
    for one, other in zip(small, large):
        assert one == pytest.approx(other, rel=2e-5, abs=2e-5)
    for key, value in large_weights.items():
        torch.testing.assert_close(small_weights[key], value, atol=2e-5, rtol=1e-3)


class TwoTerms(Algorithm):
    """Two terms over one weight: a token mean and a row mean, each normalised by its own count."""

    def __init__(self, coefficient: float):
        super().__init__(view="demonstrations")
        self.coefficient = coefficient

    def loss(self, models, batch):
        logprobs = models.policy.token_logprobs(batch)  # (B, 1, T)
        return Loss({"policy": Term(-logprobs.sum(), per="tokens"),
                     "rows": Term(-logprobs.sum((1, 2)).sum(), coefficient=self.coefficient)}, {})


@pytest.mark.parametrize("size", [1, 3, 8])
def test_terms_are_normalised_by_their_own_counts(make_models, tmp_path, size):
    models = make_models()
    models.add_role("policy", trainable=True, seed=0)
    data = examples(8)
    context = make_context(models, tmp_path, [], heldout=data, micro_batch_size=size)
    found = evaluate_loss(TwoTerms(0.25), context)
    with torch.no_grad():
        logprobs = models.policy.token_logprobs(models.collate(data))
    tokens = sum(len(example.responses[0]) for example in data)
    assert found["eval/loss/policy"] == pytest.approx(-logprobs.sum().item() / tokens, rel=1e-5)
    assert found["eval/loss/rows"] == pytest.approx(-0.25 * logprobs.sum().item() / 8, rel=1e-5)


def test_micro_batches_are_longest_first(make_models):
    class Three:
        def lengths(self):
            return [3, 9, 5, 9, 1]

    assert micro_batches(Three(), [0, 1, 2, 3, 4], partial(longest_first, size=2)) == [[1, 3], [2, 0], [4]]
    assert micro_batches(Three(), [4, 2], partial(longest_first, size=8)) == [[2, 4]]


# The data's order


@pytest.mark.parametrize("records, batch", [(10, 4), (8, 4), (7, 10), (1, 3)])
def test_every_record_once_an_epoch(records, batch):
    limit = 3 * records
    walk = list(itertools.chain.from_iterable(batch_indices(records, batch, limit, step, seed=5)
                                              for step in range(-(-limit // batch))))
    assert len(walk) == limit
    epochs = [walk[i:i + records] for i in range(0, limit, records)]
    assert all(sorted(epoch) == list(range(records)) for epoch in epochs)
    assert records < 5 or epochs[0] != epochs[1], "each epoch has an order of its own"
    if records >= 5:
        assert batch_indices(records, batch, limit, 0, seed=6) != batch_indices(records, batch, limit, 0, seed=5)


def test_the_last_step_takes_what_is_left():
    limit = Recipe(lr=1, batch_size=4, epochs=0.9).total_records(10)
    sizes = [len(batch_indices(10, 4, limit, step, 0)) for step in range(3)]
    assert sizes == [4, 4, 1]


def test_visited():
    part = Recipe(lr=1, batch_size=4, steps=2)
    walk = {*batch_indices(100, 4, 8, 0, 1), *batch_indices(100, 4, 8, 1, 1)}
    assert visited(100, part.total_records(100), 1) == walk and len(walk) == 8
    assert visited(6, part.total_records(6), 1) == set(range(6))


def test_streams_are_independent():
    assert derive(0, "order", 1) == derive(0, "order", 1) != derive(0, "order", 2) != derive(1, "order", 2)
    assert derive(1, "1") != derive(11, "")
    assert sorted(permutation(9, 0, "x")) == list(range(9))
    assert uniforms(4, 0, "a").tolist() == uniforms(8, 0, "a")[:4].tolist() != uniforms(4, 0, "b").tolist()


# Recipes


def test_schedules_by_hand():
    """Ten steps, two of warm-up: 1/2, 1, then the schedule over the eight that are left."""
    factors = {name: [Recipe(lr=1, batch_size=1, schedule=name, warmup=0.2).factor(step, 10) for step in range(10)]
               for name in ("linear", "cosine", "constant")}
    assert factors["constant"] == [0.5] + [1.0] * 9
    assert factors["linear"] == pytest.approx([0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert factors["cosine"] == pytest.approx([0.5, 1, 1] + [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(1, 8)])
    assert Recipe(lr=1, batch_size=1, warmup=0.0).factor(0, 1) == 1.0
    for schedule, warmup, total in itertools.product(("linear", "cosine", "constant"), (0, 0.1, 0.9), (1, 2, 7)):
        recipe = Recipe(lr=1, batch_size=1, warmup=warmup, schedule=schedule)
        assert all(0 < recipe.factor(step, total) <= 1 for step in range(total)), "no step is wasted"


def test_totals():
    assert Recipe(lr=1, batch_size=4, epochs=1.5).total_records(10) == 15
    assert Recipe(lr=1, batch_size=4, epochs=0.01).total_records(10) == 1
    assert Recipe(lr=1, batch_size=4, epochs=9.0, steps=3).total_records(10) == 12
    stopped = Recipe(lr=1, batch_size=4, steps=3, stop_after=2)
    assert (stopped.total_records(10), stopped.scheduled_steps(10)) == (8, 3) and "2 of 3 steps" in stopped.told(10)
    assert Recipe(lr=1, batch_size=4, epochs=1.0, stop_after=9).total_records(10) == 10, "no further than to the end"


def test_a_training_that_is_stopped_is_a_checkpoint_of_the_whole(make_models, tmp_path):
    """The same records, rates and weights up to there, whatever the schedule has after it."""
    recipe = Recipe(lr=1e-2, batch_size=4, steps=5, warmup=0.4)
    whole = make_context(two_roles(make_models()), tmp_path / "whole", examples(24, responses=2), recipe,
                         checkpoint_every=3)
    fit(DPO(), whole)
    models = two_roles(make_models())
    stopped = make_context(models, tmp_path / "stopped", examples(24, responses=2), replace(recipe, stop_after=3))
    fit(DPO(), stopped)
    assert lines(stopped.target) == lines(whole.target)[:3]
    step = load_file(whole.work / "step-00000003" / "parameters.safetensors")
    assert all(torch.equal(step[str(index)], value) for index, value in enumerate(models.policy.parameters().values()))


@pytest.mark.parametrize("key, value", [
    ("lr", 0.0), ("lr", -1.0), ("lr", math.inf), ("lr", math.nan), ("batch_size", 0), ("epochs", 0.0),
    ("epochs", math.inf), ("steps", 0), ("schedule", "polynomial"), ("warmup", 1.0), ("warmup", -0.1),
    ("weight_decay", -0.1), ("weight_decay", math.nan), ("betas", [0.9]),
    ("betas", [0.9, 1.0]), ("ema", 1.0), ("ema", 0.0), ("max_grad_norm", 0.0), ("max_grad_norm", math.inf)])
def test_recipes_that_cannot_be_used(key, value):
    with pytest.raises(ConfigError, match=f"recipe.{key}"):
        Recipe(**{"lr": 1e-3, "batch_size": 8, key: value})


@pytest.mark.parametrize("key, value", [("micro_batch_size", 0), ("checkpoint_every", 0), ("evaluate_every", 0),
                                        ("mixed_precision", "fp16"), ("optimizer", "sgd"), ("trackers", ["mlflow"])])
def test_trainers_that_cannot_be_used(key, value):
    with pytest.raises(ConfigError, match=f"trainer.{key}"):
        TrainerConfig(**{key: value})


def test_lr_schedule_reaches_the_optimizer(make_models, tmp_path):
    models = two_roles(make_models())
    recipe = Recipe(lr=1e-2, batch_size=4, epochs=1.0, warmup=0.5, schedule="linear")
    context = make_context(models, tmp_path, examples(16), recipe)
    fit(SFT(), context)
    assert [line["lr"] for line in lines(context.target)] == pytest.approx([5e-3, 1e-2, 1e-2, 5e-3])


def test_adamw_by_hand(make_models, tmp_path):
    """The first step of AdamW moves by lr against the gradient's sign, after decay by lr · weight_decay."""
    models = make_models()
    models.add_role("policy", trainable=False, seed=0)
    algorithm = OneWeight(models, gradient=3.0)
    recipe = Recipe(lr=0.1, batch_size=4, steps=1, warmup=0.0, schedule="constant", weight_decay=0.5)
    context = make_context(models, tmp_path, examples(4), recipe)
    fit(algorithm, context)
    assert algorithm.weight.item() == pytest.approx(1 * (1 - 0.1 * 0.5) - 0.1, rel=1e-5)
    assert lines(context.target)[0]["grad_norm"] == pytest.approx(3.0), "the norm before clipping"


def test_groups_keep_their_own_learning_rates(make_models, tmp_path):
    models = make_models()
    models.add_role("policy", trainable=False, seed=0)
    algorithm = OneWeight(models, gradient=3.0)
    other = torch.nn.Parameter(torch.ones(()))
    algorithm.groups = [{"params": [algorithm.weight], "lr": 0.1}, {"params": [other], "lr": 0.01}]
    algorithm.loss = lambda _, batch: Loss({"policy": Term((algorithm.weight + other) * len(batch))}, {})
    fit(algorithm, make_context(models, tmp_path, examples(4), Recipe(lr=0.1, batch_size=4, steps=1, warmup=0.0)))
    assert [1 - algorithm.weight.item(), 1 - other.item()] == pytest.approx([0.1, 0.01], rel=1e-4)


def test_running_means_are_what_is_kept(make_models, tmp_path):
    """θ̄ ← d θ̄ + (1 − d) θ after every optimiser step, from the start; the steps themselves are those without."""
    models, kept = make_models(), {}
    models.add_role("policy", trainable=False, seed=0)
    for ema in (None, 0.75):
        algorithm, visited = OneWeight(models, gradient=3.0), []
        recipe = Recipe(lr=0.1, batch_size=4, steps=3, warmup=0.0, schedule="constant", ema=ema)
        context = make_context(models, tmp_path / str(ema), examples(4), recipe)
        loss = algorithm.loss
        algorithm.loss = lambda *given: visited.append(algorithm.weight.item()) or loss(*given)
        fit(algorithm, context)
        kept[ema] = visited, algorithm.weight.item(), lines(context.target)
    steps = [1.0, 0.9, 0.8]  # Adam moves by lr where the gradient is always the same
    assert kept[None][0] == pytest.approx(steps, rel=1e-5) and kept[None][1] == pytest.approx(0.7, rel=1e-5)
    mean = 1.0
    for weight in (0.9, 0.8, 0.7):
        mean = 0.75 * mean + 0.25 * weight
    assert kept[0.75][0] == kept[None][0] and kept[0.75][1] == pytest.approx(mean, rel=1e-5)
    assert [line["grad_norm"] for line in kept[0.75][2]] == [line["grad_norm"] for line in kept[None][2]]


def test_clipping(make_models, tmp_path):
    """What the optimiser receives is never longer than max_grad_norm, and what is shorter stays."""
    models = make_models()
    models.add_role("policy", trainable=False, seed=0)
    for gradient, expected in ((3.0, 0.5), (0.2, 0.2)):
        algorithm = OneWeight(models, gradient)
        seen = []
        context = make_context(models, tmp_path / str(gradient), examples(4),
                               Recipe(lr=0.1, batch_size=4, steps=1, warmup=0.0, max_grad_norm=0.5))
        step = torch.optim.AdamW.step

        def spy(self, *args, **kwargs):
            seen.append(algorithm.weight.grad.item())
            return step(self, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", spy)
            fit(algorithm, context)
        assert seen == [pytest.approx(expected, rel=1e-4)]


# What it leaves behind


def test_metrics_and_report(make_models, tmp_path):
    models = two_roles(make_models())
    data = examples(10, responses=2)
    recipe = Recipe(lr=1e-3, batch_size=4, epochs=2.0)
    context = make_context(models, tmp_path, data, recipe, heldout=data[:3], evaluate_every=2)
    fit(DPO(), context)
    found = lines(context.target, timing=True)
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5]
    assert [line["epoch"] for line in found] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    for line in found:
        assert {"step", "epoch", "loss/policy", "grad_norm", "lr", "tokens_per_second", "rewards/margin"} <= line.keys()
        assert all(math.isfinite(value) for value in line.values())
        assert line["lr"] > 0 and line["tokens_per_second"] > 0
    # every second step, and the last
    assert [line["step"] for line in found if "eval/loss/policy" in line] == [2, 4, 5]
    report = json.loads((context.target / "fit.json").read_text())
    assert report["steps"] == 5 and report["records"] == 10 and report["truncated"] == 0
    assert report["tokens_trained"] == 2 * sum(example.length for example in data), "two epochs"
    assert report["trainable_parameters"] == sum(value.numel() for value in models.policy.parameters().values())
    assert report["resident_models"] == 2 and report["seconds"] > 0 and report["peak_memory_bytes"] > 0


def test_held_out_evaluation_is_the_loss_without_dropout(make_models, tmp_path):
    models = make_models(lora=Lora(r=4, alpha=8, dropout=0.5))
    models.add_role("policy", trainable=True, seed=0)
    randomize(models, "policy")
    data = examples(5)
    context = make_context(models, tmp_path, data, heldout=data)
    first, second = evaluate_loss(SFT(), context), evaluate_loss(SFT(), context)
    assert first == second
    with torch.no_grad():
        batch = models.collate(data)
        expected = -models.policy.token_logprobs(batch).sum() / batch.mask.sum()
    assert first["eval/loss/policy"] == pytest.approx(expected.item(), rel=1e-5)


def test_evaluation_while_training_changes_no_step(make_models, tmp_path):
    found = []
    for every in (None, 1):
        models = two_roles(make_models(lora=Lora(r=4, alpha=8, dropout=0.2)))
        data = examples(8)
        context = make_context(models, tmp_path / str(every), data, heldout=data[:2], evaluate_every=every)
        fit(SFT(), context)
        found.append([{k: v for k, v in line.items() if not k.startswith("eval/")} for line in lines(context.target)])
    assert found[0] == found[1]


def test_training_needs_records(make_models, tmp_path):
    models = two_roles(make_models())
    with pytest.raises(TrainingError, match="no records in the view 'demonstrations'"):
        fit(SFT(view="demonstrations"), make_context(models, tmp_path, []))
    for view, told in (("demonstrations", "fix: data.heldout=0.1"),
                       ("prompts", "expected tuning prompts; fix: data.tuning=0.1, or trainer.evaluate_every=null")):
        with pytest.raises(TrainingError, match=f"trainer.evaluate_every: found 1, .*{told}"):
            fit(SFT(view=view), make_context(models, tmp_path, examples(4), evaluate_every=1))


# Ctrl-C


@pytest.mark.slow
def test_ctrl_c_writes_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    data = pairs_file(tmp_path / "pairs.jsonl")

    def arguments(name: str) -> list[str]:
        return command(data, tmp_path / f"stages-{name}", "trainer.checkpoint_every=1000",
                       f"hydra.run.dir={tmp_path / name}", steps=60, algorithm="sft")

    assert run(arguments("whole"), tmp_path).returncode == 0

    # the metrics, which grow, tell that training has begun
    process = subprocess.Popen(arguments("stopped"), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    grown, deadline = tmp_path / "stopped/metrics.jsonl", time.monotonic() + 120
    while not (grown.is_file() and grown.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, text = process.communicate(timeout=120)
    assert process.returncode == 130, text
    assert "Traceback" not in text and "writing a checkpoint" in text
    assert "the same command goes on from there" in text
    work = list((tmp_path / "stages-stopped" / ".work").glob("trained-*/step-*"))
    assert len(work) == 1 and f"checkpoint {work[0]}" in text
    assert 0 < int(work[0].name.removeprefix("step-")) <= 60

    again = run(arguments("stopped"), tmp_path)
    assert again.returncode == 0, again.stderr
    assert "goes on from step" in again.stdout + again.stderr + (tmp_path / "stopped" / "run.log").read_text()
    assert lines(tmp_path / "stopped") == lines(tmp_path / "whole")
    results = [json.loads((tmp_path / name / "result.json").read_text())["evaluation"] for name in ("whole", "stopped")]
    assert results[0] == results[1]


# Data larger than memory


def test_examples_are_made_when_asked_for_and_few_are_kept(monkeypatch):
    monkeypatch.setattr(Tokenized, "KEPT", 3)
    records, made = Records.from_list([Record(f"p{i}", ["r"]) for i in range(10)]), []

    def tokenize(record: Record) -> Example:
        made.append(record.prompt)
        return Example([int(record.prompt[1:]) + 1], [[0]], [True], None, record.key)

    found = Tokenized(records, tokenize)
    assert len(found) == 10 and not made
    first = weakref.ref(found[0])
    assert found[0] is first() and made == ["p0"]
    assert [found[i].prompt for i in (1, 2, 3)] == [[2], [3], [4]]
    gc.collect()
    assert first() is None, "the fourth takes the first one's place"
    given = found[4] = Example([9], [[0]], [True], None, "another")
    assert [example.prompt for example in found] == [[1], [2], [3], [4], [9], [6], [7], [8], [9], [10]]
    assert found[4] is given and "p4" not in made
    with pytest.raises(IndexError):
        found[10]


def test_what_is_kept_of_the_examples_changes_nothing(make_models, tmp_path, monkeypatch):
    records = Records.from_list([Record(f"the film {i}", [" was good" * (1 + 6 * i)]) for i in range(12)])
    found = []
    for name, kept in (("all", 16), ("few", 2)):
        monkeypatch.setattr(Tokenized, "KEPT", kept)
        models = make_models()
        models.add_role("policy", trainable=True, seed=1)
        context = make_context(models, tmp_path / name, Tokenized(records, models.tokenize),
                               Recipe(lr=1e-2, batch_size=4, steps=2))
        fit(SFT(), context)
        report = json.loads((context.target / "fit.json").read_text())
        found.append((lines(context.target), report["records"], report["truncated"]))
    whole, seen = [models.tokenize(record) for record in records], context.visited()
    assert found[0] == found[1] and len(seen) == 8
    assert found[0][1:] == (12, sum(whole[index].truncated
                                    for index in seen)), "truncated ones are counted of those trained on"
    assert 0 < found[0][2] < sum(example.truncated for example in whole)


def test_a_record_that_is_never_visited_may_be_one_that_cannot_be_tokenised(make_models, tmp_path):
    models = make_models()
    models.add_role("policy", trainable=True, seed=1)
    records = Records.from_list([Record(f"the film {i}", [" was good"]) for i in range(20)])
    recipe = Recipe(lr=1e-2, batch_size=2, steps=2)
    unseen = sorted(set(range(20)) - visited(20, recipe.total_records(20), 3))

    def tokenize(record: Record) -> Example:
        assert record.prompt not in {f"the film {i}" for i in unseen}
        return models.tokenize(record)

    assert 0 in unseen
    fit(SFT(), make_context(models, tmp_path, Tokenized(records, tokenize), recipe, seed=3, checkpoint_every=1))
