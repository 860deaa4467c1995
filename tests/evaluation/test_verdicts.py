"""Verdicts are kept whole whoever writes them, and pairs are those that finished runs left."""

import json
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from algorithms.common.evaluation.verdicts import Verdict, append, finished_runs, pairings, read
from algorithms.common.evaluation.verdicts.pairings import REFERENCES
from algorithms.common.support.errors import UserError


def verdict(prompt_id: str = "p0", outcome: str = "left", **fields) -> Verdict:
    return Verdict(**{"prompt_id": prompt_id, "prompt": "Why?", "left": "0", "left_response": "so", "right": "start",
                      "right_response": "because\u2028", "outcome": outcome, "judge": "me", "order": "both",
                      "at": "2026-01-01T00:00:00+00:00", **fields})


def test_what_is_appended_is_read_again(tmp_path):
    path = tmp_path / "a=b" / "verdicts.parquet"
    path.parent.mkdir()
    first, second = verdict(raw="A.\n\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")), \
        verdict("p1", "none", order="left_first", sample=1, left_score=0.5, right_score=-1.0)
    assert read(path) == []
    append(path, [first])
    append(path, [])
    append(path, [second])
    assert read(path) == [first, second]


def test_what_two_processes_found_is_kept_once(tmp_path):
    path = tmp_path / "verdicts.parquet"
    append(path, [verdict(), verdict("p1")])
    later = "2026-01-02T00:00:00+00:00"
    append(path, [verdict(at=later), verdict("p1", "right", at=later), verdict("p2")], once=True)
    assert [(one.prompt_id, one.outcome) for one in read(path)] == \
        [("p0", "left"), ("p1", "left"), ("p1", "right"), ("p2", "left")]


@pytest.mark.parametrize("field", [{"outcome": "A"}, {"order": "random"}])
def test_a_verdict_says_only_what_there_is_to_say(field):
    with pytest.raises(ValueError, match="expected one of"):
        verdict(**field)


def write(path, name):
    for index in range(10):
        append(path, [verdict(f"{name}{index}", judge=name)])


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "verdicts.parquet"
    with ThreadPoolExecutor(2) as pool:  # each append opens the lock anew, as another process would
        list(pool.map(write, [path, path], ["x", "y"]))
    assert sorted(one.prompt_id for one in read(path)) == sorted(f"{name}{i}" for name in "xy" for i in range(10))


def test_a_write_that_was_cut_off_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "verdicts.parquet"
    append(path, [verdict()])
    with monkeypatch.context() as patched:
        patched.setattr("pyarrow.parquet.write_table", lambda table, file: (file.write(b"PAR1"), 1 / 0))
        with pytest.raises(ZeroDivisionError):
            append(path, [verdict("p1")])
    assert read(path) == [verdict()]
    append(path, [verdict("p2")])
    assert [one.prompt_id for one in read(path)] == ["p0", "p2"]


def test_another_file_is_refused_and_stays(tmp_path):
    path = tmp_path / "verdicts.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="move the file away"):
        append(path, [verdict()])
    assert path.read_bytes() == b"no parquet"
    pd.DataFrame({"prompt_id": ["p"]}).to_parquet(path)
    with pytest.raises(UserError, match="prompt: found no such column"):
        read(path)


def left_run(folder, seed=0, answers=("a", "b"), references=(), status="complete"):
    """A run of prompts p0, p1, …; an answer each; references: (side, sample, prompt_id, response)."""
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"status": status, "seed": seed}))
    rows = [(f"p{i}", 0, f"Q{i}", f"{text}{k}", k == 0) for i, text in enumerate(answers) for k in range(2)]
    pd.DataFrame(rows, columns=["prompt_id", "sample", "prompt", "response", "picked"]).assign(
        finished=True).to_parquet(folder / "samples.parquet")
    if references:
        pd.DataFrame(references, columns=["side", "sample", "prompt_id", "response"]).assign(
            finished=True).to_parquet(folder / REFERENCES)


def told(pairs):
    return [(one.left, one.prompt_id, one.left_response, one.right, one.right_response) for one in pairs]


def test_pairs_are_of_the_same_prompt_and_of_what_was_picked(tmp_path):
    left_run(tmp_path / "2", references=[("start", 0, "p1", "s1"), ("data", 0, "p0", "d0")])
    left_run(tmp_path / "10", 0, ("x",))
    left_run(tmp_path / "3", 1)
    left_run(tmp_path / "4", status="failed")
    runs = finished_runs(tmp_path)
    assert [run.name for run in runs] == ["2", "3", "10"]
    assert told(pairings(runs, "start")) == [("2", "p1", "b0", "start", "s1")]
    assert told(pairings(runs, "data")) == [("2", "p0", "a0", "data", "d0")]
    assert told(pairings(runs, "round_robin")) == [("2", "p0", "a0", "10", "x0")]
    with pytest.raises(UserError, match="verdicts.against: found data"):
        list(pairings(runs[1:], "data"))


def test_a_folder_without_runs_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="^runs: found no"):
            finished_runs(folder)
