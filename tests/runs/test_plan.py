"""task=plan: what a command will take, from a few of its own steps, and that nothing of them is kept."""

import os
import re
import signal
from types import SimpleNamespace

import pytest
import torch

from algorithms.common.runs import auditing
from algorithms.common.runs.planning import steps as steps_module
from algorithms.common.runs.planning import task
from algorithms.common.runs.planning.rows import Rows, spread
from command_line import MICRO, MICRO_DPO, choices, invoke
from contract import LAB
from few import few


def test_rows_are_usual_batches_and_the_one_with_the_largest_micro_batch():
    lengths = {index: length for index, length in enumerate([1, 1, 1, 1, 2, 2, 2, 2, 9, 1, 1, 1, 4, 4, 4, 4])}
    rows = Rows.of(lengths, 3, records=16, batch=4, micro=2, limit=32, seed=0)  # two passes
    assert (rows.records, rows.steps, rows.tokens, rows.truncated) == (16, 8, 2 * sum(lengths.values()), 3)
    assert len(rows.typical) == 4 and all(len(batch) == 4 for batch in rows.typical)
    heaviest = [lengths[rows.indices[place]] for place in rows.heaviest]
    assert heaviest[0] == 9 and heaviest == sorted(heaviest, reverse=True)
    assert sorted(set(rows.indices)) == sorted(rows.indices), "each record once"


def test_a_single_batch_smaller_than_its_size_is_all_there_is():
    rows = Rows.of({0: 5, 1: 3}, 0, records=2, batch=8, micro=4, limit=2, seed=0)
    assert (rows.steps, rows.tokens, len(rows.typical)) == (1, 8, 1) and sorted(rows.typical[0]) == [0, 1]
    assert [rows.indices[place] for place in rows.heaviest] == [0, 1]


def test_prompts_are_spread_over_their_lengths_with_the_longest():
    assert spread([5, 1, 4, 2, 3, 6], 3) == [2, 3, 5], "of the lengths 6, 4 and 2"
    assert spread([1, 1, 9], 1) == [2] and spread([3, 2], 2) == [0, 1]


