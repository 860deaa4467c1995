"""The benchmark beside TRL: both sides compute the same before anything is timed; its arithmetic, its memory gauge."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from benchmarks.speed import __main__ as command
from benchmarks.speed import compare, dpo, request
from benchmarks.speed.compare import Apart, Watch, best_option, largest_difference, ratio
from benchmarks.speed.page import page
from benchmarks.speed.prepare import pairs, prepare
from benchmarks.speed.request import Request
from benchmarks.speed.side import KINDS, answer, kind
from training_setup import ROOT

BESIDE_TRL = [pytest.param(what, marks=pytest.mark.slow) for what in ("dpo", "sft", "reward", "loading")]


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Request:
    folder = tmp_path_factory.mktemp("speed") / "prepared"
    prepare("tiny", folder)
    return Request("", "", "tiny", "cpu", "fp32", 3, str(folder), "", parity=True)


@pytest.mark.parametrize("what", ["rrhf", "ppo", "sampling", *BESIDE_TRL])
def test_both_sides_compute_the_same(asked, what, tmp_path):
    values = {}
    for side in kind(what).SIDES:
        if side == "TRL":
            pytest.importorskip("trl")
        (tmp_path / side).mkdir()
        found = answer(replace(asked, what=what, side=side, work=str(tmp_path / side)))
        assert found["items"] > 0 and found["seconds"] > 0 and found["imported_bytes"] > 0
        values[side] = found["values"]
    assert len(next(iter(values.values()))) >= 3
    assert largest_difference(values) <= (0 if what in ("sampling", "loading") else compare.TOLERANCE["fp32"])


def test_another_loss_does_not_pass_for_the_same(asked, tmp_path, monkeypatch):
    """A tenth more of β moves the losses by more than the tolerance."""
    values = {}
    for beta in (request.BETA, 1.1 * request.BETA):
        monkeypatch.setattr(dpo, "BETA", beta)
        (tmp_path / str(beta)).mkdir()
        values[beta] = answer(replace(asked, what="dpo", side="ours", work=str(tmp_path / str(beta))))["values"]
    assert largest_difference(values) > 10 * compare.TOLERANCE["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize("side", ["ours", "TRL"])
def test_a_start_ends_at_the_first_steps_checkpoint(asked, side, tmp_path):
    found = answer(replace(asked, what="start", side=side, work=str(tmp_path)))
    assert found["items"] == 1 and found["seconds"] > 1 and not found["values"]


@pytest.mark.slow
def test_the_command_measures_and_writes_a_page(tmp_path):
    done = subprocess.run([sys.executable, "-m", "benchmarks.speed", "what=rrhf", "size=tiny", "repeats=2", "steps=2",
                           f"out={tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "rrhf_tiny_cpu_fp32.json").read_text(encoding="utf-8"))
    runs = [run for side in found["sides"].values() for run in side["runs"]]
    assert len(runs) == 4 and all(run["peak_bytes"] > run["imported_bytes"] > 0 for run in runs)
    assert "| rrhf, prompts | tiny | fp32 | plain rows | as they come |" in page(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == page(tmp_path)


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
        slower = 2.0 if one.option else 3.0
        return told(1.0) if one.side == "ours" else told(slower, peak_bytes=500)

    monkeypatch.setattr(compare, "run", run)
    return seen


def test_parity_comes_first_then_the_search_then_both_in_turn(asked, runs):
    found = compare.compare(replace(asked, what="dpo", parity=False), repeats=2)
    options = len(dpo.OPTIONS["TRL"])
    assert [one.side for one in runs[:2]] == ["ours", "TRL"] and all(one.parity for one in runs[:2])
    assert [one.option for one in runs[2:2 + options]] == dpo.OPTIONS["TRL"] and not any(one.parity for one in runs[2:])
    assert [one.side for one in runs[2 + options:]] == ["ours", "TRL", "ours", "TRL"]
    best = found["sides"]["TRL"]["option"]
    assert best and all(one.option == best for one in runs[2 + options:] if one.side == "TRL")
    assert found["ratios"]["seconds"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert found["ratios"]["memory"]["median"] == 2.0  # 400 for 200 above the imports


def test_nothing_is_timed_where_the_sides_differ(asked, runs, monkeypatch):
    values = {"ours": [1.0, 2.0], "TRL": [1.0, 2.002]}
    monkeypatch.setattr(compare, "run", lambda one: runs.append(one) or told(1.0, values=values[one.side]))
    with pytest.raises(Apart, match="differ by 0.001"):
        compare.compare(replace(asked, what="dpo", parity=False), repeats=2)
    assert len(runs) == 2


def test_a_setting_that_fails_is_not_the_best_one(asked, runs):
    options = [{}, {"dataloader_num_workers": 1}, {"packing": True}]
    best, tried = best_option(replace(asked, what="sft", side="TRL"), options)
    assert best == {"packing": True} and [one["seconds"] for one in tried] == [3.0, None, 2.0]
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


def test_time_counts_what_stands_inside():
    watched = request.Answer()
    time.sleep(0.05)
    with watched.watched("cpu"):
        time.sleep(0.1)
    assert 0.1 <= watched.seconds < 0.15 + 0.5 and watched.cpu_seconds <= watched.seconds + 0.1


def test_pairs_are_read_again_where_they_are_not_enough(asked):
    rows = pairs(asked, 600)
    assert len(rows) == 600 and rows[512] == rows[0] != rows[1] and set(rows[0]) == {"prompt", "chosen", "rejected"}


def test_the_command_line():
    plan = command.parse(["what=dpo,ppo", "size=tiny", "repeats=3"])
    assert (plan.what, plan.size, plan.repeats, plan.device) == (("dpo", "ppo"), ("tiny",), 3, "cpu")
    assert set(command.Plan().what) == set(KINDS)
    for wrong, word in (("whta=dpo", "no such setting"), ("what=dop", "found dop"), ("repeats=0", "above 0"),
                        ("repeats=few", "above 0"), ("device=tpu", "cpu, cuda")):
        with pytest.raises(SystemExit, match=word):
            command.parse([wrong])


def test_help_says_all(capsys):
    assert command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in (*KINDS, *(field.name + " " for field in command.fields(command.Plan)), "tiny", "100m", "bf16"):
        assert word in shown


def test_a_page_of_nothing_has_a_head(tmp_path):
    assert page(tmp_path).startswith("# Speed")
