"""What a run's data looks like, as plain numbers and texts (``task=inspect``): sizes, lengths, labels, and the split.

Every set is read once; of a record some forty bytes stay in memory. ``inspection_page.py`` shows the result.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ...support.phases import progress
from ...support.seeds import permutation
from . import duplicates
from .record import Messages, Record, prompt_hash
from .sets import HELD_OUT, TRAINING, DataSets
from .storage import Records
from .words import units

SHOWN = 5                           # outliers, near-duplicates and examples named
RESPONSES = 8                       # shown of one example
SPECIFIC = 3                        # words of a response that is looked for in training prompts
LONGEST = 1000                      # characters shown of one text
BINS = 24
FENCE = 3.0                         # outliers lie further than this many interquartile ranges from the middle half
LEAST_SPREAD = 0.1                  # of the median, which that range counts as at least
LARGEST = 1e300                     # larger margins count as this one, so that sums and fences of them are finite
QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99, "max": 1.0}

Mask = Callable[[str], str]


def inspect(data: DataSets, mask: Mask = str) -> dict[str, Any]:
    """Everything the report of a data source holds, and:

    sets: set → records. statistics: set → what its records hold. split: prompts on both sides (there must be none).
    conversations: held-out records whose conversation goes on, or goes back, on the training side (neither must be).
    near_duplicates: held-out prompts that nearly equal a training prompt.
    mask: applied to every text of the data before it is cut. A record is named PATH:LINE, or SET[INDEX] where it came
    from no file.
    """
    sets = {name: getattr(data, name) for name in (*TRAINING, *HELD_OUT)}
    sets |= {name: getattr(data, name) for name in ("audit", "choices") if getattr(data, name) is not None}
    with progress("counting", sum(map(len, sets.values())), "records") as advance:
        statistics = {name: _statistics(name, records, mask, advance) for name, records in sets.items() if len(records)}
    return {**data.report.to_dict(),
            "sets": {name: len(records) for name, records in sets.items()}, "statistics": statistics,
            "split": _split(sets), "conversations": _conversations(sets),
            "near_duplicates": _near_duplicates(sets, mask)}


# ---- one set


def _statistics(name: str, records: Records, mask: Mask, advance: Callable[[], None]) -> dict[str, Any]:
    tally = _Tally()
    for record in records:
        tally.add(record)
        advance()
    k = records.array("k")
    ends = np.cumsum(k, dtype=np.int64)     # of the responses of each record, counted over all

    def of_record(row: int) -> str:
        return _place(name, row, records[row])

    def of_response(index: int) -> str:
        return of_record(int(np.searchsorted(ends, index, "right")))

    def of_margin(index: int) -> str:
        return of_record(tally.margin_rows[index])

    same_prompt = np.unique(records.prompt_hashes, return_counts=True)[1]
    keys = np.fromiter((int(key[:16], 16) for key in records.column("key")), np.uint64, len(records))
    found = {
        "records": len(records), "distinct_prompts": len(same_prompt),
        "repeated_records": len(keys) - len(np.unique(keys)),
        "responses_per_record": _counts(k), "records_per_prompt": _counts(same_prompt), "origins": dict(tally.origins),
        "prompt": {unit: summary(values, of_record) for unit, values in tally.prompts.items()},
        "response": {unit: summary(values, of_response) for unit, values in tally.responses.items()},
    }
    if name == "choices":
        found |= {"right_options": _counts(tally.right), "position_of_right": _counts(tally.position),
                  "groups": dict(tally.groups)}
    else:
        found |= {"margin": summary(tally.margins, of_margin), "length_bias": tally.bias(), "ties": tally.told_ties()}
    chosen = np.sort(permutation(len(records), 0, "inspection", name)[:SHOWN])
    found["examples"] = [_example(records[row], of_record(row), mask) for row in chosen.tolist()]
    return found


class _Tally:
    """What one pass over a set's records adds up."""

    def __init__(self):
        self.prompts, self.responses = ({unit: array("i") for unit in ("characters", "words")} for _ in range(2))
        self.margins, self.margin_rows = array("d"), array("q")
        self.ties: dict[int, Counter[str]] = {}    # responses of a record → what is tied
        self.longer = self.shorter = self.equal = self.rows = 0
        self.origins, self.groups = Counter(), Counter()
        self.right, self.position = array("i"), array("i")

    def add(self, record: Record):
        self._lengths(self.prompts, "\n".join(text for _, text in _turns(record.prompt)))
        for response in record.responses:
            self._lengths(self.responses, response)
        if record.scores and len(record.scores) > 1:
            self._labels(record.responses, np.asarray(record.scores))
        if "origin" in record.meta:
            self.origins[str(record.meta["origin"])] += 1
        self.groups.update(map(str, record.meta.get("groups", ())))
        self.rows += 1

    @staticmethod
    def _lengths(lengths: dict[str, array], text: str):
        lengths["characters"].append(len(text))
        lengths["words"].append(count_words(text))

    def _labels(self, responses: list[str], scores: np.ndarray):
        """(k,) scores: their range, ties, and whether the longer response is preferred."""
        k = len(scores)
        self.margins.append(min(float(scores.max()) - float(scores.min()), LARGEST))
        self.margin_rows.append(self.rows)
        lengths = np.fromiter(map(len, responses), np.int64, k)
        better = scores[:, None] > scores  # (k, k): [i, j] response i above response j
        strict = int(better.sum())
        longer = int((better & (lengths[:, None] > lengths)).sum())
        shorter = int((better & (lengths[:, None] < lengths)).sum())
        self.longer += longer
        self.shorter += shorter
        self.equal += strict - longer - shorter
        pairs = k * (k - 1) // 2
        self.ties.setdefault(k, Counter()).update(records=1, pairs=pairs, tied_pairs=pairs - strict,
                                                  all_tied=int(strict == 0))
        self.right.append(int((scores > 0).sum()))
        self.position.append(int(scores.argmax()))

    def told_ties(self) -> dict[str, dict[str, int]]:
        return {str(k): dict(self.ties[k]) for k in sorted(self.ties)}

    def bias(self) -> dict[str, Any]:
        """Of all strictly ordered pairs; share: of those whose lengths in characters differ."""
        unequal = self.longer + self.shorter
        return {"pairs": unequal + self.equal, "longer": self.longer, "shorter": self.shorter, "equal": self.equal,
                "share": self.longer / unequal if unequal else None}


