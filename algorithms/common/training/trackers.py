"""Metrics to TensorBoard, Weights & Biases or Trackio, through accelerate's trackers; none asked, nothing imported."""

from __future__ import annotations

from pathlib import Path

from ..support.errors import ConfigError


class Trackers:
    """A context manager around accelerate's trackers."""

    def __init__(self, names: list[str], folder: Path | None, run: str):
        self._trackers = []
        if not names:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        for name in names:
            kind = LOGGER_TYPE_TO_CLASS[name]
            try:
                tracker = kind(run, str(folder or ".")) if kind.requires_logging_directory else kind(run)
                tracker.start()
            except ImportError as error:
                raise ConfigError(f"trainer.trackers: found {name}, which is not installed ({error}); "
                                  f"fix: pip install {name}, or trainer.trackers=[]") from error
            self._trackers.append(tracker)

    def log(self, values: dict[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.log(values, step=step)

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *error) -> None:
        for tracker in self._trackers:
            tracker.finish()
