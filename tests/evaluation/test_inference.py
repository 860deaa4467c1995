"""Intervals and comparisons over seeds and prompts: numbers worked by hand, scipy's as far as it goes, properties."""

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.optimize import brentq

from algorithms.common.evaluation.inference import planning
from algorithms.common.evaluation.inference.claims import Answer, Claim, examine
from algorithms.common.evaluation.inference.comparisons import (
    SHARE_MARGIN,
    Verdict,
    against,
    all_pairs,
    compare,
    holm,
)
from algorithms.common.evaluation.inference.crossed import linearised, mean_squares, shrunk
from algorithms.common.evaluation.inference.intervals import (
    MEAN,
    PERPLEXITY,
    SHARE,
    Estimate,
    Matrix,
    contrast,
    contrast_to_model,
    difference,
    mean,
    perplexity,
    share,
    with_seed_spread,
)
from algorithms.common.evaluation.inference.planning import Spread, prompts_needed, seeds_needed, smallest_shown
from algorithms.common.evaluation.inference.resampling import bootstrap, calibration_error
from algorithms.common.evaluation.inference.shares import wilson
from crossed_p import crossed_p
from few import few

Y = np.array([[1, 2, 0, 4], [2, 3, 1, 3], [0, 2, 1, 5]], float)
OTHER = np.array([[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 2]], float)
ONES = np.ones((3, 256))
ONE_ZERO = ONES.copy()
ONE_ZERO[0, 0] = 0


def ends(estimate):
    return estimate.mean, estimate.low, estimate.high


def test_mean_squares_by_hand():
    squares = mean_squares(Y)
    assert (squares.mean, squares.seeds) == (2, pytest.approx(0.25))
    assert (squares.prompts, squares.rest) == pytest.approx((6.888889, 0.805556), abs=1e-6)
    assert squares.seed_variance == pytest.approx(0.25 / 12)
    assert squares.prompt_variance == pytest.approx((6.888889 - 0.805556) / 12)
    stacked = mean_squares(np.stack([Y, OTHER]))  # batches are what their members are
    assert stacked.take(1).half(0.05) == pytest.approx(mean_squares(OTHER).half(0.05))


def test_means_by_hand():
    assert ends(mean(Matrix.of(Y))) == pytest.approx((2, -0.349468, 4.349468), abs=1e-6)
    assert ends(mean(Matrix.of(Y), 0.9)) == pytest.approx((2, 0.272212, 3.727788), abs=1e-6)
    assert ends(mean(Matrix.of(Y[:1]))) == pytest.approx((1.75, -0.967531, 4.467531), abs=1e-6)
    found = mean(Matrix.of(Y, unit="questions"))
    assert (found.n, found.unit, found.seeds) == (4, "questions", 3)


def test_one_seed_is_students_t_and_so_is_one_prompt():
    rng = np.random.default_rng(0)
    values, other = rng.normal(size=(2, 1, 40))
    interval = stats.ttest_1samp(values[0], 0).confidence_interval(0.9)
    assert ends(mean(Matrix.of(values), 0.9))[1:] == pytest.approx(tuple(interval))
    assert ends(mean(Matrix.of(values.T), 0.9))[1:] == pytest.approx(tuple(interval))
    paired = stats.ttest_rel(values[0], other[0])
    found = difference(Matrix.of(values), Matrix.of(other))
    assert ends(found)[1:] == pytest.approx(tuple(paired.confidence_interval()))
    assert crossed_p(mean_squares(values - other)) == pytest.approx(paired.pvalue)


def test_a_ratio_is_the_mean_of_its_linearised_values():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 30, (2, 50))
    nll = rng.exponential(size=(2, 50)) * tokens
    found = mean(Matrix(nll, tokens))
    values = linearised(nll, tokens)
    assert found.mean == pytest.approx(nll.sum() / tokens.sum()) == values.mean()
    assert ends(found) == pytest.approx(ends(mean(Matrix.of(values))))
    resampled = bootstrap(np.stack([nll[0], tokens[0]], 1), lambda sums: sums[:, 0] / sums[:, 1])
    one_seed = mean(Matrix(nll[:1], tokens[:1]))
    assert resampled.high - resampled.low == pytest.approx(one_seed.high - one_seed.low, rel=0.15)
    assert ends(perplexity(Matrix(nll, tokens))) == pytest.approx(np.exp(ends(found)))