def test_a_plan_names_every_stage_and_keeps_nothing(tmp_path):
    ended = invoke("task=plan", *MICRO_DPO, "budget.price_per_hour=3600", f"stages.folder={tmp_path}/stages",
                   f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 0, ended.err
    took = r"[\d.]+ s +[\d.]+ s +[\d.]+ [GM]B +[\d.]+ MB$"
    for stage, count in (("reference", 32), ("dpo", 8)):
        assert re.search(rf"^{stage} +{count} +[\d,]+ +2 +0 +{took}", ended.out, re.M), ended.out
    for part in ("evaluation of dpo", "evaluation of reference", "starting, reading, loading", "in all"):
        # hours and minutes where the process has run for long, as under a whole suite
        assert re.search(rf"^{part} .* ([\d.]+ s|[\d:]{{8}})", ended.out, re.M), ended.out
    assert re.search(r"^money: [\d.]+ at 3600 an hour$", ended.out, re.M)
    assert not list((tmp_path / "stages").glob("*-*")), "the store has no entry"
    assert not list((tmp_path / "run").glob("*.parquet")) and not (tmp_path / "run/result.json").exists()


def test_the_jobs_of_a_planned_sweep_share_what_they_rehearse_and_leave_nothing(tmp_path, monkeypatch):
    rehearsed = []
    monkeypatch.setattr(task, "_planned", lambda chosen, mask, name, folder, scratch: rehearsed.append(scratch) or (
        scratch.mkdir(exist_ok=True), "planned")[1])
    assert invoke("-m", "task=plan", "algorithm=sft", "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep").status == 0
    assert len(rehearsed) == 2 and len(set(rehearsed)) == 1 and not rehearsed[0].exists()
    assert (tmp_path / "sweep").is_dir()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_plan_that_is_stopped_leaves_nothing(tmp_path, monkeypatch, sent):
    rehearsed = []

    def stopped(chosen, mask, name, folder, scratch):
        rehearsed.append(scratch)
        (scratch / "weights").touch()
        os.kill(os.getpid(), sent)
        raise AssertionError("goes on")

    monkeypatch.setattr(task, "_planned", stopped)
    assert invoke("task=plan", "algorithm=sft", f"hydra.run.dir={tmp_path}/run").status == 128 + sent
    assert not rehearsed[0].exists() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_plan_is_of_the_half_that_the_auditor_learns_of_and_refuses_what_the_run_would(tmp_path, monkeypatch):
    halves = []
    monkeypatch.setattr(auditing.Auditor, "check", lambda auditor: halves.append(auditor.half))
    ended = invoke("task=plan", *MICRO_DPO, "data.audit=8", "auditor_half=first", "objective=reward/glod",
                   f"stages.folder={tmp_path}/stages", f"hydra.run.dir={tmp_path}/run")
    assert halves == ["first"] and ended.status == 2 and ended.err.startswith("objective: found reward/glod")


def test_kept_stages_are_told_and_a_micro_batch_that_does_not_fit(tmp_path, monkeypatch):
    store = [f"stages.folder={tmp_path}/stages", f"hydra.run.dir={tmp_path}/run"]
    assert invoke("algorithm=sft", *MICRO, "recipe.batch_size=32", *store).status == 0
    monkeypatch.setattr(steps_module, "room_bytes", lambda device: 3_500)
    peaks = iter([0, 1_000, 2_000, *[2_000] * 99])  # before, of one record, of two: 1,000 more each
    monkeypatch.setattr(steps_module, "peak_memory_bytes", lambda device: next(peaks))
    ended = invoke("task=plan", *MICRO_DPO, "recipe.batch_size=8", *store)
    assert ended.status == 0, ended.err
    assert "reference (kept, used again)" in ended.out
    assert "dpo does not fit: trainer.micro_batch_size=8 needs 0.01 MB of" in ended.out
    assert "fix: trainer.micro_batch_size=3, the largest that does" in ended.out


@pytest.mark.parametrize("algorithm", few(choices("algorithm"), ["ppo", "best_of_n"]))
def test_every_method_can_be_planned(algorithm, tmp_path):
    micro = [*LAB.get(algorithm, []), *(one for one in MICRO if not one.startswith("recipe."))]
    ended = invoke("task=plan", f"algorithm={algorithm}", *micro, "trial=true", f"stages.folder={tmp_path}/stages",
                   f"hydra.run.dir={tmp_path}/run")
    assert ended.status == 0, ended.err
    assert f"evaluation of {algorithm}" in ended.out and "in all" in ended.out
    assert algorithm == "best_of_n" or re.search(rf"^{algorithm} +[\d,]+ +[\d,]+ +[\d,]+ +0 +[\d.]+ s", ended.out, re.M)


def test_steps_of_another_trainer_are_those_after_its_first_two(tmp_path, monkeypatch):
    """It begins in 10 s, takes 2 s a step of usual rows, 9 of the heaviest, and ends in 3."""
    clock, given, size = [0.0], [], 2
    monkeypatch.setattr(steps_module.Took, "now", classmethod(lambda kind: kind(clock[0], 10 * clock[0])))

    def trainer(batches, told):
        clock[0] += 10
        for batch in batches:
            given.append(batch)
            clock[0] += 9 if batch == [3, 3] else 2
            told(1)
        clock[0] += 3

    context = SimpleNamespace(models=SimpleNamespace(device=torch.device("cpu")), target=tmp_path,
                              recipe=SimpleNamespace(batch_size=size))
    rows = Rows(4, 9, 0, 0, [0, 1, 2, 3], [[0, 1], [2]], [3])
    steps_module.take(None, context, rows=rows, trainer=trainer)
    found = steps_module.Steps.read(tmp_path)
    assert given == [[0, 1], [3, 3], [0, 1], [2, 2]], "short batches are filled"
    assert (found.step.seconds, found.step.cpu, found.once.seconds, found.whole.seconds) == (2, 20, 13, 28)
    assert found.memory > 0 and found.fits is None