def count_words(text: str) -> int:
    """Words as white space separates them; a character of a script without spaces counts as one."""
    return len(units(text))


def summary(values: Iterable[float], place: Callable[[int], str]) -> dict[str, Any] | None:
    """Quantiles (linear interpolation), a histogram and outliers of (n,) values; `place(i)` names the i-th.
    None for none.

    An outlier lies below q25 − 3·w or above q75 + 3·w, where w is q75 − q25, but at least a tenth of the median, and of
    counts one: where nearly all values are equal, a little more is nothing odd.
    """
    values = np.asarray(values)
    if not len(values):
        return None
    quantiles = dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())).tolist()))
    reach = FENCE * max(quantiles["p75"] - quantiles["p25"], LEAST_SPREAD * abs(quantiles["median"]),
                        float(values.dtype.kind == "i"))
    low, high = quantiles["p25"] - reach, quantiles["p75"] + reach
    outside = np.flatnonzero((values < low) | (values > high))
    return {"n": len(values), "mean": float(values.mean()), **quantiles, "histogram": _histogram(values, quantiles),
            "outliers": {"below": low, "above": high, "count": len(outside), "share": len(outside) / len(values),
                         "first": [{"at": place(i), "value": values[i].item()} for i in outside[:SHOWN].tolist()]}}


