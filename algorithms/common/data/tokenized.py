"""Records as examples, and which of them a training step visits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..support.seeds import permutation
from .template import Example

if TYPE_CHECKING:  # named here, not run: reading data is no part of what training computes
    from .records import Record, Records


class Tokenized(Sequence[Example]):
    """Records as examples, each made when it is asked for; the last ``KEPT`` asked for, and those that were set, stay.

    So memory does not grow with the data, and what a run never visits is never tokenised; a run that visits more than
    it keeps tokenises them again, which is little beside training on them.
    """

    KEPT: ClassVar[int] = 16_384

    def __init__(self, records: Records, tokenize: Callable[[Record], Example]):
        self._count = len(records)
        self._made = lru_cache(self.KEPT)(lambda index: tokenize(records[index]))
        self._set: dict[int, Example] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._set.get(index) or self._made(index)

    def __setitem__(self, index: int, example: Example) -> None:
        self._set[index] = example


@lru_cache(maxsize=2)
def _order(records: int, seed: int, epoch: int) -> np.ndarray:
    """One epoch's order; kept, since every step of the epoch asks for it."""
    return permutation(records, seed, "order", epoch)


def batch_indices(records: int, batch_size: int, limit: int, step: int, seed: int) -> list[int]:
    """Records of a 0-based step: a walk of ``limit`` records through one permutation an epoch, epochs without a gap."""
    start, stop = step * batch_size, min((step + 1) * batch_size, limit)
    chosen: list[int] = []
    while start < stop:
        epoch, offset = divmod(start, records)
        take = min(stop - start, records - offset)
        chosen += _order(records, seed, epoch)[offset:offset + take].tolist()
        start += take
    return chosen


def visited(records: int, limit: int, seed: int) -> set[int]:
    """Records that a walk of ``limit`` records sees at all."""
    return set(batch_indices(records, limit, limit, 0, seed)) if limit < records else set(range(records))
