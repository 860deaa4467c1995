"""What .ci/gpu runs, on a CPU with a tiny model: every path but CUDA's own."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from algorithms.common.data.batches import collate
from algorithms.common.data.template import Example
from benchmarks.gpu import flops, settings, train
from benchmarks.gpu.__main__ import PARTS, WHOLE, ended, main, run_part, write_page
from benchmarks.gpu.fits import largest
from benchmarks.gpu.flops import Work, forward_flops, training_flops, work
from benchmarks.gpu.journal import CUT, Journal, close_if_running, read
from benchmarks.gpu.page import page
from benchmarks.gpu.sampling import agreement
from benchmarks.random_models import SHAPES, Shape, random_examples, random_llama
from training_setup import ROOT

SCRIPT = ROOT / ".ci/gpu"
CPU = torch.device("cpu")
HEADINGS = {"train": "## Training steps", "ppo": "## PPO iterations", "sampling": "## Sampling", "fits": "## DPO pairs"}


@pytest.mark.parametrize("part", HEADINGS)
def test_every_part_runs_dry_and_stands_on_the_page(part, tmp_path):
    assert main(["--dry", "--part", part, "--out", str(tmp_path)]) == 0
    told = json.loads((tmp_path / f"{part}.json").read_text(encoding="utf-8"))
    assert told["status"] == "done" and told["versions"]["torch"] == torch.__version__
    base = next(one for one in told["measured"] if one["what"] == "base")
    assert base["precision"] == "nf4" and base["instead_of_nf4"] is None and base["rows"] == "shared"
    write_page(tmp_path)
    assert HEADINGS[part] in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_training_part_measures_what_it_names(tmp_path):
    assert run_part("ppo", True, tmp_path) == 0
    lines = [one for one in read(tmp_path)["ppo"]["measured"] if one["what"] == "PPO iteration"]
    assert [one["iteration"] for one in lines] == [1, 2]
    for one in lines:
        assert one["ratio_mean"] == pytest.approx(1, abs=0.05) and one["sampled_per_second"] > 0
        assert set(one["seconds"]) == {"rollout", "score", "update"} and one["of_measured_product"] > 0


def test_a_failing_part_says_so_and_keeps_what_it_had(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "recipe", lambda *_, **__: 1 / 0)
    assert run_part("train", True, tmp_path) == 1
    told = read(tmp_path)["train"]
    assert told["status"] == "failed" and "ZeroDivisionError" in told["error"]
    assert [one["what"] for one in told["measured"]] == ["device", "base"]
    assert "| train | failed |" in page(tmp_path)


def test_a_part_that_is_cut_off_keeps_what_it_had(tmp_path):
    journal = Journal(tmp_path, "fits", 100)
    journal.add("DPO pairs that fit", tokens=8, peaks_bytes={"1": 5}, largest_by_line={"24 GB": 3})
    close_if_running(journal.path, CUT, "its 80 seconds were over")
    told = read(tmp_path)["fits"]
    assert told["status"] == CUT and len(told["measured"]) == 1 and "| 8 | 3 |" in page(tmp_path)
    journal.close()
    close_if_running(journal.path, CUT, "later")  # one that is done stays so
    assert read(tmp_path)["fits"]["status"] == "done"
    close_if_running(tmp_path / "ppo.json", CUT, "it wrote nothing")
    assert "| ppo | cut |" in page(tmp_path)


def test_a_command_ends_at_its_time_with_all_that_it_started(tmp_path):
    inner = f"import time, pathlib; time.sleep(3); pathlib.Path({str(tmp_path / 'late')!r}).touch()"
    outer = f"import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {inner!r}])"
    began = time.monotonic()
    code, output = ended([sys.executable, "-c", outer], 1, stdout=subprocess.PIPE)
    assert code is None and output == "begun\n" and time.monotonic() - began < 3
    time.sleep(max(0.0, began + 3.5 - time.monotonic()))
    assert not (tmp_path / "late").exists()
    assert ended([sys.executable, "-c", "raise SystemExit(3)"], 60)[0] == 3


def test_the_parts_fit_the_time():
    assert set(settings.FULL.budgets) == set(settings.DRY.budgets) == set(PARTS)
    assert sum(settings.FULL.budgets.values()) <= WHOLE <= 480 - 20


def test_without_a_cuda_device_it_says_what_to_do(capsys, tmp_path):
    assert main(["--out", str(tmp_path)]) == 2
    assert "--dry" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_script_is_sound_and_explains_itself():
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
    done = subprocess.run(["bash", str(SCRIPT), "--what"], capture_output=True, text=True)
    assert done.returncode == 2 and all(option in done.stderr for option in ("--fetch", "--wheels", "--dry"))


def test_without_bitsandbytes_it_measures_in_bf16_and_says_why(monkeypatch):
    def broken(*_):
        raise ImportError("no library for this CUDA")

    assert settings.usable_precision(CPU) == ("nf4", None)
    monkeypatch.setattr(settings, "packed", broken)
    precision, why = settings.usable_precision(CPU)
    assert precision == "bf16" and "no library for this CUDA" in why


def test_the_committed_page_is_that_of_the_committed_figures():
    folder = ROOT / "benchmarks/results/gpu"
    assert (folder / "README.md").read_text(encoding="utf-8") == page(folder)


# The arithmetic


def test_work_counts_what_a_shared_row_covers():
    # prompt 3, responses 2 and 1: 6 tokens; pairs 1+2+3 in the prompt, 4+5 and 4 from the responses
    assert work([Example([1, 2, 3], [[4, 5], [6]], [True, True], [1.0, 0.0], "a")]) == Work(6, 3, 19)


def test_attended_pairs_are_those_of_the_mask():
    from algorithms.common.data.batches import attention_mask

    examples = random_examples(1, prompt=7, response=4, responses=3)
    mask = attention_mask(collate(examples, "shared"), "sdpa", torch.float32)  # (1, 1, L, L)
    assert work(examples).attended == int(mask.sum())


def test_flops_by_hand():
    shape = Shape(vocabulary=10, hidden=4, layers=2, heads=2, kv_heads=1, intermediate=8, positions=16)
    assert shape.layer_weights == 4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 8  # q, k and v, o, the three of the MLP
    done = Work(tokens=6, learned=3, attended=19)
    matrices, attention, head = 2 * 2 * 144 * 6, 2 * 2 * 2 * 4 * 19, 2 * 10 * 4 * 3
    assert forward_flops(shape, done) == matrices + attention + head
    assert forward_flops(shape, done, head=False) == matrices + attention
    # backward: gradients of activations only, but attention has two factors; the adapter 2 + 4
    assert training_flops(shape, done, adapter=50) == 2 * (matrices + head) + 3 * attention + 6 * 50 * 6


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_a_random_llama_has_the_shape_and_one_function_a_seed(precision):
    from bitsandbytes.nn import Linear4bit

    shape = SHAPES["tiny"]
    one, same, other = (random_llama(shape, CPU, precision, seed=seed) for seed in (0, 0, 1))
    packed = [module for module in one.modules() if isinstance(module, Linear4bit)]
    assert len(packed) == (7 * shape.layers if precision == "nf4" else 0)
    linear = [m for name, m in one.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    assert sum(m.in_features * m.out_features for m in linear) == shape.layers * shape.layer_weights
    ids = torch.arange(5, 15).unsqueeze(0)
    with torch.no_grad():
        first, second, third = (model(ids).logits for model in (one, same, other))
    assert first.isfinite().all() and torch.equal(first, second) and not torch.allclose(first, third)


def test_a_large_llamas_sizes_are_those_of_llama_3():
    shape = SHAPES["8b"]
    total = shape.layers * (shape.layer_weights + 2 * shape.hidden) + 2 * shape.vocabulary * shape.hidden + shape.hidden
    assert total == 8_030_261_248  # as its model card counts


@pytest.mark.parametrize("name, tflops", [
    ("NVIDIA H200", 989), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA GeForce RTX 4090", 165),
    ("another", None)])
def test_peaks_by_name(name, tflops, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    peak = flops.named_peak(torch.device("cuda"))
    assert peak == (tflops and tflops * 1e12)
    found = train.utilisation(100e12, 1.0, torch.device("cuda"), rate=200e12)
    if tflops is None:
        assert found["of_measured_product"] == 0.5
    else:
        assert found["mfu"] == pytest.approx(100 / tflops) and found["of_goal"] == pytest.approx(found["mfu"] / 0.85)


def test_the_line_through_peaks_gives_the_most_that_fits():
    assert largest({1: 13, 2: 16, 4: 22}, 41) == 10  # 10 + 3 rows
    assert largest({1: 13, 2: 16}, 42) == 10 and largest({1: 13, 2: 16}, 11) == 0
    assert largest({1: 13, 2: 13}, 42) is None


def test_agreement_ends_at_the_first_difference():
    assert agreement([[1, 2, 3, 4], [1, 2]], [[1, 2, 9, 4], [1, 2]]) == 0.75


def test_a_context_has_the_lengths_it_was_asked_for():
    lengths = replace(settings.DRY.dpo, prompt=5, response=3)
    example, = random_examples(1, lengths.prompt, lengths.response, 2)
    assert (len(example.prompt), *map(len, example.responses)) == (5, 3, 3) and example.scores == [0.0, -1.0]
