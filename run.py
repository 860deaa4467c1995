"""Compose the config, run the task, nothing else. ``python run.py --help`` explains the groups."""

import contextlib
import functools
import logging
import os
import sys
import traceback
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from algorithms.common.runs import jobs, launching
from algorithms.common.runs.overrides import added_in_vain, explain_overrides, ordered, overruled, unreadable_yaml
from algorithms.common.runs.settings import at_home
from algorithms.common.runs.trial import shrink
from algorithms.common.support.errors import ConfigError, Stopped, UserError, full_disk
from algorithms.common.support.quiet import quieten, without_bars
from algorithms.common.support.terminal import IN_SWEEPS, printable, short

CONF = Path(__file__).resolve().parent / "conf"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# before torch loads: threads that spin while they wait cost 10-50× where another process shares the cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> float | None:
    """A run, or a job of a sweep: that one never raises, and returns the figure that a sweeper which asks goes by."""
    state = HydraConfig.get()
    folder = Path(state.runtime.output_dir)
    if state.mode != RunMode.MULTIRUN:
        work(config)
        return None
    lost = functools.partial(failed, folder, state.runtime.choices["algorithm"], config,
                             OmegaConf.to_container(state.overrides.task, resolve=False))
    job = functools.partial(swept, config, folder, state.job.num)
    if (Path(state.sweep.dir) / jobs.STOPPING).exists():
        lost(Stopped("not started: the sweep was stopped before"), ran=False)
    elif state.runtime.choices["hydra/launcher"] == "basic" or not jobs.FORKS:
        job()
    else:
        config.trainer.progress = False  # bars of jobs beside each other are none; benchmarks.watch shows them all
        if (how := jobs.apart(job)) and not jobs.ended(folder):
            lost(Stopped(f"{how}; the same command goes on from its last checkpoint"), ran=False)
    asked = state.runtime.choices["task"] == "run" and state.runtime.choices["hydra/sweeper"] != "basic"
    return jobs.objective(folder, config.objective) if asked else None


def swept(config: DictConfig, folder: Path, number: int) -> None:
    brief = contextlib.nullcontext() if HydraConfig.get().verbose else short(number)
    with jobs.running(folder, number), brief:
        work(config)


def work(config: DictConfig) -> None:
    state = HydraConfig.get()
    folder = Path(state.runtime.output_dir)
    name = state.runtime.choices["algorithm"]
    overrides = OmegaConf.to_container(state.overrides.task, resolve=False)
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("WORLD_SIZE: found more than one process; expected one; "
                              "fix: start run.py without a launcher")
        if told := added_in_vain(state.runtime.choices, config, list(state.overrides.hydra)):
            raise ConfigError(told)
        folders = [Path(source.path) for source in state.runtime.config_sources if source.schema == "file"]
        for told in overruled(state.runtime.choices, folders, overrides):
            logging.getLogger("run").warning("%s", told)
        at_home(config)
        if not (config.trainer.progress and sys.stderr.isatty()):  # in a file bars are lines without end
            without_bars()
        if config.trial:
            shrink(config)
        get_method(config.task._target_)(config, name, folder, overrides)
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        if state.mode == RunMode.MULTIRUN:
            loaded = "torch" in sys.modules  # its import ends the process where an earlier one was interrupted
            failed(folder, name, config, overrides, Stopped(str(stop) or "stopped before it was done"), ran=loaded)
        raise SystemExit(130) from None
    except Exception as error:  # every failure of a sweep's job becomes a row of its table
        if state.mode == RunMode.MULTIRUN:
            failed(folder, name, config, overrides, error)
        elif isinstance(error, UserError):
            print(printable(str(error)), file=sys.stderr)
            raise SystemExit(2) from None
        else:
            raise


def failed(folder: Path, name: str, config: DictConfig, overrides: list[str], error: Exception,
           ran: bool = True) -> None:
    """The result.json of a job that failed or was stopped, so that the others run and the table says what became of it.
    ran: in this process."""
    from algorithms.common.runs.results import header, write_json
    from algorithms.common.support.secrets import Mask

    log = logging.getLogger("run")
    message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    if isinstance(error, Stopped):
        how = "" if message.startswith(("stopped", "not started")) else "stopped: "
        log.warning("%s: %s%s", name, how, printable(message), extra=IN_SWEEPS)
    else:
        log.error("%s failed: %s", name, printable(message), exc_info=not isinstance(error, UserError))
    mask = Mask(config)
    told = {"type": type(error).__name__, "message": mask.text(str(error))}
    head = header(name, config.seed, mask, overrides, ran)
    write_json(folder / "result.json", {**head, "status": "failed", "error": told})


def unwritable(error: OSError) -> str | None:
    """What to say where Hydra cannot write its own folder; None for what failed within a job."""
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(code.co_name == "main" and code.co_filename == __file__ for code in frames):
        return None
    key = "hydra.sweep.dir" if any(code.co_name == "multirun" for code in frames) else "hydra.run.dir"
    return (f"{key}: found {error.filename}, which cannot be made or written to ({error.strerror}); expected a folder "
            f"for what a run leaves; fix: {key}=FOLDER, one where you can write")


def conclude() -> None:
    """The table and the report of a sweep that did not come to its end, where jobs were asked for."""
    if launching.begun:
        from benchmarks import report

        report.conclude(launching.begun[0])


if __name__ == "__main__":
    quieten()
    logging.raiseExceptions = False  # a log file on a full disk is no reason for a traceback at every line
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here whole: what cannot be composed is said in our words
    launching.guard_launchers()
    try:
        sys.argv[1:] = ordered(sys.argv[1:])
        main()
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:
            raise
        conclude()
        sys.exit(130)
    except (HydraException, ValueError) as error:
        running = launching.begun and jobs.marks(launching.begun[0])  # then it is no matter of the command line
        messages = [] if running else explain_overrides(sys.argv[1:], str(CONF), error)
        if not messages and isinstance(error.__cause__, OSError):  # a log file that cannot be opened
            messages = [told for told in [unwritable(error.__cause__)] if told]
        if not messages and not running:  # a fault of the program, not of the command line
            raise
        print(printable("\n".join(messages) or f"{type(error).__name__}: {error}"), file=sys.stderr)
        if running:
            conclude()
        sys.exit(1 if running else 2)
    except yaml.MarkedYAMLError as error:
        print(printable(unreadable_yaml(error)), file=sys.stderr)
        sys.exit(2)
    except (OSError, UserError) as error:  # Hydra's own files, an option, or a failure that cannot be written
        full = full_disk(error, "writing what a run leaves", key="hydra.run.dir=PATH or hydra.sweep.dir=PATH")
        if isinstance(error, UserError):
            told = error if full or isinstance(error, ConfigError) else None
        else:
            told = full or unwritable(error)
        if told is None:
            raise
        print(printable(str(told)), file=sys.stderr)
        sys.exit(2)
    except Exception as error:  # of a launcher or a sweeper
        if not launching.begun:
            raise
        logging.getLogger("sweep").error("%s", printable(f"{type(error).__name__}: {error}"), exc_info=error)
        conclude()
        sys.exit(1)
    sys.exit(sys.modules["benchmarks.report"].exit_code if "benchmarks.report" in sys.modules else 0)
