"""Killed at any instant and started again, a run goes on to the same losses, to the bit; what is torn is not read."""

import json
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from algorithms.common.models.model import Lora
from algorithms.common.recipe import Recipe
from algorithms.common.support.errors import TrainingError
from algorithms.common.training import checkpoints
from algorithms.common.training.loop import fit
from algorithms.dpo import DPO
from algorithms.sft import SFT
from command_line import MICRO, invoke
from few import few
from training_setup import command, environment, examples, lines, make_context, pairs_file, run, two_roles, weights

STEPS = 5
RECIPE = Recipe(lr=1e-2, batch_size=4, epochs=2.0)  # 2 epochs of 10 records: the third step crosses them


class Killed(Exception):
    pass


def raises(*_):
    raise Killed


def start(make_models, folder: Path, algorithm, dropout: float, every: int, stop: int | None = None, recipe=RECIPE):
    """Train in models of its own, from whatever the folder holds; ``stop``: die within that step, half of it done."""
    models = two_roles(make_models(lora=Lora(r=4, alpha=8, dropout=dropout)))
    context = make_context(models, folder, examples(10, responses=2 if isinstance(algorithm, DPO) else 1), recipe,
                           checkpoint_every=every, micro_batch_size=2)
    if stop is None:
        fit(algorithm, context)
        return lines(context.target), weights(models), context
    loss, calls = algorithm.loss, []

    def dies(models, batch):
        calls.append(1)
        if len(calls) == 2 * (stop - 1) + 2:  # two micro-batches a step
            raise Killed
        return loss(models, batch)

    algorithm.loss = dies
    with pytest.raises(Killed):
        fit(algorithm, context)
    del algorithm.loss
    return None, None, context


def test_running_means_go_on(make_models, tmp_path):
    recipe = replace(RECIPE, ema=0.9)
    whole, kept, _ = start(make_models, tmp_path / "whole", SFT(), 0.0, every=50, recipe=recipe)
    start(make_models, tmp_path / "cut", SFT(), 0.0, every=2, stop=4, recipe=recipe)
    resumed, resumed_weights, _ = start(make_models, tmp_path / "cut", SFT(), 0.0, every=2, recipe=recipe)
    assert resumed == whole and same(resumed_weights, kept)
    # all steps were done before: only the means are put in place
    again, again_weights, _ = start(make_models, tmp_path / "cut", SFT(), 0.0, every=2, recipe=recipe)
    _, plain, _ = start(make_models, tmp_path / "plain", SFT(), 0.0, every=50)
    assert again == whole and same(again_weights, kept) and not same(plain, kept)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("algorithm", [SFT(), DPO(beta=0.5)], ids=["sft", "dpo"])
@pytest.mark.parametrize("dropout, every, stops", few([(0.0, 1, [3]), (0.3, 2, [3, 4]), (0.3, 2, [1, 2, 5])], [0, 1]))
def test_stopped_at_any_step(make_models, tmp_path, algorithm, dropout, every, stops):
    whole, whole_weights, _ = start(make_models, tmp_path / "whole", algorithm, dropout, every=50)
    assert len(whole) == STEPS
    for stop in stops:
        folder = tmp_path / str(stop)
        start(make_models, folder, algorithm, dropout, every, stop)
        torch.manual_seed(stop)  # whatever the process drew before
        resumed, resumed_weights, _ = start(make_models, folder, algorithm, dropout, every)
        assert resumed == whole, f"stopped in step {stop}"
        assert same(resumed_weights, whole_weights)


def test_dropout_acts(make_models, tmp_path):
    """Otherwise the test above would say nothing about random streams."""
    found = [start(make_models, tmp_path / str(p), SFT(), p, every=50)[0] for p in (0.0, 0.3)]
    assert found[0][0]["loss/policy"] != found[1][0]["loss/policy"]


@pytest.mark.slow
def test_stopped_again_and_again(make_models, tmp_path):
    whole, whole_weights, _ = start(make_models, tmp_path / "whole", SFT(), 0.3, every=50)
    for _ in range(STEPS - 1):
        start(make_models, tmp_path / "often", SFT(), 0.3, every=1, stop=2)  # one step further each time
    resumed, resumed_weights, _ = start(make_models, tmp_path / "often", SFT(), 0.3, every=1)
    assert resumed == whole and same(resumed_weights, whole_weights)


