"""How far a long phase has come: a bar with what is left on a terminal, elsewhere a line every half minute.

    with progress("reference pass", rows, "rows") as advance:
        advance(8)

Nothing is shown of what takes less than two seconds.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection, Iterator, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

from .terminal import IN_SWEEPS

log = logging.getLogger(__name__)

SILENT = 2.0  # seconds of a phase of which nothing is shown
EVERY = 30.0  # seconds between two lines where there is no terminal
BAR = "{l_bar}{bar}| {n:.{digits}f}/{total_fmt} {unit} [{elapsed}<{remaining}{postfix}]"
_shown: ContextVar[bool] = ContextVar("progress is shown", default=True)


class Phase:
    """A phase of ``total`` units, of which ``done`` were done before; called with how many more are."""

    def __init__(self, what: str, total: float, unit: str, done: float = 0, digits: int = 0):
        self.what, self.total, self.unit, self.done, self.note = what, total, unit, done, ""
        self._digits, self._before, self._began = digits, done, time.monotonic()
        self._spoke = self._began
        self._bar = None
        if _shown.get() and sys.stderr.isatty():
            layout = BAR.replace("{digits}", str(digits)).replace("{unit}", unit)
            self._bar = tqdm(total=total, initial=done, desc=what, bar_format=layout, delay=SILENT, mininterval=0.5,
                             leave=False, file=sys.stderr)

    def __call__(self, more: float = 1) -> None:
        self.done = min(self.done + more, self.total)
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(self.done - self._bar.n)
        elif _shown.get() and self.done < self.total and time.monotonic() - self._spoke >= EVERY:
            self._spoke = time.monotonic()
            log.info("%s", self.line(), extra=IN_SWEEPS)

    def line(self) -> str:
        """Where it is, in words."""
        note = f", {self.note}" if self.note else ""
        return (f"{self.what}: {self.done:,.{self._digits}f} of {self.total:,g} {self.unit}{note}, "
                f"{tqdm.format_interval(self.left())} left")

    def left(self) -> float:
        """Seconds that the rest takes at the pace of what is done."""
        since = self.done - self._before
        return (time.monotonic() - self._began) * (self.total - self.done) / since if since else 0.0

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress(what: str, total: float, unit: str, done: float = 0, digits: int = 0) -> Iterator[Phase]:
    """A phase that is shown while it lasts; ``digits``: behind the point, of units that are counted in parts."""
    phase = Phase(what, total, unit, done, digits)
    try:
        yield phase
    finally:
        phase.close()


@contextmanager
def shown(flag: bool) -> Iterator[None]:
    """Whether phases are shown at all."""
    token = _shown.set(flag)
    try:
        yield
    finally:
        _shown.reset(token)


def parts_of(items: Sequence, size: int) -> list[Sequence]:
    """In their order, ``size`` at once."""
    return [items[start:start + size] for start in range(0, len(items), size)]


def in_parts(what: str, parts: Collection[Sized], unit: str) -> Iterator[Sized]:
    """The parts one by one, as a phase of as many units as they have."""
    with progress(what, sum(map(len, parts)), unit) as advance:
        for part in parts:
            yield part
            advance(len(part))
