"""Special tokens written out in texts. A tokenizer reads them as these tokens wherever they stand.

In a turn that would end it, or begin another, where its author wrote no more than a text: such rows are refused. A
prompt of plain text, which is used as it is, may be a rendered conversation: there they are what was meant.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..support.errors import DataError
from .records import BadRow, Messages


class UnusableText(DataError):
    """A record that the template or the tokenizer cannot use; ``bad`` says why, as for rows that cannot be read.

    The field of a text is ours, ``prompt`` or ``responses``: a file's column is not known here.
    """

    def __init__(self, reason: str, field: str, found: str, expected: str, fix: str):
        super().__init__(f"{field}: found {found}; expected {expected}; fix: {fix}")
        self.bad = BadRow(reason, field, found, expected, fix)


def special_texts(tokenizer) -> list[str]:
    """The texts that are read as one special token each."""
    return [added.content for added in tokenizer.added_tokens_decoder.values() if added.special]


def marks(tokenizer, ids: Iterable[int]) -> list[str]:
    """The texts of the special tokens among these ids."""
    known = tokenizer.added_tokens_decoder
    return [known[token].content for token in sorted(ids) if token in known and known[token].special]


def check_turns(messages: Messages, marks: list[str], field: str) -> None:
    """Raises UnusableText where a turn's own text holds one of the marks."""
    for turn in messages:
        places = {mark: place for mark in marks if (place := turn["content"].find(mark)) >= 0}
        if places:
            first = min(places, key=places.get)
            around = turn["content"][max(places[first] - 20, 0):places[first] + 40]
            raise UnusableText(
                "special token in a turn", "system" if turn["role"] == "system" else field,
                f"the special token {first!r} inside the {turn['role']} turn at {around!r}",
                "plain text, such tokens are the chat template's to write",
                "take it out, in the file or by data.mapper")
