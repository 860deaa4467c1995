"""Offline policy gradients: advantages and clipped weights by hand, then on a model."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import tensor

from algorithms.common.data.template import Example
from algorithms.common.support.errors import ConfigError
from algorithms.offline_pg import Minibatch, OfflinePG, standardised
from training_setup import EOS, examples, make_context, moved_apart


def test_advantages_by_hand():
    """Scores 1, 3 and 5: mean 3, of the population a standard deviation of √(8/3)."""
    found = standardised(tensor([1.0, 3.0, 5.0]), 3.0, math.sqrt(8 / 3))
    assert found.tolist() == pytest.approx([-1.224745, 0, 1.224745], abs=1e-6)
    assert standardised(tensor([2.0, 2.0]), 2.0, 0.0).tolist() == [0, 0]


def loss_of(log_ratios: list[float], scores: list[float], **options) -> tuple[list[float], float]:
    """Gradients by response, and the loss, of single responses with these log-ratios and standardised scores."""
    logps = tensor(log_ratios).unsqueeze(1).requires_grad_()  # (N, 1)
    role = lambda sums: SimpleNamespace(response_logprobs=lambda _: sums)  # noqa: E731
    models = SimpleNamespace(policy=role(logps), reference=role(torch.zeros_like(logps)))
    batch = SimpleNamespace(scores=tensor(scores).unsqueeze(1), present=torch.ones(len(scores), 1, dtype=torch.bool))
    term = OfflinePG(**options).loss(models, Minibatch(batch, 0.0, 1.0)).terms["policy"]
    term.sum.backward()
    assert term.per == "responses"
    return logps.grad.flatten().tolist(), term.sum.item()


def test_weights_by_hand():
    """∂L/∂log π = −A ρ within the clip; none where a good response has ρ > 1 + ε, or a bad one ρ < 1 − ε."""
    half, double = math.log(0.5), math.log(2)
    gradients, loss = loss_of([half, double, half, double], [1.0, 1.0, -1.0, -1.0], clip=0.2)
    assert gradients == pytest.approx([-0.5, 0, 0, 2])
    assert loss == pytest.approx(-0.5 - 1.2 + 0.8 + 2)


def test_bad_responses_teach_nothing_where_asked():
    assert loss_of([0.0, 0.0], [1.0, -1.0], positive_only=True)[0] == pytest.approx([-1, 0])


@pytest.fixture
def models(make_models):
    return moved_apart(make_models())


def test_moments_are_the_whole_batches(models, tmp_path):
    """Of every response that exists, in records of one and of two."""
    data = [Example([5 + n], [[9, EOS]], [True], [score], f"{n}") for n, score in enumerate([4.0, 1.0])]
    data.append(Example([8], [[7, EOS], [6, EOS]], [True, True], [5.0, 2.0], "pair"))
    found = OfflinePG().experience(make_context(models, tmp_path, data), data)
    assert found.mean == 3 and found.std == pytest.approx(math.sqrt(2.5))
    assert found.select([2])[1:] == (found.mean, found.std)


def test_loss_on_a_model(models):
    """Records of one and of two responses; what does not exist counts for nothing."""
    data = [*examples(2, responses=2), Example([9, 8], [[7, EOS]], [True], [3.0], "single")]
    batch = models.collate(data)
    terms, metrics = OfflinePG(clip=0.2).loss(models, Minibatch(batch, 0.5, 2.0))
    logps, refs = models.policy.response_logprobs(batch).detach(), models.reference.response_logprobs(batch)
    total = 0.0
    for b, example in enumerate(data):
        for k, score in enumerate(example.scores):
            ratio, a = (logps - refs)[b, k].exp(), (score - 0.5) / 2
            total -= min(ratio * a, ratio.clamp(0.8, 1.2) * a)
    torch.testing.assert_close(terms["policy"].sum.detach(), total)
    assert len(metrics["policy/ratio_mean"]) == 5
    gradients = torch.autograd.grad(terms["policy"].sum, list(models.policy.parameters().values()))
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("clip", [0.0, 1.0, math.nan])
def test_what_it_refuses(clip):
    with pytest.raises(ConfigError, match="algorithm.clip: found .*; expected"):
        OfflinePG(clip=clip)
