"""Sweeps that a task makes, each in a process of its own, with what the command line gives to all of them."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from algorithms.common.support.errors import ConfigError

RUN = Path(__file__).resolve().parents[1] / "run.py"
PASSED_ON = ("hydra/launcher", "hydra.launcher", "hydra.searchpath")  # to the sweeps, of what is Hydra's


def check_alone(hydra: Any, task: str, declared: str) -> None:
    """ConfigError for a sweep over the task itself, whose sweeps are declared in its own group."""
    if swept := OmegaConf.select(hydra, "sweeper.params"):
        raise ConfigError(f"hydra.sweeper.params: found a sweep over {', '.join(swept)} with task={task}; expected "
                          f"none: each method's sweep is of its {declared}; fix: leave out the experiment that has it, "
                          "and give what else it sets as data=…, model=…")


def passed_on(overrides: Sequence[str], hydras: Sequence[str], own: Sequence[str]) -> list[str]:
    """What the sweeps are given of the command line: the objective and an experiment too, whose task is theirs not.

    own: keys that the sweeps set themselves; one that ends with a point is all of a group.
    """

    def theirs(override: str) -> bool:
        key = override.lstrip("+~").partition("=")[0]
        return any(key.startswith(one) if one.endswith(".") else key == one for one in own)

    return ["task=run", *(one for one in overrides if not theirs(one)),
            *(one for one in hydras if one.lstrip("+").startswith(PASSED_ON))]


def sweep(given: Sequence[str], common: Sequence[str], folder: Path) -> None:
    """A sweep in a process of its own, which Ctrl-C reaches through this one, and is waited for."""
    process = subprocess.Popen([sys.executable, str(RUN), "-m", *common, *given, f"hydra.sweep.dir={folder}"],
                               start_new_session=True)
    stopped = None
    while process.returncode is None:
        try:
            process.wait()
        except KeyboardInterrupt as stop:
            stopped = stop
            process.send_signal(signal.SIGINT)
    if stopped or process.returncode == 130:
        raise KeyboardInterrupt
    if process.returncode == 2:
        raise ConfigError(f"task: found that the sweep of {folder.name} is refused, see above; expected one that runs; "
                          "fix: as that message says")
