"""Intervals: numbers worked by hand, independent slow versions, coverage by simulation."""

import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from algorithms.common.evaluation import statistics
from algorithms.common.evaluation.statistics import (Estimate, bootstrap, cluster_bootstrap, crossed, exp_mean,
                                                      over_seeds, paired, ratio, seeds_and_prompts, win_rate)


def naive(items, statistic, draws=4000, level=0.95):
    """Percentile bootstrap in plain Python: resample items, sort the statistics, read off the quantiles."""
    rng = random.Random(1)
    figures = sorted(statistic(rng.choices(items, k=len(items))) for _ in range(draws))
    return figures[round((1 - level) / 2 * (draws - 1))], figures[round((1 + level) / 2 * (draws - 1))]


def agree(estimate, interval, width=0.08):
    """Whether two bootstraps with different random numbers agree: within 8% of the interval's width."""
    slack = width * (interval[1] - interval[0])
    return abs(estimate.low - interval[0]) < slack and abs(estimate.high - interval[1]) < slack


def test_by_hand_two_values():
    # Resamples of {0, 1}: means 0, ½, ½, 1 with probability ¼ each, so 95% reaches from 0 to 1 and 40% is ½ alone.
    assert bootstrap([0.0, 1.0]) == Estimate(0.5, 0.0, 1.0, 2)
    assert bootstrap([0.0, 1.0], level=0.4) == Estimate(0.5, 0.5, 0.5, 2)


def test_by_hand_binomial():
    # Of 100 prompts 50 are won: the resampled mean is Binomial(100, ½)/100; its 2.5% and 97.5% points are .40 and .60.
    assert stats.binom.ppf([0.025, 0.975], 100, 0.5).tolist() == [40, 60]
    estimate = bootstrap([0.0] * 50 + [1.0] * 50, draws=20000)
    assert estimate.mean == 0.5 and (estimate.low, estimate.high) == pytest.approx((0.40, 0.60), abs=0.0101)


def test_win_rate_by_hand():
    assert win_rate([3.0, 1.0, 2.0, 5.0], [1.0, 1.0, 4.0, 2.0]).mean == 0.625  # win, tie, loss, win


def test_paired_by_hand():
    estimate = paired([3.0, 5.0, 9.0], [2.0, 4.0, 8.0])
    assert estimate == Estimate(1.0, 1.0, 1.0, 3)  # every difference is 1, however much the prompts differ
    assert paired([1.0, 4.0], [2.0, 2.0]).mean == 0.5


def test_exp_mean_and_ratio_by_hand():
    # nll 2·ln 4 on 2 tokens, ln 2 on 1 token: Σ = 5 ln 2 on 3 tokens → 2^(5/3)
    estimate = exp_mean([2 * math.log(4), math.log(2)], [2, 1])
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((2 ** (5 / 3), 2.0, 4.0))
    assert ratio([1.0, 3.0], [2.0, 2.0]).mean == 1.0


def test_over_seeds_by_hand():
    # 1, 2, 3: mean 2, s = 1, t(.975; 2) = 4.302653 → 2 ± 4.302653/√3
    estimate = over_seeds([1.0, 2.0, 3.0])
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((2.0, 2 - 2.484138, 2 + 2.484138), abs=1e-6)
    assert estimate.n == 3
    assert over_seeds([Estimate(value, 0.0, 9.0, 50) for value in (1, 2, 3)]) == estimate
    wide = stats.t.interval(0.99, 3, loc=2.5, scale=stats.sem([1, 2, 3, 4]))
    assert (over_seeds([1, 2, 3, 4], level=0.99).low, over_seeds([1, 2, 3, 4], level=0.99).high) == pytest.approx(wide)


def test_against_the_slow_way():
    rng = np.random.default_rng(0)
    values, tokens = rng.exponential(size=40), rng.integers(1, 30, 40)
    nll = values * tokens
    rows = list(zip(nll.tolist(), tokens.tolist(), strict=True))
    assert agree(bootstrap(values), naive(values.tolist(), lambda v: sum(v) / len(v)))
    total = lambda drawn: sum(a for a, _ in drawn) / sum(b for _, b in drawn)  # noqa: E731
    assert agree(ratio(nll, tokens), naive(rows, total))
    assert agree(exp_mean(nll, tokens), naive(rows, lambda drawn: math.exp(total(drawn))))
    groups = [list(rng.normal(size=1) + 0.1 * rng.normal(size=rng.integers(1, 6))) for _ in range(25)]
    flat = [value for group in groups for value in group]
    names = [f"prompt {i}" for i, group in enumerate(groups) for _ in group]
    pooled = lambda drawn: sum(map(sum, drawn)) / sum(map(len, drawn))  # noqa: E731
    estimate = cluster_bootstrap(flat, names)
    assert estimate.n == 25 and estimate.mean == pytest.approx(np.mean(flat))
    assert agree(estimate, naive(groups, pooled))


