"""What algorithms train on: views of records, and the split by prompt."""

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from ...support.errors import ConfigError
from .derived import taking_one
from .record import prompt_hash
from .storage import Records


def highest_rating(records: Records) -> float | None:
    """The highest score that a single response (k = 1) has; None where none is above 0."""
    highest = max((scores[k == 1].max(initial=0.0, where=scores[k == 1] > 0)
                   for k, _, scores in records.score_ranges()), default=0.0)
    return float(highest) if highest > 0 else None


def demonstrations(records: Records, rating: float | None = None) -> Records:
    """Single responses to imitate: k = 1 without a score, or with the score `rating`;
    None: their ``highest_rating``."""
    return records.where(_demonstrating(records, rating))


def _demonstrating(records: Records, rating: float | None) -> np.ndarray:
    rating = highest_rating(records) if rating is None else rating
    return _mask(records, lambda k, _, scores: (k == 1) & (np.isnan(scores) | (scores == rating)))


def preferred(records: Records) -> Records:
    """The best response to every prompt with a record that orders at least two, as a demonstration (Preferred-FT).

    Over all records of a prompt it is the response that is never below another, and among several such the one with the
    highest score. Where each is below another somewhere, it is the highest-scored of the records' winners. What is
    still equal is decided by the order of the records.
    """
    records = ranked(records)
    keep, places = _best(records)
    return taking_one(records.where(keep), places[keep])


def _best(ranked: Records) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool: the records that :func:`preferred` chooses, and (n,) which of their responses."""
    several, hashes = of_shared_prompts(ranked)
    judged = np.fromiter(_judged(ranked.select(several)), _JUDGED)
    top = judged[judged["top"]]
    beaten = np.isin(top["response"], judged["response"][~judged["top"]])
    prompts = hashes[top["record"]]
    order = np.lexsort((-top["score"], beaten, prompts))
    first = order[first_of_each(prompts[order])]
    tops = (scores.index(max(scores)) for scores in ranked.column("scores"))
    keep, places = np.ones(len(ranked), bool), np.fromiter(tops, np.int32, len(ranked))
    keep[several] = False
    keep[several[top["record"][first]]] = True
    places[several[top["record"][first]]] = top["place"][first]
    return keep, places


def of_shared_prompts(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """(m,) indices of the records whose prompt others have too, and (m,) their prompts' hashes."""
    hashes = records.prompt_hashes
    ascending = np.sort(hashes)
    shared = np.unique(ascending[~first_of_each(ascending)])
    del ascending           # memory: as in `prompts`
    several = np.flatnonzero(np.searchsorted(shared, hashes, "left") < np.searchsorted(shared, hashes, "right"))
    return several, hashes[several]


_JUDGED = np.dtype([("record", np.int64), ("place", np.int32), ("score", float), ("response", np.uint64),
                    ("top", bool)])


def _judged(records: Records) -> Iterator[tuple]:
    """Every response as in _JUDGED; the same text as a response to the same prompt has the same hash."""
    for index, record in enumerate(records):
        prompt, best = prompt_hash(record.prompt).to_bytes(8, "big"), max(record.scores)
        for place, (response, score) in enumerate(zip(record.responses, record.scores)):
            digest = hashlib.blake2b(prompt + response.encode(), digest_size=8).digest()
            yield index, place, score, int.from_bytes(digest, "big"), score == best


def pairs(records: Records) -> Records:
    """All strict pairs of every record, each a record with k = 2, the better response first, scores kept."""
    records = ranked(records)
    if all(map(_is_pair, records.column("responses"), records.column("scores"))):
        return records
    return Records.from_list(record.taking(pair) for record in records for pair in record.strict_pairs)


def _is_pair(responses: list[str], scores: list[float]) -> bool:
    return len(responses) == 2 and scores[0] > scores[1] and responses[0] != responses[1]


def ranked(records: Records) -> Records:
    """Records with at least one strict pair, all their responses and scores as they are."""
    return records.where(_ordering(records))


def _ordering(records: Records) -> np.ndarray:
    return _mask(records, lambda k, lowest, highest: lowest < highest)


def rated(records: Records) -> Records:
    """Records whose responses have scores, single ones and ties too."""
    return records.where(_mask(records, lambda k, lowest, highest: ~np.isnan(lowest)))


