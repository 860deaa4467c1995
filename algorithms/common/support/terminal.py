"""Text from a model or a file on its way to a terminal."""

from __future__ import annotations

import sys
import unicodedata

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
