"""Rules for the values of settings, said where they are declared.

    require(self, "recipe", lr=POSITIVE, steps=at_least(1).or_null())
"""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError


@dataclass(frozen=True)
class Rule:
    """What a value must be: ``allows`` decides, ``expected`` says it in words."""

    allows: Callable[[Any], bool]
    expected: str

    def or_null(self) -> "Rule":
        return Rule(lambda value: value is None or self.allows(value), f"{self.expected}, or null")


def require(settings: object, group: str, **rules: Rule) -> None:
    """ConfigError ``GROUP.KEY: found …; expected …`` for the first of these fields that breaks its rule."""
    for key, rule in rules.items():
        value = getattr(settings, key)
        if not rule.allows(value):
            raise ConfigError(f"{group}.{key}: found {value!r}; expected {rule.expected}")


def one_of(choices: Collection[str]) -> Rule:
    choices = tuple(choices)
    return Rule(lambda value: value in choices,
                f"one of {', '.join(choices)}" if len(choices) > 2 else " or ".join(choices))


def at_least(least: float) -> Rule:
    return Rule(lambda value: least <= value < math.inf, f"at least {least}")


def within(interval: str, expected: str = "") -> Rule:
    """Numbers of an interval as it is written, with round brackets at ends outside it: ``within("[0, 1)")``."""
    opening, low, high, closing = re.fullmatch(r"([\[(])(.+), (.+)([\])])", interval).groups()
    low, high = float(low), float(high)
    return Rule(lambda value: low <= value <= high and (opening == "[" or value != low)
                and (closing == "]" or value != high), expected or f"a number in {interval}")


POSITIVE = within("(0, inf)", "a finite number above 0")
NOT_NEGATIVE = within("[0, inf)", "a finite number, at least 0")
SHARE = within("[0, 1]", "a share from 0 to 1")
SHARE_BELOW_1 = within("[0, 1)", "a share from 0 up to, not including, 1")
