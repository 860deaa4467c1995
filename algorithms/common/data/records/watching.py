"""How far the reading of all of a set's files has come, by the bytes they have on disk (``support.phases``)."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from ...support.phases import Phase, progress

MEGABYTE = 1 << 20


class Watched(Protocol):
    """What says from time to time which share of it is read: see ``readers.Source``."""

    path: str
    watch: object


@contextmanager
def watched(sources: Sequence[Watched]) -> Iterator[None]:
    """Show the reading of the sources, one after the other, as one phase; nothing of what is on no disk."""
    sizes = [size_of(source.path) / MEGABYTE for source in sources]
    with progress("reading", sum(sizes), "MB", digits=1) as advance:
        for index, (source, size) in enumerate(zip(sources, sizes)):
            source.watch = partial(_move, advance, sum(sizes[:index]), size)
        yield


def _move(advance: Phase, before: float, size: float, share: float):
    """To the place of a source's share, never back: rows in groups are read twice."""
    advance(max(before + size * share - advance.done, 0.0))


def size_of(path: str) -> int:
    """Bytes on disk of a file or of all in a folder."""
    if os.path.isdir(path):
        return sum(os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(path) for name in names)
    return os.path.getsize(path) if os.path.isfile(path) else 0