@pytest.mark.parametrize("values, expected", [
    (ONES, (1, 0.985216, 1)),
    (ONE_ZERO, (0.998698, 0.973953, 0.999936)),
    (ONES[:1], (1, 0.985216, 1)),
    (ONE_ZERO[:1], (0.996094, 0.978007, 0.999317)),
    (np.ones((10, 256)), (1, 0.998005, 1)),
    (np.ones((2, 64)), (1, 0.943376, 1)),
    ([[1, 0.5, 0, 1] * 16], (0.625, 0.517264, 0.721631)),
    ([[1.0]], (1, *stats.binomtest(1, 1).proportion_ci(method="wilson"))),
])
def test_shares_by_hand(values, expected):
    assert ends(share(Matrix.of(values))) == pytest.approx(expected, abs=1e-6)
    low, high = (1 - value for value in expected[1:])
    assert ends(share(Matrix.of(1 - np.asarray(values)))) == pytest.approx((1 - expected[0], high, low), abs=1e-6)


def test_accuracies_with_several_questions_a_prompt():
    of = np.array([[2, 3, 3, 1]] * 2)
    found = share(Matrix([[2, 1, 3, 0], [2, 2, 3, 1]], of))
    assert ends(found) == pytest.approx((0.777778, 0.044472, 0.996215), abs=1e-6)
    # Questions of a prompt that all agree are no more than their prompt.
    assert ends(share(Matrix(np.full((1, 8), 4), np.full((1, 8), 4)))) == ends(share(Matrix.of(np.ones((1, 8)))))
    # A prompt without a question counts for nothing.
    assert share(Matrix([[1, 1, 0]], [[1, 1, 0]])).low == pytest.approx(share(Matrix.of([[1.0, 1.0]])).low)


def test_wilson_is_scipys():
    for k, n in ((0, 7), (3, 7), (7, 7), (250, 256)):
        for level in (0.9, 0.95, 0.999):
            expected = stats.binomtest(k, n).proportion_ci(level, method="wilson")
            assert wilson(k / n, n, 1 - level) == pytest.approx(tuple(expected), abs=1e-12)


def test_differences_by_hand():
    found = difference(Matrix.of(Y), Matrix.of(OTHER))
    assert ends(found) == pytest.approx((1.5, -0.308132, 3.308132), abs=1e-6)
    assert crossed_p(mean_squares(Y - OTHER)) == pytest.approx(0.076587, abs=1e-6)
    found = difference(Matrix.of(ONE_ZERO), Matrix.of(ONES), SHARE)
    assert ends(found) == pytest.approx((-0.001302, -0.026047, 0.013534), abs=1e-6)
    found = difference(Matrix.of(ONES), Matrix.of(ONES), SHARE)
    assert ends(found) == pytest.approx((0, -0.014784, 0.014784), abs=1e-6)


def test_one_model_counts_once_however_many_seeds_are_compared_with_it():
    """5 seeds × 64 ones reach z²/(n + z²) below 1, n = 320·(z/t)² = 159.5; 64 zeros z²/(64 + z²) above 0."""
    ones, zeros = Matrix.of(np.ones((5, 64))), Matrix.of(np.zeros((1, 64)))
    (low,), (high,) = contrast_to_model(ones, zeros).interval(0.05)
    assert (low, high) == pytest.approx((1 - np.hypot(0.02352, 0.05662), 1), abs=1e-4)
    values = np.random.default_rng(0).integers(0, 2, (2, 64))
    one, other = Matrix.of(values[:1]), Matrix.of(values[1:])
    assert contrast_to_model(one, other).interval(0.05) == contrast(one, other, SHARE).interval(0.05), "two models"
    with pytest.raises(ValueError, match="the model has 5 rows; expected 1"):
        contrast_to_model(zeros, ones)


def test_holm_and_shrunk_variances_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([[0.6, 0.9], [0.01, 0.5]]) == pytest.approx(np.array([[1, 1], [0.02, 0.5]]))
    squares = mean_squares(np.zeros((4, 3, 5)))._replace(seeds=np.array([1.0, 2, 3, 6]))
    assert shrunk(squares).seeds == pytest.approx([2, 2.5, 3, 4.5]) and shrunk(squares).freedom == 4


def exact_smallest(seeds, prompts, by_seed, by_prompt, alpha=0.05):
    """The smallest difference shown, by adaptive quadrature over χ²."""
    t, u = stats.t.isf(alpha / 2, seeds - 1), stats.t.isf(alpha / 2, prompts - 1)

    def power(d):
        def at(x):
            half = np.sqrt(t**2 * by_seed * x / (seeds - 1) + u**2 * by_prompt)
            return stats.norm.cdf((d - half) / np.sqrt(by_seed + by_prompt)) * stats.chi2.pdf(x, seeds - 1)
        return integrate.quad(at, 0, 20, limit=200)[0] + integrate.quad(at, 20, np.inf)[0]

    return brentq(lambda d: power(d) - 0.8, 0, 30, xtol=1e-8)


