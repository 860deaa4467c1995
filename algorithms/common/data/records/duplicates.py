"""Near-duplicate prompts on both sides of a split: MinHash finds candidates, their exact Jaccard similarity decides.

Lee et al. 2021, arXiv 2107.06499, find near-duplicates of training sets this way. Here a prompt is the set of its pairs
of neighbouring words (letter case, punctuation and system messages left out), the similarity of two is
|A ∩ B| / |A ∪ B|, and only pairs across the split count. BANDS keys of ROWS minima each meet in at least one key
with probability 1 − (1 − J^ROWS)^BANDS: 0.998 at J = 0.8, and 0.04 at J = 0.3.

Memory: about 200 bytes a held-out prompt, and the hashes of all prompts. What is cut short for time is counted.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from ...support.phases import in_parts, parts_of, progress
from .record import Messages, short_hash
from .storage import Records
from .views import first_of_each
from .words import CHARACTER, UNSPACED

THRESHOLD = 0.8
BANDS, ROWS = 16, 5
BATCH = 2048                # training prompts looked up at once
BUCKET = 16                 # held-out prompts tried for one training prompt and band
COMPARISONS = 200_000       # exact comparisons in all
_WORD = re.compile(f"{CHARACTER}|[^\\W{UNSPACED}]+")


@dataclass
class Duplicates:
    """What was found. A pair: (set, index) of the training and of the held-out prompt, and their similarity.

    One pair for each held-out prompt that has a near-duplicate, in the order of the training sets.
    """

    heldout: int                                            # distinct held-out prompts that are in no training set
    pairs: list[tuple[tuple[str, int], tuple[str, int], float]] = field(default_factory=list)
    comparisons: int = 0                                    # exact ones
    untried: int = 0                                        # candidates beyond BUCKET or COMPARISONS


def words(text: str) -> list[str]:
    """Normalised words: NFKC, case folded, without punctuation; a character of a script without spaces is one."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def shingles(prompt: str | Messages) -> set[tuple[str, ...]]:
    """Pairs of neighbouring words; of a prompt of one word, that word; none where there are no words."""
    if not isinstance(prompt, str):
        prompt = "\n".join(turn["content"] for turn in prompt if turn["role"] != "system")
    found = words(prompt)
    return set(zip(found, found[1:])) if len(found) > 1 else {(word,) for word in found}


def jaccard(a: set, b: set) -> float:
    """|A ∩ B| / |A ∪ B|; 0 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 0.0


def near_duplicates(training: dict[str, Records], heldout: dict[str, Records], threshold: float = THRESHOLD
                    ) -> Duplicates:
    """Held-out prompts with a near-duplicate among the training prompts; equal prompts are no near-duplicates."""
    hashes = [records.prompt_hashes for records in training.values()]
    known = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]))
    del hashes
    places = first_places(heldout, known)
    del known
    index = _Index(heldout, places)
    places = first_places(training, np.empty(0, np.uint64))
    with progress("comparing prompts of both sides", sum(map(len, places.values())), "prompts") as advance:
        for name, rows in places.items():
            for part in parts_of(rows, BATCH):
                if not index.waiting:
                    return index.found
                index.look_up(name, training[name], part, threshold)
                advance(len(part))
    return index.found


def first_places(sets: dict[str, Records], seen: np.ndarray) -> dict[str, np.ndarray]:
    """Ascending indices of every prompt's first place in the sets, without those whose hash was seen."""
    places = {}
    for name, records in sets.items():
        hashes = records.prompt_hashes
        order = np.argsort(hashes, kind="stable")
        first = order[first_of_each(hashes[order])]
        places[name] = np.sort(first[~np.isin(hashes[first], seen)])
        seen = np.union1d(seen, hashes)
    return places


