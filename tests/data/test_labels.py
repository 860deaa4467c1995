"""Contradictory labels, repeated records, nearly equal prompts, empty answers: counted, left out or kept on request."""

import json
from pathlib import Path

import numpy as np
import pytest

from algorithms.common.data.records import FileData, Record, Records
from algorithms.common.data.records.inspection import inspect
from algorithms.common.data.records.inspection_page import page, terminal
from algorithms.common.data.records.labels import contradictions, repeated
from algorithms.common.data.records.similar import SimilarRoots
from algorithms.common.support.errors import ConfigError, DataError
from column_setup import write

CASES = Path(__file__).parents[3] / "shared" / "cases"


def pair(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def naive(records):
    """Every ordered pair beside every other."""
    orders = [(i, r.prompt, r.responses[a], r.responses[b]) for i, r in enumerate(records) for a, b in r.strict_pairs]
    found = [(i, j, frozenset(x)) for i, p, *x in orders for j, q, *y in orders if p == q and x == y[::-1] and i != j]
    texts = {(records[i].prompt, texts) for i, _, texts in found}
    return len(texts), sorted({i for i, _, _ in found})


def test_contradictions_are_those_that_every_pair_beside_every_other_shows():
    random = np.random.default_rng(0)
    records = [Record(f"p{random.integers(4)}", [f"r{i}" for i in random.permutation(4)[:k]],
                      random.integers(0, 3, k).astype(float).tolist()) for k in random.integers(1, 4, 60).tolist()]
    count, rows = contradictions(Records.from_list(records))
    assert (count, rows.tolist()) == naive(records) and count > 5


def test_contradictions_are_counted_said_and_dropped_with_both_sides(tmp_path, caplog):
    rows = [pair("p", "a", "b"), pair("p", "b", "a"), pair("q", "a", "b"), pair("r", "b", "a"), pair("p", "a", "c")]
    path = write(tmp_path, rows)
    data = FileData(path=path, heldout=0).load(0)
    assert data.report.contradictions == 1 and len(data.preferences) == 5
    assert "1 contradictory labels: pairs ordered in both ways (kept)" in caplog.text
    found = inspect(data)
    assert "1 contradictory labels" in terminal(found) and "contradictions: 1" in page(found, "t")
    records, report = FileData(path=path, contradictions="drop").records()
    assert [record.prompt for record in records] == ["q", "r", "p"]
    assert report.contradictions == 0 and report.dropped == {"contradictory label": 2}
    assert report.kinds == {"pair": 3} and report.strict_pairs == report.kept == 3
    assert report.lines == {"contradictory label": [f"{path}:1", f"{path}:2"]}


@pytest.mark.skipif(not CASES.is_dir(), reason="no cases")
def test_the_case_of_ten_contradictions():
    assert FileData(path=str(CASES / "contradicting_labels.jsonl")).records()[1].contradictions == 10


def test_repeated_records_are_dropped_but_for_the_first(tmp_path):
    path = write(tmp_path, [pair("p", "a", "b"), pair("q", "a", "b"), pair("p", "a", "b"), pair("p", "a", "b")])
    assert FileData(path=path).records()[1].duplicates == 2
    records, report = FileData(path=path, duplicates="drop").records()
    assert [record.meta["line"] for record in records] == [1, 2]
    assert report.duplicates == 0 and report.dropped == {"duplicate record": 2} and report.kept == 2
    assert repeated(Records.from_list([])).tolist() == []


def test_empty_answers_may_be_kept(tmp_path):
    path = write(tmp_path, [pair("p", "", "b"), pair("q", "a", " ")])
    with pytest.raises(DataError, match="empty response"):
        FileData(path=path).records()
    records, report = FileData(path=path, empty_answers="keep").records()
    assert [record.responses for record in records] == [["", "b"], ["a", " "]] and report.kept == 2
    made = FileData(path=path, empty_answers="keep", mapper=lambda row: Record(row["prompt"], [""])).records()[0]
    assert made[0].responses == [""]


# Nearly equal prompts


VARIANTS = [f"{text} {name}?" for i in range(30) for name in [f"the old harbour of town {i} in the rainy season {i}"]
            for text in ("what do people say about", "What do people say about")]


def sides(path, **options):
    data = FileData(path=path, **options).load(0)
    return [{record.prompt.casefold() for record in part} for part in (data.prompts, data.evaluation, data.tuning)]


def test_nearly_equal_prompts_stay_on_one_side_where_asked_for(tmp_path):
    path = write(tmp_path, [pair(prompt, "a", "b") for prompt in VARIANTS])
    train, held, _ = sides(path)
    assert train & held, "by conversation they do not"
    train, held, tuned = sides(path, split_by="similarity", tuning=0.2)
    assert not train & held and not train & tuned and not held & tuned and len(held) == 3 and len(tuned) == 5
    data = FileData(path=path, split_by="similarity", audit=0.3).load(0)
    assert inspect(data)["near_duplicates"]["count"] == 0 and len(data.audit) == 16
    prompts = {record.prompt.casefold() for record in data.audit}
    assert not prompts & {record.prompt.casefold() for record in data.preferences}


@pytest.mark.skipif(not CASES.is_dir(), reason="no cases")
def test_the_case_of_nearly_equal_prompts():
    data = FileData(path=str(CASES / "nearly_equal_prompts.jsonl"), split_by="similarity").load(0)
    words = [{record.prompt.casefold().strip() for record in part} for part in (data.prompts, data.evaluation)]
    assert not words[0] & words[1] and len(words[1]) == 2


def test_what_nearly_equals_an_evaluated_prompt_is_not_trained_on_where_asked_for(tmp_path):
    path = write(tmp_path, [pair(prompt, "a", "b") for prompt in VARIANTS[::2]])
    own = write(tmp_path, [{"prompt": VARIANTS[1]}], "own.jsonl")
    assert len(FileData(path=path, evaluation_path=own, heldout=0).load(0).preferences) == 30
    data = FileData(path=path, evaluation_path=own, heldout=0, split_by="similarity").load(0)
    assert len(data.preferences) == 29 and data.report.dropped == {"prompt evaluated": 1}


def test_groups_are_closed_and_leave_others_as_they_are():
    words = [f"w{i}" for i in range(60)]
    chain = [" ".join(words[start:start + 40]) for start in (0, 3, 6, 9)]     # neighbours share ≥ 0.8, ends do not
    records = Records.from_list(Record(text, []) for text in [*chain, "something else entirely", "?"])
    hashes = records.array("root_hash")
    shared = SimilarRoots(records)(hashes)
    assert len(set(shared[:4].tolist())) == 1 and shared[4:].tolist() == hashes[4:].tolist()
    order = np.array([5, 3, 1, 0, 2, 4])
    assert SimilarRoots(records.select(order))(hashes).tolist() == shared.tolist(), "in whatever order"
    assert SimilarRoots(Records.from_list([]))(hashes).tolist() == hashes.tolist()


def test_values_that_there_are_not():
    for key in ("duplicates", "contradictions", "empty_answers", "split_by"):
        with pytest.raises(ConfigError, match=f"data.{key}: found 'perhaps'; expected "):
            FileData(path="x", **{key: "perhaps"})


def test_all_may_be_held_out(tmp_path):
    data = FileData(path=write(tmp_path, [pair(f"p{i}", "a", "b") for i in range(4)]), heldout=1).load(0)
    assert len(data.evaluation) == len(data.heldout) == 4 and not len(data.preferences) + len(data.prompts)
    assert json.dumps(data.report.to_dict())