@pytest.mark.parametrize("freedom", [1, 2, 7, 400])
def test_the_rule_over_chi_has_its_density_and_its_end(freedom):
    squares, weights = planning._chi_square(freedom)
    nodes, each = np.polynomial.legendre.leggauss(200)
    end = stats.chi.isf(1e-16, freedom)
    np.testing.assert_allclose(np.sqrt(squares), (nodes + 1) / 2 * end, rtol=1e-4)
    end = 2 * np.sqrt(squares[-1]) / (nodes[-1] + 1)
    np.testing.assert_allclose(weights, each / 2 * end * stats.chi.pdf(np.sqrt(squares), freedom), atol=1e-12)


def test_the_smallest_difference_shown():
    assert Spread(0.15, 0.4, 1.9).smallest(3, 256) == pytest.approx(0.627672, abs=1e-6)
    assert Spread(0.15, 0.4, 1.9).smallest(5, 256) == pytest.approx(0.328799, abs=3e-6)
    assert Spread(0, 0.4, 1.9).smallest(1, 256) == pytest.approx(0.341115, abs=1e-6)
    for seeds in (3, 5):
        exact = exact_smallest(seeds, 256, (1.9**2 / 256 + 0.15**2) / seeds, 0.4**2 / 256)
        assert Spread(0.15, 0.4, 1.9).smallest(seeds, 256) == pytest.approx(exact, abs=1e-6)
    assert Spread(0.15, 0.4, 1.9).smallest(2, 256) == pytest.approx(2.21, abs=0.005)
    rng = np.random.default_rng(0)
    values = rng.normal(0, 0.15, (20, 1)) + rng.normal(0, 0.4, 5000) + rng.normal(0, 1.9, (20, 5000))
    squares = mean_squares(values)
    assert Spread.of(squares) == pytest.approx((0.15, 0.4, 1.9), rel=0.25)
    assert smallest_shown(squares) == pytest.approx(Spread.of(squares).smallest(20, 5000))


def test_seeds_and_prompts_needed():
    spread = Spread(0.15, 0.4, 1.9)
    assert [seeds_needed(d, spread, 256, alpha) for d in (0.3, 0.5) for alpha in (0.05, 0.005)] == [6, 10, 4, 6]
    assert seeds_needed(0.3, spread, 64) == 11
    assert seeds_needed(0.05, spread, 256) is None      # the prompts' own share of the variance stays
    assert prompts_needed(0.05, spread, 3) is None      # and that of the seeds
    least = prompts_needed(0.3, spread, 6)
    assert spread.smallest(6, least) <= 0.3 < spread.smallest(6, least - 1)


def test_the_seed_spread_of_another_run():
    alone = mean(Matrix.of(Y[:1]))
    wider = with_seed_spread(Matrix.of(Y[:1]), spread=0.5, freedom=2)
    half = np.hypot(alone.high - alone.mean, stats.t.isf(0.025, 2) * 0.5)
    assert ends(wider) == pytest.approx((1.75, 1.75 - half, 1.75 + half))
    with pytest.raises(ValueError, match="3 seeds"):
        with_seed_spread(Matrix.of(Y), 0.5, 2)


@pytest.mark.parametrize("seed", range(30))
def test_shares_have_a_width_inside_their_range_and_no_side(seed):
    rng = np.random.default_rng(seed)
    seeds, prompts, level = rng.integers(1, 6), rng.integers(1, 40), rng.choice([0.5, 0.9, 0.95, 0.999])
    chance = rng.choice([0, 0.02, 0.5, 0.9, 1])
    first, second = (Matrix.of((rng.random((seeds, prompts)) < chance) * 1.0) for _ in range(2))
    found, mirrored = share(first, level), share(Matrix.of(1 - first.numerator), level)
    assert 0 <= found.low <= found.mean <= found.high <= 1 and found.low < found.high
    assert ends(mirrored) == pytest.approx((1 - found.mean, 1 - found.high, 1 - found.low), abs=1e-9)
    ab, ba = difference(first, second, SHARE, level), difference(second, first, SHARE, level)
    assert -1 <= ab.low <= ab.mean <= ab.high <= 1 and ab.low < ab.high
    assert ends(ba) == pytest.approx((-ab.mean, -ab.high, -ab.low), abs=1e-12)
    higher = difference(first, second, SHARE, (1 + level) / 2)
    assert higher.low <= ab.low + 1e-3 and ab.high <= higher.high + 1e-3


