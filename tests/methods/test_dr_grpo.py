"""Dr. GRPO's advantages by hand, and its loss over a constant length."""

import pytest
import torch

from algorithms.common.rollouts import Estimates, Minibatch, Scored
from algorithms.common.support.errors import ConfigError
from algorithms.dr_grpo import DrGRPO, centred
from training_setup import examples, moved_apart


def test_by_hand():
    """Scores 1, 2, 4 less their mean 7/3."""
    found = centred(torch.tensor([[1.0, 2.0, 4.0]]))
    assert found[0].tolist() == pytest.approx([-1.333333, -0.333333, 1.666667], abs=1e-6)


def test_a_penalty_is_part_of_the_return():
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    rewards = torch.tensor([[[-0.5, 1.0], [0.0, 2.0]]])
    scored = Scored([], mask, mask.any(-1), *torch.zeros(2, 1, 2, 2), torch.tensor([[1.0, 2.0]]), rewards)
    assert DrGRPO().estimate(None, scored).advantages.flatten().tolist() == [-0.75, 0.75]


def test_every_token_weighs_the_same(make_models):
    """With ratios of 1 and advantages of 1 the loss of a response is its length by the longest there can be."""
    models = moved_apart(make_models())
    batch = models.collate(examples(3, responses=2))
    logprobs = models.policy.token_logprobs(batch).detach()
    terms, _ = DrGRPO(max_new_tokens=20).loss(models, Minibatch(batch, logprobs, logprobs,
                                                                Estimates(torch.ones(3, 2, 1))))
    assert terms["policy"].sum.item() == pytest.approx(-batch.mask.sum().item() / 20)
    assert terms["policy"].per == "responses"


def test_one_response_has_no_others():
    with pytest.raises(ConfigError, match="algorithm.samples: found 1; expected at least 2"):
        DrGRPO(samples=1)
