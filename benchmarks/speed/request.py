"""What one side is asked to do in its own process, and what it answers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BATCH = 8  # records of an optimiser step, on every side
RATE = 1e-3  # high, so that what is computed otherwise soon shows in the losses
BETA = 0.5  # of DPO
CENTERING = 0.01  # of reward models
MOST_NEW = 48  # tokens that any kind samples for a response
PARITY_STEPS = 6  # whose values are compared, where a kind does not say otherwise


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt and of a response: from, to."""

    prompt: tuple[int, int] = (64, 192)
    response: tuple[int, int] = (16, 96)

    @classmethod
    def read(cls, prompt: str, response: str) -> Lengths:
        """From FIRST-LAST each; ValueError where it is none."""
        pairs = []
        for text in (prompt, response):
            first, last = map(int, text.split("-"))
            if not 0 < first <= last:
                raise ValueError(text)
            pairs.append((first, last))
        return cls(*pairs)

    def hold(self, prompt: int, shorter: int, longer: int) -> bool:
        """Whether a prompt and two responses of so many tokens have these lengths."""
        return self.prompt[0] <= prompt <= self.prompt[1] and self.response[0] <= shorter <= longer <= self.response[1]

    @property
    def longest_prompt(self) -> int:
        """Room for each of them, nothing is cut."""
        return self.prompt[1] + 8

    @property
    def longest(self) -> int:
        return self.longest_prompt + max(self.response[1], MOST_NEW) + 8

    @property
    def texts(self) -> tuple[str, str]:
        """As they are read."""
        return tuple(f"{first}-{last}" for first, last in (self.prompt, self.response))


@dataclass(frozen=True)
class Request:
    """One run of one side."""

    what: str
    side: str
    size: str  # of ``random_models.SHAPES``
    device: str  # cpu | cuda
    precision: str  # fp32 | bf16: what products are computed in; weights are fp32
    steps: int
    folder: str  # what ``prepare`` made: base, adapters, data
    work: str  # empty, this run's own
    option: dict[str, Any] = field(default_factory=dict)  # the side's settings
    parity: bool = False  # run for its values rather than its time
    python: str = ""  # the interpreter of a side that lives in another environment
    lengths: Lengths = Lengths()  # of the texts
    data: str = ""  # the file that they are of; random words without one

    @classmethod
    def read(cls, text: str) -> Request:
        """From JSON."""
        told = json.loads(text)
        return cls(**{**told, "lengths": Lengths(**{key: tuple(pair) for key, pair in told["lengths"].items()})})

    @property
    def base(self) -> Path:
        return Path(self.folder) / "base"


@dataclass
class Answer:
    """``values`` are compared between the sides; the rest is of what stands inside ``watched``."""

    values: list[float] = field(default_factory=list)
    items: int = 0  # what the time is divided by
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of this process and of those it has started and ended
    device_bytes: int = 0  # the most that was allocated on a GPU, weights included

    @contextmanager
    def watched(self, device: str) -> Iterator[None]:
        """Time what stands inside."""
        _wait(device)
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        began, used = time.monotonic(), cpu_seconds()
        yield
        _wait(device)
        self.seconds += time.monotonic() - began
        self.cpu_seconds += cpu_seconds() - used
        if device == "cuda":
            self.device_bytes = max(self.device_bytes, torch.cuda.max_memory_allocated())


@dataclass(frozen=True)
class Kind:
    """One kind of measurement, where a module gives several; a module that gives one has the same names."""

    UNIT: str  # of ``Answer.items``
    SIDES: dict[str, Callable[[Request], Answer]]  # ours, and the other
    OPTIONS: dict[str, list[dict]] = field(default_factory=dict)  # by side: the settings that are tried
    COMPARED: bool = True  # whether the sides have values to compare
    EXACT: bool = False  # whether they must be equal to the last digit, as tokens must
    PARITY: int = PARITY_STEPS
    SEARCHED: float = 0.5  # share of the steps that the search for settings takes


def cpu_seconds() -> float:
    return sum(os.times()[:4])


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
