"""Filters of rows.

    data.filter={_target_: algorithms.common.data.records.filters.at_least, _partial_: true, column: …, value: …}

A filter takes one raw row (a dict) and says whether to read it. What it refuses is counted under its name and
arguments; a row that it cannot judge is a bad one. Numbers may be written as text, as in CSV.
"""

from .groups import texts
from .values import BadRow, cell, number_of


def at_least(row: dict, column: str, value: float) -> bool:
    """Whether the number in `column` is `value` or more."""
    return number_of(cell(row, column), column) >= value


def equals(row: dict, column: str, value: str | int | float | bool | None) -> bool:
    """Whether `column` holds exactly `value`; where that is a number, also as text."""
    found = cell(row, column)
    if isinstance(found, str) and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return number_of(found, column) == value
        except BadRow:      # other text
            return False
    return found == value


def differ(row: dict, columns: list[str]) -> bool:
    """Whether the numbers in `columns` are not all equal: without it, ties."""
    return len({number_of(cell(row, column), column) for column in columns}) > 1


def short(row: dict, characters: int) -> bool:
    """Whether all the texts of a row, however nested, have at most so many characters together."""
    return sum(map(len, texts(row))) <= characters
