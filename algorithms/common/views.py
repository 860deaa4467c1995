"""What algorithms train on: views of records, and the split by prompt."""

from collections.abc import Callable

import numpy as np

from algorithms.common.errors import ConfigError
from algorithms.common.record import Record
from algorithms.common.storage import Records


def demonstrations(records: Records) -> Records:
    """Single responses to imitate: k = 1 without a score, or with a positive one."""
    return records.where(_mask(records, lambda k, scores: k == 1 and (scores is None or scores[0] > 0)))


def preferred(records: Records) -> Records:
    """The best response of every record that orders at least two, as a demonstration (Preferred-FT)."""
    return Records.from_list(Record(record.prompt, [record.best], None, record.meta) for record in ranked(records))


def pairs(records: Records) -> Records:
    """All strict pairs of every record, each a record with k = 2, the better response first, scores kept."""
    return Records.from_list(
        Record(record.prompt, [record.responses[i] for i in pair], [record.scores[i] for i in pair], record.meta)
        for record in ranked(records) for pair in record.strict_pairs)


def ranked(records: Records) -> Records:
    """Records with at least one strict pair, all their responses and scores as they are."""
    return records.where(_mask(records, lambda k, scores: scores is not None and k > 1 and min(scores) < max(scores)))


def rated(records: Records) -> Records:
    """Records whose responses have scores, single ones and ties too."""
    return records.where(_mask(records, lambda k, scores: scores is not None and k > 0))


def prompts(records: Records) -> Records:
    """Every distinct prompt once, at its first place, without responses."""
    hashes = records.prompt_hashes
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    first = np.zeros(len(hashes), bool)
    first[order[first_of_each(hashes)]] = True
    del hashes, order       # memory: no more than these two at once
    return Records.from_list(Record(record.prompt, [], None, record.meta) for record in records.where(first))


def first_of_each(ascending: np.ndarray) -> np.ndarray:
    """(n,) bool: where a value differs from the one before."""
    first = np.ones(len(ascending), bool)
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    return first


def split(records: Records, share: float) -> tuple[Records, Records]:
    """(train, heldout): of the distinct conversations the `share` with the lowest hashes is held out, with all their records.

    Prompts with the same first user turn are one conversation: a longer one holds the answers of a shorter one. So no prompt is
    on both sides. At least one conversation stays on each side where there are two and 0 < share < 1. It depends on content
    alone: neither order nor seed changes it.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"data.heldout: found {share}; expected a share from 0 up to, not including, 1")
    hashes = records.array("root_hash")
    distinct = np.sort(hashes)
    distinct = distinct[first_of_each(distinct)]
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1) if share > 0 and len(distinct) > 1 else 0
    held = hashes < distinct[count] if count else np.zeros(len(hashes), bool)
    del hashes, distinct    # memory: they are not needed beside the indices made now
    return records.where(~held), records.where(held)


def _mask(records: Records, test: Callable[[int, list[float] | None], bool]) -> np.ndarray:
    """(n,) bool: `test(k, scores)` of every record."""
    values = zip(records.column("k"), records.column("scores"))
    return np.fromiter((test(k, scores) for k, scores in values), bool, len(records))


def evaluation_records(heldout: Records) -> Records:
    """Every held-out prompt once, with its best response where one of its records has one."""
    has_best = np.fromiter((record.best is not None for record in heldout), bool, len(heldout))
    order = np.argsort(~has_best, kind="stable")
    first = order[np.unique(heldout.prompt_hashes[order], return_index=True)[1]]
    return Records.from_list(Record(record.prompt, [] if record.best is None else [record.best], None, record.meta)
                             for record in heldout.select(np.sort(first)))
