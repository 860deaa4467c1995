"""SimPO, ORPO, CPO and SLiC-HF: losses of pairs without a reference; the arithmetic by hand, then on a model."""

import math

import pytest
import torch
from torch import tensor

from algorithms.common.support.errors import ConfigError
from algorithms.cpo import CPO, cpo_loss
from algorithms.dpo import dpo_loss
from algorithms.orpo import ORPO, log_odds, odds_ratio_loss
from algorithms.simpo import SimPO, simpo_loss
from algorithms.slic import SLiC, slic_loss
from training_setup import examples, moved_apart

CHOSEN, REJECTED = tensor([-0.5]), tensor([-0.9])


def test_simpo_by_hand():
    """β = 2, γ = 1: the lead is 2 · 0.4 − 1 = −0.2; −log σ(−0.2) = 0.798139."""
    assert simpo_loss(CHOSEN, REJECTED, beta=2.0, gamma=1.0).tolist() == pytest.approx([0.798139], abs=1e-6)


def test_orpo_by_hand():
    """p = e^−0.5 and e^−0.9: odds 1.5415 and 0.6851, whose ratio's logarithm is 0.810917; −log σ of it is 0.367729."""
    assert (log_odds(CHOSEN) - log_odds(REJECTED)).item() == pytest.approx(0.810917, abs=1e-6)
    assert odds_ratio_loss(CHOSEN, REJECTED).tolist() == pytest.approx([0.367729], abs=1e-6)


def test_odds_of_a_certain_response_are_finite():
    logprobs = tensor([0.0, -1e-9, -50.0], requires_grad=True)
    log_odds(logprobs).sum().backward()
    assert log_odds(logprobs).isfinite().all() and logprobs.grad.isfinite().all()
    assert log_odds(tensor([-50.0])).item() == pytest.approx(-50)
    halves = tensor([math.log(0.5)], requires_grad=True)
    log_odds(halves).backward()
    assert halves.grad.item() == pytest.approx(2), "1/(1 − p)"


def test_cpo_by_hand():
    """β = 0.1: −log σ(0.1 · (−12 + 15)) = log(1 + e^−0.3) = 0.554355; it is DPO with equal references."""
    assert cpo_loss(tensor([-12.0]), tensor([-15.0]), beta=0.1).item() == pytest.approx(0.554355, abs=1e-6)
    four = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cpo_loss(*four, beta=0.3), dpo_loss(*four, *torch.ones(2, 5), beta=0.3))


def test_slic_by_hand():
    """δ = 1: leads of 3, 0.5 and −2 cost 0, 0.5 and 3."""
    found = slic_loss(tensor([-12.0, -1.0, -9.0]), tensor([-15.0, -1.5, -7.0]), margin=1.0)
    assert found.tolist() == [0.0, 0.5, 3.0]


# On a model


@pytest.fixture
def models(make_models):
    return moved_apart(make_models())


def expected(method, sums: torch.Tensor, lengths: torch.Tensor) -> dict[str, float]:
    """The terms written out: (B, 2) summed log-probabilities and lengths."""
    (w, y), (mean_w, mean_l) = sums.T, (sums / lengths).T
    odds = [mean.exp() / (1 - mean.exp()) for mean in (mean_w, mean_l)]
    return {
        "simpo": {"policy": -torch.sigmoid(2.5 * (mean_w - mean_l) - 0.4).log()},
        "orpo": {"sft": -mean_w, "odds": -torch.sigmoid(torch.log(odds[0] / odds[1])).log()},
        "cpo": {"policy": -torch.sigmoid(0.3 * (w - y)).log(), "sft": -mean_w},
        "slic": {"policy": (2.0 - w + y).clamp_min(0), "sft": -mean_w},
    }[method]


METHODS = {"simpo": (SimPO(beta=2.5, gamma=0.4), {}), "orpo": (ORPO(odds_coef=0.3), {"odds": 0.3}),
           "cpo": (CPO(beta=0.3, sft_coef=0.5), {"sft": 0.5}), "slic": (SLiC(margin=2.0, sft_coef=0.5), {"sft": 0.5})}


@pytest.mark.parametrize("name", METHODS)
def test_terms(models, name):
    method, coefficients = METHODS[name]
    batch = models.collate(examples(5, responses=2))
    lengths, sums = batch.mask.sum(-1), models.policy.response_logprobs(batch).detach()
    terms, metrics = method.loss(models, batch)
    for term, values in expected(name, sums, lengths).items():
        torch.testing.assert_close(terms[term].sum.detach(), values.sum(), rtol=1e-4, atol=1e-4)
        assert terms[term].coefficient == coefficients.get(term, 1.0) and terms[term].per == "rows"
    assert terms.keys() == expected(name, sums, lengths).keys()
    torch.testing.assert_close(metrics["logps/chosen"], sums[:, 0])
    torch.testing.assert_close(metrics["rewards/margin"], metrics["rewards/chosen"] - metrics["rewards/rejected"])
    ranked = method.score(models, batch).detach()
    assert (ranked[:, 0] > ranked[:, 1]).float().tolist() == metrics["rewards/accuracy"].tolist()
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("name", METHODS)
def test_a_step_along_the_gradient_widens_the_margin(models, name):
    method, _ = METHODS[name]
    batch = models.collate(examples(5, responses=2))
    terms, before = method.loss(models, batch)
    sum(term.coefficient * term.sum for term in terms.values()).backward()
    with torch.no_grad():
        for parameter in models.policy.parameters().values():
            parameter -= 1e-3 * parameter.grad
    assert method.loss(models, batch).metrics["rewards/margin"].mean() > before["rewards/margin"].mean()
    assert all(parameter.grad is None for parameter in models.reference.parameters().values())


def test_orpo_stands_on_no_stage():
    assert ORPO().needs == {} and SimPO().needs == {"reference": None}


@pytest.mark.parametrize("kind, options", [
    (SimPO, {"beta": 0.0}), (SimPO, {"gamma": -1.0}), (ORPO, {"odds_coef": -0.1}), (CPO, {"beta": math.inf}),
    (CPO, {"sft_coef": math.nan}), (SLiC, {"margin": -1.0}), (SLiC, {"sft_coef": -1.0})])
def test_what_they_refuse(kind, options):
    with pytest.raises(ConfigError, match=f"algorithm.{next(iter(options))}: found .*; expected"):
        kind(**options)
