"""Judges' verdicts, over-optimisation curves and frontiers: published numbers, numbers worked by hand, properties."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from algorithms.common.evaluation.inference.curves import (
    SAMPLED,
    TRAINED,
    Frontier,
    Ordering,
    along,
    at_equal_kl,
    coefficients,
    kl_of_best,
    over_optimisation,
    peaks,
)
from algorithms.common.evaluation.inference.judging import both_orders, davidson, length_controlled, strengths

WINS = np.array([[1, 1, 0, 1, 0.5, 0, 1, 1, 0, 1]])
LONGER = np.array([[10.0, -5, -20, 15, 0, -10, 25, 5, -15, 30]])
# Davidson 1970, JASA 65:317: i, j, i preferred, j preferred, ties
PUDDINGS = """1 2 19 22 16; 1 3 16 19 12; 2 3 19 19 10; 1 4 18 23 13; 2 4 23 19 9; 3 4 19 20 15; 1 5 13 19 18;
    2 5 16 20 12; 3 5 16 15 17; 4 5 17 14 16; 1 6 18 21 12; 2 6 22 20 12; 3 6 13 18 10; 4 6 14 19 18; 5 6 11 21 12"""


def test_both_orders_by_hand():
    found = both_orders([1, 0, 0.5, 1, 0.5], [1, 0, 0.5, 0, 1])
    assert found.wins.tolist() == [1, 0, 0.5, 0.5, 0.5]
    assert found.inconsistent.tolist() == [0, 0, 0, 1, 1]
    assert found.first_place.tolist() == [0.5, 0.5, 0.5, 1, 0.25]  # who was shown first won; A won second
    with pytest.raises(ValueError, match="verdicts are"):
        both_orders([0.7], [1])
    with pytest.raises(ValueError, match="one order"):
        both_orders([1, 0], [1])


def ends(estimate):
    return estimate.mean, estimate.low, estimate.high


def test_length_control_by_hand():
    found = length_controlled(WINS, LONGER)
    assert ends(found.win_rate) == pytest.approx((0.708766, 0.392335, 0.901705), abs=1e-6)
    assert found.length == pytest.approx(3.443703, abs=1e-6)
    swapped = length_controlled(1 - WINS, -LONGER)
    assert ends(swapped.win_rate) == pytest.approx((0.291234, 0.098295, 0.607665), abs=1e-6)
    assert length_controlled(WINS, 0 * LONGER).win_rate.mean == pytest.approx(0.649384, abs=1e-6)
    unanimous = length_controlled(np.ones_like(WINS), LONGER)
    assert ends(unanimous.win_rate) == pytest.approx((1, 0.722467, 1), abs=1e-6) and unanimous.length is None


def test_length_control_is_the_minimum_of_its_loss():
    feature = np.tanh(LONGER / LONGER.std(ddof=1))

    def loss(weights):
        logits = weights[0] + weights[1] * feature
        return (np.logaddexp(0, logits) - WINS * logits).sum() + (0.01 * weights[0]**2 + 0.1 * weights[1]**2) / 2

    theta, phi = minimize(loss, [0, 0], tol=1e-12).x
    found = length_controlled(WINS, LONGER)
    assert (found.win_rate.mean, found.length) == pytest.approx((expit(theta), phi), abs=1e-4)


def test_length_control_finds_the_rate_at_equal_length():
    rng = np.random.default_rng(0)
    longer = rng.normal(30, 40, 200_000)
    wins = rng.random(200_000) < expit(0.3 + 0.8 * np.tanh(longer / longer.std(ddof=1)))
    found = length_controlled(wins[None] * 1.0, longer[None])
    assert wins.mean() == pytest.approx(0.64994) and found.win_rate.mean == pytest.approx(0.57446, abs=1e-5)


@pytest.mark.parametrize("wins, longer, message", [
    (WINS, LONGER + 40, "equal length is outside the data"),
    (WINS, 0 * LONGER + 3, "equal length is outside the data"),
    (WINS, LONGER[:, 1:], "lengths"),
])
def test_lengths_that_cannot_be_controlled_are_refused(wins, longer, message):
    with pytest.raises(ValueError, match=message):
        length_controlled(wins, longer)


def test_davidson_of_two_by_hand():
    found = davidson([[0, 6], [2, 0]], [[0, 4], [4, 0]], pseudo=0)
    assert -found.log_strengths[1] == pytest.approx(np.log(3), abs=1e-8)
    assert np.exp(found.log_ties) == pytest.approx(4 / np.sqrt(12), abs=1e-8)


def test_davidsons_puddings():
    wins, ties = np.zeros((2, 6, 6))
    for row in PUDDINGS.split(";"):
        i, j, *counts = map(int, row.split())
        wins[i - 1, j - 1], wins[j - 1, i - 1], ties[i - 1, j - 1] = counts
    found = davidson(wins, ties + ties.T, pseudo=0)
    strength = np.exp(found.log_strengths)
    published = [0.1388005, 0.1729985, 0.1617420, 0.1653930, 0.1586805, 0.2023855]
    assert strength / strength.sum() == pytest.approx(published, abs=3e-5)
    converged = [0.138803, 0.173002, 0.161747, 0.165373, 0.158685, 0.202389]
    assert strength / strength.sum() == pytest.approx(converged, abs=1e-6)
    assert np.exp(found.log_ties) == pytest.approx(0.746823, abs=1e-6)
    centred = [-0.17656, 0.04368, -0.02358, -0.00142, -0.04270, 0.20057]
    assert found.log_strengths - found.log_strengths.mean() == pytest.approx(centred, abs=1e-5)


def test_strengths_stay_finite():
    never = [[0, 6], [0, 0]], [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="never happened"):
        davidson(*never, pseudo=0)
    found = davidson(*never)
    assert -found.log_strengths[1] == pytest.approx(np.log((6 + 1 / 3) / (1 / 3)), abs=1e-7)


def test_strengths_are_davidsons_and_have_no_side():
    rng = np.random.default_rng(0)
    odds = {("a", "b"): [0.5, 0.2, 0.3], ("b", "c"): [0.2, 0.2, 0.6], ("a", "c"): [0.3, 0.3, 0.4]}
    verdicts = {pair: rng.choice([0, 0.5, 1], (2, 30), p=chances) for pair, chances in odds.items()}
    found = strengths(verdicts, "abc")
    wins, ties = np.zeros((2, 3, 3))
    for (i, j), values in verdicts.items():
        i, j = "abc".index(i), "abc".index(j)
        wins[i, j], wins[j, i], ties[i, j] = (values == 1).sum(), (values == 0).sum(), (values == 0.5).sum()
    expected = davidson(wins, ties + ties.T).log_strengths
    assert [found[name].log_ratio.mean for name in "bc"] == pytest.approx(expected[1:])
    assert found["b"].preferred.low == pytest.approx(expit(found["b"].log_ratio.low))
    turned = strengths({pair[::-1]: 1 - values for pair, values in verdicts.items()}, "abc")
    assert ends(turned["c"].log_ratio) == pytest.approx(ends(found["c"].log_ratio))
    back, there = strengths(verdicts, "cab")["a"].log_ratio, found["c"].log_ratio
    assert ends(back) == pytest.approx((-there.mean, -there.high, -there.low))
    copied = strengths({pair: np.repeat(values, 2, axis=1) for pair, values in verdicts.items()}, "abc", pseudo=2.0)
    assert copied["b"].log_ratio.mean == pytest.approx(found["b"].log_ratio.mean)


D = np.array([0.5, 1, 2, 3])


def test_gaos_forms_by_hand():
    assert kl_of_best([1, 2, 4, 16, 64]) == pytest.approx([0, 0.193147, 0.636294, 1.835089, 3.174508], abs=1e-6)
    for form, reward, expected in ((SAMPLED, D * (1.5 - 0.25 * D), (1.5, 0.25, 3)),
                                   (TRAINED, D * (1.3 - 0.45 * np.log(D)), (1.3, 0.45, 6.612018))):
        (alpha,), (beta,) = coefficients(D, reward, form)
        assert (alpha, beta, form.peak(alpha, beta)) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="positive distances"):
        coefficients([0.0, 1.0], [0.0, 1.0], TRAINED)


def test_a_peak_needs_data_beyond_it_in_every_seed():
    distance = np.array([[0.5, 1, 2, 4], [0.5, 1, 2, 5]])
    reward = distance * (1.5 - np.array([[0.25], [0.3]]) * distance)
    found = over_optimisation(distance, reward, SAMPLED)
    assert found.peak.mean == pytest.approx(np.sqrt(3 * 2.5)) and found.peak.low < 2.5 < 3 < found.peak.high
    assert (found.alpha.mean, found.beta.mean, found.beta.seeds) == (pytest.approx(1.5), pytest.approx(0.275), 2)
    shorter = distance / [[1, 1, 1, 1.5]]
    alpha, beta = coefficients(shorter, shorter * (1.5 - 0.25 * shorter), SAMPLED)
    assert peaks(shorter, alpha, beta, SAMPLED) is None                     # the first seed ends before its peak
    assert peaks(distance[:, 1:], alpha, beta, SAMPLED) is None             # three distances
    assert over_optimisation(distance, distance * (1 + 0.1 * distance), SAMPLED).peak is None
    with pytest.raises(ValueError, match="one answer"):
        over_optimisation(D, D, SAMPLED)                                            # one seed has no interval


def test_frontiers_are_straight_between_their_points():
    frontier = Frontier([[2.0, 1.0]], [[[3.0], [2.0]]])
    assert [frontier.at(d).item() for d in (0.5, 1, 1.5, 2)] == pytest.approx([1, 2, 2.5, 3])
    for distance in (0, 2.1):
        with pytest.raises(ValueError, match="all seeds reached"):
            frontier.at(distance)
    with pytest.raises(ValueError, match="differ"):
        Frontier([[1.0, 1.0]], [[[3.0], [2.0]]])
    with pytest.raises(ValueError, match="seeds × distances"):
        Frontier([[1.0, 2.0]], [[3.0, 2.0]])


def frontier(height, seed, prompts=1, bend=0.0):
    rng = np.random.default_rng(seed)
    distance = np.array([0.5, 1, 1.5, 2]) + rng.uniform(0, 0.1, (3, 4))
    curve = distance * (height - bend * distance)
    return Frontier(distance, curve[..., None] + rng.normal(0, 0.05, (3, 4, prompts)))


@pytest.mark.parametrize("prompts", [1, 50])
def test_frontiers_at_equal_kl(prompts):
    high, low = frontier(3, 0, prompts), frontier(1, 1, prompts)
    found = at_equal_kl(high, low)
    reach = min(high.distance.max(1).min(), low.distance.max(1).min())
    assert found.distances == pytest.approx(reach * np.array([0.25, 0.5, 0.75]))
    assert [one.mean for one in found.differences] == pytest.approx(2 * np.array(found.distances), abs=0.15)
    assert found.ordering is Ordering.FIRST and at_equal_kl(low, high).ordering is Ordering.SECOND
    assert along(high, low).first_dominates and not along(low, high).first_dominates
    assert len(along(high, low).distances) == 10 and along(high, low).distances[-1] == pytest.approx(reach)
    crossing = at_equal_kl(frontier(3, 0, prompts, bend=1.5), frontier(1, 1, prompts), parts=(0.25, 0.95))
    assert crossing.ordering is Ordering.CROSSING
    assert at_equal_kl(high, high).ordering is Ordering.UNDECIDED
    pointwise, together = along(high, low, points=1), at_equal_kl(high, low, parts=(1.0, 0.5))
    assert together.differences[0].low < pointwise.differences[0].low
    with pytest.raises(ValueError, match="same seeds and prompts"):
        at_equal_kl(high, frontier(1, 1, prompts + 1))
