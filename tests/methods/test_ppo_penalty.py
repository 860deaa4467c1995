"""PPO's penalty on KL(π_old ‖ π): its weight by hand, its loss on a model, what is kept."""

import pytest
import torch

from algorithms.common.policy_gradient import surrogates
from algorithms.common.recipe import Recipe, TrainerConfig
from algorithms.common.rollouts import Minibatch
from algorithms.common.support.errors import ConfigError
from algorithms.common.training.loop import fit
from algorithms.ppo import PPO, ActorCritic, PPOPenalty, adapted
from ppo_setup import make
from training_setup import examples, lines, moved_apart


@pytest.mark.parametrize("kl, expected", [(0.001, 0.5), (0.0066, 0.5), (0.0067, 1.0), (0.0149, 1.0), (0.0151, 2.0)])
def test_the_weight_doubles_and_halves(kl, expected):
    """Around a target of 0.01: below 0.01/1.5 half of it, above 0.015 twice."""
    assert adapted(1.0, kl, 0.01) == expected


def test_without_a_clip_the_ratio_is_the_weight():
    new, old, advantages = torch.tensor([[0.0, 0.0]]), torch.tensor([[-2.0, 1.0]]), torch.tensor([[1.0, -1.0]])
    plain, clipped = surrogates(new, old, advantages, torch.ones(1, 2, dtype=torch.bool), clip=None)
    assert torch.equal(plain, clipped)
    torch.testing.assert_close(plain, -advantages * (new - old).exp())


@pytest.fixture
def models(make_models):
    return moved_apart(make_models())


def minibatch(models) -> Minibatch:
    batch = models.collate(examples(3))
    generator = torch.Generator().manual_seed(0)
    old = models.policy.token_logprobs(batch).detach() + 0.3 * torch.randn(batch.mask.shape, generator=generator)
    advantages = torch.randn(batch.mask.shape, generator=generator)
    return Minibatch(batch, old, old, ActorCritic(advantages, advantages, advantages))


def test_the_loss(models):
    """Σ −ρ A + β Σ (ρ − 1 − log ρ) over tokens: of tokens that π_old drew, an estimate of KL(π_old ‖ π)."""
    rolled = minibatch(models)
    policy = next(PPOPenalty(old_kl_coef=0.5, critic="policy").loss(models, rolled))
    ratio = (models.policy.token_logprobs(rolled.batch) - rolled.logprobs).detach()[rolled.batch.mask].exp()
    advantages = rolled.estimates.advantages[rolled.batch.mask]
    torch.testing.assert_close(policy.terms["policy"].sum.detach(), -(ratio * advantages).sum())
    expected = (ratio - 1 - ratio.log()).sum()
    torch.testing.assert_close(policy.terms["old_kl"].sum.detach(), expected, rtol=1e-4, atol=1e-5)
    assert policy.terms["old_kl"].coefficient == 0.5 and policy.terms["old_kl"].per == "tokens"


def test_its_estimate_is_of_the_right_kl():
    """Under π_old = (.5, .3, .2) the mean of ρ − 1 − log ρ is KL(π_old ‖ π), and not that of the other way round."""
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    ratio = new / old
    assert (old * (ratio - 1 - ratio.log())).sum().item() == pytest.approx((old * (old / new).log()).sum().item())
    assert (old * (old / new).log()).sum() != pytest.approx((new * (new / old).log()).sum().item())


def test_plain_ppo_has_no_such_term(models):
    rolled = minibatch(models)
    assert next(PPO(critic="policy").loss(models, rolled)).terms.keys() == {"policy"}


def test_what_moved_sets_the_next_batchs_weight_and_is_kept():
    method, again = PPOPenalty(old_kl_target=0.01), PPOPenalty()
    assert method.clip is None and method.old_kl == 1
    assert not method.stop({"policy/approx_kl": 0.5})
    again.load_state_dict(method.state_dict())
    assert (again.old_kl, again.moved) == (1, 0.5)
    method.start()
    assert method.moved is None


@pytest.mark.parametrize("target, expected", [(1e-9, [1, 2, 4, 8]), (1e9, [1, 0.5, 0.25, 0.125]), (None, [1] * 4)])
def test_a_run_follows_its_target(make_models, tmp_path, target, expected):
    method = PPOPenalty(old_kl_target=target, max_new_tokens=6)
    context = make(make_models, tmp_path, method)
    fit(method, context)
    assert [line["kl/old_coef"] for line in lines(context.target)] == expected


@pytest.mark.parametrize("options", [{"old_kl_coef": -1.0}, {"old_kl_target": 0.0}, {"clip": 1.0}])
def test_what_it_refuses(options):
    with pytest.raises(ConfigError, match=f"algorithm.{next(iter(options))}: found .*; expected"):
        PPOPenalty(**options)


@pytest.mark.parametrize("minibatch_size, inner_epochs, several", [
    (None, 1, False), (8, 1, False), (16, 1, False), (None, 2, True), (4, 1, True)])
def test_one_step_a_batch_cannot_steer_the_weight(minibatch_size, inner_epochs, several):
    """Before its only step the policy has not moved: β would halve for ever, and nothing hold the policy."""
    recipe = Recipe(lr=1e-3, batch_size=8, steps=4, minibatch_size=minibatch_size, inner_epochs=inner_epochs)
    if several:
        PPOPenalty(critic="policy").check_recipe(recipe, TrainerConfig(), 32, "recipe")
        return
    with pytest.raises(ConfigError, match="algorithm.old_kl_target: found 0.01 with one step a batch.*fix: "
                                          "recipe.inner_epochs=2"):
        PPOPenalty(critic="policy").check_recipe(recipe, TrainerConfig(), 32, "recipe")
    PPOPenalty(critic="policy", old_kl_target=None).check_recipe(recipe, TrainerConfig(), 32, "recipe")