def prompts(records: Records) -> Records:
    """Every distinct prompt once, at its first place, without responses."""
    hashes = records.prompt_hashes
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    first = np.zeros(len(hashes), bool)
    first[order[first_of_each(hashes)]] = True
    del hashes, order       # memory: no more than these two at once
    return taking_one(records.where(first), np.full(np.count_nonzero(first), -1, np.int8))


def _distinct(values: np.ndarray) -> np.ndarray:
    """The distinct values, ascending."""
    ascending = np.sort(values)
    return ascending[first_of_each(ascending)]


def first_of_each(ascending: np.ndarray) -> np.ndarray:
    """(n,) bool: where a value differs from the one before."""
    first = np.ones(len(ascending), bool)
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    return first


Alike = Callable[[np.ndarray], np.ndarray]      # hashes of conversations → equal ones for those kept on one side


def split(records: Records, share: float, key: str = "heldout", alike: Alike | None = None) -> tuple[Records, Records]:
    """(train, heldout): of the distinct conversations the `share` with the lowest hashes is held out,
    with all their records. ConfigError, of the option `key`, for no share.

    Prompts with the same first user turn are one conversation: a longer one holds the answers of a shorter one. So no
    prompt is on both sides. At least one conversation stays on each side where there are two and 0 < share < 1. It
    depends on content alone: neither order nor seed changes it. Held out whole (1) is only `heldout`.
    """
    if not 0 <= share < 1 and not (share == 1 and key == "heldout"):
        raise ConfigError(f"data.{key}: found {share}; expected a share from 0 up to, not including, 1")
    if share == 0:
        return records, records.select([])
    if share == 1:
        return records.select([]), records
    hashes = roots(records, alike)
    distinct = _distinct(hashes)
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1) if len(distinct) > 1 else 0
    held = hashes < distinct[count] if count else np.zeros(len(hashes), bool)
    del hashes, distinct    # memory: they are not needed beside the indices made now
    return records.where(~held), records.where(held)


def set_aside(records: Records, share: float, alike: Alike | None = None,
              among: Records | None = None) -> tuple[Records, Records]:
    """(left, aside): of the conversations with a comparison the `share` with the lowest hashes, with all their records.

    among: those of the records whose comparisons count; None: all. It depends on content alone, as :func:`split` does;
    at least one conversation is left where there is one.
    """
    if share == 0:
        return records, records.select([])
    hashes = roots(records, alike)
    among = records if among is None else among
    compared = _distinct((hashes if among is records else roots(among, alike))[_ordering(among)])
    count = min(round(share * len(compared)), len(compared) - 1)
    aside = np.zeros(len(records), bool)
    if count > 0:
        low = np.flatnonzero(hashes < compared[count])      # memory: np.isin takes many copies of what it is given
        aside[low] = np.isin(hashes[low], compared[:count])
        del low
    del hashes, compared
    return records.where(~aside), records.where(aside)


def roots(records: Records, alike: Alike | None) -> np.ndarray:
    """(n,) uint64: where the records' conversations begin, equal for those that are kept on one side."""
    hashes = records.array("root_hash")
    return hashes if alike is None else alike(hashes)


def _mask(records: Records, test: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """(n,) bool: `test(k, lowest score, highest score)` of every record."""
    return np.concatenate([np.empty(0, bool), *(test(*part) for part in records.score_ranges())])


def evaluation_records(heldout: Records, rating: float | None = None) -> Records:
    """Every held-out prompt once, with a response to imitate where there is one: the first of its
    :func:`demonstrations` by `rating`, else the :func:`preferred` one."""
    rank, places = np.full(len(heldout), 2, np.int8), np.zeros(len(heldout), np.int32)
    several = np.flatnonzero(_ordering(heldout))
    keep, best = _best(heldout.select(several))
    rank[several[keep]], places[several] = 1, best
    rank[_demonstrating(heldout, rating)] = 0
    order = np.argsort(rank, kind="stable")
    first = np.sort(order[np.unique(heldout.prompt_hashes[order], return_index=True)[1]])
    return taking_one(heldout.select(first), np.where(rank[first] < 2, places[first], -1))
