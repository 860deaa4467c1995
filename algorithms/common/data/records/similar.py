"""Groups of nearly equal prompts, so that a split can keep each on one side (``data.split_by=similarity``).

What nearly equal means is what the data report warns of (``duplicates``): at least THRESHOLD of the pairs of
neighbouring words are shared, exactly compared for prompts that MinHash brings together. Groups are closed: what nearly
equals one of a group belongs to it. Memory: about 100 bytes a distinct prompt.
"""

import logging
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from .duplicates import BANDS, THRESHOLD, first_places, jaccard, keys_of, mixed_bits, shingles
from .storage import Records

log = logging.getLogger(__name__)

WINDOW = 8                  # prompts of the same key that each is compared with


class SimilarRoots:
    """Hashes of conversations' beginnings → the same, or for those in a group one hash that the group shares."""

    def __init__(self, records: Records, threshold: float = THRESHOLD):
        places = first_places({"all": records}, np.empty(0, np.uint64))["all"]
        distinct = records.select(places)
        groups = _Groups(len(places))
        self.roots = distinct.array("root_hash")
        order = np.argsort(self.roots, kind="stable")
        for a, b in zip(order[1:].tolist(), order[:-1].tolist()):
            if self.roots[a] == self.roots[b]:
                groups.join(a, b)
        read = lru_cache(4096)(lambda row: shingles(distinct[row].prompt))
        joined, sizes = keys_of(distinct, np.arange(len(distinct)))
        for a, b in _candidates(joined, sizes, threshold):
            if groups.of(a) != groups.of(b) and jaccard(read(a), read(b)) >= threshold:
                groups.join(a, b)
        self._share(np.fromiter(map(groups.of, range(len(places))), np.int64, len(places)))

    def _share(self, group: np.ndarray):
        """Keep the roots of groups with several of them, ascending, and what each group shares: its own least hash,
        mixed, since the least of many would more often be among the lowest, which are held out."""
        order = np.lexsort((self.roots, group))
        first = np.ones(len(order), bool)
        np.not_equal(group[order][1:], group[order][:-1], out=first[1:])
        least = self.roots[order][first][np.cumsum(first) - 1]
        several = (np.bincount(np.cumsum(first) - 1)[np.cumsum(first) - 1] > 1) if len(order) else first
        roots, at = np.unique(self.roots[order][several], return_index=True)
        self.roots, self.shared = roots, mixed_bits(least[several][at])
        log.info("split by similarity: %d of %d prompts have nearly equal ones", int(several.sum()), len(order))

    def __call__(self, hashes: np.ndarray) -> np.ndarray:
        """(n,) uint64 → (n,) uint64."""
        if not len(self.roots):
            return hashes
        at = np.minimum(np.searchsorted(self.roots, hashes), len(self.roots) - 1)
        return np.where(self.roots[at] == hashes, self.shared[at], hashes)


class _Groups:
    """Numbers, joined into groups that are named by one of them."""

    def __init__(self, count: int):
        self.parents = list(range(count))

    def of(self, one: int) -> int:
        while self.parents[one] != one:
            self.parents[one] = self.parents[self.parents[one]]
            one = self.parents[one]
        return one

    def join(self, a: int, b: int):
        self.parents[max(self.of(a), self.of(b))] = min(self.of(a), self.of(b))


def _candidates(keys: np.ndarray, sizes: np.ndarray, threshold: float) -> Iterator[tuple[int, int]]:
    """Prompts that share a key with one of the WINDOW next, and whose sizes allow the similarity."""
    for band in range(BANDS):
        order = np.argsort(keys[:, band], kind="stable")
        ordered = keys[order, band]
        for step in range(1, WINDOW + 1):
            a, b = order[:-step], order[step:]
            possible = (ordered[:-step] == ordered[step:]) & (sizes[a] > 0) & (
                np.minimum(sizes[a], sizes[b]) >= threshold * np.maximum(sizes[a], sizes[b]))
            yield from zip(a[possible].tolist(), b[possible].tolist())
