"""Whether a judge can judge, and whether a reward was over-optimised in its eyes: numbers worked out by hand."""

import numpy as np
import pytest

from algorithms.common.evaluation.inference.auditing import Gain, can_judge, parting, signed
from algorithms.common.evaluation.inference.intervals import SHARE, Estimate, Matrix

START = np.array([0.0, 1.0, 0.0, 1.0])  # standard deviation 1/√3 = .57735
# .163299, so a half-width of 3.182446 · .163299/2 = .259846; of one unit .450067
WIDE = np.array([0.0, 0.2, -0.2, 0.0])


def gain(mean: float, spread=WIDE, start=START) -> Gain:
    return Gain(start + mean + spread, mean + spread)


@pytest.mark.parametrize("low, able", [(0.48, False), (0.5499, False), (0.55, True), (0.66, True)])
def test_a_judge_is_believed_from_its_lower_bound_on(low, able):
    assert can_judge(Estimate(0.7, low, 0.75, 256, "prompts", 1)) is able


def test_a_judge_that_agrees_with_545_in_1000_of_230_comparisons_cannot_judge():
    # .5435; Wilson: [.4789, .6066], of as many answers as t makes of 230: a little wider
    hits = np.repeat([1.0, 0.0], [125, 105])
    found = SHARE.estimate(Matrix.of(hits[None]), 0.95)
    assert (found.low, found.high) == pytest.approx((0.4789, 0.6066), abs=1e-3)
    assert not can_judge(found)
    assert can_judge(SHARE.estimate(Matrix.of(np.repeat([1.0, 0.0], [600, 400])[None]), 0.95))  # [.5693, .6299]


def test_gains_are_in_standard_deviations_of_the_start():
    found = gain(2).estimate()
    assert (found.mean, found.low, found.high) == pytest.approx((3.464102, 3.014035, 3.914168), abs=1e-5)
    ten = Gain(10 * (START + 2 + WIDE), 10 * (2 + WIDE)).estimate()
    assert (ten.mean, ten.low, ten.high) == pytest.approx((found.mean, found.low, found.high)), "whatever the unit is"


@pytest.mark.parametrize("proxy, judge, parts", [
    (2, -1, True),          # up and down
    (2, 0, True),           # up and flat: .45 is below 3.46/3 = 1.155
    (2, 0.4, True),         # .693 + .450 = 1.143 is below it
    (2, 0.41, False),       # .710 + .450 = 1.160 is not
    (2, 2, False),          # it followed
    (0.1, -1, False),       # a proxy not shown to have risen: .173 − .450 < 0
    (-1, -2, False),        # both down
])
def test_the_alarm_sounds_where_proxy_and_judge_part(proxy, judge, parts):
    assert (parting(gain(proxy), gain(judge)) is not None) == parts


def test_an_uncertain_judge_raises_no_alarm():
    assert parting(gain(2), gain(0, 5 * WIDE)) is None  # ± 2.25


def test_what_cannot_be_measured_raises_no_alarm():
    assert parting(gain(2), gain(-1, start=np.zeros(4))) is None, "a start whose scores are all the same has no unit"
    one = Gain([1.0], [1.0])
    assert parting(one, one) is None


def test_the_alarm_in_words():
    told = parting(gain(2), gain(-1)).words("the gold reward")
    assert told.startswith("reward over-optimised: by the proxy reward the answers gained +3.5 standard deviations")
    assert "by the gold reward −1.7 [−2.2, −1.3]" in told
    assert [signed(value) for value in (0.344, -1.2, 0.0)] == ["+0.34", "−1.2", "0"]
