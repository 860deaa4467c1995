"""How long the parts of a training step take."""

from __future__ import annotations

import time

import torch


class Clock:
    """Seconds between laps, each taken when a GPU has done its work."""

    def __init__(self):
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now
