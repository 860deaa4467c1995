"""Labels that contradict each other, and records that come again: found, counted, and where asked for left out."""

from array import array
from collections.abc import Iterator

import numpy as np

from .record import Record, prompt_hash, short_hash
from .storage import Records
from .views import first_of_each, of_shared_prompts


def contradictions(records: Records) -> tuple[int, np.ndarray]:
    """(how many pairs of responses to a prompt are ordered in both ways, (m,) ascending indices of the records that
    order one of these pairs). Memory: 16 bytes for each ordered pair of a prompt that several records have."""
    several = of_shared_prompts(records)[0]
    orders, rows = array("Q"), array("q")
    for row, record in zip(several.tolist(), records.select(several)):
        for order in _orders(record):
            orders.append(order)
            rows.append(row)
    orders = np.frombuffer(orders, np.uint64) if orders else np.empty(0, np.uint64)
    pairs = np.unique(orders) >> np.uint64(1)       # the last bit says which is better
    both = pairs[1:][pairs[1:] == pairs[:-1]]
    found = np.isin(orders >> np.uint64(1), both)
    return len(both), np.unique(np.asarray(rows, np.int64)[found])


def repeated(records: Records) -> np.ndarray:
    """(m,) ascending indices of the records whose prompt, responses and scores came before."""
    keys = np.fromiter((int(key[:16], 16) for key in records.column("key")), np.uint64, len(records))
    order = np.argsort(keys, kind="stable")
    return np.sort(order[~first_of_each(keys[order])])


def repetitions(records: Records) -> int:
    """How many they are, in the memory of a single array."""
    keys = np.fromiter((int(key[:16], 16) for key in records.column("key")), np.uint64, len(records))
    keys.sort()
    return len(keys) - int(np.count_nonzero(first_of_each(keys)))


def _orders(record: Record) -> Iterator[int]:
    """For each strict pair 64 bits: a hash of prompt and both texts, the last bit which of them is better."""
    pairs = record.strict_pairs
    if not pairs:
        return
    asked, of = prompt_hash(record.prompt), [short_hash(response) for response in record.responses]
    for better, worse in pairs:
        low, high = sorted((of[better], of[worse]))
        yield short_hash(f"{asked} {low} {high}") & ~1 | (of[better] < of[worse])

