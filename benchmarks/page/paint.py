"""Colours and shapes of rows: one of each wherever a row is shown."""

from collections.abc import Sequence

from ..tables import Row

COLOURS = 8     # of the style sheet (--row-0 …), told apart by colour-blind readers; shapes tell further rows apart
SHADES = 4      # of what belongs to no row (--shade-0 …)
SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross")


def painted(rows: Sequence[Row]) -> dict[str, tuple[int, str]]:
    """By label a row's colour and shape: each row its own colour where there are enough of them, else each method."""
    methods = list(dict.fromkeys(row.algorithm for row in rows))
    by_row = len(rows) <= COLOURS or not 1 < len(methods) <= COLOURS
    found, used = {}, {}
    for index, row in enumerate(rows):
        colour = index if by_row else methods.index(row.algorithm)
        turn = used[colour % COLOURS] = used.get(colour % COLOURS, -1) + 1
        found[row.label] = (colour % COLOURS, SHAPES[turn % len(SHAPES)])
    return found
