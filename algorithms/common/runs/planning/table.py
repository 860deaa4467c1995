"""A plan in words: a line a stage, the sum, what does not fit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from .rehearsal import Part
from .steps import Took

HEADER = ("", "records", "tokens", "steps", "truncated", "time", "CPU time", "memory", "disk")


@dataclass
class Before:
    """When a job's plan began."""

    at: Took

    def rest(self, rehearsed: Took) -> Took:
        """What this job took beside what was rehearsed: starting, reading, tokenising, loading the model."""
        return Took.now() - self.at - rehearsed


_STARTED: list[Took] = []


def so_far() -> Before:
    """The first job is charged what starting the process took, by its processors."""
    now = Took.now()
    if _STARTED:
        return Before(now)
    _STARTED.append(now)
    return Before(Took(now.seconds - now.cpu, 0.0))


@dataclass
class Plan:
    """What one job will take."""

    parts: list[Part]
    rest: Took  # starting, reading, loading
    price_per_hour: float | None
    room: int  # bytes of memory that there are
    device: str

    total: ClassVar[Took] = Took()  # of the jobs of this process
    jobs: ClassVar[int] = 0

    @property
    def took(self) -> Took:
        return sum((part.took for part in self.parts), self.rest)

    @property
    def memory(self) -> int:
        return max((part.memory for part in self.parts), default=0)

    def text(self, name: str) -> str:
        Plan.total, Plan.jobs = Plan.total + self.took, Plan.jobs + 1
        rows = [HEADER, *map(_row, self.parts), _numbers("starting, reading, loading", self.rest)]
        rows.append(_numbers("in all", self.took, self.memory, sum(part.disk for part in self.parts)))
        widths = [max(map(len, column)) for column in zip(*rows)]
        cells = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
        lines = ["  ".join(row).rstrip() for row in cells]
        lines.insert(-1, "─" * len(lines[0]))
        told = f"plan of {name}, of a few real steps of each stage on {self.device}; nothing of them is kept"
        lines = [told, "", *lines, ""]
        lines += self._unfit()
        if self.price_per_hour is not None:
            money = self.took.seconds / 3600 * self.price_per_hour
            lines.append(f"money: {money:,.4f} at {self.price_per_hour:g} an hour")
        if Plan.jobs > 1:
            both = f"{_time(Plan.total.seconds)}, {_time(Plan.total.cpu)} of CPU"
            lines.append(f"the {Plan.jobs} jobs so far: {both}; what an earlier one makes is used again")
        return "\n".join(lines)

    def _unfit(self) -> list[str]:
        found = []
        for part in self.parts:
            if part.fits is not None:
                fix = (f"trainer.micro_batch_size={part.fits}, the largest that does" if part.fits else
                       "a smaller model.max_length, or model.gradient_checkpointing=true")
                found.append(f"{part.name} does not fit: trainer.micro_batch_size={part.micro} needs "
                             f"{_bytes(part.memory)} of {_bytes(self.room)}; fix: {fix}")
        return found


def _row(part: Part) -> tuple[str, ...]:
    counts = ["" if count is None else f"{count:,}"
              for count in (part.records, part.tokens, part.steps, part.truncated)]
    if part.kept:
        return (f"{part.name} (kept, used again)", *counts, "", "", "", "")
    return (part.name, *counts, *_numbers("", part.took, part.memory, part.disk)[5:])


def _numbers(name: str, took: Took, memory: int = 0, disk: int = 0) -> tuple[str, ...]:
    sizes = (_bytes(size) if size else "" for size in (memory, disk))
    return (name, "", "", "", "", _time(took.seconds), _time(took.cpu), *sizes)


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds < 86_400 else f"{seconds / 86_400:.1f} days"


def _bytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
