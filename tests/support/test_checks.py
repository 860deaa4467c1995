"""Rules for settings: what they allow at their ends, and what they say."""

import math
from types import SimpleNamespace

import pytest

from algorithms.common.support.checks import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_BELOW_1,
    at_least,
    one_of,
    require,
    within,
)
from algorithms.common.support.errors import ConfigError


@pytest.mark.parametrize("rule, allowed, refused", [
    (POSITIVE, [1e-300, 1, 1e300], [0, -1, math.inf, math.nan]),
    (NOT_NEGATIVE, [0, 0.0, 1e300], [-1e-300, math.inf, math.nan]),
    (SHARE, [0, 1, 0.5], [-0.1, 1.1, math.nan]),
    (SHARE_BELOW_1, [0, 0.999], [1, -0.1, math.nan]),
    (within("(0, 1]"), [1e-9, 1], [0, 1.1]),
    (within("(-2, -1)"), [-1.5], [-2, -1]),
    (at_least(2), [2, 3], [1, math.inf, math.nan]),
    (at_least(2).or_null(), [2, None], [1]),
    (one_of({"a": 1, "b": 2}), ["a"], ["c", "", ["a"], None]),
])
def test_what_a_rule_allows(rule, allowed, refused):
    assert all(map(rule.allows, allowed))
    assert not any(map(rule.allows, refused))


@pytest.mark.parametrize("rules, message", [
    ({"steps": at_least(1).or_null()}, "recipe.steps: found 0; expected at least 1, or null"),
    ({"schedule": one_of(("linear", "cosine"))}, "recipe.schedule: found 'step'; expected linear or cosine"),
    ({"schedule": one_of(("a", "b", "c"))}, "recipe.schedule: found 'step'; expected one of a, b, c"),
    ({"schedule": one_of(("a",)).or_null()}, "recipe.schedule: found 'step'; expected a, or null"),
    ({"lr": POSITIVE, "steps": at_least(1)}, "recipe.steps: found 0; expected at least 1"),
    ({"lr": within("[0, 0.5)")}, "recipe.lr: found 1.0; expected a number in [0, 0.5)"),
    ({"lr": within("[0, 0.5)", "half"), "steps": at_least(1)}, "recipe.lr: found 1.0; expected half"),
])
def test_the_first_field_that_breaks_its_rule_is_told(rules, message):
    with pytest.raises(ConfigError) as caught:
        require(SimpleNamespace(lr=1.0, steps=0, schedule="step"), "recipe", **rules)
    assert str(caught.value) == message
