"""RLOO's advantages by hand, and its loss against the estimator written out."""

import math
from dataclasses import replace

import pytest
import torch

from algorithms.common.algorithm import Loss
from algorithms.common.rollouts import Estimates, Minibatch, Scored
from algorithms.common.support.errors import ConfigError
from algorithms.rloo import RLOO, leave_one_out
from training_setup import examples, moved_apart


def test_by_hand():
    """Returns 1, 2, 4: 1 − (2 + 4)/2 = −2, 2 − (1 + 4)/2 = −½, 4 − (1 + 2)/2 = 2½."""
    assert leave_one_out(torch.tensor([[1.0, 2.0, 4.0], [3.0, 3.0, 3.0]])).tolist() == [[-2, -0.5, 2.5], [0, 0, 0]]


def test_the_penalty_is_part_of_the_return():
    rewards = torch.tensor([[[-0.25, 1.5], [2.0, 0.0]]])  # returns 1.25 and 2
    mask = torch.tensor([[[True, True], [True, False]]])
    scored = Scored([], mask, mask.any(-1), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), torch.ones(1, 2), rewards)
    assert RLOO().estimate(None, scored).advantages.tolist() == [[[-0.75], [0.75]]]


@pytest.fixture
def models(make_models):
    return moved_apart(make_models())


def minibatch(models) -> Minibatch:
    """Four prompts with three responses, sampled by the policy as it is."""
    batch = models.collate(examples(4, responses=3))
    logprobs = models.policy.token_logprobs(batch).detach()
    advantages = torch.randn(4, 3, 1, generator=torch.Generator().manual_seed(0))
    return Minibatch(batch, logprobs, logprobs, Estimates(advantages))


def gradient(models, loss: torch.Tensor) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(models.policy.parameters().values()))])


def test_the_gradient_is_reinforces(models):
    """∇ −Σ A_i log π(y_i | x): every response counts once, however long."""
    rolled = minibatch(models)
    terms, _ = RLOO().loss(models, rolled)
    assert terms["policy"].per == "responses"
    expected = -(rolled.estimates.advantages.squeeze(-1) * models.policy.response_logprobs(rolled.batch)).sum()
    torch.testing.assert_close(gradient(models, terms["policy"].sum), gradient(models, expected))


def test_whole_responses_are_clipped(models):
    """A response that π_old took with twice less probability is at the clip where its advantage is positive: each of
    the 12 counts once, though of its tokens only one has moved."""
    rolled = minibatch(models)
    old = rolled.logprobs.clone()
    old[..., 0] -= math.log(2)
    ones = Estimates(torch.ones(4, 3, 1))
    up: Loss = RLOO(clip=0.2).loss(models, replace(rolled, logprobs=old, estimates=ones))
    assert up.terms["policy"].sum.item() == pytest.approx(-1.2 * 12, rel=1e-5)
    assert up.metrics["policy/clip_fraction"].tolist() == [1] * 12
    down: Loss = RLOO(clip=0.2).loss(models, replace(rolled, logprobs=old, estimates=Estimates(-torch.ones(4, 3, 1))))
    assert down.terms["policy"].sum.item() == pytest.approx(2 * 12, rel=1e-5)
    assert down.metrics["policy/clip_fraction"].tolist() == [0] * 12


def test_a_response_is_clipped_where_no_token_of_it_would_be(models):
    """Three tokens at ρ = 1.07 are a response at 1.225, beyond 1.2, which two are not; without a clip nothing is."""
    rolled = minibatch(models)
    held = rolled.batch.mask.cumsum(-1) <= 3
    old = rolled.logprobs - torch.where(rolled.batch.mask & held, math.log(1.07), 0)
    moved = replace(rolled, logprobs=old, estimates=Estimates(torch.ones(4, 3, 1)))
    long = (rolled.batch.mask.sum(-1) >= 3).flatten()
    assert RLOO(clip=0.2).loss(models, moved).metrics["policy/clip_fraction"].bool().tolist() == long.tolist()
    assert long.any() and not RLOO(clip=None).loss(models, moved).metrics["policy/clip_fraction"].any()


def test_one_response_has_no_others():
    with pytest.raises(ConfigError, match="algorithm.samples: found 1; expected at least 2"):
        RLOO(samples=1)
