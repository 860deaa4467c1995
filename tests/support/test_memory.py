"""PPO in the memory of DPO: four roles on one base, a random Llama of 104M parameters; each method in a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from algorithms.common.models.precision import cpu_has_bf16
from training_setup import ROOT, environment

LIMIT = 1.25


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    import memory_of

    made = tmp_path_factory.mktemp("memory")
    memory_of.save_base(made / "base")
    return made


def measured(method: str, precision: str, folder: Path) -> dict[str, int]:
    # freed memory goes back at once, so that what is resident is what is used
    malloc = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, str(ROOT / "tests/memory_of.py"), method, precision, "plain", str(folder)],
                          env={**environment(), **malloc, **paths}, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def compare(precision: str, folder: Path) -> None:
    """Eight rows of 256 tokens in a micro-batch: four pairs of DPO, eight rollouts of PPO; Adam's states there."""
    dpo, ppo = (measured(method, precision, folder) for method in ("dpo", "ppo"))
    ratio = ppo["peak"] / dpo["peak"]
    print({name: {key: value >> 20 for key, value in one.items() if key != "parameters"}
           for name, one in (("dpo", dpo), ("ppo", ppo))},
          f"MiB; ratio {ratio:.3f}")
    assert dpo["parameters"] >= 100e6
    assert dpo["loaded"] < dpo["peak"], "there is something to compare"
    assert ratio <= LIMIT


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU its own allocator is measured")
@pytest.mark.skipif(not cpu_has_bf16(), reason="this processor has no bf16 arithmetic: all would be float32")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_peak_memory(folder):
    compare("bf16", folder)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_peak_memory_on_a_gpu(folder, precision):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    compare(precision, folder)
