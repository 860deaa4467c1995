"""The benchmark's order of runs, by stand-ins: parity, search, turns; its arithmetic, its gauges of memory and time."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from benchmarks.speed import compare, ppo_trl, request
from benchmarks.speed.compare import Apart, Watch, best_option, largest_difference, ratio
from benchmarks.speed.page import elsewhere
from benchmarks.speed.request import Lengths, Request
from benchmarks.speed.side import kind


@pytest.fixture
def asked(tmp_path) -> Request:
    return Request("", "", "tiny", "cpu", "fp32", 3, str(tmp_path), "", parity=True, lengths=Lengths((16, 48), (4, 24)))


def told(seconds: float, **more) -> dict:
    return {"values": [1.0, 2.0], "seconds": seconds, "cpu_seconds": seconds, "items": 4, "imported_bytes": 100,
            "peak_bytes": 300, "process_seconds": seconds, **more}


@pytest.fixture
def runs(monkeypatch) -> list[Request]:
    """What was run, by a stand-in that takes 1 s on our side and more on the other."""
    seen: list[Request] = []

    def run(one: Request) -> dict:
        seen.append(one)
        if one.option.get("dataloader_num_workers"):
            raise RuntimeError("no workers here")
        slower = 2.0 if one.option.get("per_device_train_batch_size") == 1 else 3.0
        return told(1.0) if one.side == "ours" else told(slower, peak_bytes=500)

    monkeypatch.setattr(compare, "run", run)
    return seen


def test_parity_comes_first_then_the_search_then_its_findings_parity_then_both_in_turn(asked, runs):
    found = compare.compare(replace(asked, what="dpo", parity=False), repeats=2)
    tried = kind("dpo").OPTIONS["TRL"]
    options = len(tried)
    assert [one.side for one in runs[:2]] == ["ours", "TRL"] and all(one.parity for one in runs[:2])
    assert [one.option for one in runs[2:2 + options]] == tried
    options += 2  # the best two again
    assert [one.parity for one in runs[2:]] == [False] * options + [True] * 2 + [False] * 4
    assert [one.side for one in runs[2 + options:4 + options]] == ["ours", "TRL"]
    assert [one.side for one in runs[4 + options:]] == ["ours", "TRL", "TRL", "ours"]
    best = found["sides"]["TRL"]["option"]
    assert best["per_device_train_batch_size"] == 1
    assert all(one.option == best for one in runs[2 + options:] if one.side == "TRL")
    assert found["ratios"]["seconds"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert found["ratios"]["memory"]["median"] == 2.0  # 400 for 200 above the imports


@pytest.mark.parametrize("what, steps", [("dpo", 6), ("ppo", 1), ("ppo_dpo", 0)])
def test_parity_takes_the_steps_that_a_kind_says(asked, runs, what, steps):
    compare.compare(replace(asked, what=what, steps=20, parity=False), repeats=1)
    options = kind(what).OPTIONS.get("TRL", [])
    assert [one.steps for one in runs if one.parity] == [steps] * (2 * bool(steps) + 2 * bool(options))
    searched = len(options) + 2 * bool(options)  # the best two again
    assert [one.steps for one in runs if not one.parity] == [10] * searched + [20] * 2


def test_the_loss_before_any_update_is_not_all_that_is_compared(asked, runs):
    compare.compare(replace(asked, what="dpo", steps=1, parity=False), repeats=1)
    assert {one.steps for one in runs if one.parity} == {2} and {one.steps for one in runs if not one.parity} == {1}


def test_the_parity_of_a_setting_that_changes_the_order_is_not_asked(asked, runs, monkeypatch):
    settings = {"TRL": [{}, {"per_device_train_batch_size": 1, compare.REORDERS: "group_by_length"}]}
    monkeypatch.setattr(compare, "kind", lambda what: replace(kind("dpo"), OPTIONS=settings))
    found = compare.compare(replace(asked, what="dpo", parity=False), repeats=1)
    assert found["sides"]["TRL"]["option"] == settings["TRL"][1]
    assert [one.parity for one in runs] == [True] * 2 + [False] * 6


def test_a_search_takes_as_many_steps_as_its_kind_says(asked, runs):
    best_option(replace(asked, what="sampling", side="generate", steps=16), [{}, {"merged": True}])
    best_option(replace(asked, what="sft", side="TRL", steps=5), [{}])
    assert [one.steps for one in runs] == [16] * 4 + [3]


@pytest.mark.parametrize("device, wanted", [("cpu", 2), ("cuda", 1)])
def test_a_disturbed_run_is_not_what_a_setting_takes(asked, monkeypatch, device, wanted):
    """On a CPU by CPU time; of the first two the faster of two runs."""
    wall = {0: [9.0], 1: [3.0, 3.0], 2: [8.0, 4.0]}
    cpu = {0: [9.0], 1: [3.0, 2.8], 2: [3.5, 2.5]}
    seen = []

    def run(one):
        number = one.option["number"]
        seen.append(number)
        turn = min(seen.count(number), len(wall[number])) - 1
        return told(wall[number][turn], cpu_seconds=cpu[number][turn])

    monkeypatch.setattr(compare, "run", run)
    options = [{"number": number} for number in range(3)]
    best, tried = best_option(replace(asked, what="sft", side="TRL", device=device), options)
    assert best == options[wanted] and len(tried) == 5 and sorted(seen[3:]) == [1, 2]


def test_memory_of_a_gpu_is_what_was_allocated_there():
    run = {"peak_bytes": 500, "imported_bytes": 200}
    assert compare.memory({**run, "device_bytes": 0}) == 300 and compare.memory({**run, "device_bytes": 70}) == 70


def test_nothing_is_timed_where_the_sides_differ(asked, runs, monkeypatch):
    values = {"ours": [1.0, 2.0], "TRL": [1.0, 2.002]}
    monkeypatch.setattr(compare, "run", lambda one: runs.append(one) or told(1.0, values=values[one.side]))
    with pytest.raises(Apart, match="differ by 0.001"):
        compare.compare(replace(asked, what="dpo", parity=False), repeats=2)
    assert len(runs) == 2


def test_what_has_no_values_is_timed_at_once(asked, runs):
    found = compare.compare(replace(asked, what="ppo_dpo", parity=False), repeats=1)
    assert [one.side for one in runs] == ["ours", "our DPO"] and not any(one.parity for one in runs)
    assert found["parity"]["values"] == 0


def test_values_are_those_of_a_sides_first_setting(asked, runs):
    """Else DPO with the reference computed beforehand would be compared without it."""
    compare.compare(replace(asked, what="dpo_ref", parity=False), repeats=1)
    assert runs[1].parity and runs[1].option["precompute_ref_log_probs"]


def test_a_side_of_another_environment_runs_there_and_its_versions_are_told(asked, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '" + json.dumps(told(7.0, versions={"trl": "1.12.0"})) + "'\n")
    python.chmod(0o755)
    found = compare.run(replace(asked, what="ppo_trl", side=ppo_trl.ELSEWHERE, python=str(python)))
    assert found["seconds"] == 7.0 and found["versions"] == {"trl": "1.12.0"}
    sides = {"ours": {"versions": {"trl": "1.16.0"}}, "TRL 1.12.0": {"versions": found["versions"]}}
    assert elsewhere({"versions": {"trl": "1.16.0"}, "sides": sides}) == "; TRL 1.12.0 with trl 1.12.0"


def test_a_setting_that_fails_is_not_the_best_one(asked, runs):
    options = [{}, {"dataloader_num_workers": 1}, {"per_device_train_batch_size": 1}]
    best, tried = best_option(replace(asked, what="sft", side="TRL"), options)
    assert best == options[2] and [one["seconds"] for one in tried] == [3.0, None, 2.0, 2.0, 3.0]
    with pytest.raises(RuntimeError, match="none of its settings"):
        best_option(replace(asked, what="sft", side="TRL"), [{"dataloader_num_workers": 1}])


def test_differences_are_relative_and_all_are_compared():
    assert largest_difference({"a": [2.0, 1.0], "b": [2.0, 1.1]}) == pytest.approx(0.1 / 1.1)
    assert largest_difference({"a": [], "b": []}) == 0
    with pytest.raises(Apart, match="1 values of a for 2 of b"):
        largest_difference({"a": [1.0], "b": [1.0, 2.0]})


def test_ratios_are_of_runs_made_one_after_the_other():
    both = {"ours": [{"s": 1.0}, {"s": 2.0}, {"s": 4.0}], "other": [{"s": 2.0}, {"s": 6.0}, {"s": 4.0}]}
    assert ratio(both, lambda one: one["s"]) == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_memory_is_seen_from_outside_with_that_of_children():
    inner = "x = bytearray(96 << 20); import time; time.sleep(1)"
    outer = f"import subprocess, sys; x = bytearray(64 << 20); subprocess.run([sys.executable, '-c', {inner!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer])
    watch = Watch(process.pid)
    process.wait()
    assert 160 << 20 < watch.stop() < 260 << 20


def test_what_a_forked_worker_shares_with_its_parent_counts_once():
    outer = ("import os, time\nx = b'x' * (200 << 20)\nif not (child := os.fork()):\n    y = b'y' * (32 << 20)\n"
             "    time.sleep(1.2)\n    os._exit(0)\nos.waitpid(child, 0)")
    process = subprocess.Popen([sys.executable, "-c", outer])
    watch = Watch(process.pid)
    process.wait()
    assert 232 << 20 <= watch.stop() < 280 << 20


def test_time_counts_what_stands_inside():
    watched = request.Answer()
    time.sleep(0.05)
    with watched.watched("cpu"):
        time.sleep(0.1)
    assert 0.1 <= watched.seconds < 0.15 + 0.5 and watched.cpu_seconds <= watched.seconds + 0.1


@pytest.mark.parametrize("what, response, wanted", [
    ("dpo", "16-96", 3e-5), ("dpo", "4-24", 3e-5), ("dpo", "128-288", 9e-5), ("sampling", "128-288", 0.0)])
def test_longer_responses_may_round_more(asked, what, response, wanted):
    lengths = request.Lengths.read("64-192", response)
    assert compare.tolerance_of(replace(asked, what=what, lengths=lengths)) == pytest.approx(wanted)
