"""Responses in columns of their own, with a winner's column or ranks: {prompt, response_a, response_b, winner}.

A winner is named by the response's column, by what its name ends with (a, A, 1), or by a number. What numbers count
from, 0 or 1, is said by the columns' names (response_1), or else by the first rows: nothing is guessed.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .lines import data_error, hydra_text, override, show
from .turn_lists import cell_or_none
from .values import BadRow, number_of

NUMBERED = re.compile(r"(response|answer|output|completion|generation|candidate|summary)[ _-]?([a-h]|\d)",
                       re.IGNORECASE)
_WINNERS = ("winner", "preference", "preferred", "better", "choice")
_TIES = {"tie", "tied", "both", "neither", "equal", "draw", "tie (bothbad)", "both_bad", "bothbad"}


@dataclass(frozen=True)
class Winners:
    """Names of a winner → which of the responses it is; ties are -1."""

    places: Mapping[str, int]
    count: int

    def scores(self, value: Any, field: str) -> list[float]:
        """1 for the winner and 0 for the others; of a tie ½ each. Raises BadRow."""
        name = _name(value)
        place = None if name is None else self.places.get(name, self.places.get(re.sub("[ -]", "_", name)))
        if place is None:
            raise BadRow("null" if value is None else "unknown choice", field, show(value),
                         "one of " + ", ".join(sorted(self.places)))
        return [0.5] * self.count if place < 0 else [float(index == place) for index in range(self.count)]


def winners(path: str, columns: Mapping[str, str | list[str]], rows: Iterable[dict]) -> Winners | None:
    """How a column names the winner among those of the responses, by the first rows; None where there is none.

    Raises DataError where its numbers may count from 0 or from 1.
    """
    if "winner" not in columns:
        return None
    column, responses = columns["winner"], columns["responses"]
    if isinstance(responses, str):
        raise data_error(path, 1, column, f"a winner among the list {show(responses)}", "a column for each response",
                         "name them by data.columns: responses: [A, B], or use data.mapper")
    values, ends = (cell_or_none(row, column) for row in rows), _ends(responses)
    places = dict.fromkeys(_TIES, -1)
    for index, (name, end) in enumerate(zip(map(str.lower, responses), ends)):
        # the end of a name that another begins with is empty
        places |= dict.fromkeys((name, *((end, f"model_{end}", f"model {end}") if end else ())), index)
    numbers = {int(name) for name in map(_name, values) if name and name.isdecimal()}
    if numbers and not all(end.isdecimal() for end in ends):
        if (0 in numbers) == (len(responses) in numbers):
            raise data_error(path, 1, column, f"the numbers {', '.join(map(str, sorted(numbers)))} in the first rows, "
                             "which may count from 0 or from 1", "numbers that are clear, or the column's name",
                             f"name the columns of the responses by their numbers, or write {responses[0]}")
        places |= {str(index + (0 not in numbers)): index for index in range(len(responses))}
    return Winners(places, len(responses))


def check_grouped(path: str, columns: Mapping[str, str | list[str]]):
    """Refuses ranks of single responses, which data.group does not bring together."""
    if "rank" in columns:
        raise data_error(path, 1, columns["rank"], "ranks of single responses",
                         "data.group, the column that says which responses are ranked together",
                         f"set {override('data.group', hydra_text(str(columns['prompt'])))}")


def rank_scores(values: list[Any], field: str) -> list[float]:
    """Scores of ranks, of which the lowest is the best."""
    return [-number_of(value, field) for value in values]


def judged_by_convention(found: list[str], columns: Mapping[str, str]) -> dict[str, Any]:
    """What conventions read of `found`, with winners and ranks beside what they alone do (`columns`)."""
    fields = columns.keys() - {"system"}
    for field, rank in (("response", "rank"), ("responses", "ranks")):
        if fields == {"prompt", field} and rank in found:
            return {**columns, rank: rank}
    numbered = [name for name in found if NUMBERED.fullmatch(name)]
    stems = {NUMBERED.fullmatch(name)[1].lower() for name in numbered}
    if fields != {"prompt"} or len(numbered) < 2 or len(stems) > 1:
        return dict(columns)
    told = [name for name in _WINNERS if name in found]
    if len(told) == 1:
        return {**columns, "responses": numbered, "winner": told[0]}
    for field, stem in (("ranks", "rank"), ("scores", "score")):
        beside = [f"{stem}{name[len(_stem(name)):]}" for name in numbered]
        if not told and all(name in found for name in beside):
            return {**columns, "responses": numbered, field: beside}
    return dict(columns)


def _stem(name: str) -> str:
    return NUMBERED.fullmatch(name)[1]


def _ends(names: list[str]) -> list[str]:
    """What the names have after all that they begin with alike."""
    return [name[len(os.path.commonprefix(names)):].lower() for name in names]


def _name(value: Any) -> str | None:
    """As names are compared; None of what names nothing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None or isinstance(value, bool) else str(value).strip().lower().removesuffix(".0")
