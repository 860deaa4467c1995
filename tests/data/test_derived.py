"""Records made column by column are those that are made one by one."""

import hashlib
import json
import math
import random

import numpy as np
import pytest

from algorithms.common.data.records import Record, Records, derived, pairs, storage
from algorithms.common.data.records.record import hashes, prompt_hash, prompt_json, root_hash

USER, ANSWER = {"role": "user", "content": 'q "1"\n'}, {"role": "assistant", "content": "a", "weight": 0}
PROMPTS = ["plain é\u2028", [USER], [{"role": "system", "content": "s"}, USER], [USER, ANSWER, USER]]


def some(count):
    draw = random.Random(0)
    made = []
    for i in range(count):
        k = draw.randint(0, 3)
        responses = [f"answer {draw.random()}" for _ in range(k)]
        scores = [float(draw.randint(0, 2)) for _ in range(k)] if draw.random() < 0.6 else None
        extras = [{} if draw.random() < 0.5 else {"name": "b"} for _ in range(k)]
        prompt = PROMPTS[i % 4] if i % 5 else f"p{i}"
        made.append(Record(prompt, responses, scores, {"source": "f", "line": i}, extras if any(extras) else None))
    return made


@pytest.fixture(autouse=True)
def batches_of_seven(monkeypatch):
    for module in (storage, derived):
        monkeypatch.setattr(module, "BATCH_ROWS", 7)


def content(records):
    names = ("key", "prompt_hash", "root_hash", "k")
    return [list(records), *(list(records.column(name)) for name in names), records.path.rpartition("/")[2]]


@pytest.mark.parametrize("order", [None, "some", "backwards"])
def test_one_response_of_each(order):
    whole = some(40)
    records = Records.from_list(whole)
    if order is not None:
        chosen = np.arange(3, 37, 2)[::-1 if order == "backwards" else 1]
        records, whole = records.select(chosen), [whole[i] for i in chosen]
    places = np.array([i % (len(one.responses) + 1) - 1 for i, one in enumerate(whole)])
    expected = [one.taking([place] if place >= 0 else [], judged=False) for one, place in zip(whole, places)]
    assert content(derived.taking_one(records, places)) == content(Records.from_list(expected))


def test_of_no_records():
    none = Records.from_list([])
    assert list(derived.taking_one(none, np.empty(0, np.int64))) == list(pairs(none)) == []
    assert list(derived.merged([none], np.empty(0, np.int64), [dict])) == []


def test_sources_in_turn():
    draw = random.Random(1)
    sets = [some(23), some(9)[::-1], []]
    order = [0] * 23 + [1] * 9
    draw.shuffle(order)
    feeds = [iter(records) for records in sets]
    expected = [Record(one.prompt, one.responses, one.scores, {**one.meta, "of": i}, one.extras)
                for i in order for one in [next(feeds[i])]]
    told = [lambda meta, i=i: {**meta, "of": i} for i in range(3)]
    made = derived.merged([Records.from_list(records) for records in sets], np.array(order), told)
    assert content(made) == content(Records.from_list(expected))


def test_ranges_of_scores():
    whole = [*some(30), Record("p", [], [])]
    k, lowest, highest = map(np.concatenate, zip(*Records.from_list(whole).select(np.arange(1, 31)).score_ranges()))
    assert k.tolist() == [len(one.responses) for one in whole[1:]]
    for one, low, high in zip(whole[1:], lowest, highest, strict=True):
        assert (low, high) == (min(one.scores), max(one.scores)) if one.scores else math.isnan(low) and math.isnan(high)


def test_pairs_that_are_pairs_already_are_not_written_again():
    judged = [Record("p", ["a", "b"], [2.0, 1.0]), Record("q", ["a"], [1.0]), Record("r", ["a", "b"], [1.0, 1.0])]
    records = Records.from_list(judged)
    assert pairs(records).path == records.path and list(pairs(records)) == judged[:1]
    more = [Record("s", ["a", "b"], [1.0, 2.0]), Record("t", ["a", "a", "b"], [2.0, 1.0, 1.0])]
    other = Records.from_list([*judged, *more])
    assert [(one.responses, one.scores) for one in pairs(other)] == [
        (["a", "b"], [2.0, 1.0]), (["b", "a"], [2.0, 1.0]), (["a", "b"], [2.0, 1.0])]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_keys_are_of_canonical_json(prompt):
    turns = prompt if isinstance(prompt, str) else [
        [turn["role"], turn["content"], *([{"weight": 0}] if "weight" in turn else [])] for turn in prompt]
    for scores, extras in ((None, None), ([1, 0.25], None), ([1e16, -0.0], [{"b": 1, "a": [None]}, {}])):
        one = Record(prompt, ["é", "\\n"], scores, {}, extras)
        parts = [turns, one.responses, scores and list(map(float, scores)), *([extras] if extras else [])]
        expected = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
        assert one.key == expected == next(Records.from_list([one]).column("key"))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_hashes_at_once(prompt):
    assert hashes(prompt) == (prompt_json(prompt), prompt_hash(prompt), root_hash(prompt))
