"""On a CUDA device (`pytest -m gpu`): the same numbers as on the CPU, and every algorithm end to end in 4 bits."""

import json

import pytest
import torch

from algorithms.common.models.model import Lora, ModelConfig, Models
from algorithms.common.recipe import Recipe
from algorithms.common.training.optim import build_optimizer, load_optimizer_tensors, optimizer_tensors
from training_setup import ROOT, command, examples, pairs_file, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
LAB = ROOT / "benchmarks/lab/reviews"


@pytest.mark.parametrize("rows", ["shared", "plain"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_log_probabilities_and_gradients_are_the_cpus(attention, rows):
    found = []
    for device in ("cpu", "cuda"):
        config = ModelConfig(str(LAB), precision="fp32", lora=Lora(r=4, alpha=8), attention=attention, rows=rows,
                             max_length=64,
                             max_prompt_length=32)
        models = Models(config, "no", device=torch.device(device))
        models.add_role("policy", trainable=True, seed=0)
        with torch.no_grad():
            for name, parameter in sorted(models.policy.parameters().items()):
                draw = torch.Generator().manual_seed(len(name))
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=draw))
        logprobs = models.policy.token_logprobs(models.collate(examples(6, responses=3)))
        logprobs.sum().backward()
        found.append((logprobs.detach().cpu(), [p.grad.cpu() for p in models.policy.parameters().values()]))
    (here, gradients), (there, others) = found
    torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-4)
    for one, other in zip(gradients, others):
        assert (one - other).norm() <= 1e-3 * one.norm() + 1e-5


def test_bf16_log_probabilities_depend_little_on_the_neighbours():
    """Rollouts are scored in other micro-batches than they are learned from: the ratio starts near 1, not at it."""
    models = Models(ModelConfig(str(LAB), precision="bf16", max_length=64, max_prompt_length=32), "bf16",
                    torch.device("cuda"))
    models.add_role("policy", trainable=True, seed=0)
    data = examples(32)
    with torch.no_grad():
        together = models.collate(data)
        first = models.policy.token_logprobs(together)[together.mask]
        alone = [models.collate([example]) for example in data]
        second = torch.cat([models.policy.token_logprobs(batch)[batch.mask] for batch in alone])
    assert first.dtype == torch.float32
    assert ((first - second).exp() - 1).abs().mean() <= 1e-2


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "reward_model", "rrhf", "ppo", "best_of_n"])
def test_every_algorithm_in_four_bits(tmp_path, algorithm):
    small = ["algorithm.n=2"] if algorithm == "best_of_n" else []
    needs = ["reward.recipe.steps=4", "reward.recipe.batch_size=8", "reward.algorithm.normalize_on=8"]
    done = run([*command(pairs_file(tmp_path / "pairs.jsonl"), tmp_path / "stages", algorithm=algorithm), *small,
                *needs,
                "model=tiny_nf4", "model.attention=sdpa", "model.gradient_checkpointing=true",
                "trainer.mixed_precision=auto",
                f"hydra.run.dir={tmp_path / 'run'}"], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "run/result.json").read_text(encoding="utf-8"))
    assert result["device"] == torch.cuda.get_device_name()
    # of tensors on the device: a process with CUDA in it holds more than this
    assert 1e6 < result["cost"]["peak_memory_bytes"] < 256 << 20
    if algorithm == "ppo":
        first = json.loads((tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
        assert first["policy/ratio_mean"] == pytest.approx(1, abs=1e-2) and abs(first["kl/k1"]) < 0.5


def test_paged_states_are_kept_and_resumed():
    """bitsandbytes pages tensors of 100,000 elements and more; smaller ones it leaves on the device."""

    def start(values: torch.Tensor):
        parameter = torch.nn.Parameter(values.clone())
        return parameter, build_optimizer("paged_adamw_8bit", [{"params": [parameter], "lr": 1e-2}], Recipe(1e-2, 1),
                                          parameter.device)

    def train(parameter, optimizer, steps):
        for step in steps:
            draw = torch.Generator("cuda").manual_seed(step)
            parameter.grad = torch.randn(parameter.shape, device="cuda", generator=draw)
            optimizer.step()

    whole, optimizer = start(torch.zeros(512, 512, device="cuda"))
    train(whole, optimizer, range(3))
    assert any(getattr(value, "is_paged", False) for value in optimizer.state[whole].values())
    tensors, numbers = optimizer_tensors(optimizer)
    kept = {key: value.detach().contiguous().cpu().clone() for key, value in tensors.items()}  # as a checkpoint does
    resumed, other = start(whole.detach())
    load_optimizer_tensors(other, kept, dict(numbers))
    for one in ((whole, optimizer), (resumed, other)):
        train(*one, range(3, 6))
    torch.testing.assert_close(resumed, whole)
