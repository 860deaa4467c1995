"""GRPO's advantages by hand, and its loss written out."""

import pytest
import torch

from algorithms.common.rollouts import Estimates, Minibatch, Scored
from algorithms.common.support.errors import ConfigError
from algorithms.grpo import GRPO, standardised
from training_setup import examples, moved_apart

SCORES = torch.tensor([[1.0, 2.0, 4.0]])  # mean 7/3; of the population the variance is 14/9, Bessel's 7/3


@pytest.mark.parametrize("correction, expected", [
    (0, [-1.068959, -0.267240, 1.336199]), (1, [-0.872814, -0.218204, 1.091018])])
def test_by_hand(correction, expected):
    assert standardised(SCORES, correction)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_equal_scores_teach_nothing():
    assert not standardised(torch.full((2, 4), 3.0)).any()


@pytest.mark.parametrize("correction", [0, 1])
def test_the_penalty_is_no_part_of_the_advantage(correction):
    mask = torch.ones(1, 3, 2, dtype=torch.bool)
    scored = Scored([], mask, mask.any(-1), torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), SCORES, torch.randn(1, 3, 2))
    found = GRPO(std_correction=correction).estimate(None, scored).advantages
    assert torch.equal(found, standardised(SCORES, correction).unsqueeze(-1))


@pytest.mark.parametrize("unbiased", [False, True])
def test_the_loss_is_a_mean_over_tokens_then_over_responses(make_models, unbiased):
    """Eq. 3 with eq. 4, response by response; two prompts with three responses each."""
    models = moved_apart(make_models())
    batch = models.collate(examples(2, responses=3))
    new, old, ref = (models.policy.token_logprobs(batch).detach() + shift for shift in
                     (0, 0.4 * torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(0)), 0.1))
    advantages = torch.tensor([[[1.0], [-1.0], [0.5]], [[-2.0], [0.3], [1.0]]])
    method = GRPO(clip=0.2, kl_coef=0.3, unbiased_kl=unbiased)
    terms, _ = method.loss(models, Minibatch(batch, old, ref, Estimates(advantages)))
    policy = kl = 0.0
    for b in range(2):
        for k in range(3):
            inside = batch.mask[b, k]
            ratio, a = (new - old)[b, k][inside].exp(), advantages[b, k, 0]
            policy -= torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a).mean()
            u = (ref - new)[b, k][inside]
            kl += ((u.exp() - u - 1) * (ratio if unbiased else 1)).mean()
    torch.testing.assert_close(terms["policy"].sum.detach(), policy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["kl"].sum.detach(), kl, rtol=1e-4, atol=1e-5)
    assert terms["kl"].coefficient == 0.3 and {term.per for term in terms.values()} == {"responses"}
    gradient = torch.autograd.grad(terms["kl"].sum, list(models.policy.parameters().values()))
    assert any(g.any() for g in gradient), "the KL is learned from, not only logged"


@pytest.mark.parametrize("options", [{"samples": 1}, {"std_correction": 2}, {"kl_estimator": "full"}])
def test_what_it_refuses(options):
    with pytest.raises(ConfigError, match=f"algorithm.{next(iter(options))}: found .*; expected"):
        GRPO(**options)