class _Index:
    """The band keys of held-out prompts that have no near-duplicate yet."""

    def __init__(self, sets: dict[str, Records], places: dict[str, np.ndarray]):
        self.sets, names = sets, list(sets)
        self.names, self.sizes = names, [len(places[name]) for name in names]
        self.rows = np.concatenate([np.empty(0, np.int64), *places.values()])
        self.starts = np.cumsum([0, *self.sizes])
        self.found = Duplicates(len(self.rows))
        self._shingles = lru_cache(4096)(self._read)
        of_sets = [keys_of(sets[name], places[name]) for name in names]
        keys = np.concatenate([np.empty((0, BANDS), np.uint32), *(some for some, _ in of_sets)])
        self.counts = np.concatenate([np.empty(0, np.int64), *(counts for _, counts in of_sets)])
        self.matched = self.counts == 0        # without words there is nothing to compare
        self.order = [np.argsort(keys[:, band], kind="stable").astype(np.int32) for band in range(BANDS)]
        self.keys = [keys[order, band] for band, order in enumerate(self.order)]
        self._drop_matched()

    @property
    def waiting(self) -> bool:
        return not self.matched.all()

    def look_up(self, name: str, records: Records, rows: np.ndarray, threshold: float):
        """Compare a batch of training prompts with the held-out prompts that share a key."""
        sets = [shingles(prompt) for prompt in prompts(records.select(rows))]
        keys, counts = band_keys(sets)
        before = len(self.found.pairs)
        for row, held in self._candidates(keys, counts, threshold):
            if self.matched[held]:
                continue
            if self.found.comparisons == COMPARISONS:
                self.found.untried += 1
                continue
            self.found.comparisons += 1
            similarity = jaccard(sets[row], self._shingles(held))
            if similarity >= threshold:
                self.matched[held] = True
                self.found.pairs.append(((name, int(rows[row])), self._place(held), similarity))
        if len(self.found.pairs) > before:
            self._drop_matched()

    def _candidates(self, keys: np.ndarray, counts: np.ndarray, threshold: float) -> Iterator[tuple[int, int]]:
        """Ascending (row of the batch, held-out prompt) that share a key, and whose sizes allow the similarity."""
        pairs = []
        for band in range(BANDS):
            left = np.searchsorted(self.keys[band], keys[:, band], "left")
            width = np.searchsorted(self.keys[band], keys[:, band], "right") - left
            width[counts == 0] = 0
            self.found.untried += int(np.maximum(width - BUCKET, 0).sum())
            # of a large bucket not always the same part
            left += keys[:, band - 1] % np.maximum(width - BUCKET + 1, 1)
            width = np.minimum(width, BUCKET)
            within = np.arange(width.sum()) - np.repeat(np.cumsum(width) - width, width)
            held = self.order[band][np.repeat(left, width) + within]
            pairs.append(np.repeat(np.arange(len(keys)), width) * len(self.rows) + held)
        rows, held = np.divmod(np.unique(np.concatenate(pairs)), max(len(self.rows), 1))
        smaller, larger = np.minimum(counts[rows], self.counts[held]), np.maximum(counts[rows], self.counts[held])
        possible = smaller >= threshold * larger
        return zip(rows[possible].tolist(), held[possible].tolist())

    def _drop_matched(self):
        for band in range(BANDS):
            waiting = ~self.matched[self.order[band]]
            self.order[band], self.keys[band] = self.order[band][waiting], self.keys[band][waiting]

    def _place(self, held: int) -> tuple[str, int]:
        return self.names[int(np.searchsorted(self.starts, held, "right")) - 1], int(self.rows[held])

    def _read(self, held: int) -> set[tuple[str, ...]]:
        name, row = self._place(held)
        return shingles(self.sets[name][row].prompt)


def prompts(records: Records) -> Iterator[str | Messages]:
    """The prompts alone."""
    for text, messages in zip(records.column("text"), records.column("messages")):
        yield messages if text is None else text


# ---- MinHash


_RANDOM = np.random.Generator(np.random.Philox(key=2107_06499))
_FACTORS = _RANDOM.integers(1 << 63, size=BANDS * ROWS, dtype=np.uint64) * 2 + 1     # odd, as are the next
_SHIFTS = _RANDOM.integers(1 << 63, size=BANDS * ROWS, dtype=np.uint64)
_FOLDS = _RANDOM.integers(1 << 63, size=ROWS, dtype=np.uint64) * 2 + 1


_word_hash = lru_cache(1 << 17)(short_hash)


def keys_of(records: Records, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, BANDS) keys and (n,) sizes of the prompts at these ascending indices, read batch after batch."""
    keys, sizes = [np.empty((0, BANDS), np.uint32)], [np.empty(0, np.int64)]
    for part in in_parts("hashing prompts", parts_of(rows, BATCH), "prompts"):
        some, counts = band_keys(list(map(shingles, prompts(records.select(part)))))
        keys.append(some)
        sizes.append(counts)
    return np.concatenate(keys), np.concatenate(sizes)


def band_keys(sets: list[set[tuple[str, ...]]]) -> tuple[np.ndarray, np.ndarray]:
    """(n, BANDS) uint32 keys and (n,) sizes of n sets; the keys of an empty set mean nothing."""
    minima = np.full((len(sets), BANDS * ROWS), np.iinfo(np.uint64).max)
    for row, found in enumerate(sets):
        first = np.fromiter((_word_hash(pair[0]) for pair in found), np.uint64, len(found))
        last = np.fromiter((_word_hash(pair[-1]) for pair in found), np.uint64, len(found))
        mixed = mixed_bits(first * np.uint64(3) + last)
        for start in range(0, len(mixed), 4096):
            hashes = np.outer(_FACTORS, mixed[start:start + 4096]) + _SHIFTS[:, None]
            np.minimum(minima[row], hashes.min(axis=1), out=minima[row])
    folded = mixed_bits((minima.reshape(len(sets), BANDS, ROWS) * _FOLDS).sum(axis=2))
    return (folded >> np.uint64(32)).astype(np.uint32), np.fromiter(map(len, sets), np.int64, len(sets))


def mixed_bits(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the input changes about half of the output's."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