def _histogram(values: np.ndarray, quantiles: dict[str, float]) -> dict[str, Any]:
    """Equal bins from the smallest value to the 99 % quantile, the last one holding all beyond;
    whole numbers stay whole."""
    low, high = quantiles["min"], quantiles["p99"]
    if values.dtype.kind == "i":
        width = -(-int(np.ceil(high) - low + 1) // BINS)
        bins = int((np.ceil(high) - low) // width) + 1
    else:
        width, bins = (high - low) / BINS, BINS
        if not width > 0:       # of the smallest numbers a 24th is 0
            width, bins = 1.0, 1
    edges = low + width * np.arange(bins + 1)
    counts = np.bincount(np.minimum((values - low) // width, bins - 1).astype(np.int64), minlength=bins)
    return {"edges": edges.tolist(), "counts": counts.tolist(), "open": bool(quantiles["max"] >= edges[-1])}


def _counts(values: Iterable[int]) -> dict[str, int]:
    """Value → how often, ascending; JSON's keys are texts."""
    return {str(value): count for value, count in zip(*(found.tolist() for found in
                                                        np.unique(np.asarray(values, np.int64), return_counts=True)))}


def _turns(prompt: str | Messages) -> list[tuple[str | None, str]]:
    return [(None, prompt)] if isinstance(prompt, str) else [(turn["role"], turn["content"]) for turn in prompt]


def _place(name: str, row: int, record: Record) -> str:
    source, line = record.meta.get("source"), record.meta.get("line")
    return f"{name}[{row}]" if source is None or line is None else f"{source}:{line}"


def _cut(text: str, mask: Mask) -> dict[str, Any]:
    """The text's beginning and its whole length; masked first, since half of a secret would not be found."""
    return {"text": mask(text)[:LONGEST], "characters": len(text)}


def _example(record: Record, place: str, mask: Mask) -> dict[str, Any]:
    return {"at": place, "prompt": [{"role": role, **_cut(text, mask)} for role, text in _turns(record.prompt)],
            "responses": [{"score": None if record.scores is None else record.scores[i], **_cut(response, mask)}
                          for i, response in enumerate(record.responses[:RESPONSES])],
            "responses_in_all": len(record.responses)}


# ---- both sides of the split


def _split(sets: dict[str, Records]) -> dict[str, Any]:
    """Prompts (by content hash) that stand in a training set and in one that measures."""
    training = _distinct(sets[name] for name in TRAINING)
    held = [name for name in sets if name not in TRAINING]
    shared = {name: np.flatnonzero(np.isin(sets[name].prompt_hashes, training)) for name in held}
    tuned = np.isin(_distinct([sets["tuning"]]), _distinct([sets["evaluation"], sets["heldout"]]))
    lines = [_place(name, row, sets[name][row]) for name, rows in shared.items() for row in rows[:SHOWN].tolist()]
    return {"training_prompts": len(training), "heldout_prompts": len(_distinct(sets[name] for name in held)),
            "shared_prompts": len(_distinct(sets[name].select(rows) for name, rows in shared.items())),
            "shared_with_training": {name: len(rows) for name, rows in shared.items()}, "lines": lines[:SHOWN],
            "tuning_and_evaluation": int(np.count_nonzero(tuned))}


def _distinct(sets: Iterable[Records]) -> np.ndarray:
    return np.unique(np.concatenate([np.empty(0, np.uint64), *(records.prompt_hashes for records in sets)]))


def _conversations(sets: dict[str, Records]) -> dict[str, Any]:
    """Held-out records of conversations that are also trained on, by set and with the first lines.

    continued: the messages of the prompt begin a training prompt, or a training prompt begins them. answers_trained_on:
    a response of at least SPECIFIC words follows the same turn in a training prompt.
    """
    training = _distinct(sets[name] for name in TRAINING)
    begun, said = _trained_on(sets)
    counts, shown = {"continued": {}, "answers_trained_on": {}}, {"continued": [], "answers_trained_on": []}
    for name in HELD_OUT:
        records = sets[name]
        begins = np.flatnonzero(np.isin(records.prompt_hashes, begun))
        goes_on = _rows_with(records, _record_beginnings, training)
        found = {"continued": np.union1d(begins, goes_on),
                 "answers_trained_on": _rows_with(records, _record_exchanges, said)}
        for kind, rows in found.items():
            counts[kind][name] = len(rows)
            shown[kind] += [_place(name, row, records[row]) for row in rows[:SHOWN].tolist()]
    return {**counts, "lines": {kind: list(dict.fromkeys(places))[:SHOWN] for kind, places in shown.items()}}


def _trained_on(sets: dict[str, Records]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct hashes of what training prompts begin with, and of the answers in them with what was asked before."""
    begun, said = array("Q"), array("Q")
    training = {name: sets[name] for name in TRAINING}
    places = duplicates.first_places(training, np.empty(0, np.uint64))
    with progress("looking for conversations on both sides", sum(map(len, places.values())), "prompts") as advance:
        for name, rows in places.items():
            for prompt in duplicates.prompts(sets[name].select(rows)):
                begun.extend(_beginnings(prompt))
                turns = _turns(prompt)
                for (_, asked), (role, text) in zip(turns, turns[1:]):
                    if role == "assistant":
                        said.append(_exchange(asked, text))
                advance()
    return np.unique(begun), np.unique(said)


def _rows_with(records: Records, hashes_of: Callable[[Record], list[int]], known: np.ndarray) -> np.ndarray:
    """Ascending indices of the records of whose hashes one is known."""
    hashes, rows = array("Q"), array("q")
    for row, record in enumerate(records):
        found = hashes_of(record)
        hashes.extend(found)
        rows.extend([row] * len(found))
    return np.unique(np.asarray(rows, np.int64)[np.isin(hashes, known)])


def _record_beginnings(record: Record) -> list[int]:
    return _beginnings(record.prompt)


def _record_exchanges(record: Record) -> list[int]:
    """Of the responses that are long enough to tell something."""
    asked = _turns(record.prompt)[-1][1]
    return [_exchange(asked, text) for text in record.responses if count_words(text) >= SPECIFIC]


def _beginnings(prompt: str | Messages) -> list[int]:
    """Hashes of what a prompt's messages begin with, itself left out."""
    return [] if isinstance(prompt, str) else [prompt_hash(prompt[:end]) for end in range(1, len(prompt))]


def _exchange(asked: str, answer: str) -> int:
    return prompt_hash([{"role": "user", "content": asked.strip()}, {"role": "assistant", "content": answer.strip()}])


def _near_duplicates(sets: dict[str, Records], mask: Mask) -> dict[str, Any]:
    found = duplicates.near_duplicates({name: sets[name] for name in TRAINING}, {name: sets[name] for name in HELD_OUT})

    def side(place: tuple[str, int]) -> dict[str, Any]:
        name, row = place
        record = sets[name][row]
        return {"at": _place(name, row, record), **_cut("\n".join(text for _, text in _turns(record.prompt)), mask)}

    return {"threshold": duplicates.THRESHOLD, "heldout_prompts": found.heldout, "count": len(found.pairs),
            "first": [{"jaccard": similarity, "training": side(training), "heldout": side(heldout)}
                      for training, heldout, similarity in found.pairs[:SHOWN]],
            "comparisons": found.comparisons, "untried_candidates": found.untried}