@pytest.mark.parametrize("kind", [MEAN, SHARE, PERPLEXITY], ids=["mean", "share", "perplexity"])
@pytest.mark.parametrize("seeds", few([1, 3, 2, 6], [0, 1]))
def test_what_is_claimed_is_seen_in_the_interval(kind, seeds):
    """Text and numbers never contradict each other, and swapping two methods swaps what is said."""
    rng = np.random.default_rng(seeds)
    claimed = 0
    for _ in range(8):
        logits = rng.normal(0, 0.8, (5, 1, 1)) + rng.normal(0, 0.1, (5, seeds, 1)) + rng.normal(0, 0.5, 80)
        chance = 1 / (1 + np.exp(-logits))
        values = (rng.random((5, seeds, 80)) < chance) * 1.0
        found = compare(dict(zip("abcde", map(Matrix.of, values), strict=True)), kind, margin=0.3)
        back = compare(dict(zip("edcba", map(Matrix.of, values[::-1]), strict=True)), kind, margin=0.3)
        swapped = {frozenset((pair.first, pair.second)): pair for pair in back.pairs}
        for pair in found.pairs:
            claimed += pair.verdict.claims
            assert pair.verdict.claims == (pair.adjusted <= 0.05) <= pair.difference.excludes_zero
            assert (pair.verdict is Verdict.SEEN_ALONE) == (pair.difference.excludes_zero and pair.adjusted > 0.05)
            assert pair.verdict is not Verdict.BETTER or seeds > 1
            assert pair.p <= pair.adjusted and pair.smallest_shown > 0
            assert pair.winner is None or pair.difference.mean * (1 if pair.winner == pair.first else -1) > 0
            other = swapped[frozenset((pair.first, pair.second))]
            assert (pair.winner, pair.verdict) == (other.winner, other.verdict) and pair.p == pytest.approx(other.p)
            assert pair.within_margin == (pair.smallest_margin < 0.3)
    assert claimed or seeds == 2


def test_variances_are_shrunk_for_four_methods_and_up_to_five_seeds():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 6, 30)) + rng.normal(size=(4, 6, 1))

    def first_pair(methods, seeds):
        return compare(dict(zip("abcd", map(Matrix.of, values[:methods, :seeds]), strict=False))).pairs[0]

    plain = difference(Matrix.of(values[0, :3]), Matrix.of(values[1, :3]))
    assert ends(first_pair(3, 3).difference) == pytest.approx(ends(plain))
    six = difference(Matrix.of(values[0]), Matrix.of(values[1]))
    assert ends(first_pair(4, 6).difference) == pytest.approx(ends(six))
    squares = mean_squares(np.stack([values[i, :3] - values[j, :3] for i, j in all_pairs(range(4))]))
    half = shrunk(squares).half(0.05)[0]
    assert ends(first_pair(4, 3).difference) == pytest.approx((plain.mean, plain.mean - half, plain.mean + half))
    assert first_pair(4, 1).difference == difference(Matrix.of(values[0, :1]), Matrix.of(values[1, :1]))


def test_practically_equal_takes_its_own_interval():
    rng = np.random.default_rng(0)
    first, second = Matrix.of(rng.normal(size=(1, 400))), Matrix.of(rng.normal(size=(1, 400)))
    reach = compare({"a": first, "b": second}).pairs[0]
    inner = difference(first, second, level=0.9)
    assert reach.verdict is Verdict.UNDECIDED and ends(reach.equivalence) == pytest.approx(ends(inner))
    for by, verdict in ((1.01, Verdict.EQUAL), (0.99, Verdict.UNDECIDED)):
        assert compare({"a": first, "b": second}, margin=reach.smallest_margin * by).pairs[0].verdict is verdict
    three = compare({"a": first, "b": second, "c": Matrix.of(first.numerator + 9)}).pairs[0]
    assert ends(three.equivalence) == pytest.approx(ends(difference(first, second, level=1 - 0.1 / 3)))
    assert SHARE_MARGIN == 0.02


def test_the_best_row_is_better_than_every_other():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, 5, 50))
    clear = {name: Matrix.of(value + by) for name, value, by in zip("abc", noise, (0, 2, 4), strict=True)}
    assert compare(clear).best == "c" and compare(clear, lower_is_better=True).best == "a"
    assert compare(clear, pairs=against("a", "abc")).best is None       # c and b were not compared
    assert compare({name: Matrix.of(one.numerator[:1]) for name, one in clear.items()}).best is None
    close = {**clear, "d": Matrix.of(rng.normal(size=(5, 50)) + 4)}
    assert compare(close).best is None
    assert compare({"a": clear["a"]}).best is None
    assert all_pairs("abc") == [("a", "b"), ("a", "c"), ("b", "c")] and against("a", "abc") == [("b", "a"), ("c", "a")]


