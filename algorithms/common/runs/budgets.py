"""A budget of tokens or seconds becomes a number of steps, once, before training: so that the schedule of the learning
rate knows its end, a stage's key holds what was trained, and a run that was killed goes on to the same numbers.

A row is charged what the stages it stands on took, and what it takes before its steps. What the steps that were
measured do not tell, such as answers that grow longer while training, stays as a spread between rows, which the table
states.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from typing import Any

from ..algorithm import Algorithm, Recipe
from ..support.errors import ConfigError
from .settings import Budget
from .stages import Bench

log = logging.getLogger(__name__)
SPENT = {"tokens": ("tokens_trained", "tokens_sampled"), "seconds": ("seconds",)}  # of a cost, that add up to a budget


@dataclass(frozen=True)
class Steps:
    """How many a budget buys, and what it was found from, in the budget's unit."""

    steps: int
    beneath: float  # what the stages that it stands on took
    per_step: float
    per_record: float  # before the first step, of each record that training sees

    @classmethod
    def within(
        cls, amount: float, beneath: float, per_step: float, per_record: float, batch: int, records: int
    ) -> "Steps":
        """As many as ``amount`` allows, ``batch`` of ``records`` each; none where it does not allow one."""
        left = (amount - beneath) * (1 + 1e-12)  # a whole number of steps is not lost to rounding
        steps = left / (per_step + per_record * batch)
        if steps * batch > records:  # all are seen: a further step meets none for the first time
            steps = max(records / batch, (left - per_record * records) / per_step)
        return cls(max(0, math.floor(steps)), beneath, per_step, per_record)


def as_steps(
    bench: Bench, algorithm: Algorithm, recipe: Recipe, budget: Budget, name: str
) -> tuple[Recipe, Steps | None]:
    """The recipe with the steps that a budget of tokens or seconds allows; as it is, and None, where no such budget is
    set, or the method takes no steps (what it takes is spent when it answers)."""
    if budget.amount is None or algorithm.works_when_asked:
        return recipe, None
    unit, spent = budget.equal, bench.cost_beneath(algorithm)
    pace, records = bench.pace(algorithm, recipe, name), len(bench.view(algorithm.view)[0])
    beneath = sum(spent[key] for key in SPENT[unit])
    rates = getattr(pace, f"{unit}_per_step"), getattr(pace, f"{unit}_per_record")
    found = Steps.within(budget.amount, beneath, *rates, recipe.batch_size, records)
    if not found.steps:
        least = math.ceil(beneath + rates[0] + rates[1] * min(recipe.batch_size, records))
        raise ConfigError(f"budget.amount: found {_number(budget.amount)} {unit}; expected at least {least:,}, of "
                          f"which the stages that {name} stands on took {beneath:,.0f} and the rest is one step; "
                          f"fix: budget.amount={least}")
    log.info("%s: %s %s are %d steps (about %s each; %s for what it stands on)", name, _number(budget.amount), unit,
             found.steps, _number(round(found.per_step, 3)), f"{beneath:,.0f}")
    if recipe.steps is not None:
        log.warning("recipe.steps: found %s with budget.amount, which pays for %s, and so many are taken; expected one "
                    "of the two; fix: leave out recipe.steps, or budget.amount",
                    f"{recipe.steps:,}", f"{found.steps:,}")
    return dataclasses.replace(recipe, steps=found.steps), found


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount == int(amount) else f"{amount:,}"


def told(budget: Budget) -> dict[str, Any]:
    """For result.json: what is held equal, and how much of it."""
    return {"equal": budget.equal, **({} if budget.amount is None else {"amount": budget.amount})}


def priced(cost: dict[str, Any], price: float | None) -> dict[str, Any]:
    """With the money that its seconds took, and its stages' theirs, at so much an hour; as it is without a price."""
    if price is None:
        return cost
    stages = {role: priced(stage, price) for role, stage in cost["stages"].items()}
    return {**cost, "money": cost["seconds"] / 3600 * price, "stages": stages}
