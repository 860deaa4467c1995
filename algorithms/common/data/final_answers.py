"""Final answers: what a worked solution says its answer is, and whether that is the known one.

The answer of a text is what follows its last mark on that line, or where the line ends there on the next: ``####``
(GSM8K: Cobbe et al. 2021, arXiv 2110.14168), "the answer is", "Answer:", or a line that begins with "A:". A number is
compared by its value: without thousands separators, currency and unit; of a line with an equation, the number after the
last "=". Without a mark the last number of the text is its answer. Any other answer is compared as text, without case
and a final period; without a mark the whole text is the answer. Several answers are not several chances: the last mark
counts, even where nothing follows.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from .instructions.task_records import normal
from .records.record import Record

FIGURE = "accuracy/exact"
REFERENCE = "answer"            # the key of a record's meta that holds the known answer, or a solution that ends in it
MOST_DIGITS = 100               # longer ones are no number: a policy may write digits until it is cut off

_MARK = re.compile(r"####|\banswer(?:\s+is\b:?|\s*:)|^\s*A:", re.IGNORECASE | re.MULTILINE)
_DIGITS = r"(?>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?>(?:\.[0-9]+)?)|\.[0-9]++"
# A sign after a word or a bracket is a hyphen or a minus between two numbers. 10:30 and 1/5/2024 are no numbers and
# have none in them; of 3-4 and 2024-05-01 the last part is one.
_NUMBER = re.compile(rf"(?:(?<![\w)\]])(?P<sign>-))?(?:[$€£¥](?P<inner>-)?)?(?<![A-Za-z_0-9])(?<![0-9][:/])"
                     rf"(?P<over>{_DIGITS})"
                     rf"(?:/(?P<under>{_DIGITS}))?+(?![:/-][0-9])")


def stated(text: str) -> str | None:
    """What follows the last mark, on its line or else on the next; None without a mark."""
    end = max((mark.end() for mark in _MARK.finditer(text)), default=None)
    return None if end is None else text[end:].strip().partition("\n")[0].strip()


def final_number(text: str) -> Fraction | None:
    """The number that a text answers with, see the module; None where it answers with none."""
    said = stated(text)
    if said is None:
        found = [value for match in _NUMBER.finditer(_plain(text)) if (value := _value(match)) is not None]
        return found[-1] if found else None
    match = _NUMBER.search(_plain(said.rpartition("=")[2]))
    return match and _value(match)


def is_right(response: str, reference: str) -> bool:
    """Whether a response's final answer is that of the reference, an answer or a solution.

    A reference is a number where it begins with one; its unit is not compared.
    """
    said, true = stated(response), stated(reference)
    true = reference.strip() if true is None else true
    if (match := _NUMBER.match(_plain(true))) and (value := _value(match)) is not None:
        return final_number(response) == value
    return bool(true) and normal(response if said is None else said) == normal(true)


def reference_of(meta: Mapping[str, Any], key: str = REFERENCE) -> str | None:
    """The known answer of a record with that meta, where there is one."""
    value = meta.get(key)
    return None if value is None or not str(value).strip() else str(value)


def measure(record: Record, response: str, finished: bool, reference: str = REFERENCE, by: str | None = None
            ) -> dict[str, float]:
    """``accuracy/exact`` of a sampled response, 1 or 0, and the same by a value of the record's meta.

    Nothing where the record has no known answer. A response that was cut off is judged as it stands.
    """
    true = reference_of(record.meta, reference)
    if true is None:
        return {}
    right = float(is_right(response, true))
    return {FIGURE: right} | ({f"{FIGURE}/{record.meta[by]}": right} if by is not None else {})


def _plain(text: str) -> str:
    return text.replace("\N{MINUS SIGN}", "-")


def _value(match: re.Match) -> Fraction | None:
    parts = [match["over"], match["under"] or "1"]
    if max(map(len, parts)) > MOST_DIGITS:
        return None
    over, under = (Fraction(part.replace(",", "")) for part in parts)
    if not under:
        return None
    return over / under * (-1 if (match["sign"] is None) != (match["inner"] is None) else 1)
