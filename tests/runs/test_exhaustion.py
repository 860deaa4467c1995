"""A full disk and no memory left: one clear message, nothing torn, the last good checkpoint as it was."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from algorithms.best_of_n import BestOfN
from algorithms.common.data.records import Records, cache_folder, set_cache_folder
from algorithms.common.data.records.record import Record
from algorithms.common.recipe import Recipe
from algorithms.common.rewards.sources import Gold
from algorithms.common.runs import results
from algorithms.common.support.errors import TrainingError, UserError
from algorithms.common.support.memory import peak_memory_bytes, reset_peak_memory
from algorithms.common.support.store import Store
from algorithms.common.training import checkpoints
from algorithms.common.training.loop import fit
from algorithms.sft import SFT
from command_line import MICRO, invoke
from stage_setup import RECIPE, make_bench, make_data
from training_setup import examples, lines, make_context, two_roles, weights


@pytest.fixture
def full_disk(tmp_path):
    """full_disk(size): an empty file system of that size, which only root can mount."""
    mounted = []

    def make(size: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip(f"cannot mount a small disk: {done.stderr.decode().strip()}")
        mounted.append(folder)
        return folder

    try:
        yield make
    except FileNotFoundError:
        pytest.skip("no mount command here")
    finally:
        for folder in mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def digests(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# The disk


@pytest.fixture
def own_cache():
    before = cache_folder()
    yield set_cache_folder
    set_cache_folder(before)


def test_a_full_disk_leaves_no_half_of_the_data(full_disk, own_cache):
    disk = full_disk("2m")
    own_cache(disk / "data")
    kept = Records.from_list([Record("a", ["b"])])
    with pytest.raises(UserError, match="disk full while writing the data.*No space left.*stages.folder=PATH"):
        Records.from_list(Record(f"{i} " + "x" * 1000, []) for i in range(10_000))
    assert [path.name for path in (disk / "data").iterdir()] == [Path(kept.path).name]
    assert list(kept) == [Record("a", ["b"])]


def test_a_full_disk_while_a_checkpoint_is_written(full_disk):
    disk = full_disk("2m")
    tensors = {"parameters": {"0": torch.ones(200_000)}}     # 0.8 MB: two fit, three do not
    checkpoints.save(disk, 1, tensors, {"mark": 1})
    checkpoints.save(disk, 2, tensors, {"mark": 2})
    before = digests(disk)
    with pytest.raises(UserError,
                       match="checkpoint of step 3 .*No space left.*last good checkpoint: .*step-00000002;.*fix: free"):
        checkpoints.save(disk, 3, tensors, {})
    assert digests(disk) == before and len(list(disk.iterdir())) == 2
    assert checkpoints.load_latest(disk)[2] == {"mark": 2}


@pytest.mark.parametrize("name", ["save_file", "file_digest", "content_hash"])
def test_a_full_disk_at_any_point_of_a_checkpoint(tmp_path, monkeypatch, name):
    checkpoints.save(tmp_path, 1, {"parameters": {"0": torch.ones(2)}}, {})
    before = digests(tmp_path)
    monkeypatch.setattr(checkpoints, name, full)
    with pytest.raises(UserError, match="disk full while writing the checkpoint of step 2"):
        checkpoints.save(tmp_path, 2, {"parameters": {"0": torch.ones(2)}}, {})
    assert digests(tmp_path) == before


def test_training_goes_on_once_there_is_room(make_models, tmp_path, monkeypatch):
    def train(folder: str):
        models = two_roles(make_models())
        context = make_context(models, tmp_path / folder, examples(10), Recipe(lr=1e-2, batch_size=4, epochs=2.0),
                               checkpoint_every=1)
        fit(SFT(), context)
        return lines(context.target), weights(models)

    whole, whole_weights = train("whole")
    save, calls = checkpoints.save_file, []

    def third(*given):
        calls.append(1)
        return full() if len(calls) > 4 else save(*given)       # two files a checkpoint

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", third)
        with pytest.raises(UserError, match="last good checkpoint: .*step-00000002"):
            train("stopped")
    resumed, resumed_weights = train("stopped")
    assert resumed == whole and all(torch.equal(resumed_weights[key], value) for key, value in whole_weights.items())


def test_a_full_disk_leaves_no_half_of_a_result(full_disk):
    disk = full_disk("64k")
    results.write_json(disk / "result.json", {"status": "complete"})
    with pytest.raises(UserError, match="disk full while writing .*result.json.*hydra.run.dir=PATH"):
        results.write_json(disk / "result.json", {"much": "x" * 100_000})
    assert json.loads((disk / "result.json").read_text()) == {"status": "complete"} and len(list(disk.iterdir())) == 1


@pytest.mark.parametrize("place", ["run", "stages"])
def test_a_run_on_a_full_disk_ends_with_one_message(full_disk, tmp_path, place):
    disk = full_disk("48k")
    folders = {"run": tmp_path / "run", "stages": tmp_path / "stages", place: disk / place}
    ended = invoke("algorithm=sft", *MICRO, f"stages.folder={folders['stages']}", f"hydra.run.dir={folders['run']}")
    assert ended.status == 2 and "disk full" in ended.err, ended.err
    assert "Traceback" not in ended.err and "Traceback" not in ended.out
    assert not list(folders["run"].glob("*.writing")) and not (folders["run"] / "result.json").exists()


def test_a_sweep_that_cannot_write_its_failures_stops(full_disk, tmp_path):
    disk = full_disk("24k")
    ended = invoke("-m", "algorithm=sft", "seed=0,1", "data=file", f"data.path={tmp_path / 'none.jsonl'}",
                   f"stages.folder={tmp_path / 'stages'}", f"hydra.sweep.dir={disk}")
    assert ended.status == 2 and "disk full" in ended.err and "Traceback" not in ended.err


# Memory


class RunsOut(SFT):
    """No memory left at its third step."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error, self.left = error, 2

    def loss(self, models, batch):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().loss(models, batch)