def test_clusters_need_not_be_neighbours():
    shuffled = cluster_bootstrap([0.0, 10.0, 1.0, 11.0], ["a", "b", "a", "b"])
    assert shuffled == cluster_bootstrap([0.0, 1.0, 10.0, 11.0], ["a", "a", "b", "b"])
    assert (shuffled.mean, shuffled.low, shuffled.high) == (5.5, 0.5, 10.5)
    assert cluster_bootstrap([1.0, 2.0, 4.0], np.array([7, 8, 9])) == bootstrap([1.0, 2.0, 4.0])


def test_clusters_of_copies_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(size=50)
    copied = cluster_bootstrap(np.repeat(values, 8), np.repeat(np.arange(50), 8))
    assert (copied.low, copied.high) == pytest.approx((bootstrap(values).low, bootstrap(values).high))


def test_seeds_and_prompts_against_the_slow_way():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 1)) + rng.normal(size=(1, 30)) + rng.normal(size=(6, 30))
    slow = random.Random(0)
    figures = []
    for _ in range(4000):
        rows, columns = slow.choices(range(6), k=6), slow.choices(range(30), k=30)
        figures.append(matrix[np.ix_(rows, columns)].mean())
    estimate = seeds_and_prompts(matrix)
    assert estimate.n == 6 and estimate.mean == pytest.approx(matrix.mean())
    assert agree(estimate, np.quantile(figures, [0.025, 0.975]))


def test_seeds_and_prompts_sees_both_sources_and_pairs_the_baseline():
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=(1, 40)) * np.ones((5, 1))
    seeds = rng.normal(size=(5, 1)) * np.ones((1, 40))
    assert agree(seeds_and_prompts(prompts), naive(prompts[0].tolist(), lambda v: sum(v) / len(v)))
    assert agree(seeds_and_prompts(seeds), naive(seeds[:, 0].tolist(), lambda v: sum(v) / len(v)))
    difference = seeds_and_prompts(prompts + 1, prompts)
    assert (difference.mean, difference.low, difference.high) == pytest.approx((1, 1, 1))


def test_blocks_change_nothing_but_memory(monkeypatch):
    values = np.random.default_rng(0).normal(size=64)
    whole = bootstrap(values)
    monkeypatch.setattr(statistics, "_BLOCK", 64 * 7)
    in_blocks = bootstrap(values)
    assert (in_blocks.low, in_blocks.high) == pytest.approx((whole.low, whole.high), abs=0.02)
    assert agree(seeds_and_prompts(np.tile(values, (2, 1))), (whole.low, whole.high))


def test_the_seed_decides():
    values = np.random.default_rng(0).normal(size=20)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_one_prompt_has_no_width():
    assert bootstrap([2.0]) == Estimate(2.0, 2.0, 2.0, 1)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_was_not_measured_is_refused(value):
    with pytest.raises(ValueError, match=r"values\[1\]"):
        bootstrap([1.0, value])
    with pytest.raises(ValueError, match=r"baseline\[0\]"):
        paired([1.0], [value])
    with pytest.raises(ValueError, match=r"matrix\[0, 1\]"):
        seeds_and_prompts([[1.0, value], [1.0, 1.0]])
    for field in ("mean", "low", "high"):
        with pytest.raises(ValueError, match=field):
            Estimate(**{"mean": 0.0, "low": 0.0, "high": 0.0, "n": 1, field: value})


@pytest.mark.parametrize("call", [
    lambda: bootstrap([]),
    lambda: bootstrap([[1.0]]),
    lambda: bootstrap([1.0], level=1.0),
    lambda: bootstrap([1.0], draws=0),
    lambda: paired([1.0, 2.0], [1.0]),
    lambda: win_rate([1.0], [1.0, 2.0]),
    lambda: cluster_bootstrap([1.0, 2.0], ["a"]),
    lambda: exp_mean([1.0, 1.0], [3, 0]),
    lambda: exp_mean([1.0], [3, 1]),
    lambda: exp_mean([1e6], [1]),
    lambda: over_seeds([1.0]),
    lambda: seeds_and_prompts([[1.0, 2.0]]),
    lambda: seeds_and_prompts([[1.0], [2.0]], [[1.0, 2.0], [1.0, 2.0]]),
    lambda: Estimate(0.0, 1.0, -1.0, 3),
    lambda: Estimate(0.0, 0.0, 0.0, 0),
    lambda: Estimate(True, 0.0, 0.0, 1),
    lambda: Estimate("1", 0.0, 0.0, 1),
])
def test_wrong_arguments_are_refused(call):
    with pytest.raises(ValueError):
        call()


