"""One job of a sweep, whoever launched it: its mark in its folder, a process of its own, and the value that it returns.

    {job}/job.json      number, process, host, when it began and ended, and what it is at (``support/progress.py``)
    {job}/.running      held for as long as its process lives: the kernel drops a lock however a process dies
    {sweep}/.stopping   the sweep is being stopped: jobs that begin after it do nothing

A launcher's worker that is killed takes other jobs with it. So on Linux it only waits, and the job runs in a child:
what kills the child (no memory left, a crash in native code, a signal) costs this one job, and no child outlives its
worker.
"""

from __future__ import annotations

import ctypes
import difflib
import json
import logging
import math
import os
import platform
import re
import signal
import sys
import traceback
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..support import progress
from ..support.errors import ConfigError

log = logging.getLogger(__name__)

MARK, LOCK, STOPPING, RESULT = "job.json", ".running", ".stopping", "result.json"
OBJECTIVES = ("reward/gold", "score/auditor")  # where none is named, the first that a run has
FIGURES = (*OBJECTIVES, "reward/proxy", "win_rate/sft", "win_rate/base", "win_rate_data/gold", "win_rate/auditor",
           "proxy_win_rate/sft", "proxy_win_rate/base", "proxy_win_rate/data", "kl/k1", "kl/exact", "length/mean",
           "eos_rate", "distinct_2", "perplexity/heldout", "perplexity/texts", "accuracy/heldout",
           "accuracy/chosen_longer", "accuracy/chosen_shorter", "accuracy/gold", "accuracy/auditor",
           "calibration/error")  # of any method
# after a figure's name: what it gained on the start, a point of best-of-n's curve, one source of a mixture
VARIANT = re.compile(r"|_minus_sft|_minus_base|@\d+|/.+")
FORKS = sys.platform == "linux"
_DEATHSIG = 1  # prctl's PR_SET_PDEATHSIG


@contextmanager
def running(folder: Path, number: int) -> Iterator[None]:
    """While a job runs: its mark and its lock. What an earlier try left as its result does not stand for this one."""
    with FileLock(folder / LOCK):
        (folder / RESULT).unlink(missing_ok=True)
        progress.begin(folder / MARK, num=number, pid=os.getpid(), host=platform.node())
        try:
            yield
        finally:
            progress.end()


def alive(folder: Path) -> bool:
    """Whether a job's process is there, on this machine or on another that shares the folder."""
    if not (folder / LOCK).exists():
        return False
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def marks(sweep: Path) -> dict[int, tuple[Path, dict]]:
    """The jobs of a sweep that have begun, by number: folder and mark."""
    found = {}
    for path in sweep.rglob(MARK):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            found[told["num"]] = path.parent, told
        except (OSError, ValueError, KeyError, TypeError):  # replaced or removed at this moment
            continue
    return found


def ended(folder: Path) -> bool:
    return (folder / RESULT).is_file()


def apart(job: Callable[[], None]) -> str | None:
    """Run a job in a child process; returns how it was killed, None where it ended by itself.

    The child is stopped as by Ctrl-C, once, when it is asked to (SIGTERM) and when this process dies; the terminal's
    own Ctrl-C reaches neither: whoever launched the jobs passes it on.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    parent, before = os.getpid(), signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = os.fork()
    if not child:
        _as_child(job, parent)
    try:
        _, status = os.waitpid(child, 0)
    finally:
        signal.signal(signal.SIGINT, before)
    if os.WIFSIGNALED(status):
        return f"its process was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return None


def _as_child(job: Callable[[], None], parent: int) -> None:
    status, asked = 1, []

    def stop(signum, frame):
        if not asked:
            asked.append(signum)
            signal.raise_signal(signal.SIGINT)

    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))  # Ray's workers block one of them
        ctypes.CDLL(None).prctl(_DEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() == parent:  # else it died before it could be watched
            job()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)  # what the worker registered for its own end is not the child's to do


def check_objective(name: str | None, gold: bool, audited: bool, proxy: bool, others: bool = True) -> None:
    """ConfigError, before anything is trained, for a figure that such a run does not have; others: see below."""
    check_figure(name, others)
    lacking = {"gold": (gold, "data=reviews, or a reward that is taken for the truth: +reward@data.gold=function"),
               "auditor": (audited, "comparisons for an auditor: data.audit=0.2"), "proxy": (proxy, "eval.proxy=true")}
    for part, (there, fix) in lacking.items():
        if name is not None and part in name.split("/")[-1] and not there:
            raise ConfigError(f"objective: found {name}, which these runs do not have; expected a figure that they "
                              f"have; fix: {fix}")


def check_figure(name: str | None, others: bool) -> None:
    """ConfigError for the name of no figure; others: whether a method or the data may have figures of its own, whose
    names are known once they are measured: then what is nearly a common one's is refused."""
    if name is None or any(name.startswith(one) and VARIANT.fullmatch(name.removeprefix(one)) for one in FIGURES):
        return
    near = difflib.get_close_matches(name, FIGURES, 1, 0.85 if others else 0.0)
    if near and not (others and name.startswith("accuracy/")):  # groups of questions are called as one likes
        raise ConfigError(f"objective: found {name}, which is no figure; expected one that the runs have, of "
                          f"{', '.join(FIGURES)}; fix: objective={near[0]}")


def headline(name: str | None, figures: Container[str]) -> str | None:
    """The one of a run's figures that it is judged by: that which is asked for, or the first of ``OBJECTIVES``."""
    return next((one for one in (OBJECTIVES if name is None else (name,)) if one in figures), None)


def objective(folder: Path, name: str | None) -> float | None:
    """The mean of the figure that a sweeper goes by; None of a job that failed, or that has no such figure."""
    try:
        told = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    figures = told.get("evaluation") or {}
    chosen = headline(name, figures)
    if chosen is None and told.get("status") == "complete":
        log.warning("objective: found no %s in %s; it has %s", name or " and no ".join(OBJECTIVES), folder / RESULT,
                    ", ".join(figures) or "no figures")
    value = figures[chosen]["mean"] if chosen else math.nan
    return value if math.isfinite(value) else None