def test_full_fine_tuning_resumes(make_models, tmp_path):
    def train(folder: Path, stop: int | None):
        models = two_roles(make_models(lora=None))
        context = make_context(models, folder, examples(10), RECIPE, checkpoint_every=1)
        algorithm = SFT()
        if stop:
            losses = iter([algorithm.loss] * (stop - 1) + [raises])
            algorithm.loss = lambda *given: next(losses)(*given)
            with pytest.raises(Killed):
                fit(algorithm, context)
            return None
        fit(algorithm, context)
        return lines(context.target), weights(models)

    train(tmp_path / "stopped", 3)
    whole, resumed = train(tmp_path / "whole", None), train(tmp_path / "stopped", None)
    assert whole[0] == resumed[0] and same(whole[1], resumed[1])


def test_a_failure_after_the_last_step_repeats_none(make_models, tmp_path):
    whole, whole_weights, _ = start(make_models, tmp_path / "whole", SFT(), 0.3, every=50)
    algorithm = SFT()
    algorithm.finish = raises
    with pytest.raises(Killed):
        start(make_models, tmp_path / "failed", algorithm, 0.3, every=50)
    algorithm.loss, finished = raises, []  # a step would fail
    algorithm.finish = finished.append
    resumed, resumed_weights, context = start(make_models, tmp_path / "failed", algorithm, 0.3, every=50)
    assert finished == [context] and resumed == whole and same(resumed_weights, whole_weights)


# Checkpoints that cannot be used


@pytest.fixture(scope="module")
def once(make_models, tmp_path_factory):
    """A folder with the checkpoints of steps 3 and 4, and what the uninterrupted run gave."""
    folder = tmp_path_factory.mktemp("once")
    whole, whole_weights, _ = start(make_models, folder / "whole", SFT(), 0.3, every=50)
    _, _, context = start(make_models, folder / "stopped", SFT(), 0.3, every=1, stop=5)
    assert [path.name for path in sorted(context.work.iterdir())] == ["step-00000003", "step-00000004"]
    return folder / "stopped", context.work.relative_to(folder / "stopped"), whole, whole_weights


@pytest.fixture
def stopped(once, tmp_path):
    """A copy of it to damage."""
    folder, work, whole, whole_weights = once
    shutil.copytree(folder, tmp_path / "stopped")
    return tmp_path / "stopped", tmp_path / "stopped" / work, whole, whole_weights


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["parameters.safetensors", "optimizer.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "empty"])
def test_a_damaged_checkpoint_is_passed_over(make_models, stopped, caplog, file, damage):
    folder, work, whole, whole_weights = stopped
    path = work / "step-00000004" / file
    if damage == "flipped":
        flip(path, -40)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2 if damage == "cut" else 0])
    assert checkpoints.load_latest(work)[0] == 3
    warning = caplog.records[-1]
    assert warning.levelname == "WARNING" and "step-00000004 cannot be used" in warning.getMessage()
    resumed, resumed_weights, _ = start(make_models, folder, SFT(), 0.3, every=1)
    assert resumed == whole and same(resumed_weights, whole_weights)


def test_no_flipped_bit_goes_unseen(stopped):
    """A changed digit in the metrics or the step count is still JSON."""
    _, work, _, _ = stopped
    draw = random.Random(0)
    for file in ("checkpoint.json", "parameters.safetensors", "optimizer.safetensors"):
        path = work / "step-00000004" / file
        whole = path.read_bytes()
        for _ in range(25):
            flip(path, draw.randrange(len(whole)))
            assert checkpoints.load_latest(work)[0] == 3
            path.write_bytes(whole)
    assert checkpoints.load_latest(work)[0] == 4


@pytest.mark.parametrize("text", ["[]", "null", "3", '{"digest": 1}', '{"step": 9}', "\x00", "[" * 5000])
def test_a_checkpoint_of_another_shape_is_passed_over(stopped, text):
    _, work, _, _ = stopped
    (work / "step-00000004" / "checkpoint.json").write_text(text)
    assert checkpoints.load_latest(work)[0] == 3


