"""What the tests of training share: small examples, stages' contexts, a micro run of the command line."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import torch

from algorithms.common.algorithm import Algorithm, Context, Loss, Term, TrainerConfig
from algorithms.common.data.template import Example
from algorithms.common.models.model import Models
from algorithms.common.recipe import Recipe
from algorithms.common.support.store import Store
from algorithms.common.training.loop import fit

ROOT = Path(__file__).resolve().parents[1]
EOS = 0


def examples(count: int, responses: int = 1, seed: int = 0) -> list[Example]:
    """Random token ids of unequal lengths; every response ends with the end token, the first is the better one."""
    draw = random.Random(seed)

    def ids(least: int, most: int) -> list[int]:
        return [draw.randrange(5, 200) for _ in range(draw.randint(least, most))]

    return [Example(ids(1, 9), [ids(0, 12) + [EOS] for _ in range(responses)], [True] * responses,
                    [float(-k) for k in range(responses)] if responses > 1 else None, f"record-{index}")
            for index in range(count)]


def randomize(models: Models, name: str, seed: int = 0, scale: float = 0.05) -> None:
    """Move a role away from where it was made."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in models.role(name).parameters().values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def two_roles(models: Models, seed: int = 0) -> Models:
    """A reference that is not the base, and the policy that starts there."""
    models.add_role("reference", trainable=False, seed=seed)
    randomize(models, "reference", seed)
    models.add_role("policy", trainable=True, like="reference")
    return models


def moved_apart(models: Models) -> Models:
    """``two_roles``, and the policy moved away from the reference."""
    models = two_roles(models)
    randomize(models, "policy", seed=5)
    return models


def make_context(models: Models, folder: Path, data: list[Example], recipe: Recipe | None = None, seed: int = 3,
                 heldout: list[Example] = (), **trainer) -> Context:
    for name in ("work", "target"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    settings = {"mixed_precision": "no", "progress": False, **trainer}
    return Context(models, recipe or Recipe(lr=1e-2, batch_size=4, epochs=2.0), TrainerConfig(**settings), data,
                   list(heldout), seed, folder / "work", folder / "target", Store(folder / "store"), fit,
                   run_folder=folder / "run")


def lines(folder: Path, timing: bool = False) -> list[dict]:
    """metrics.jsonl, without what depends on the clock."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    clock = ("tokens_per_second", "peak_memory_bytes", "timing/")
    return found if timing else [{k: v for k, v in line.items() if not k.startswith(clock)} for line in found]


def weights(models: Models) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in models.policy.parameters().items()}


def pairs_file(path: Path, count: int = 40) -> Path:
    """Comparisons with a rule a model can learn."""
    draw = random.Random(1)
    rows = [{"prompt": f"the {draw.choice(['hotel', 'film', 'meal', 'phone'])} {i} was",
             "chosen": " good" * draw.randint(1, 5), "rejected": " bad" * draw.randint(1, 5)} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def command(data: Path, stages: Path, *more: str, steps: int = 4, algorithm: str = "dpo") -> list[str]:
    """The command of a micro run: a few steps of everything, a checkpoint after each."""
    stage = [f"steps={steps}", "batch_size=8"]
    return [sys.executable, str(ROOT / "run.py"), f"algorithm={algorithm}", "data=file", f"data.path={data}",
            "eval.prompts=4", "eval.pairs=8", "eval.sampling.max_new_tokens=6", "trainer.checkpoint_every=1",
            "trainer.progress=false", "trainer.mixed_precision=no", f"stages.folder={stages}",
            *(f"recipe.{one}" for one in stage),
            *(f"algorithm.needs.reference.recipe.{one}" for one in stage if algorithm != "sft"), *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(arguments: list[str], cwd: Path, timeout: float = 600) -> subprocess.CompletedProcess:
    return subprocess.run(arguments, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout)


class OneWeight(Algorithm):
    """L = g · w: the gradient is known."""

    def __init__(self, models, gradient: float, groups=None):
        super().__init__(view="demonstrations")
        self.weight, self.gradient, self.groups = torch.nn.Parameter(torch.ones(())), gradient, groups

    def parameter_groups(self, models, recipe):
        return self.groups or [{"params": [self.weight], "lr": recipe.lr}]

    def loss(self, models, batch):
        return Loss({"policy": Term(self.gradient * len(batch) * self.weight)}, {})
