"""What is asked for piece by piece and saved as it comes, so that an error or a kill at the end loses one piece."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .phases import progress

log = logging.getLogger(__name__)


class Pieces:
    """JSON by name in a folder that outlives errors; without a folder nothing is saved.

    note: what is saved beside each piece, as JSON, once it is made.
    """

    def __init__(self, folder: Path | None = None, note: Callable[[], Any] = lambda: None):
        self._folder, self._note = folder, note
        self.seconds = 0.0  # that what was found had taken
        self.noted: list[Any] = []  # beside what was found

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What is saved under that name; made and saved where it is not, or cannot be read."""
        path = None if self._folder is None else self._folder / f"{name}.json"
        if path is not None and (told := _read(path)) is not None:
            self.seconds += told["seconds"]
            self.noted.append(told["noted"])
            return told["value"]
        began = time.monotonic()
        value = make()
        if path is not None:
            told = {"seconds": time.monotonic() - began, "noted": self._note(), "value": value}
            write_whole(path, json.dumps(told))
        return value

    def asked(self, name: str, items: list, ask: Callable[[list], list], size: int, length: Callable[[Any], int],
              unit: str = "answers") -> list:
        """What ``ask`` says of all items, of ``size`` of them at once: those of about one length, which models read
        together."""
        found: list = [None] * len(items)
        order = sorted(range(len(items)), key=lambda place: length(items[place]))
        with progress(f"{name} of {unit}", len(items), unit) as advance:
            for start in range(0, len(items), size):
                places = order[start:start + size]
                said = self.kept(f"{name}-{start}", lambda part=places: list(ask([items[place] for place in part])))
                for place, one in zip(places, said, strict=True):
                    found[place] = one
                advance(len(places))
        return found


def write_whole(path: Path, text: str) -> None:
    """Whatever ends the process or the machine, there is the whole file or none."""
    temporary = path.with_suffix(".writing")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {key: told[key] for key in ("seconds", "noted", "value")}
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError):
        log.warning("%s cannot be read, and is made again", path)
        return None
