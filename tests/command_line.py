"""run.py as a user starts it: within this process (quick; torch is imported already) or in one of its own."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import runpy
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"

# the smallest run that goes through every room
MICRO = ["data=reviews", "data.demonstrations=32", "data.preferences=32", "data.prompts=8", "data.evaluation=8",
         "data.tuning=8", "recipe.steps=2", "recipe.batch_size=4", "eval.prompts=4", "eval.samples=2", "eval.pairs=8",
         "eval.sampling.max_new_tokens=8", "trainer.progress=false", "model.lora.r=4"]
MICRO_DPO = ["algorithm=dpo", *MICRO, "algorithm.needs.reference.recipe.steps=2"]


@dataclass
class Ended:
    """What a command line left: its exit status and what it printed."""

    status: int
    out: str
    err: str


def invoke(*arguments: str, stdin: bytes = b"", script: Path = ROOT / "run.py") -> Ended:
    """``python run.py ARGUMENTS…`` within this process; an exception that would end in a traceback is raised."""
    from benchmarks import report

    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.argv, sys.stdin, dict(os.environ), report.exit_code
    out, err = io.StringIO(), io.StringIO()
    sys.argv, sys.stdin, report.exit_code = [script.name, *arguments], io.TextIOWrapper(io.BytesIO(stdin), "utf-8"), 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            runpy.run_path(str(script), run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    finally:
        for handler in root.handlers:
            if handler not in before[0]:
                handler.close()
        root.handlers[:], sys.argv, sys.stdin, report.exit_code = before[0], before[2], before[3], before[5]
        root.setLevel(before[1])
        os.environ.clear()
        os.environ.update(before[4])
        GlobalHydra.instance().clear()
    return Ended(status, out.getvalue(), err.getvalue())


def run_python(*arguments: str, **environment: str) -> Ended:
    """A Python process of its own, started in the project's folder."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), **environment})
    return Ended(done.returncode, done.stdout, done.stderr)


@cache
def _composed(file: str, overrides: tuple[str, ...], hydra: bool = False) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(file, overrides=list(overrides), return_hydra_config=hydra)


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    """One job's config, a copy of one's own; without Hydra's part unless it is asked for."""
    return copy.deepcopy(_composed("config", overrides, hydra))


def composed_alone(group: str, choice: str, *overrides: str) -> DictConfig:
    """One choice, without the other groups."""
    return copy.deepcopy(_composed(f"{group}/{choice}", overrides)[group])


def job_overrides(*arguments: str) -> list[list[str]]:
    """The jobs that a command line stands for, as Hydra's own sweeper cuts it; a plain run is one job."""
    single = [argument for argument in arguments if argument not in ("-m", "--multirun")]
    parser = OverridesParser.create()
    first = [item for item in single if not parser.parse_override(item).is_sweep_override()]
    hydra = composed(*first, hydra=True).hydra
    mode, sweeps = OmegaConf.select(hydra, "mode"), len(single) < len(arguments)
    if mode is None and not sweeps or str(mode).endswith("RunMode.RUN"):
        return [single]
    params = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides([*params, *single]), None)
    return jobs


def objects_of(job: list[str]) -> list[str]:
    """The overrides that choose a job's objects: neither its seed nor Hydra's own part does."""
    return [item for item in job if not item.startswith(("seed=", "hydra."))]


def choices(group: str) -> list[str]:
    """A group's choices, those in its folders too."""
    folder = CONF / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
