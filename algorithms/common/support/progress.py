"""What a job is at, for whoever watches it from outside: one small file, replaced as the job goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

SECONDS = 1.0  # at most so often for steps of one stage

_open: list[tuple[Path, dict[str, Any]]] = []  # of this process, the innermost last
_last = [0.0]


def begin(path: Path, **facts: Any) -> None:
    """From here on `tell` writes to `path`, beside these facts; until `end`."""
    _open.append((path, {**facts, "began": time.time(), "stage": None, "step": None, "steps": None}))
    _write()


def tell(stage: str, step: int | None = None, steps: int | None = None) -> None:
    """This process is at a stage, at `step` of `steps` where it takes some; nothing where nobody asked."""
    if not _open:
        return
    told, now = _open[-1][1], time.monotonic()
    if told["stage"] == stage and step != steps and now - _last[0] < SECONDS:
        return
    told.update(stage=stage, step=step, steps=steps)
    _last[0] = now
    _write()


def end() -> None:
    _open[-1][1]["ended"] = time.time()
    _write()
    _open.pop()


def _write() -> None:
    path, told = _open[-1]
    temporary = path.with_name(f".{path.name}.writing")
    try:
        temporary.write_text(json.dumps(told), encoding="utf-8")
        temporary.replace(path)
    except OSError:  # a full disk is told by what matters more than this
        pass
