"""Watching a sweep: folders made by hand, and exactly what is shown."""

import json

import pytest
from filelock import FileLock

from benchmarks.watch import Job, Overview, main, overview, span


@pytest.fixture
def sweep(tmp_path):
    """Two jobs done, one failed, one running, one lost, one to come; `now` is 1000."""
    asked = [("dpo", 0), ("dpo", 1), ("ppo", 0), ("ppo", 1), ("dpo", 2), ("ppo", 2)]
    told = {"task": "run", "launcher": "joblib", "at_once": 2, "trials": None, "jobs": [
        {"num": number, "algorithm": name, "seed": seed, "overrides": [f"algorithm={name}", f"seed={seed}", "x=1"]}
        for number, (name, seed) in enumerate(asked)]}
    (tmp_path / "sweep.json").write_text(json.dumps(told))
    marks = [(900, 940, "dpo", None), (900, 960, "dpo", None), (900, 901, None, None), (990, None, "ppo", 12),
             (950, None, "evaluation of dpo", None)]
    results = {0: {"status": "complete"}, 1: {"status": "complete"},
               2: {"status": "failed", "error": {"type": "ConfigError", "message": "beta: found -1\nmore"}}}
    for number, (began, ended, stage, step) in enumerate(marks):
        folder = tmp_path / str(number)
        folder.mkdir()
        mark = {"num": number, "pid": 1, "host": "", "began": began, "stage": stage, "step": step, "steps": step and 96}
        (folder / "job.json").write_text(json.dumps(mark if ended is None else {**mark, "ended": ended}))
        if number in results:
            (folder / "result.json").write_text(json.dumps(results[number]))
    with FileLock(tmp_path / "3" / ".running"):
        yield tmp_path


def test_what_is_shown(sweep):
    found = overview(sweep, now=1000)
    assert found.lines() == [
        "6 jobs, 2 done, 1 failed, 1 running, 1 lost, 1 to come, about 45 s left",
        "#3 ppo seed=1: ppo, step 12 of 96, 10 s", "#2 ppo seed=0: failed: beta: found -1",
        "#4 dpo seed=2: lost: evaluation of dpo"]
    # the usual job took 50 s: 40 are left of the one that runs, 50 of the one to come, by two at a time
    assert found.seconds_left() == 45


def test_a_job_that_was_stopped_has_not_failed(sweep):
    ended = {"status": "failed", "error": {"type": "Stopped", "message": "stopped at step 3 of 9; …"}}
    (sweep / "2/result.json").write_text(json.dumps(ended))
    first, _, stopped, _ = overview(sweep, now=1000).lines()
    assert "1 stopped" in first and "failed" not in first
    assert stopped == "#2 ppo seed=0: stopped: stopped at step 3 of 9; …"


def test_time_left_is_that_of_the_same_method_and_at_least_the_longest():
    found = Overview([Job("a", "dpo", "done", 10), Job("b", "ppo", "done", 100), Job("c", "ppo", "running", 20),
                      Job("d", "dpo", "running", 2)], at_once=4)
    assert found.seconds_left() == 80
    assert Overview([Job("c", "ppo", "running", 20)]).seconds_left() is None
    assert "nobody knows how long" in Overview([Job("c", "ppo", "running", 20)]).lines()[0]


def test_trials_that_are_not_proposed_yet_are_to_come(sweep):
    told = json.loads((sweep / "sweep.json").read_text())
    (sweep / "sweep.json").write_text(json.dumps({**told, "trials": 9}))
    assert len(overview(sweep, now=1000).of("to come")) == 4


@pytest.mark.parametrize("seconds, told", [(89, "89 s"), (95, "2 min"), (5400, "1.5 h")])
def test_a_time_in_words(seconds, told):
    assert span(seconds) == told


def test_the_command_line(sweep, tmp_path, capsys):
    assert main([str(sweep), "--once"]) == 0
    assert capsys.readouterr().out.startswith("6 jobs, 2 done")
    assert main([str(sweep / "0")]) == 2 and "found no sweep.json" in capsys.readouterr().err
