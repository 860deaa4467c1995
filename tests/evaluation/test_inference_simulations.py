"""Intervals cover and comparisons keep their word, by simulation: `pytest -m slow`. Random numbers are fixed."""

import numpy as np
import pytest
from scipy.special import expit

from algorithms.common.evaluation.inference.comparisons import compare, holm
from algorithms.common.evaluation.inference.crossed import mean_squares
from algorithms.common.evaluation.inference.intervals import MEAN, SHARE, Matrix
from algorithms.common.evaluation.inference.judging import length_controlled, strengths
from algorithms.common.evaluation.inference.planning import Spread
from algorithms.common.evaluation.inference.shares import Shares
from algorithms.common.evaluation.inference.wording import paragraph
from crossed_p import crossed_p

pytestmark = pytest.mark.slow


def crossed_values(rng, shape, seed, prompt, rest):
    """Values (…, S, P) with mean 0 and standard deviations `seed`, `prompt` and `rest`."""
    *batch, seeds, prompts = shape
    by_seed, by_prompt = rng.normal(0, seed, (*batch, seeds, 1)), rng.normal(0, prompt, (*batch, 1, prompts))
    return by_seed + by_prompt + rng.normal(0, rest, shape)


def in_blocks(total, block):
    """Batches that fit into memory."""
    return [min(block, total - start) for start in range(0, total, block)]


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("seed, prompt", [(0.2, 0.3), (0.02, 1.0)])
def test_means_cover_new_seeds_and_new_prompts(seeds, seed, prompt):
    rng = np.random.default_rng(0)
    covered = []
    for size in in_blocks(8000, 1000):
        squares = mean_squares(crossed_values(rng, (size, seeds, 256), seed if seeds > 1 else 0, prompt, 1.3))
        covered.append(np.abs(squares.mean) <= squares.half(0.05))
    assert np.concatenate(covered).mean() >= 0.94


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("chance", [0.5, 0.9, 0.996])
@pytest.mark.parametrize("prompt", [0.0, 1.5])
def test_shares_cover_close_to_one_too(seeds, chance, prompt):
    rng = np.random.default_rng(0)
    spread = 0.4 if seeds > 1 else 0.0
    nodes = rng.normal(0, np.hypot(spread, prompt), 100_000) if spread or prompt else np.zeros(1)
    low, high = -5.0, 15.0      # logit whose mean over seeds and prompts is `chance`
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(middle + nodes).mean() < chance else (low, middle)
    covered = []
    for size in in_blocks(4000, 1000):
        logits = low + crossed_values(rng, (size, seeds, 256), spread, prompt, 0.0)
        answers = (rng.random(logits.shape) < expit(logits)) * 1.0
        ends = Shares.of(answers, np.ones_like(answers)).interval(0.05)
        covered.append((ends[0] <= chance) & (chance <= ends[1]))
    assert np.concatenate(covered).mean() >= 0.93


@pytest.mark.parametrize("seeds, methods, seed", [(3, 5, 0.15), (3, 3, 0.15), (1, 5, 0.0)])
def test_holm_claims_nothing_where_nothing_is(seeds, methods, seed):
    rng = np.random.default_rng(0)
    first, second = np.triu_indices(methods, 1)
    false = []
    for size in in_blocks(4000, 500):
        values = crossed_values(rng, (size, methods, seeds, 128), seed, 0.3, 1.3)
        false.append((holm(crossed_p(mean_squares(values[:, first] - values[:, second]))) <= 0.05).any(-1))
    assert np.concatenate(false).mean() <= 0.06


@pytest.mark.parametrize("kind", [MEAN, SHARE], ids=["mean", "share"])
@pytest.mark.parametrize("seeds", [3, 5])
def test_a_table_of_four_equal_methods_seldom_misleads(kind, seeds):
    """Through what a table calls: a sentence that calls one of them better, or a best row."""
    rng = np.random.default_rng(0)
    misled, tables = 0, 600
    for _ in range(tables):
        shared = rng.normal(0, 0.3, 128)
        values = shared + crossed_values(rng, (4, seeds, 128), 0.15, 0.3, 1.3)
        if kind is SHARE:
            values = (values > -0.5) * 1.0
        found = compare(dict(zip("abcd", map(Matrix.of, values), strict=True)), kind)
        misled += "better than" in paragraph(found, "reward") or found.best is not None
    assert misled / tables <= 0.05


def test_one_seed_never_speaks_of_methods():
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = crossed_values(rng, (4, 1, 128), 0.5, 0.3, 1.3)
        found = compare(dict(zip("abcd", map(Matrix.of, values), strict=True)))
        text = paragraph(found, "reward")
        assert found.best is None and text.count("better than") == text.count("trained a is") + sum(
            text.count(f"trained {one} is better") for one in "bcd") + text.count(" are better than")
        assert "not about the methods" in text


def test_power_at_the_smallest_difference_shown():
    rng = np.random.default_rng(0)
    shown = []
    for seeds, spread in ((1, Spread(0.0, 0.4, 1.9)), (3, Spread(0.15, 0.4, 1.9)), (5, Spread(0.15, 0.4, 1.9))):
        difference = spread.smallest(seeds, 128)
        squares = mean_squares(difference + crossed_values(rng, (4000, seeds, 128), *spread))
        shown.append((squares.mean > squares.half(0.05)).mean())
    assert shown == pytest.approx([0.8, 0.8, 0.8], abs=0.025)


def test_judges_figures_cover():
    rng = np.random.default_rng(0)
    seeds, prompts, tables = 3, 128, 2000
    strength, rates = {"a": 0.0, "b": 0.4, "c": -0.3}, []
    covered = {"length": 0, "b": 0, "c": 0}
    names = list(strength)
    for _ in range(tables):
        longer = rng.normal(20, 40, (seeds, prompts))
        wins = rng.random((seeds, prompts)) < expit(0.5 + 0.6 * np.tanh(longer / 40))
        rate = length_controlled(wins * 1.0, longer).win_rate
        covered["length"] += rate.low <= expit(0.5) <= rate.high
        rates.append(rate.mean)
        verdicts = {}
        for i, j in (("a", "b"), ("a", "c"), ("b", "c")):
            utility = np.array([strength[i], strength[j], (strength[i] + strength[j]) / 2 - 0.5])
            choice = (utility + rng.gumbel(size=(seeds, prompts, 3))).argmax(-1)
            verdicts[i, j] = np.array([1, 0, 0.5])[choice]
        for name, found in strengths(verdicts, names).items():
            covered[name] += found.log_ratio.low <= strength[name] <= found.log_ratio.high
    assert np.mean(rates) == pytest.approx(expit(0.5), abs=0.01)
    assert all(count / tables >= 0.93 for count in covered.values()), covered
