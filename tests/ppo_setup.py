"""PPO over a small random model: its roles, its prompts, a score."""

from types import SimpleNamespace

import torch

from algorithms.common.data.records import Record
from algorithms.common.recipe import Recipe
from algorithms.ppo import PPO
from training_setup import make_context, randomize

WORDS = ["the film", "a hotel", "the meal was", "my phone", "this book, it", "we", "the laptop in the box",
         "a concert at night"]
RECIPE = Recipe(lr=1e-2, batch_size=4, steps=4, inner_epochs=2, minibatch_size=2, warmup=0.0)


def scorer(responses) -> list[float]:
    """Some score that any token changes."""
    return [sum(token % 7 for token in r.ids) / len(r.ids) - 3.0 for r in responses]


def make(make_models, folder, algorithm: PPO, recipe: Recipe = RECIPE, count: int = 8, trainer=None, score=scorer,
         prepare=None, **options):
    """A context with a reference that is not the base, a reward model, and PPO's own roles."""
    models = make_models(**options)
    models.template.stop_ids = list(range(0, 1536, 6))  # a random model would hardly ever stop
    if prepare is not None:
        prepare(models)
    for name, seed in (("reference", 1), ("reward", 2)):
        models.add_role(name, trainable=False, seed=seed)
        randomize(models, name, seed)
    models.role("reward").add_scalar_head(seed=4)
    algorithm.add_roles(models, seed=5)
    records = [Record(f"{WORDS[i % len(WORDS)]} {i}", [], None, {}) for i in range(count)]
    context = make_context(models, folder, [models.tokenize(record) for record in records], recipe, **(trainer or {}))
    context.records, context.reward = records, score
    return context


def ppo(**options) -> PPO:
    return PPO(**{"max_new_tokens": 6, **options})


def gradients(models, name: str) -> dict[str, torch.Tensor]:
    return {key: parameter.grad.clone() for key, parameter in models.role(name).parameters().items()
            if parameter.grad is not None}


def role_bytes(models, *names: str) -> dict[str, bytes]:
    return {f"{name}/{key}": parameter.detach().numpy().tobytes() for name in names
            for key, parameter in models.role(name).parameters().items()}


class Killed(Exception):
    """Where a run ends early."""


DEMONSTRATIONS = [Record(f"we rated {i}", [" fine" * (1 + i % 3)], None, {}) for i in range(6)]


def with_ptx(make_models, folder, recipe: Recipe = RECIPE, trainer=None, **options):
    """PPO with demonstrations to learn from beside its rollouts."""
    algorithm = ppo(**{"ptx_coef": 0.5, **options})
    context = make(make_models, folder, algorithm, recipe, trainer=trainer)
    context.data = SimpleNamespace(demonstrations=DEMONSTRATIONS)
    return algorithm, context
