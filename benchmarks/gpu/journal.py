"""What a part measures, written as it is measured: a run that is cut off keeps what it had."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from algorithms.common.runs.results import commit, device_name, versions, write_json

RUNNING, DONE, CUT, FAILED = "running", "done", "cut", "failed"


class Journal:
    """One part's JSON: ``part``, ``status``, ``seconds``, what it ran on, and ``measured``, a list of figures."""

    def __init__(self, folder: Path, part: str, budget: float):
        self.path, self._began, self.budget = folder / f"{part}.json", time.monotonic(), budget
        self.content: dict[str, Any] = {
            "part": part, "status": RUNNING, "commit": commit() or os.environ.get("COMMIT"), "versions": versions(),
            "device": device_name(), "measured": []}
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def add(self, what: str, **figures: Any) -> None:
        """One measurement: what it is of, and its figures by name, with units in the names."""
        self.content["measured"].append({"what": what, **figures})
        self._write()

    def left(self) -> float:
        """Seconds of the budget."""
        return self.budget - (time.monotonic() - self._began)

    def close(self, status: str = DONE, **more: Any) -> None:
        self.content |= {"status": status, **more}
        self._write()

    def _write(self) -> None:
        self.content["seconds"] = round(time.monotonic() - self._began, 1)
        write_json(self.path, self.content)


def read(folder: Path) -> dict[str, dict]:
    """Journals by part."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return {one["part"]: one for one in found}


def close_if_running(path: Path, status: str, error: str) -> None:
    """For a part whose process is gone."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"part": path.stem, "measured": []}
    if content.get("status", RUNNING) == RUNNING:
        write_json(path, content | {"status": status, "error": error})