OUT_OF_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of …"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
                        "you tried "
                        "to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"),
    "python": MemoryError(),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY.keys())
def test_no_memory_left_says_what_to_lower(make_models, tmp_path, error):
    context = make_context(two_roles(make_models()), tmp_path, examples(16), checkpoint_every=1, micro_batch_size=4)
    with pytest.raises(TrainingError) as caught:
        fit(RunsOut(error), context)
    told = str(caught.value)
    assert told.startswith("training, step 3: found no memory left on cpu") and "\n" not in told
    for part in ("micro-batches of 4", "up to 64 tokens", f"last good checkpoint: {context.work / 'step-00000002'};",
                 "fix: lower trainer.micro_batch_size or model.max_length, or set model.gradient_checkpointing=true"):
        assert part in told
    assert checkpoints.load_latest(context.work)[0] == 2


def test_only_what_helps_is_proposed(make_models, tmp_path):
    models = two_roles(make_models(gradient_checkpointing=True))
    with pytest.raises(TrainingError, match="fix: lower model.max_length$"):
        fit(RunsOut(MemoryError()), make_context(models, tmp_path, examples(16), micro_batch_size=1))


def test_what_the_allocator_really_raises_is_recognised(make_models, tmp_path):
    class Greedy(SFT):
        def loss(self, models, batch):
            torch.empty(1 << 60, dtype=torch.uint8)

    with pytest.raises(TrainingError, match="step 1: found no memory left on cpu.*none yet"):
        fit(Greedy(), make_context(two_roles(make_models()), tmp_path, examples(4)))


def test_no_memory_left_after_the_last_step(make_models, tmp_path):
    class Greedy(SFT):
        def finish(self, context):
            raise MemoryError

    with pytest.raises(TrainingError,
                       match="found no memory left on cpu.*step-00000002; fix: lower trainer.micro_batch_size"):
        fit(Greedy(), make_context(two_roles(make_models()), tmp_path, examples(4)))


def test_the_peak_counts_from_its_reset():
    """A big allocation before the reset is not in it, one after it is."""
    device, size = torch.device("cpu"), 200 << 20
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak can be reset on Linux only")
    reset_peak_memory(device)
    start = peak_memory_bytes(device)
    torch.ones(size, dtype=torch.uint8)
    assert peak_memory_bytes(device) > start + size // 2
    reset_peak_memory(device)
    assert peak_memory_bytes(device) < start + size // 2


@pytest.mark.parametrize("algorithm", [SFT(), BestOfN()], ids=["sft", "best-of-n"])
def test_training_starts_a_peak_of_its_own(tmp_path, algorithm):
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak can be reset on Linux only")
    device, size = torch.device("cpu"), 400 << 20
    bench = make_bench(Store(tmp_path), reward=Gold(), data=dataclasses.replace(make_data(), gold=zeros))
    reset_peak_memory(device)
    torch.ones(size, dtype=torch.uint8)
    before = peak_memory_bytes(device)
    stage = bench.train(algorithm, RECIPE)
    assert json.loads((stage / "fit.json").read_text())["peak_memory_bytes"] < before - size // 4


def zeros(prompts, responses, finished):
    return [0.0] * len(responses)


def test_other_errors_stay_what_they_are(make_models, tmp_path):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fit(RunsOut(RuntimeError("mat1 and mat2 shapes cannot be multiplied")),
            make_context(two_roles(make_models()), tmp_path, examples(16), micro_batch_size=4))
