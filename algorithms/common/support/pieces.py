"""What is asked for piece by piece and saved as it comes, so that an error or a kill at the end loses one piece."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .phases import progress


class Pieces:
    """JSON by name in a folder that outlives errors; without a folder nothing is saved."""

    def __init__(self, folder: Path | None = None):
        self._folder = folder
        self.seconds = 0.0  # that what was found had taken

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What is saved under that name; made and saved where it is not."""
        path = None if self._folder is None else self._folder / f"{name}.json"
        if path is not None and path.is_file():
            told = json.loads(path.read_text(encoding="utf-8"))
            self.seconds += told["seconds"]
            return told["value"]
        began = time.monotonic()
        value = make()
        if path is not None:
            temporary = path.with_suffix(".writing")
            temporary.write_text(json.dumps({"seconds": time.monotonic() - began, "value": value}), encoding="utf-8")
            temporary.replace(path)
        return value

    def asked(self, name: str, items: list, ask: Callable[[list], list], size: int, unit: str = "answers") -> list:
        """What ``ask`` says of all items, of ``size`` of them at once."""
        found: list = []
        with progress(f"{name} of {unit}", len(items), unit) as advance:
            for start in range(0, len(items), size):
                part = items[start:start + size]
                found += self.kept(f"{name}-{start}", lambda part=part: list(ask(part)))
                advance(len(part))
        return found
