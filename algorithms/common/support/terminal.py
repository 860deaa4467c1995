"""Text from a model or a file on its way to a terminal."""

from __future__ import annotations

import logging
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

JOINERS = "\u200c\u200d"  # invisible and harmless: emoji, Persian and Indic scripts need them


def printable(text: str) -> str:
    """The text with control characters written out, so that it cannot move the cursor, colour or retitle the terminal,
    nor reorder (bidirectional controls) or hide what is read."""
    return "".join(c if c in "\n\t" + JOINERS or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else _escaped(c)
                   for c in text)


def show(text: str) -> None:
    """Print what the terminal's encoding has, and the rest written out."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


IN_SWEEPS = {"in_sweeps": True}  # ``extra`` of a line of the log that a sweep's terminal shows too
_warned: set[str] = set()  # by the jobs of this process
_number: list[int] = []  # of the sweep's job that speaks, the innermost last


class _Short(logging.Filter):
    """Of a job of a sweep: what it is at, and each warning of all jobs once."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "in_sweeps", False):
            return True
        if record.levelno < logging.WARNING:
            return False
        text, failure = record.getMessage(), record.levelno > logging.WARNING
        known = text in _warned and not failure
        _warned.add(text)
        return not known


@contextmanager
def short(number: int) -> Iterator[None]:
    """While this job of a sweep runs the terminal gets few of its lines, each with its number; its log file has all."""
    handlers = [one for one in logging.getLogger().handlers if type(one) is logging.StreamHandler]
    before = [(one, one.formatter) for one in handlers]
    for handler, layout in before:
        handler.addFilter(_Short())
        times = (layout.datefmt,) if layout else ()
        handler.setFormatter(logging.Formatter(f"[%(asctime)s] #{number} %(message)s", *times))
    _number.append(number)
    try:
        yield
    finally:
        _number.pop()
        for handler, layout in before:
            handler.setFormatter(layout)
            handler.filters[:] = [one for one in handler.filters if not isinstance(one, _Short)]


def is_short() -> bool:
    """Whether the terminal gets few lines."""
    return bool(_number)
