"""Python's collector of garbage, which looks through every object of the process now and then.

Libraries make half a million of them, hardly any of which is garbage: to look through these takes a sixth of a short
run.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Collects nothing while libraries are imported, and leaves what they made alone from then on, the few thousand
    objects of it that are garbage, too.

    Once in a process: later on there may be models among the garbage, which would be kept with them.
    """
    first, enabled = not gc.get_freeze_count(), gc.isenabled()
    if first:
        gc.collect()  # of what was before, nothing is to be kept; a process that begins has little
        gc.disable()
    try:
        yield
        if first:
            gc.freeze()
    finally:
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
