"""Many cases of one thing: a few of them in the plain suite, all of them under ``-m slow``."""

from collections.abc import Collection, Iterable

import pytest


def few(cases: Iterable, kept: Collection) -> list:
    """Cases for ``parametrize``; ``kept``: the values or the indexes of those that the plain suite runs too.

    A case of several arguments is a tuple or ``pytest.param``.
    """
    chosen = []
    for index, case in enumerate(cases):
        if not hasattr(case, "marks"):
            case = pytest.param(*case if isinstance(case, tuple) else (case,))
        known = index in kept or len(case.values) == 1 and isinstance(case.values[0], str) and case.values[0] in kept
        chosen.append(case if known else pytest.param(*case.values, id=case.id, marks=[*case.marks, pytest.mark.slow]))
    return chosen
