"""The arithmetic of policy gradients, on numbers a reader can check by hand, then against slow versions."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nan, tensor

from algorithms.common.policy_gradient import (
    KLController,
    RunningMoments,
    advantage_figures,
    explained_variance,
    gae,
    kl_figures,
    kl_penalty,
    masked_mean,
    ratio_metrics,
    reward_figures,
    score_figures,
    shape_rewards,
    shape_scores,
    squared_errors,
    surrogates,
    whiten,
)


def close(found, expected, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(found, tensor(expected), atol=tolerance, rtol=0)


# KL: three estimators, the penalty in the reward, the controller

LOGPROBS, REFS = tensor([[-1.0, -0.5, -2.0]]), tensor([[-1.2, -0.6, -1.5]])


@pytest.mark.parametrize("estimator, expected", [
    ("k1", [0.2, 0.1, -0.5]), ("k2", [0.02, 0.005, 0.125]), ("k3", [0.018731, 0.004837, 0.148721])])
def test_kl_penalty(estimator, expected):
    close(kl_penalty(LOGPROBS, REFS, estimator), [expected])


def test_which_estimators_are_unbiased():
    """Expectations under π = (.5, .3, .2) with π_ref = (.4, .4, .2), where KL(π ‖ π_ref) = .025267."""
    pi, ref = tensor([0.5, 0.3, 0.2]), tensor([0.4, 0.4, 0.2])
    expected = {name: (pi * kl_penalty(pi.log(), ref.log(), name)).sum().item() for name in ("k1", "k2", "k3")}
    assert expected == pytest.approx({"k1": 0.025267, "k2": 0.024862, "k3": 0.025267}, abs=1e-6)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="estimator: found 'k4'; expected one of k1, k2, k3"):
        kl_penalty(LOGPROBS, REFS, "k4")


def test_shaped_rewards():
    """−0.1 · KL at every token, the score at the last one."""
    logprobs = tensor([[-1, -0.5, -2, -0.1, -0.3], [-0.7, -1.2, -0.4, -0.9, -0.6]])
    refs = tensor([[-1.2, -0.6, -1.5, -0.4, -0.3], [-0.5, -1, -0.9, -0.2, -0.1]])
    mask = tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]).bool()
    kl = kl_penalty(logprobs, refs, "k1")
    expected = [[-0.02, -0.01, 0.05, 0.97, 0], [0.02, 0.02, -0.55, 0, 0]]
    close(shape_rewards(tensor([1.0, -0.5]), kl, mask, kl_coef=0.1), expected)
    close((kl * mask).sum(-1), [0.1, 0.1])


def test_the_score_goes_to_the_last_masked_token_behind_holes_too():
    mask = tensor([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    found = shape_rewards(tensor([2.0, 3.0, 5.0]), torch.full((3, 4), nan).masked_fill(mask, 1.0), mask, kl_coef=0.5)
    close(found, [[-0.5, 0, 1.5, 0], [0, 2.5, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("coef, kl, episodes, expected", [
    (0.2, 9.0, 256, 0.201024), (0.2, 6.3, 256, 0.200256), (0.2, 3.0, 256, 0.198976), (0.15, 7.0, 512, 0.151280)])
def test_adaptive_controller(coef, kl, episodes, expected):
    """KL 9 against a target of 6: the error is clipped to 0.2, so the coefficient grows by 1 + 0.2 · 256 / 10000."""
    controller = KLController(coef, target=6.0)
    controller.update(kl, episodes)
    assert controller.coef == pytest.approx(expected, abs=5e-7)


def test_ten_steps_of_the_controller_and_none_of_a_fixed_one():
    controller, fixed = KLController(0.2, target=6.0), KLController(0.2)
    for _ in range(10):
        controller.update(9.0, 256), fixed.update(9.0, 256)
    assert controller.coef == pytest.approx(0.210479, abs=5e-7) and fixed.coef == 0.2
    short = KLController(0.2, target=6.0, horizon=1000.0)
    short.update(9.0, 256)
    assert short.coef == pytest.approx(0.2 * (1 + 0.2 * 0.256))


# Advantages

PADDED = (tensor([[-0.02, -0.01, 0.05, 0.97, 0], [0.02, 0.02, -0.55, 0, 0]]),
          tensor([[0.2, 0.3, 0.1, 0.4, 9], [0, -0.1, 0.2, 9, 9]]),
          tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]).bool())
HOLED = (tensor([[0.1, 0, 5, 1, 0], [0, 0.2, -0.3, 0, 0]]), tensor([[0.5, 0.4, 7, 0.6, 9], [0.1, 0, 0.2, 9, 9]]),
         tensor([[1, 1, 0, 1, 0], [1, 1, 1, 0, 0]]).bool())


def test_gae_by_hand():
    """r = 0, 0, 1 and V = .5, .6, .7: δ = .1, .1, .3, and A = .3, then .1 + .95 · .3, then .1 + .95 · .385."""
    everywhere = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = gae(tensor([[0.0, 0, 1]]), tensor([[0.5, 0.6, 0.7]]), everywhere, gamma=1.0, lam=0.95)
    close(advantages, [[0.465750, 0.385, 0.3]])
    close(returns, [[0.965750, 0.985, 1.0]])


@pytest.mark.parametrize("rollout, gamma, lam, advantages, returns", [
    (PADDED, 1.0, 0.95, [[0.685079, 0.636925, 0.8915, 0.57, 0], [-0.452875, -0.3925, -0.75, 0, 0]],
     [[0.885079, 0.936925, 0.9915, 0.97, 0], [-0.452875, -0.4925, -0.55, 0, 0]]),
    (HOLED, 1.0, 0.95, [[0.551, 0.58, 0, 0.4, 0], [-0.17125, -0.075, -0.5, 0, 0]],
     [[1.051, 0.98, 0, 1.0, 0], [-0.07125, -0.075, -0.3, 0, 0]]),
    (HOLED, 0.9, 0.8, [[0.26816, 0.428, 0, 0.4, 0], [-0.0856, 0.02, -0.5, 0, 0]], None),
    (HOLED, 1.0, 1.0, None, [[1.1, 1.0, 0, 1.0, 0], [-0.1, -0.1, -0.3, 0, 0]]),
], ids=["padding", "hole", "discount", "monte-carlo"])
def test_gae(rollout, gamma, lam, advantages, returns):
    found = gae(*rollout, gamma=gamma, lam=lam)
    for one, expected in zip(found, (advantages, returns)):
        if expected is not None:
            close(one, expected)


def slow_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """1506.02438 eq. 16 as it stands: A_t = Σ_k (γλ)^k δ_{t+k} over one finished episode."""
    following = [*values[1:], 0.0]
    deltas = [r + gamma * after - v for r, v, after in zip(rewards, values, following)]
    return [sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:])) for t in range(len(deltas))]


numbers = st.floats(-5, 5, allow_nan=False, width=32)
episodes = st.lists(st.tuples(numbers, numbers, st.booleans()), min_size=1, max_size=8)
shares = st.floats(0, 1, width=32)


@settings(deadline=None, max_examples=150)
@given(st.lists(episodes, min_size=1, max_size=4), shares, shares)
def test_gae_equals_the_sum_over_each_compacted_episode(rows, gamma, lam):
    width = max(map(len, rows))
    rewards, values = (tensor([[cell[i] for cell in row] + [nan] * (width - len(row)) for row in rows],
                              dtype=torch.float64) for i in (0, 1))
    mask = tensor([[cell[2] for cell in row] + [False] * (width - len(row)) for row in rows])
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam)
    for row, found, back, where in zip(rows, advantages, returns, mask):
        kept = [cell for cell in row if cell[2]]
        expected = slow_gae([cell[0] for cell in kept], [cell[1] for cell in kept], gamma, lam)
        assert found[where].tolist() == pytest.approx(expected, abs=1e-9)
        assert back[where].tolist() == pytest.approx([a + cell[1] for a, cell in zip(expected, kept)], abs=1e-9)
        assert not found[~where].any() and not back[~where].any()


def test_monte_carlo_returns_do_not_depend_on_the_critic():
    rewards, values, mask = HOLED
    for other in (values, values * 3, torch.zeros_like(values)):
        close(gae(rewards, other, mask, gamma=1.0, lam=1.0)[1], [[1.1, 1.0, 0, 1.0, 0], [-0.1, -0.1, -0.3, 0, 0]])


# Whitening


def test_whiten():
    advantages, _ = gae(*HOLED, gamma=1.0, lam=0.95)
    mask = HOLED[2]
    close(whiten(advantages, mask), [[1.038521, 1.110193, 0, 0.665333, 0], [-0.746479, -0.508602, -1.558965, 0, 0]])
    close(whiten(HOLED[0], mask, shift_mean=False),
          [[0.001145, -0.247136, 0, 2.235681, 0], [-0.247136, 0.249427, -0.991982, 0, 0]])
    square = tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])
    close(whiten(square, torch.ones(3, 3, dtype=torch.bool), shift_mean=False)[0], [0.050807, 0.438105, 0.825403])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=12))
def test_whitened_values_have_mean_0_and_variance_1(cells):
    x, mask = tensor([[v for v, _ in cells]], dtype=torch.float64), tensor([[m for _, m in cells]])
    kept = [v for v, m in cells if m]
    found = whiten(x.masked_fill(~mask, nan), mask)
    assert not found[~mask].any()
    if kept and (spread := statistics.pvariance(kept)) > 1e-3:
        assert found[mask].mean().item() == pytest.approx(0, abs=1e-9)
        assert found[mask].var(correction=0).item() == pytest.approx(spread / (spread + 1e-8), rel=1e-9)
        kept_mean = whiten(x, mask, shift_mean=False)[mask].mean().item()
        assert kept_mean == pytest.approx(statistics.fmean(kept), abs=1e-9)
    elif kept and max(kept) == min(kept):
        assert found[mask].abs().max() < 1e-3, "what does not vary becomes 0, not infinite"


# Losses


def policy_loss(logprobs, old_logprobs, advantages, mask) -> torch.Tensor:
    return masked_mean(torch.maximum(*surrogates(logprobs, old_logprobs, advantages, mask, clip=0.2)), mask)


def value_loss(values, old_values, returns, mask) -> torch.Tensor:
    return 0.5 * masked_mean(torch.maximum(*squared_errors(values, old_values, returns, mask, clip=0.2)), mask)


MASK = tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
NEW, OLD = tensor([[-1, -0.2, -2.5, 0], [-0.9, -1.1, 0, 0]]), tensor([[-1.2, -0.6, -2, 0], [-1, -0.8, 0, 0]])
ADVANTAGES = tensor([[1, -0.5, -1, 3], [0.5, 2, 9, 9]])


def test_policy_loss():
    """The first token: ρ = e^0.2 = 1.2214 and A = 1, so the clipped −1.2 counts and gives no gradient."""
    new = NEW.clone().requires_grad_()
    loss = policy_loss(new, OLD, ADVANTAGES, MASK)
    loss.backward()
    close(loss.detach(), -0.337662)
    close(new.grad, [[0, 0.149182, 0, 0], [-0.110517, -0.296327, 0, 0]])
    plain, clipped = surrogates(NEW, OLD, ADVANTAGES, MASK, clip=0.2)
    close(torch.maximum(plain, clipped), [[-1.2, 0.745912, 0.8, 0], [-0.552585, -1.481636, 0, 0]])
    assert (clipped > plain)[MASK].float().mean().item() == pytest.approx(0.4)


def test_tokens_of_a_response_may_share_an_advantage():
    """(B, K, 1) instead of (B, K, T), here of two prompts with one response each."""
    shared = tensor([[[0.7]], [[-1.3]]])
    three = (NEW.unsqueeze(1), OLD.unsqueeze(1), MASK.unsqueeze(1))
    for one, other in zip(surrogates(*three[:2], shared, three[2], clip=0.2),
                          surrogates(*three[:2], shared.expand(2, 1, 4), three[2], clip=0.2)):
        assert torch.equal(one, other) and one.shape == (2, 1, 4) and not one[~three[2]].any()
    whole = shared.expand(2, 1, 4)
    assert torch.equal(whiten(shared, three[2]), whiten(whole, three[2]))
    assert advantage_figures(shared, three[2]) == advantage_figures(whole, three[2])


def test_responses_of_a_prompt_are_sequences_of_their_own():
    """(B, K, T) is (B · K, T) in another shape."""
    rewards, values, mask = (torch.stack([one, other], 1) for one, other in zip(PADDED, HOLED))  # (2, 2, 5)
    found = gae(rewards, values, mask, gamma=0.9, lam=0.8)
    for k, rollout in enumerate((PADDED, HOLED)):
        for one, expected in zip(found, gae(*rollout, gamma=0.9, lam=0.8)):
            assert torch.equal(one[:, k], expected)
    scores = tensor([[1.0, 2.0], [3.0, 4.0]])
    shaped = shape_rewards(scores, values, mask, kl_coef=0.1)
    for k in range(2):
        assert torch.equal(shaped[:, k], shape_rewards(scores[:, k], values[:, k], mask[:, k], kl_coef=0.1))


VALUES, OLD_VALUES = tensor([[0.9, 0.1, -0.3, 5], [0.45, 1, 5, 5]]), tensor([[0.5, 0.2, 0, 5], [0.4, 0.6, 5, 5]])
RETURNS = tensor([[0.6, 0.5, -1, 9], [0.2, 1.5, 9, 9]])


def test_value_loss():
    """Half the mean of .09, .16, .64, .0625 and .49."""
    plain, clipped = squared_errors(VALUES, OLD_VALUES, RETURNS, MASK, clip=0.2)
    close(torch.maximum(plain, clipped), [[0.09, 0.16, 0.64, 0], [0.0625, 0.49, 0, 0]])
    assert (clipped > plain)[MASK].float().mean().item() == pytest.approx(0.4)
    loss = value_loss(VALUES, OLD_VALUES, RETURNS, MASK)
    close(loss, 0.144250)
    close(policy_loss(NEW, OLD, ADVANTAGES, MASK) + 0.1 * loss, -0.323237)


@pytest.mark.parametrize("outside", [0.0, 1e30, nan, math.inf])
def test_what_stands_outside_the_mask_never_matters(outside):
    """Neither to losses nor to gradients, under any width of padding and any order of rows."""
    def spoiled(x):
        x = torch.cat([x.masked_fill(~MASK, outside), torch.full((2, 3), outside)], 1)
        return x.flip(0)

    mask = torch.cat([MASK, torch.zeros(2, 3, dtype=torch.bool)], 1).flip(0)
    for function, four in ((policy_loss, (NEW, OLD, ADVANTAGES)), (value_loss, (VALUES, OLD_VALUES, RETURNS))):
        gradients, losses = [], []
        for inputs, where in (([x.clone() for x in four], MASK), ([spoiled(x) for x in four], mask)):
            inputs[0].requires_grad_()
            losses.append(function(*inputs, where))
            losses[-1].backward()
            gradients.append(inputs[0].grad)
        torch.testing.assert_close(losses[1], losses[0])
        torch.testing.assert_close(gradients[1].flip(0)[:, :4], gradients[0])
        assert not gradients[1][~mask].any()
    for one, other in zip(gae(spoiled(VALUES), spoiled(RETURNS), mask, gamma=0.9, lam=0.8),
                          gae(VALUES, RETURNS, MASK, gamma=0.9, lam=0.8)):
        torch.testing.assert_close(one.flip(0)[:, :4], other)
    torch.testing.assert_close(whiten(spoiled(VALUES), mask).flip(0)[:, :4], whiten(VALUES, MASK))
    torch.testing.assert_close(explained_variance(spoiled(VALUES), spoiled(RETURNS), mask),
                               explained_variance(VALUES, RETURNS, MASK))


def test_explained_variance():
    returns, mask = tensor([[1.0, 2, 3, 9]]), tensor([[1, 1, 1, 0]]).bool()
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(returns + 5, returns, mask) == pytest.approx(1), "an offset explains nothing less"
    assert explained_variance(torch.full_like(returns, 2), returns, mask) == 0
    assert explained_variance(-returns, returns, mask) == pytest.approx(1 - 4)
    assert explained_variance(returns, torch.ones_like(returns), mask) == 0, "nothing to explain"


# Scores


def moments(mean: float, std: float) -> RunningMoments:
    return RunningMoments(count=3, mean=mean, squares=2 * std**2)


@pytest.mark.parametrize("scaling, clip, expected", [
    ("none", None, [2, -3, 8]), ("none", 5.0, [2, -3, 5]), ("scale", None, [1, -1.5, 4]),
    ("normalize", None, [0.5, -2, 3.5]),
    ("normalize", 0.8, [0.5, -0.8, 0.8]), ("normalize", 0.3, [0.3, -0.3, 0.3])])
def test_scaled_and_clipped_scores(scaling, clip, expected):
    """Mean 1 and standard deviation 2 so far. PPO-max (arXiv 2307.04964, eq. 18) is normalize with a clip."""
    found = shape_scores(tensor([2.0, -3, 8]), torch.ones(3, dtype=torch.bool), moments(1.0, 2.0), scaling=scaling,
                         clip=clip, missing_eos="subtract", penalty=1.0)
    close(found, [float(x) for x in expected])


@pytest.mark.parametrize("rule, penalty, expected", [
    ("subtract", 1.0, [2, -4, 4]), ("subtract", 0.0, [2, -3, 5]), ("replace", 1.0, [2, -1, -1]),
    ("replace", 7.0, [2, -7, -7])])
def test_a_missing_end_costs(rule, penalty, expected):
    """After clipping: 8 becomes 5 first."""
    found = shape_scores(tensor([2.0, -3, 8]), tensor([True, False, False]), RunningMoments(), scaling="none", clip=5.0,
                         missing_eos=rule, penalty=penalty)
    close(found, [float(x) for x in expected])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(numbers, min_size=1, max_size=6), min_size=1, max_size=5))
def test_running_moments_are_those_of_all_values(batches):
    running, everything = RunningMoments(), [x for batch in batches for x in batch]
    for batch in batches:
        running.update(tensor(batch))
    assert running.mean == pytest.approx(statistics.fmean(everything), abs=1e-9)
    if len(everything) > 1 and statistics.variance(everything) > 1e-9:
        assert running.std == pytest.approx(statistics.stdev(everything), rel=1e-6)
    elif len(set(everything)) == 1:
        assert running.std == 1.0
    assert RunningMoments(**running.state_dict()) == running


@pytest.mark.parametrize("junk", [float("nan"), float("inf")])
def test_gradients_ignore_what_stands_outside_the_mask(junk):
    """0 · NaN is NaN: what is outside must be gone before anything is computed with it."""
    mask = torch.tensor([[True, True, False], [True, False, False]])
    clean = torch.tensor([[1.0, -2.0, 0.0], [0.5, 0.0, 0.0]], dtype=torch.float64)
    others = torch.tensor([[0.3, 0.1, 0.0], [-0.7, 0.0, 0.0]], dtype=torch.float64)
    functions = {"whiten": lambda x: (whiten(x, mask) * others).sum(),
                 "whiten, mean kept": lambda x: whiten(x, mask, False)[0, 0],
                 "explained variance": lambda x: explained_variance(x, others, mask),
                 "policy": lambda x: policy_loss(x, others, others, mask),
                 "value": lambda x: value_loss(x, others, others, mask)}
    for name, function in functions.items():
        found = []
        for outside in (0.0, junk):
            x = torch.where(mask, clean, outside).requires_grad_()
            value = function(x)
            value.backward()
            found.append((value.item(), x.grad))
        assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1]), name
        assert found[0][1].any() and not found[0][1][~mask].any(), name


# What is logged


def test_figures_by_hand():
    """Two responses of three tokens and one: KL sums .6 and −.5, lengths of mean 2 and deviation 1."""
    logprobs, refs = tensor([[-1.0, -0.5, -2.0], [-2.0, nan, nan]]), tensor([[-1.2, -0.6, -2.3], [-1.5, nan, nan]])
    mask = tensor([[1, 1, 1], [1, 0, 0]]).bool()
    k3 = sum(math.exp(u) - 1 - u for u in (-0.2, -0.1, -0.3, 0.5)) / 2
    assert kl_figures(logprobs, refs, mask) == pytest.approx({"kl/k1": 0.05, "kl/k3": k3, "policy/entropy": 5.5 / 4},
                                                             abs=1e-6)
    scores, finished = tensor([3.0, -1.0]), tensor([True, False])
    assert score_figures(scores, mask, finished) == pytest.approx({
        "reward/proxy": 1.0, "reward/proxy_std": 2.0, "length/mean": 2.0, "length/std": 1.0, "eos_rate": 0.5,
        "truncation_rate": 0.5})
    rewards = shape_rewards(scores, torch.where(mask, logprobs - refs, 0), mask, kl_coef=0.1)
    expected = {"reward/shaped": 0.995, "reward/non_score": -0.005}
    assert reward_figures(rewards, scores) == pytest.approx(expected, abs=1e-6)
    ratios = ratio_metrics(logprobs, refs, mask)
    assert ratios["policy/approx_kl"].tolist() == pytest.approx([0.02, 0.005, 0.045, 0.125], abs=1e-6)
    assert ratios["policy/ratio_mean"].tolist() == pytest.approx([math.exp(x) for x in (0.2, 0.1, 0.3, -0.5)])
