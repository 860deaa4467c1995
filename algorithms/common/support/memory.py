"""Memory: the peak of a stretch of work, giving it back between jobs, and running out of it as one error."""

from __future__ import annotations

import gc
import resource
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import torch

from .errors import TrainingError

_EXHAUSTED = ("can't allocate memory", "out of memory", "ALLOC_FAILED")  # the CPU's allocator, CUDA, its libraries
_PROCESS = Path("/proc/self")


def reset_peak_memory(device: torch.device) -> None:
    """What ``peak_memory_bytes`` tells counts from here on: on CUDA, and on Linux by its high-water mark (proc(5)).

    Elsewhere, or where the mark cannot be written, the process's peak so far stays in the figure.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        pass


def peak_memory_bytes(device: torch.device) -> int:
    """The most bytes in use since ``reset_peak_memory``: tensors on CUDA, else the whole process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        for line in (_PROCESS / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def room_bytes(device: torch.device) -> int:
    """All the memory that there is: the device's, or of the machine's what nothing else uses now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (free,) = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        return free + int((_PROCESS / "statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, ValueError):
        return sys.maxsize


def release() -> None:
    """Free what nothing names any more: models and their roles name each other, so they wait for the collector."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def released() -> Iterator[None]:
    """Free on entry what a failed predecessor's traceback held, and on leaving what was made inside."""
    release()
    try:
        yield
    finally:
        release()


@contextmanager
def no_memory_explained(explain: Callable[[str], str]) -> Iterator[None]:
    """Running out of memory, as a TrainingError with the text that ``explain`` makes of what the allocator told."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and not any(mark in str(error) for mark in _EXHAUSTED):
            raise
        told = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise TrainingError(explain(told)) from error