def test_where_none_can_be_used_training_starts_anew(make_models, stopped):
    folder, work, whole, whole_weights = stopped
    for path in work.glob("step-*/parameters.safetensors"):
        flip(path, -1)
    resumed, resumed_weights, _ = start(make_models, folder, SFT(), 0.3, every=1)
    assert resumed == whole and same(resumed_weights, whole_weights)


def test_later_damaged_checkpoints_do_not_push_out_good_ones(tmp_path):
    tensors = {"parameters": {"0": torch.ones(2)}}
    for step in (20, 30, 40):
        checkpoints.save(tmp_path, step, tensors, {})
    shutil.copytree(tmp_path / "step-00000030", tmp_path / "step-00000020")
    for step in (30, 40):
        flip(tmp_path / f"step-{step:08d}" / "parameters.safetensors", -1)
    checkpoints.save(tmp_path, 25, tensors, {"mark": 1})
    assert checkpoints.load_latest(tmp_path)[2] == {"mark": 1}


def test_a_checkpoint_being_written_is_never_read(make_models, stopped):
    folder, work, whole, whole_weights = stopped
    planted = work / ".writing-00000099-1"
    shutil.copytree(work / "step-00000003", planted)
    (work / ".writing-00000098-1").write_text("a file")
    assert checkpoints.load_latest(work)[0] == 4
    assert not planted.exists(), "leftovers are removed"
    resumed, resumed_weights, _ = start(make_models, folder, SFT(), 0.3, every=1)
    assert resumed == whole and same(resumed_weights, whole_weights)


def test_a_kill_while_writing_leaves_the_one_before(tmp_path, monkeypatch):
    tensors = {"parameters": {"0": torch.ones(2)}, "optimizer": {}}
    checkpoints.save(tmp_path, 1, tensors, {})
    for name in ("save_file", "content_hash", "file_digest"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, name, raises)
            with pytest.raises(Killed):
                checkpoints.save(tmp_path, 2, tensors, {})
        assert checkpoints.load_latest(tmp_path)[0] == 1
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.os, "replace", raises)
        with pytest.raises(Killed):
            checkpoints.save(tmp_path, 2, tensors, {})
    assert checkpoints.load_latest(tmp_path)[0] == 1


def test_other_parameters_are_refused(make_models, stopped):
    folder, work, _, _ = stopped
    models = make_models(lora=Lora(r=4, alpha=8, target_modules=["q_proj"]))
    models.add_role("policy", trainable=True, seed=0)
    context = make_context(models, folder, examples(10), RECIPE)
    with pytest.raises(TrainingError, match="other parameters"):
        fit(SFT(), context)


class Payload:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.write_text, (self.mark, "executed")


def test_no_pickle_is_read(make_models, stopped):
    """Pickles under every name that a trainer is known to read, and in the place of our own files."""
    folder, work, whole, whole_weights = stopped
    mark = folder / "executed"
    payload = pickle.dumps(Payload(mark))
    pickle.loads(payload)
    assert mark.exists(), "the payload works"
    mark.unlink()
    names = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scheduler.bin", "rng_state.pth", "random_states_0.pkl",
             "scaler.pt", "custom_checkpoint_0.pkl", "pytorch_model.bin", "adapter_model.bin", "training_args.bin",
             "trainer_state.json", "state.pt", "checkpoint.pkl")
    for place in (work, work / "step-00000003", work / "step-00000005", work / ".writing-00000007-1"):
        place.mkdir(exist_ok=True)
        for name in names:
            (place / name).write_bytes(payload)
    for name in ("checkpoint.json", "parameters.safetensors", "optimizer.safetensors"):
        (work / "step-00000005" / name).write_bytes(payload)
    (work / "step-00000004" / "optimizer.safetensors").write_bytes(payload)
    resumed, resumed_weights, _ = start(make_models, folder, SFT(), 0.3, every=1)
    assert not mark.exists()
    assert resumed == whole and same(resumed_weights, whole_weights)


# A whole run over checkpoints with bytes flipped


