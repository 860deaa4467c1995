"""Which rows a stage is rehearsed on: batches that it will take, usual ones and the one of most tokens at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...data.tokenized import batch_indices

TYPICAL = 4  # batches whose time counts


@dataclass(frozen=True)
class Rows:
    """What is known of a stage's rows from their lengths. Batches hold places in ``indices``, those of the records."""

    records: int  # that training sees at all
    steps: int
    tokens: int  # of all steps' records, prompts and responses
    truncated: int
    indices: list[int]  # of the records that are rehearsed
    typical: list[list[int]]
    heaviest: list[int]  # longest first

    @classmethod
    def of(cls, lengths: dict[int, int], truncated: int, records: int, batch: int, micro: int, limit: int,
           seed: int) -> Rows:
        """lengths: of the records that are visited, by index; limit: records that training walks through."""
        batches = [batch_indices(records, batch, limit, step, seed) for step in range(-(-limit // batch))]
        sizes = [np.sort([lengths[index] for index in one])[::-1] for one in batches]
        padded = [sum(int(size[start]) * len(size[start:start + micro]) for start in range(0, len(size), micro))
                  for size in sizes]
        largest = [int(size[0]) * len(size[:micro]) for size in sizes]
        order = np.argsort(padded, kind="stable")
        places = [int((2 * part + 1) * len(order) / (2 * TYPICAL)) for part in range(TYPICAL)]
        typical = [batches[order[place]] for place in dict.fromkeys(places)]
        heaviest = sorted(batches[int(np.argmax(largest))], key=lambda index: -lengths[index])
        indices = list(dict.fromkeys(index for one in [*typical, heaviest] for index in one))
        place = {index: number for number, index in enumerate(indices)}
        return cls(len(lengths), len(batches), int(sum(map(np.sum, sizes))), truncated, indices,
                   [[place[index] for index in one] for one in typical], [place[index] for index in heaviest])


def spread(lengths: list[int], count: int) -> list[int]:
    """Indices of ``count`` items at equal distances in the order of their lengths, the longest among them."""
    order = np.argsort(lengths, kind="stable")[::-1]
    return sorted(order[np.arange(count) * len(order) // count].tolist())
