"""Which turns of a conversation that is too long go first: those in its middle, the oldest before the others."""

from __future__ import annotations

from collections.abc import Callable

from .records import Messages


def without_middle(messages: Messages, fits: Callable[[Messages], bool]) -> Messages:
    """The conversation with a system turn at its beginning and all from some user's turn on: the first such one that
    fits, or where none does the last one. As it is where there is no turn between them to leave out.

    fits: holds for a shorter conversation where it does for a longer one.
    """
    head = 1 if messages and messages[0]["role"] == "system" else 0
    starts = [place for place in range(head, len(messages)) if messages[place]["role"] == "user"]
    if not starts or starts[-1] == head:
        return messages
    tried = [[*messages[:head], *messages[start:]] for start in starts]
    low, high = 0, len(tried) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(tried[middle]) else (middle + 1, high)
    return tried[low]
