"""Python's collector of garbage, which looks through every object of the process now and then.

Libraries make half a million of them, none of which is garbage: to look through these takes a fifth of a short run.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Collects nothing while libraries are imported, and leaves what they made alone from then on.

    Once in a process: later on there may be garbage, which would be kept with them.
    """
    first, enabled = not gc.get_freeze_count(), gc.isenabled()
    if first:
        gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def leaving_alone() -> Iterator[None]:
    """Collects none of what there is already, until this ends."""
    first = not gc.get_freeze_count()
    if first:
        gc.freeze()
    try:
        yield
    finally:
        if first:
            gc.unfreeze()
