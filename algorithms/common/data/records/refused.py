"""The rows that could not be used, all of them: kept on disk, so that a million take no memory."""

import json
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from ...support.errors import UserError, full_disk
from .storage import cache_folder

LONGEST = 400               # characters told of one value


def cut(text: str) -> str:
    """A text on one line, of a length that can be read."""
    text = " ".join(str(text).splitlines())
    return text if len(text) <= LONGEST else text[:LONGEST - 1] + "…"


class RefusedRows:
    """Each a dict with path, line, reason, field, found, expected and fix, in the order in which they were met.

    They lie in files without a name, which end with the process. ``+`` gives both sides' rows, one after the other.
    """

    def __init__(self):
        self._files: list[IO[str]] = []
        self._own: IO[str] | None = None
        self._count = 0

    @classmethod
    def of(cls, path: str | os.PathLike) -> "RefusedRows":
        """Those of a file, a row a line as JSON."""
        rows = cls()
        file = open(path, encoding="ascii")
        rows._files, rows._count = [file], sum(1 for _ in file)
        return rows

    def __len__(self) -> int:
        return self._count

    def append(self, row: dict[str, Any]) -> None:
        """Raises UserError where the disk is full."""
        folder = cache_folder()
        try:
            if self._own is None:
                folder.mkdir(parents=True, exist_ok=True)
                self._own = tempfile.TemporaryFile("w+", encoding="ascii", dir=folder)
                self._files.append(self._own)
            self._own.write(json.dumps(row) + "\n")
        except OSError as error:
            raise full_disk(error, f"writing the rows that cannot be used in {folder}") or UserError(
                f"{folder}: found a folder that cannot be written ({error}); expected room for the rows that cannot be "
                "used; fix: set stages.folder=PATH to one where you can write") from None
        self._count += 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for file in self._files:
            file.seek(0)
            try:
                yield from map(json.loads, file)
            finally:
                file.seek(0, 2)

    def __add__(self, other: "RefusedRows") -> "RefusedRows":
        both = RefusedRows()
        both._files, both._count = self._files + other._files, len(self) + len(other)
        return both
