"""Prompts that are lists of texts, ["question", "answer", "question"]: turns of the user and the assistant.

Such a list may be given as its JSON text. Since a text may be meant as it is, that is read so only where all of a
file's first rows have one.
"""

from collections.abc import Iterable
from typing import Any

from .record import Messages
from .values import BadRow, cell, list_of, text_of


def lists_of_turns(values: Iterable[Any]) -> bool:
    """Whether all of a column's values that are there are such lists, of an odd number of texts."""
    there = [value for value in values if value is not None]
    return bool(there) and all(map(_is_list, there))


def turns_listed(value: Any, field: str) -> Messages:
    """The turns of one such list, the user's first and last; raises BadRow."""
    texts = [text_of(text, field) for text in list_of(value, field, "a list of texts, as in the first rows")]
    if len(texts) % 2 == 0:
        raise BadRow("not a user turn", field, f"a list of {len(texts)} texts",
                     "the user's and the assistant's texts in turn, the user's last")
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def cell_or_none(row: dict, name: Any) -> Any:
    """A column's value; None where there is none, or the name is of several."""
    try:
        return cell(row, name) if isinstance(name, str) else None
    except BadRow:
        return None


def _is_list(value: Any) -> bool:
    try:
        found = list_of(value, "prompt", "a list")
    except BadRow:
        return False
    return len(found) % 2 == 1 and all(isinstance(text, str) for text in found)
