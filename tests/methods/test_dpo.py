"""DPO, IPO and the hinge: first the arithmetic, on numbers a reader can check by hand; then on a model."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import tensor

from algorithms.common.support.errors import ConfigError
from algorithms.common.support.store import Store
from algorithms.common.training.references import StoredLogprobs
from algorithms.dpo import DPO, IPO, Hinge, LogRatioLoss, dpo_loss, hinge_loss, ipo_loss
from training_setup import examples, randomize, two_roles

# Three pairs: log-probabilities of the chosen and the rejected response under the policy and the reference.
CHOSEN, REJECTED = tensor([-12.0, -30.5, -8.0]), tensor([-15.0, -29.0, -9.5])
REF_CHOSEN, REF_REJECTED = tensor([-13.0, -30.0, -8.5]), tensor([-13.5, -30.0, -8.4])
FOUR = (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
# The first pair: the policy raised the chosen by 1 and lowered the rejected by 1.5, h = 1 + 1.5 = 2.5;
# DPO at β = 0.1: −log σ(0.25) = log(1 + e^−0.25) = log 1.7788 = 0.5759. The others: h = −1.5 and 1.6.


def close(found: torch.Tensor, expected: list[float], tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, tensor(expected), atol=tolerance, rtol=0)


@pytest.mark.parametrize("beta, smoothing, expected", [
    (0.1, 0.0, [0.575939, 0.770957, 0.616344]),
    (0.5, 0.0, [0.251929, 1.136871, 0.371101]),
    (0.1, 0.1, [0.600939, 0.755957, 0.632344]),
])
def test_dpo_loss(beta, smoothing, expected):
    close(dpo_loss(*FOUR, beta=beta, label_smoothing=smoothing), expected)


@pytest.mark.parametrize("smoothing, expected", [
    (0.0, [-0.043782, -0.053743, -0.046009]), (0.1, [-0.033782, -0.043743, -0.036009])])
def test_dpo_gradient(smoothing, expected):
    """∂L/∂log π(y_w) = β (σ(βh) − (1 − e)), and the opposite for y_l."""
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    dpo_loss(chosen, rejected, REF_CHOSEN, REF_REJECTED, beta=0.1, label_smoothing=smoothing).sum().backward()
    close(chosen.grad, expected)
    close(rejected.grad, [-value for value in expected])


def test_smoothed_labels_have_an_optimum():
    """With labels wrong at rate e the loss is least at βh = logit(1 − e), where it is the entropy of e."""
    margins = torch.linspace(0, 5, 50001)
    zero = torch.zeros_like(margins)
    losses = dpo_loss(margins, zero, zero, zero, beta=1.0, label_smoothing=0.1)
    assert margins[losses.argmin()].item() == pytest.approx(math.log(0.9 / 0.1), abs=2e-3)
    assert losses.min().item() == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1), abs=1e-6)


def test_dpo_loss_survives_extreme_margins():
    far = tensor([1e4, -1e4])
    zero = torch.zeros(2)
    close(dpo_loss(far, zero, zero, zero, beta=1.0), [0.0, 1e4])


def test_ipo_loss_of_sums():
    chosen = CHOSEN.clone().requires_grad_()
    losses = ipo_loss(chosen, REJECTED, REF_CHOSEN, REF_REJECTED, beta=0.1)
    losses.sum().backward()
    close(losses.detach(), [6.25, 42.25, 11.56], 1e-4)  # (h − 5)²
    close(chosen.grad, [-5.0, -13.0, -6.8], 1e-4)


def test_ipo_loss_of_means():
    lengths, others = tensor([10.0, 20.0, 5.0]), tensor([12.0, 19.0, 6.0])
    losses = ipo_loss(CHOSEN / lengths, REJECTED / others, REF_CHOSEN / lengths, REF_REJECTED / others, beta=0.1)
    close(losses, [22.800625, 25.782342, 22.246944], 1e-4)


def test_hinge_loss():
    close(hinge_loss(*FOUR, beta=0.1), [0.75, 1.15, 0.84])
    close(hinge_loss(*FOUR, beta=1.0), [0.0, 2.5, 0.0])  # satisfied margins cost nothing


def test_ipo_divides_by_token_counts():
    """The class averages over tokens, in its loss and where it ranks; the function does not."""
    logps, refs = torch.stack([CHOSEN, REJECTED], 1), torch.stack([REF_CHOSEN, REF_REJECTED], 1)
    lengths = torch.tensor([[10, 12], [20, 19], [5, 6]])
    batch = SimpleNamespace(mask=torch.arange(20) < lengths.unsqueeze(-1))  # (3, 2, 20)
    ipo, dpo = IPO(beta=0.1), DPO(beta=0.1)
    losses = ipo.objective(ipo.log_likelihood(logps, batch), ipo.log_likelihood(refs, batch), None)
    close(losses, [22.800625, 25.782342, 22.246944], 1e-4)
    assert dpo.log_likelihood(logps, batch) is logps
    role = lambda sums: SimpleNamespace(response_logprobs=lambda _: sums)  # noqa: E731
    models = SimpleNamespace(policy=role(logps), role={"reference": role(refs)}.get)
    close(ipo.score(models, batch), (0.1 * (logps - refs) / lengths).tolist())


# On a model


@pytest.fixture
def pairs():
    return examples(5, responses=2)


@pytest.fixture
def models(make_models):
    return two_roles(make_models())


@pytest.mark.parametrize("algorithm, expected", [
    (DPO(beta=0.1), math.log(2)), (DPO(beta=2.0, label_smoothing=0.3), math.log(2)),
    (IPO(beta=0.1), 25.0), (Hinge(beta=0.1), 1.0)])
def test_training_starts_at_the_reference(models, pairs, algorithm, expected):
    terms, metrics = algorithm.loss(models, models.collate(pairs))
    assert terms["policy"].sum.item() / len(pairs) == pytest.approx(expected, rel=1e-6)
    assert terms["policy"].per == "rows" and terms["policy"].coefficient == 1.0
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margin", "logps/chosen_change"):
        assert metrics[name].abs().max() < 1e-6
    assert not metrics["rewards/accuracy"].any(), "equal rewards are no hit"


def test_implicit_rewards(models, pairs):
    randomize(models, "policy", seed=5)
    batch = models.collate(pairs)
    logps, refs = models.policy.response_logprobs(batch).detach(), models.reference.response_logprobs(batch)
    terms, metrics = DPO(beta=0.3).loss(models, batch)
    rewards = 0.3 * (logps - refs)
    assert rewards.abs().max() > 0.01, "the policy has moved"
    torch.testing.assert_close(metrics["rewards/chosen"], rewards[:, 0])
    torch.testing.assert_close(metrics["rewards/rejected"], rewards[:, 1])
    torch.testing.assert_close(metrics["rewards/margin"], rewards[:, 0] - rewards[:, 1])
    assert metrics["rewards/accuracy"].tolist() == (rewards[:, 0] > rewards[:, 1]).float().tolist()
    torch.testing.assert_close(metrics["logps/chosen"], logps[:, 0])
    torch.testing.assert_close(metrics["logps/rejected"], logps[:, 1])
    torch.testing.assert_close(metrics["logps/chosen_change"], (logps - refs)[:, 0])
    assert not any(value.requires_grad for value in metrics.values())
    torch.testing.assert_close(terms["policy"].sum.detach(), dpo_loss(*logps.T, *refs.T, beta=0.3).sum())
    torch.testing.assert_close(DPO(beta=0.3).score(models, batch).detach(), rewards)


@pytest.mark.parametrize("algorithm, function", [
    (DPO(beta=0.7), lambda *four: dpo_loss(*four, beta=0.7)),
    (DPO(beta=0.7, label_smoothing=0.2), lambda *four: dpo_loss(*four, beta=0.7, label_smoothing=0.2)),
    (Hinge(beta=0.7), lambda *four: hinge_loss(*four, beta=0.7))])
def test_options_reach_the_loss(models, pairs, algorithm, function):
    randomize(models, "policy", seed=5)
    batch = models.collate(pairs)
    logps, refs = models.policy.response_logprobs(batch).detach(), models.reference.response_logprobs(batch)
    found = algorithm.loss(models, batch).terms["policy"].sum.detach()
    torch.testing.assert_close(found, function(*logps.T, *refs.T).sum())


def test_gradients_reach_the_policy_alone(models, pairs):
    DPO().loss(models, models.collate(pairs)).terms["policy"].sum.backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in models.policy.parameters().values())
    assert all(parameter.grad is None for parameter in models.reference.parameters().values())


@pytest.mark.parametrize("algorithm", [DPO(beta=0.5), IPO(), Hinge()])
def test_a_step_along_the_gradient_widens_the_margin(models, pairs, algorithm):
    batch = models.collate(pairs)
    terms, before = algorithm.loss(models, batch)
    terms["policy"].sum.backward()
    with torch.no_grad():
        for parameter in models.policy.parameters().values():
            parameter -= 1e-3 * parameter.grad
    after = algorithm.loss(models, batch).metrics
    assert after["rewards/margin"].mean() > before["rewards/margin"].mean()


def test_stored_reference_gives_the_same_loss(models, pairs, tmp_path):
    randomize(models, "policy", seed=5)
    batch = models.collate(pairs)
    fresh = DPO().loss(models, batch).terms["policy"].sum
    stored = StoredLogprobs(models.reference, {"test": 1}, Store(tmp_path), batch_size=2)
    stored.prepare(pairs)
    models.reference.stored = stored
    torch.testing.assert_close(DPO().loss(models, batch).terms["policy"].sum, fresh)


def test_length_normalized_dpo(models, pairs):
    """Mean log-ratios in the place of sums, in loss, rewards and where it ranks."""
    randomize(models, "policy", seed=5)
    batch = models.collate(pairs)
    logps, refs = models.policy.response_logprobs(batch).detach(), models.reference.response_logprobs(batch)
    lengths, method = batch.mask.sum(-1), DPO(beta=5.0, length_normalized=True)
    terms, metrics = method.loss(models, batch)
    expected = -torch.sigmoid(5 * ((logps - refs) / lengths) @ tensor([1.0, -1.0])).log()
    torch.testing.assert_close(terms["policy"].sum.detach(), expected.sum())
    torch.testing.assert_close(metrics["rewards/chosen"], (5 * (logps - refs) / lengths)[:, 0])
    torch.testing.assert_close(method.score(models, batch).detach(), 5 * (logps - refs) / lengths)


def test_rpo_adds_the_chosen_likelihood(models, pairs):
    batch = models.collate(pairs)
    (plain, _), (terms, _) = DPO().loss(models, batch), DPO(sft_coef=0.7).loss(models, batch)
    assert plain.keys() == {"policy"} and terms.keys() == {"policy", "sft"} and terms["sft"].coefficient == 0.7
    torch.testing.assert_close(terms["policy"].sum, plain["policy"].sum)
    expected = [models.policy.token_logprobs(batch)[b, 0][batch.mask[b, 0]].mean() for b in range(len(batch))]
    torch.testing.assert_close(terms["sft"].sum, -sum(expected))


def test_without_a_supervised_stage_the_reference_is_the_base(make_models, pairs):
    assert DPO().needs == {"reference": None}
    models = make_models()
    models.alias("reference", "base")
    models.add_role("policy", trainable=True, seed=1)
    total = DPO().loss(models, models.collate(pairs)).terms["policy"].sum.item()
    assert total / len(pairs) == pytest.approx(math.log(2))


@pytest.mark.parametrize("kind, options, key", [
    (DPO, {"beta": 0.0}, "beta"), (DPO, {"beta": -1.0}, "beta"), (DPO, {"beta": math.nan}, "beta"),
    (IPO, {"beta": math.inf}, "beta"), (Hinge, {"beta": 0.0}, "beta"),
    (DPO, {"label_smoothing": 0.5}, "label_smoothing"), (DPO, {"sft_coef": -1.0}, "sft_coef"),
    (DPO, {"label_smoothing": -0.1}, "label_smoothing"), (DPO, {"label_smoothing": math.nan}, "label_smoothing")])
def test_values_that_cannot_be_used(kind: type[LogRatioLoss], options, key):
    with pytest.raises(ConfigError, match=f"algorithm.{key}"):
        kind(**options)
