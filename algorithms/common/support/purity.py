"""Whether users' functions can take anything into account but what they are given, as far as their source tells.

A whitelist: what is not known to compute alone, a library or a name that opens files, may read anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .parsing import Module
from .provenance import SOURCES, origins

PURE = frozenset("__future__ abc base64 bisect collections copy dataclasses decimal difflib enum fractions functools "
                 "hashlib heapq html itertools json math numbers operator re statistics string textwrap types typing "
                 "unicodedata urllib.parse".split())
READING = frozenset("open eval exec __import__ __builtins__ file_digest import_module".split())
_OWN = __name__.partition(".")[0]
_FACE = f"{_OWN}.common.records"  # what a mapper returns


def beyond_arguments(*objects: Any) -> str | None:
    """What tells that a function in `objects` may read more than it is given, in words; None where nothing does.

    The project's own are known not to. ConfigError for a function whose source cannot be found.
    """
    for name in SOURCES.closure(frozenset(origins(objects))):
        top, module = name.partition(".")[0], SOURCES.module(name)
        if module is None and top != _OWN and not {name, top} & PURE:
            return f"it uses {name}"
        if module is not None and top != _OWN and (told := next(_beyond(module), None)):
            return f"{name} {told}"
    return None


def _beyond(module: Module) -> Iterator[str]:
    for one in [*module.imports, *(one for _, one in module.later)]:
        top = one.module.partition(".")[0]
        followed = top != _OWN and SOURCES.module(one.module) is not None  # and so asked itself
        if not ({one.module, top} & PURE or one.module == _FACE or followed):
            yield f"imports {one.module}"
    yield from (f"names {name}" for name in sorted(module.names & READING))
    if not module.names and not module.imports:
        yield "has no source"