def micro(name: str, folder: Path) -> list[str]:
    return ["algorithm=sft", *MICRO, "recipe.steps=4", "trainer.checkpoint_every=1",
            f"stages.folder={folder / 'stages' / name}", f"hydra.run.dir={folder / name}"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run that ended, and one that died in its last step."""
    folder = tmp_path_factory.mktemp("runs")
    assert invoke(*micro("whole", folder)).status == 0
    loss, calls = SFT.loss, []

    def dies(*given):
        calls.append(1)
        return raises() if len(calls) == 4 else loss(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SFT, "loss", dies)
        with pytest.raises(Killed):
            invoke(*micro("stopped", folder))
    return folder


@pytest.mark.parametrize("steps", few([pytest.param((3,), id="the newest"), pytest.param((2, 3), id="all")], [0]))
def test_a_run_passes_over_checkpoints_with_bytes_flipped(runs, tmp_path, steps):
    shutil.copytree(runs / "stages/stopped", tmp_path / "stages/stopped")
    (work,) = (tmp_path / "stages" / "stopped" / ".work").glob("trained-*")
    assert [path.name for path in sorted(work.iterdir())] == ["step-00000002", "step-00000003"]
    draw = random.Random(0)
    for step in steps:
        for path in (work / f"step-{step:08d}").iterdir():
            for _ in range(3):
                flip(path, draw.randrange(path.stat().st_size))
    done = invoke(*micro("stopped", tmp_path))
    log = (tmp_path / "stopped" / "run.log").read_text()
    assert done.status == 0 and all(f"step-{step:08d} cannot be used" in log for step in steps)
    assert ("goes on from step 2" in log) == (steps == (3,))
    _same_results(tmp_path / "stopped", runs / "whole")


# The real command, really killed


@pytest.mark.slow
@pytest.mark.minutes
@pytest.mark.parametrize("algorithm, times", [("sft", 2), ("dpo", 4), ("reward_model", 2), ("rrhf", 2), ("ppo", 4)])
def test_killed_again_and_again(tmp_path, algorithm, times):
    """SIGKILL at random instants, of the whole run or while it trains; the same command again, until it is done, ends
    with the losses, weights and figures of a run that nobody killed.
    """
    data = pairs_file(tmp_path / "pairs.jsonl")
    draw = random.Random(algorithm)

    def arguments(name: str) -> list[str]:
        more = ["model.lora.dropout=0.1"] if algorithm == "sft" else []
        if algorithm in ("rrhf", "ppo"):  # the reward model stands on the same supervised stage
            more = [f"{stage}.{key}" for stage in ("reward.recipe", "reward.algorithm.needs.reference.recipe")
                    for key in ("steps=20", "batch_size=8")]
        return command(data, tmp_path / f"stages-{name}", *more, f"hydra.run.dir={tmp_path / name}",
                       steps=60 if algorithm in ("sft", "dpo") else 20, algorithm=algorithm)

    began = time.monotonic()
    done = run(arguments("whole"), tmp_path)
    assert done.returncode == 0, done.stderr
    takes = time.monotonic() - began
    kills = in_training = rounds = 0
    while kills < times:
        name = f"killed-{rounds}"
        work = tmp_path / f"stages-{name}" / ".work"
        kept = set(work.glob("trained-*/step-*"))
        process = subprocess.Popen(arguments(name), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + takes * draw.uniform(0.1, 0.6)
        if kills % 2:  # every other one: soon after this process wrote a checkpoint
            deadline = math.inf
        while process.poll() is None and time.monotonic() < deadline:
            if deadline == math.inf and set(work.glob("trained-*/step-*")) - kept:
                deadline = time.monotonic() + draw.uniform(0, 0.5)
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            in_training += any(work.glob("trained-*/step-*"))
        else:
            assert process.returncode == 0
            _same_results(tmp_path / name, tmp_path / "whole")
            rounds += 1  # done before its time: from the start again
    done = run(arguments(f"killed-{rounds}"), tmp_path)
    assert done.returncode == 0, done.stderr
    _same_results(tmp_path / f"killed-{rounds}", tmp_path / "whole")
    print(f"{algorithm}: {kills} kills, {in_training} while training, {rounds + 1} runs completed")
    assert in_training >= 1


def _same_results(one: Path, other: Path) -> None:
    assert lines(one) == lines(other)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert results[0]["evaluation"] == results[1]["evaluation"]
    name = "adapter_model.safetensors"
    assert (one / name).read_bytes() == (other / name).read_bytes()
