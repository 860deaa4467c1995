"""What a few steps of training take, before any is kept: a budget is turned into a number of steps by it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median

from ..algorithm import Algorithm, Context, Steps
from .loop import Run, walk

STEPS = 6  # the first of them is no measure of time: memory is allocated and kernels are chosen in it
FILE = "pace.json"


@dataclass(frozen=True)
class Pace:
    """Tokens of the policy, trained and sampled, and seconds: of a step, and before the first, of each record that
    training sees at all (candidates, the reference's log-probabilities)."""

    tokens_per_step: float
    seconds_per_step: float
    tokens_per_record: float
    seconds_per_record: float

    @classmethod
    def read(cls, folder: Path) -> "Pace":
        return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))


def measure(algorithm: Algorithm, context: Context, *, asked: int, trainer: Steps | None = None) -> None:
    """Instead of the loop: take the recipe's steps, leave their pace in ``context.target`` and nothing else.

    Held-out losses, which a run may watch, are not in it. asked: records that training was to see, of which a method
    may have made others, or fewer; trainer: takes the steps in place of the common loop.
    """
    context.trainer = replace(context.trainer, evaluate_every=None)
    meter, run = context.meter, None
    if trainer is None:
        run = Run(algorithm, context)
        run.charge_reference(context.visited())  # before the steps: their pace is without it
    before = (meter.tokens_sampled, meter.seconds)
    tokens, seconds = _given(context, trainer) if run is None else _taken(run)
    pace = Pace(mean(tokens), median(seconds[1:]), *(amount / asked for amount in before))
    (context.target / FILE).write_text(json.dumps(asdict(pace)), encoding="utf-8")


def _taken(run: Run) -> tuple[list[int], list[float]]:
    """Tokens and seconds of each step of the common loop."""
    context, tokens, seconds = run.context, [], []
    while run.step < run.total:
        began, spent = time.monotonic(), run.tokens + context.meter.tokens_sampled
        run.advance()
        tokens.append(run.tokens + context.meter.tokens_sampled - spent)
        seconds.append(time.monotonic() - began)
    return tokens, seconds


def _given(context: Context, trainer: Steps) -> tuple[list[int], list[float]]:
    """Tokens and seconds of each step of another trainer; the first one's hold what it took to begin."""
    tokens, ends, sampled = [], [time.monotonic()], [context.meter.tokens_sampled]

    def told(trained: int) -> None:
        sampled.append(context.meter.tokens_sampled)
        tokens.append(trained + sampled[-1] - sampled[-2])
        ends.append(time.monotonic())

    trainer(walk(context), told)
    return tokens, [end - begin for begin, end in zip(ends, ends[1:])]
