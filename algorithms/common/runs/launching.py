"""Hydra's launchers, none of which ends a sweep before its time: jobs lost to one are rows, those it never came to too.

A launcher raises at the first worker that is lost: joblib's takes the others down, submitit's leaves them to
themselves. Here jobs that were taken down, or never began, are launched again, a lost one once; submitit's are all
waited for. Jobs on one machine share its cores. Ctrl-C stops jobs where they can go on.

    {sweep}/sweep.json   the jobs that it was asked for: number, algorithm, seed, overrides
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from ..support.errors import ConfigError
from ..support.secrets import Mask
from . import jobs

log = logging.getLogger("sweep")

SWEEP = "sweep.json"
TRIES = 2  # of a job whose process was lost with nobody to say why
SCRATCH = ".plan"  # what the jobs of a sweep with task=plan rehearse in
TURN = ".sweeping"  # held by the process whose sweep a folder is
PATIENCE = 30.0  # seconds for a job to write its checkpoint, before it is killed
THREADS = "OMP_NUM_THREADS"
begun: list[Path] = []  # the sweep of this process, once a launcher was asked for jobs
_turns: dict[Path, FileLock] = {}  # of this process


def guard_launchers() -> None:
    """From here on Hydra's launchers are `Guarded`: it has no place of its own where one is chosen."""
    begun.clear()
    while _turns:
        _turns.popitem()[1].release(force=True)
    plain = Plugins.instantiate_launcher
    if getattr(plain, "guards", False):
        return

    def instantiate_launcher(self: Plugins, hydra_context: Any, task_function: Any, config: DictConfig) -> Launcher:
        check_sweeper(config)
        launcher = plain(self, hydra_context=hydra_context, task_function=task_function, config=config)
        return Guarded(launcher, config)

    instantiate_launcher.guards = True
    Plugins.instantiate_launcher = instantiate_launcher


