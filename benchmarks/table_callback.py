"""What a sweep does besides its jobs. Every run loads this file, also one that makes no table, so it imports little."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback


class TableCallback(Callback):
    """At the end of a multirun: writes the table into the sweep's folder, prints it, and sets `report.exit_code`."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        from . import report  # noqa: F401  what it imports the jobs use too: loaded once, for all that are forked

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        from . import report

        report.conclude(Path(config.hydra.sweep.dir))
