"""Ctrl-C while a stage trains."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import Iterator


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after a checkpoint was written."""


@contextmanager
def deferred_interrupt() -> Iterator[list[bool]]:
    """Ctrl-C sets a flag that the loop reads between steps; a second one interrupts at once."""
    flag = [False]

    def handler(signum, frame):
        if flag[0]:
            raise KeyboardInterrupt
        flag[0] = True
        print("\nfinishing this step, then writing a checkpoint (Ctrl-C again stops at once)", file=sys.stderr)

    try:
        before = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread: interrupts arrive elsewhere
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