def check_sweeper(config: DictConfig) -> None:
    """ConfigError where what chooses settings would see the prompts that the table reports."""
    chosen = config.hydra.runtime.choices
    if chosen.get("hydra/sweeper") == "basic" or chosen.get("task") != "run" or config.eval.split != "evaluation":
        return
    tuning = " data.tuning=0.1" if config.data.get("tuning") == 0 else ""
    raise ConfigError(f"eval.split: found evaluation with hydra/sweeper={chosen['hydra/sweeper']}, which chooses "
                      "settings by what it sees; expected prompts that no table reports; "
                      f"fix: eval.split=tuning{tuning}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _joblib(options: DictConfig) -> int:
    return options.n_jobs if options.n_jobs > 0 else max(1, _cores() + 1 + options.n_jobs)


def _submitit_local(options: DictConfig) -> int:
    return max(1, _cores() // (options.cpus_per_task or 1))


AT_ONCE: dict[str, Callable[[DictConfig], int]] = {  # how many jobs share this machine; others know it themselves
    "basic": lambda options: 1, "joblib": _joblib, "submitit_local": _submitit_local}
ALL_AT_ONCE = ("submitit_local",)  # what starts all jobs that it is given, whatever the cores


class Guarded(Launcher):
    """A launcher whose jobs all come back, finished or lost."""

    def __init__(self, launcher: Launcher, config: DictConfig):
        self.inner, self.config, self.folder = launcher, config, Path(str(config.hydra.sweep.dir))
        self.name = str(config.hydra.runtime.choices.get("hydra/launcher"))

    def setup(self, **kwargs: Any) -> None:
        """Nothing: the launcher was set up by who made it."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        asked = {number: list(overrides) for number, overrides in enumerate(job_overrides, initial_job_idx)}
        count = AT_ONCE[self.name](self.config.hydra.launcher) if self.name in AT_ONCE else len(asked)
        take_turn(self.folder)
        note(self.folder, self.config, asked, anew=initial_job_idx == 0, at_once=min(count, len(asked)))
        begun[:] = [self.folder]
        returned: dict[int, JobReturn] = {}
        wave = count if self.name in ALL_AT_ONCE else len(asked)
        with (self._threads(min(count, len(asked))), _gone(self.folder / SCRATCH), self._stoppable() as stopping,
              _waited(self.inner) as submitted):
            self._submitted = submitted
            for start in range(initial_job_idx, initial_job_idx + len(asked), wave):
                if not stopping:
                    self._run({n: asked[n] for n in range(start, start + wave) if n in asked}, returned, stopping)
        if stopping:
            raise KeyboardInterrupt("the sweep was stopped")
        return [returned.get(number) or _lost() for number in asked]

    def _run(self, asked: Mapping[int, list[str]], returned: dict[int, JobReturn], stopping: list) -> None:
        """Launch these jobs until each has ended, was lost `TRIES` times, or a launch began none."""
        left, tries = list(asked), Counter()
        while left and not stopping:
            for number, (folder, _) in jobs.marks(self.folder).items():
                if number in left:
                    (folder / jobs.MARK).unlink(missing_ok=True)
            raised = None
            for block in _blocks(left):
                try:
                    results = self.inner.launch([asked[number] for number in block], initial_job_idx=block[0])
                    returned.update(zip(block, results))
                except Exception as error:
                    raised = error
            began = {number: folder for number, (folder, _) in jobs.marks(self.folder).items() if number in left}
            _wait_for(began.values())
            tries.update(list(began))
            if raised is None:
                return
            if not began:
                raise raised
            log.error("%s: %s: %s", self.name, type(raised).__name__, str(raised).partition("\n")[0])
            left = [number for number in left if number not in returned
                    and not (number in began and jobs.ended(began[number])) and tries[number] < TRIES]
            if left and not stopping:
                log.warning("jobs that it did not finish are launched again: %s", ", ".join(f"#{one}" for one in left))

    @contextmanager
    def _threads(self, count: int) -> Iterator[None]:
        """Each of `count` jobs gets its share of the cores, where nobody says how many."""
        if self.name not in AT_ONCE or count == 1 or THREADS in os.environ:
            yield
            return
        os.environ[THREADS] = str(max(1, _cores() // count))
        try:
            yield
        finally:
            del os.environ[THREADS]

    @contextmanager
    def _stoppable(self) -> Iterator[list[int]]:
        """The first Ctrl-C, or kill, asks the jobs to stop, and none to begin; the second interrupts at once. Nothing
        is left running. A job in this very process is interrupted by itself, by a kill as by Ctrl-C."""
        (self.folder / jobs.STOPPING).unlink(missing_ok=True)
        stopping: list[int] = []
        if threading.current_thread() is not threading.main_thread():
            yield stopping
            return
        if self.name == "basic":
            before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
            try:
                yield stopping
            finally:
                signal.signal(signal.SIGTERM, before)
            return

        def handler(signum, frame):
            if stopping:
                raise KeyboardInterrupt
            stopping.append(signum)
            (self.folder / jobs.STOPPING).touch()
            print("\nstopping: jobs write their checkpoints (Ctrl-C again kills them)", file=sys.stderr)
            self._signal(signal.SIGTERM)
            for job in self._submitted:
                job.stop()

        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield stopping
        except BaseException:
            self._signal(signal.SIGTERM)
            _wait_for([folder for folder, _ in self._alive()], 0 if stopping else PATIENCE)
            self._signal(signal.SIGKILL)
            raise
        finally:
            for number, earlier in before.items():
                signal.signal(number, earlier)

    def _alive(self) -> list[tuple[Path, dict]]:
        return [one for one in jobs.marks(self.folder).values() if "ended" not in one[1] and jobs.alive(one[0])]

    def _signal(self, number: int) -> None:
        for _, told in self._alive():
            if told.get("host") == platform.node():
                try:
                    os.kill(told["pid"], number)
                except ProcessLookupError:
                    pass


def take_turn(folder: Path) -> None:
    """Make a sweep's folder this process's own, until it ends. ConfigError where it is another's."""
    if folder in _turns:
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / TURN)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"hydra.sweep.dir: found another sweep running in {folder}; expected a folder of this "
                          "sweep's own; fix: wait until that one has ended, or hydra.sweep.dir=OTHER") from None
    _turns[folder] = lock