def test_estimates_are_plain_json_and_frozen():
    estimate = Estimate(np.float32(0.5), np.float64(0.25), 1, np.int64(3))
    assert estimate.to_dict() == {"mean": 0.5, "low": 0.25, "high": 1.0, "n": 3}
    assert [type(value) for value in estimate.to_dict().values()] == [float, float, float, int]
    with pytest.raises(AttributeError):
        estimate.mean = 1.0


def covered(interval, truth, trials=300):
    """Share of simulated experiments whose interval holds the truth."""
    rng = np.random.default_rng(0)
    return np.mean([(e := interval(rng)).low <= truth <= e.high for _ in range(trials)])


def test_coverage():
    # 300 trials at 95%: the standard error is 1.3 points; the percentile bootstrap is a little short by nature.
    fewer = {"draws": 500}
    assert 0.90 < covered(lambda rng: bootstrap(rng.exponential(size=60), **fewer), 1.0) < 0.99
    assert 0.90 < covered(lambda rng: win_rate(rng.normal(size=60), rng.normal(size=60), **fewer), 0.5) < 0.99
    assert 0.91 < covered(lambda rng: over_seeds(rng.normal(size=3)), 0.0) < 0.99
    clusters = np.repeat(np.arange(40), 4)
    alike = lambda rng: np.repeat(rng.normal(size=40), 4) + 0.2 * rng.normal(size=160)  # noqa: E731
    assert 0.90 < covered(lambda rng: cluster_bootstrap(alike(rng), clusters, **fewer), 0.0) < 0.99
    assert covered(lambda rng: bootstrap(alike(rng), **fewer), 0.0) < 0.8  # what ignoring the clusters would give
    crossed = lambda rng: rng.normal(size=(10, 1)) + rng.normal(size=(1, 40)) + rng.normal(size=(10, 40))  # noqa: E731
    assert 0.88 < covered(lambda rng: seeds_and_prompts(crossed(rng), **fewer), 0.0) < 0.99


def test_no_model_library_is_loaded():
    code = "import sys, algorithms.common.evaluation.statistics; print(*({'torch', 'transformers', 'hydra'} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[1]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_crossed_by_hand():
    found = crossed([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]], ["a", "a", "b"])
    models = np.var([2 / 3, 2 / 3], ddof=1) / 2  # 0
    things = 2 * ((1.5 - 4 / 3) ** 2 + (0.5 - 2 / 3) ** 2) / 9  # residuals of a and b: ± 1/6
    half = stats.t.ppf(0.975, 1) * np.sqrt(models + things)
    assert (found.mean, found.n) == (pytest.approx(2 / 3), 2)
    assert (found.low, found.high) == (pytest.approx(2 / 3 - half), pytest.approx(2 / 3 + half))
    seeds = crossed([[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]], ["a", "b"])  # things do not differ: t over models alone
    assert (seeds.low, seeds.high) == pytest.approx((over_seeds([0.0, 1.0, 0.5]).low, over_seeds([0.0, 1.0, 0.5]).high))
    assert crossed([[0.5, 0.5]], ["a", "a"]) == Estimate(0.5, 0.5, 0.5, 1)
    with pytest.raises(ValueError, match="2 values but 1 clusters"):
        crossed([[0.0, 1.0]], ["a"])


def test_crossed_covers_models_and_things():
    rng = np.random.default_rng(0)
    for models, things, spread in ((3, 40, 0.05), (3, 40, 0.0), (5, 12, 0.2), (1, 40, 0.0)):
        hits = 0
        for _ in range(400):
            own, asked = rng.normal(0, spread, models), np.repeat(rng.normal(0, 0.3, things), 3)
            values = own[:, None] + asked + rng.normal(0, 0.2, (models, 3 * things))
            found = crossed(values, np.repeat(np.arange(things), 3))
            hits += found.low <= 0 <= found.high
        assert hits / 400 > 0.92, (models, things, spread)


def test_the_interval_of_a_calibration_error_holds_its_value():
    """Resampled errors are larger than the error where there is next to none: half of 512 even bets won."""
    logits = np.where(np.arange(512) % 2, 1e-3, -1e-3)
    found = statistics.calibration_error(logits, range(512))
    assert found.mean == pytest.approx(2.5e-4, rel=1e-5) and found.low <= found.mean < found.high
