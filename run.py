"""Compose the config, run the task, nothing else. ``python run.py --help`` explains the groups."""

import json
import logging
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from algorithms.common.errors import UserError

CONF = Path(__file__).resolve().parent / "conf"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(config: DictConfig) -> None:
    state = HydraConfig.get()
    folder = Path(state.runtime.output_dir)
    name = state.runtime.choices["algorithm"]
    overrides = list(state.overrides.task)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SystemExit("WORLD_SIZE: found more than one process; expected one; fix: start run.py without a launcher")
    try:
        get_method(config.task._target_)(config, name, folder, overrides)
    except (UserError, KeyboardInterrupt, Exception) as error:  # every failure of a sweep's job becomes a row of its table
        if state.mode != RunMode.MULTIRUN or isinstance(error, KeyboardInterrupt):
            if isinstance(error, UserError):
                print(error, file=sys.stderr)
                raise SystemExit(2) from None
            if isinstance(error, KeyboardInterrupt):
                print(error or "interrupted", file=sys.stderr)
                raise SystemExit(130) from None
            raise
        logging.getLogger("run").error("%s failed: %s", name, error, exc_info=not isinstance(error, UserError))
        failed(folder, name, config, overrides, error)


def failed(folder: Path, name: str, config: DictConfig, overrides: list[str], error: Exception) -> None:
    """A failed job's result.json, so that the others run and the table says what failed."""
    from algorithms.common.results import header, write_json
    from algorithms.common.settings import masked

    head = header(name, config.seed, masked(config), overrides)
    write_json(folder / "result.json", {**head, "status": "failed",
                                        "error": {"type": type(error).__name__, "message": str(error)}})


if __name__ == "__main__":
    try:
        main()
    except SystemExit as stop:
        if stop.code == 1:  # Hydra could not compose: say which keys there are
            from algorithms.common.settings import explain_overrides

            for message in explain_overrides(sys.argv[1:], str(CONF)):
                print(message, file=sys.stderr)
        raise
    from benchmarks import report

    sys.exit(report.exit_code)
