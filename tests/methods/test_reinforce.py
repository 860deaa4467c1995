"""REINFORCE's returns and baseline by hand."""

import torch

from algorithms.common.policy_gradient import RunningMoments
from algorithms.common.rollouts import Estimates, Minibatch, Scored
from algorithms.reinforce import Reinforce, less_baseline
from training_setup import examples, moved_apart


def scored(*returns: float) -> Scored:
    """A prompt each with a response of two tokens: −0.25 of penalty at the first, the rest at the second."""
    rewards = torch.tensor([[[-0.25, each + 0.25]] for each in returns])
    mask = torch.ones(len(returns), 1, 2, dtype=torch.bool)
    return Scored([], mask, mask.any(-1), *torch.zeros(2, len(returns), 1, 2), torch.ones(len(returns), 1), rewards)


def test_by_hand():
    returns = torch.tensor([[1.0], [2.0]])
    assert less_baseline(returns, RunningMoments(count=3, mean=4.0)).tolist() == [[-3.0], [-2.0]]
    assert less_baseline(returns, RunningMoments()).tolist() == [[-0.5], [0.5]]


def test_the_baseline_is_the_mean_of_what_came_before():
    """Returns 1 and 2, whose mean is 1.5; then 3 and 5 against 1.5; then 4 against 11/4."""
    method = Reinforce()
    found = [method.estimate(None, scored(*batch)).advantages.flatten().tolist() for batch in ((1, 2), (3, 5), (4,))]
    assert found == [[-0.5, 0.5], [1.5, 3.5], [1.25]]


def test_what_is_watched_moves_nothing_and_what_is_kept_comes_back():
    method, again = Reinforce(), Reinforce()
    with torch.no_grad():
        method.estimate(None, scored(7))
    assert method.returns.count == 0
    method.estimate(None, scored(1, 2))
    again.load_state_dict(method.state_dict())
    assert again.returns == method.returns and again.returns.mean == 1.5
    method.start()
    assert method.returns.count == 0


def test_the_gradient_is_reinforces(make_models):
    models = moved_apart(make_models())
    batch = models.collate(examples(4))
    old = models.policy.token_logprobs(batch).detach()
    advantages = torch.tensor([1.0, -2.0, 0.5, 3.0]).view(4, 1, 1)
    terms, metrics = Reinforce().loss(models, Minibatch(batch, old, old, Estimates(advantages)))
    expected = -(advantages.squeeze(-1) * models.policy.response_logprobs(batch)).sum()
    parameters = list(models.policy.parameters().values())
    for one, other in zip(torch.autograd.grad(terms["policy"].sum, parameters),
                          torch.autograd.grad(expected, parameters)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert terms["policy"].per == "responses" and metrics["policy/ratio_mean"].allclose(torch.tensor(1.0))