def claim_on(low, high, seeds=3, **claim):
    """The answer to a claim whose interval is [low, high]."""
    level = 1 - 0.05 / claim.get("claims", 1)
    values = np.random.default_rng(0).normal(size=(seeds, 64))
    raw = mean(Matrix.of(values), level)
    values = (values - raw.mean) * (high - low) / (raw.high - raw.low) + (low + high) / 2
    return examine(Claim("a", "b", **claim), Matrix.of(values), Matrix.of(np.zeros_like(values)))


def test_claims_by_their_interval():
    assert claim_on(0.31, 0.9, margin=0.3).answer is Answer.REPRODUCED
    assert claim_on(-0.2, 0.29, margin=0.3).answer is Answer.NOT_REPRODUCED
    assert claim_on(-0.9, -0.1, margin=0.3).answer is Answer.OPPOSITE
    assert claim_on(0.31, 0.9, seeds=1, margin=0.3).answer is Answer.UNDECIDED
    assert claim_on(0.31, 0.9, margin=0.3, claims=4).answer is Answer.REPRODUCED
    assert claim_on(-0.9, -0.1, margin=0.0, lower_is_better=True).answer is Answer.REPRODUCED
    found = claim_on(0.2, 0.9, margin=0.3)
    assert found.answer is Answer.UNDECIDED and found.smallest_shown > 0 and found.seeds_needed > 3
    assert claim_on(0.2, 0.9, seeds=1, margin=0.3).seeds_needed is None


def test_calibration_by_hand():
    # Two bets at odds of 3 : 1, one won; |¾ − 1 + ¾ − 0| / 2 = ¼, wherever the interval ends.
    found = calibration_error([np.log(3), -np.log(3)], ["a", "b"])
    assert found.mean == pytest.approx(0.25) and found.n == 2 and found.seeds == 1
    logits = np.where(np.arange(512) % 2, 1e-3, -1e-3)
    even = calibration_error(logits, range(512))
    assert even.mean == pytest.approx(2.5e-4, rel=1e-5) and even.low <= even.mean < even.high
    copied = calibration_error(np.repeat(logits, 3), np.repeat(np.arange(512), 3))
    assert (copied.n, copied.high) == (512, pytest.approx(even.high))


@pytest.mark.parametrize("call, message", [
    (lambda: Matrix.of([1.0, 2.0]), "seeds × prompts"),
    (lambda: Matrix.of([[1.0, None]]), r"numerator\[0, 1\]"),
    (lambda: Matrix([[1.0]], [[1.0, 1.0]]), r"\(1, 2\)"),
    (lambda: Matrix([[1.0]], [[0.0]]), "denominator"),
    (lambda: Matrix([[1.0, 1.0]], [[-1.0, 1.0]]), "denominator"),
    (lambda: mean(Matrix.of([[1.0]])), "one answer"),
    (lambda: mean(Matrix.of(Y), 95), "level"),
    (lambda: share(Matrix.of(Y)), "between 0"),
    (lambda: perplexity(Matrix.of(Y * 1000)), "finite"),
    (lambda: difference(Matrix.of(Y), Matrix.of(Y[:2])), "same seeds and prompts"),
    (lambda: compare({"a": Matrix.of(Y), "b": Matrix.of(Y[:2])}), "same of all methods"),
    (lambda: compare({"a": Matrix.of(Y), "b": Matrix.of(OTHER)}, pairs=[("a", "c")]), "two different ones"),
    (lambda: compare({"a": Matrix.of(Y), "b": Matrix.of(OTHER)}, margin=0), "margin"),
    (lambda: Claim("a", "b", margin=-1), "margin"),
    (lambda: Estimate(0, 1, -1, 3, "prompts", 1), "above high"),
    (lambda: Estimate(float("nan"), 0, 1, 3, "prompts", 1), "mean"),
    (lambda: Estimate(0, 0, 1, 0, "prompts", 1), "n is 0"),
    (lambda: bootstrap([1.0], lambda sums: sums[:, 0]), "columns"),
    (lambda: calibration_error([1.0], [1, 2]), "clusters"),
])
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_estimate_is_plain_numbers():
    found = Estimate(np.float32(0.5), np.float64(0.25), 1, np.int64(3), "prompts", 2)
    assert found.to_dict() == {"mean": 0.5, "low": 0.25, "high": 1.0, "n": 3, "unit": "prompts", "seeds": 2}
    assert [type(value) for value in found.to_dict().values()] == [float, float, float, int, str, int]
