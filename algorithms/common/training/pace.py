"""What a few steps of training take, before any is kept: a budget is turned into a number of steps by it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median

from ..algorithm import Algorithm, Context
from .loop import Run

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


def measure(algorithm: Algorithm, context: Context) -> None:
    """Instead of the loop: take the recipe's steps, leave their pace in ``context.target`` and nothing else.

    Held-out losses, which a run may watch, are not in it.
    """
    context.trainer = replace(context.trainer, evaluate_every=None)
    seen, meter = len(context.visited()), context.meter
    before = (meter.tokens_sampled, meter.seconds)
    run, tokens, seconds = Run(algorithm, context), [], []
    while run.step < run.total:
        began, spent = time.monotonic(), run.tokens + meter.tokens_sampled
        run.advance()
        tokens.append(run.tokens + meter.tokens_sampled - spent)
        seconds.append(time.monotonic() - began)
    pace = Pace(mean(tokens), median(seconds[1:]), *(amount / seen for amount in before))
    (context.target / FILE).write_text(json.dumps(asdict(pace)), encoding="utf-8")
