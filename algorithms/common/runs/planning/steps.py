"""A few real steps of a stage in place of the common loop: what they take, and how large a micro-batch fits."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import mean

from ...algorithm import Algorithm, Context
from ...algorithm import Steps as Trainer
from ...support.digests import bytes_below
from ...support.memory import peak_memory_bytes, reset_peak_memory, room_bytes
from ...training.loop import Run, evaluate_loss
from ...training.written import write_report
from .rows import Rows

LONG = 60.0  # seconds of steps after which no further one is taken
FILE = "steps.json"


@dataclass(frozen=True)
class Took:
    """Seconds by the clock, and of all processors."""

    seconds: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Took) -> Took:
        return Took(self.seconds + other.seconds, self.cpu + other.cpu)

    def __sub__(self, other: Took) -> Took:
        return Took(self.seconds - other.seconds, self.cpu - other.cpu)

    def __mul__(self, times: float) -> Took:
        return Took(self.seconds * times, self.cpu * times)

    @classmethod
    def now(cls) -> Took:
        return cls(time.monotonic(), time.process_time())


@dataclass(frozen=True)
class Steps:
    """What parts of training took, and the bytes of memory and disk that they needed."""

    step: Took
    checkpoint: Took
    watching: Took  # held-out losses, once
    begun: Took  # when the steps did
    whole: Took  # of all that was done here
    memory: int  # at the configured micro-batch
    checkpoint_bytes: int
    fits: int | None = None  # the largest micro-batch that does, where the configured one does not; 0: none
    once: Took = Took()  # what another trainer takes to begin and to end

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Steps | None:
        """None of what took no steps."""
        if not (folder / FILE).is_file():
            return None
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls(**{key: Took(**value) if isinstance(value, dict) else value for key, value in told.items()})


class _Batches(Run):
    """A run whose next batch is given."""

    batch: list[int]

    def indices(self, step: int) -> list[int]:
        count = len(self.context.examples)  # a method may learn from fewer than it was given
        return [place % count for place in self.batch]

    def take(self, batch: list[int]) -> Took:
        began, self.batch = Took.now(), batch
        self.advance()
        return Took.now() - began


def take(algorithm: Algorithm, context: Context, *, rows: Rows, trainer: Trainer | None = None) -> None:
    """Steps on these rows; ``context.target`` gets what they took. trainer: takes them in place of the common loop."""
    if trainer is not None:
        _watch(context, rows, trainer)
        return
    every = context.trainer.evaluate_every
    context.trainer = dataclasses.replace(context.trainer, evaluate_every=None)
    device, micro = context.models.device, context.trainer.micro_batch_size
    run = _Batches(algorithm, context)
    run.charge_reference(list(range(len(context.examples))))  # grows with the records, so it is no part of the steps
    if every:
        run.prepare(context.heldout)
    began, before = Took.now(), peak_memory_bytes(device)
    run.batch = rows.typical[0]
    run.check_layout()
    fits, memory = _fitting(run, rows.heaviest, micro, room_bytes(device))
    if fits is not None:
        context.trainer = dataclasses.replace(context.trainer, micro_batch_size=max(fits, 1))
    reset_peak_memory(device)
    times, since = [], time.monotonic()
    if fits != 0:
        run.take(rows.typical[0])  # kernels are chosen, and the optimiser's state is made
        run.take(rows.heaviest)
        for batch in rows.typical:
            times.append(run.take(batch))
            if time.monotonic() - since > LONG:
                break
    watching, checkpoint = Took(), Took.now()
    run.checkpoint()
    size = bytes_below(context.work)
    checkpoint = Took.now() - checkpoint
    if every:
        watching = Took.now()
        evaluate_loss(algorithm, context)
        watching = Took.now() - watching
    algorithm.finish(context)
    step = Took(mean(one.seconds for one in times), mean(one.cpu for one in times)) if times else Took()
    peak = max(memory if fits is not None else 0, before, peak_memory_bytes(device))
    Steps(step, checkpoint, watching, began, Took.now() - began, peak, size, fits).write(context.target)
    write_report(context, run.lines, run.seconds, run.step, run.tokens, sum(p.numel() for p in run.parameters))


def _watch(context: Context, rows: Rows, trainer: Trainer) -> None:
    """What another trainer took for them. Its batches are whole ones, for it may count by their size."""
    began, before = Took.now(), peak_memory_bytes(context.models.device)
    ends: list[Took] = []
    batches = [rows.typical[0], rows.heaviest, *rows.typical]  # as ``take`` does
    size = context.recipe.batch_size
    trainer([list(islice(cycle(batch), size)) for batch in batches], lambda tokens: ends.append(Took.now()))
    whole = Took.now() - began
    steps = [end - start for start, end in zip(ends[1:], ends[2:])]
    step = Took(mean(one.seconds for one in steps), mean(one.cpu for one in steps))
    first = min(ends[0] - began, step, key=lambda took: took.seconds)  # the rest of it is what came before the steps
    peak = max(before, peak_memory_bytes(context.models.device))
    once = whole - first - (ends[-1] - ends[0])
    Steps(step, Took(), Took(), began, whole, peak, 0, once=once).write(context.target)


def _fitting(run: _Batches, heaviest: list[int], micro: int, room: int) -> tuple[int | None, int]:
    """The largest micro-batch that fits, None where the configured one does, and the bytes that that one takes: by
    those of the longest record alone and twice: others of its length need not go through with it (nor need
    the two, where answers are drawn that end apart)."""
    peaks = []
    for count in (1, 2)[:min(micro, len(heaviest))]:
        reset_peak_memory(run.context.models.device)
        run.take(heaviest[:1] * count)
        peaks.append(peak_memory_bytes(run.context.models.device))
    more = max(0, peaks[-1] - peaks[0])
    needed = peaks[0] + more * (min(micro, len(heaviest)) - 1)
    if needed <= room:
        return None, needed
    return (0 if peaks[0] > room else 1 + math.floor((room - peaks[0]) / more)), needed