@contextmanager
def _gone(folder: Path) -> Iterator[None]:
    """Whatever happens meanwhile, there is no such folder after it."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def note(folder: Path, config: DictConfig, asked: Mapping[int, list[str]], anew: bool, at_once: int) -> None:
    """Write down which jobs were asked for; those of an earlier batch of the same sweep stay, unless it begins anew."""
    folder.mkdir(parents=True, exist_ok=True)
    path, chosen = folder / SWEEP, config.hydra.runtime.choices
    told = {"task": chosen.get("task"), "launcher": chosen.get("hydra/launcher"), "at_once": at_once,
            "trials": OmegaConf.select(config, "hydra.sweeper.n_trials"), "jobs": []}
    if not anew and path.is_file():
        told["jobs"] = json.loads(path.read_text(encoding="utf-8"))["jobs"]
    mask = Mask(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
    for number, overrides in asked.items():
        given = dict(one.lstrip("+").partition("=")[::2] for one in overrides)
        told["jobs"].append({"num": number, "algorithm": given.get("algorithm", chosen.get("algorithm")),
                             "seed": given.get("seed", config.get("seed")),
                             "overrides": [mask.override(one) for one in overrides]})
    temporary = path.with_name(f".{SWEEP}.writing")
    temporary.write_text(json.dumps(told, default=str), encoding="utf-8")
    temporary.replace(path)


def asked_for(folder: Path) -> list[int]:
    """The numbers of the jobs that a folder's last sweep asked for."""
    path = folder / SWEEP
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"jobs": []}
    return sorted(one["num"] for one in told["jobs"])


def _blocks(numbers: Sequence[int]) -> list[list[int]]:
    """Runs of numbers without a gap: a launcher counts its jobs on from the first."""
    blocks: list[list[int]] = []
    for number in numbers:
        if blocks and blocks[-1][-1] == number - 1:
            blocks[-1].append(number)
        else:
            blocks.append([number])
    return blocks


def _wait_for(folders: Sequence[Path], seconds: float = float("inf")) -> None:
    """Until no job in these folders has a process, or so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(jobs.alive(folder) for folder in folders):
        time.sleep(0.2)


def _lost() -> JobReturn:
    """What a sweeper gets of a job that came to nothing: no value, and no error that would end the sweep."""
    return JobReturn(status=JobStatus.COMPLETED)


class _Submitted:
    """A job of submitit that is waited for, whatever became of it."""

    def __init__(self, job: Any):
        self.job, self.taken = job, False

    def results(self) -> list[JobReturn]:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        while not (self.taken or self.job.done()):
            time.sleep(1)
        if self.taken:  # a cluster that keeps no accounts of ended jobs would never say that it is done
            return [_lost()]
        try:
            return self.job.results()
        except (FailedJobError, UncompletedJobError) as error:
            log.error("job %s: %s", self.job.job_id, str(error).splitlines()[0])
            return [_lost()]

    def stop(self) -> None:
        """Take it from a cluster's queue; processes of this machine are asked by themselves."""
        if type(self.job).__module__.startswith("submitit.slurm"):
            self.job.cancel(check=False)
            self.taken = True


@contextmanager
def _waited(launcher: Launcher) -> Iterator[list[_Submitted]]:
    """The jobs that submitit is given meanwhile; its launcher would leave the others at the first that is lost."""
    submitted: list[_Submitted] = []
    if not type(launcher).__module__.startswith("hydra_plugins.hydra_submitit_launcher"):
        yield submitted
        return
    from submitit import AutoExecutor

    plain = AutoExecutor.map_array

    def map_array(self: AutoExecutor, function: Any, *arguments: Any) -> list[_Submitted]:
        submitted.extend(new := [_Submitted(job) for job in plain(self, function, *arguments)])
        return new

    AutoExecutor.map_array = map_array
    try:
        yield submitted
    finally:
        AutoExecutor.map_array = plain
