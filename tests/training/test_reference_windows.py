"""Training computes the reference's numbers as it comes to their records: in what order, what is kept and charged."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from algorithms.common.recipe import Recipe
from algorithms.common.training import loop, pace, references
from algorithms.common.training.loop import Run, fit
from algorithms.common.training.references import KIND, StoredLogprobs, window
from algorithms.dpo import DPO, IPO
from algorithms.kto import KTO
from training_setup import examples, lines, make_context, randomize, two_roles, weights

RECIPE = Recipe(lr=1e-2, batch_size=2, epochs=2.0)  # 20 steps
RECORDS = 20


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Windows of 4, 4, 8 and 8 records: the last one reaches into the second epoch."""
    monkeypatch.setattr(references, "FIRST", 4)
    monkeypatch.setattr(references, "AT_ONCE", 8)


@pytest.fixture
def events(monkeypatch):
    """In their order: how many examples were computed at once, and that a step was taken."""
    told, compute, step = [], StoredLogprobs.compute, loop._step

    def computed(self, members):
        told.append(len(members))
        return compute(self, members)

    def stepped(*arguments):
        told.append("step")
        return step(*arguments)

    monkeypatch.setattr(StoredLogprobs, "compute", computed)
    monkeypatch.setattr(loop, "_step", stepped)
    return told


def start(make_models, folder: Path, stored: bool = True, recipe: Recipe = RECIPE, **more):
    """A policy apart from its reference, whose numbers are kept in the folder, or with stored=False are not."""
    models = two_roles(make_models())
    randomize(models, "policy", seed=5)
    context = make_context(models, folder, examples(RECORDS, responses=2), recipe, micro_batch_size=2, **more)
    if stored:
        models.reference.stored = StoredLogprobs(models.reference, {"of": "a test"}, context.store, batch_size=3)
    return context


def kept(context) -> list[int]:
    """Examples of each entry in the store, the small ones first."""
    folders = [folder for _, folder in context.store.entries(KIND)]
    return sorted(len(references._read(folder)) for folder in folders)


def test_windows_by_hand(monkeypatch):
    monkeypatch.setattr(references, "FIRST", 64)
    monkeypatch.setattr(references, "AT_ONCE", 1024)
    found = list(dict.fromkeys(window(step, 32) for step in range(128)))
    assert found == [range(0, 2), range(2, 4), range(4, 8), range(8, 16), range(16, 32), range(32, 64),
                     range(64, 96), range(96, 128)], "from 64 records to 1,024"
    assert [window(step, 24) for step in (0, 2, 3)] == [range(0, 3), range(0, 3), range(3, 6)], "64 of 24 are 3 steps"
    assert window(5, 4096) == range(5, 6), "a batch larger than a window"


@pytest.mark.parametrize("size", [1, 3, 64, 1000])
def test_windows_leave_out_no_step_and_hold_none_twice(size):
    walked, step = [], 0
    while step < 300:
        found = window(step, size)
        assert all(window(one, size) == found for one in found)
        walked += found
        step = found.stop
    assert walked == list(range(step))


def test_the_first_step_waits_for_its_window_and_a_second_visit_for_nothing(make_models, tmp_path, events):
    context = start(make_models, tmp_path)
    fit(DPO(), context)
    assert events == [4, "step", "step", 4, "step", "step", 8, *["step"] * 4, 4, *["step"] * 12]
    assert kept(context) == [4, 4, 4, 8]


def test_the_next_run_finds_them_in_another_order(make_models, tmp_path, events):
    fit(DPO(), start(make_models, tmp_path / "one"))
    events.clear()
    context = start(make_models, tmp_path / "two", seed=8)
    context.store = start(make_models, tmp_path / "one").store
    context.models.reference.stored = StoredLogprobs(context.models.reference, {"of": "a test"}, context.store, 3)
    fit(IPO(), context)
    assert events == ["step"] * 20


@pytest.mark.parametrize("method, first, most", [(DPO, 1, 1), (DPO, 3, 5), (DPO, 64, 1024), (KTO, 4, 8)])
def test_any_window_gives_the_losses_of_a_forward_in_each_step(make_models, tmp_path, monkeypatch, method, first,
                                                               most):
    monkeypatch.setattr(references, "FIRST", first)
    monkeypatch.setattr(references, "AT_ONCE", most)
    recipe = dataclasses.replace(RECIPE, epochs=1.2)
    plain, windowed = (start(make_models, tmp_path / str(stored), stored, recipe) for stored in (False, True))
    for context in (plain, windowed):
        fit(method(), context)
    for expected, found in zip(lines(plain.target), lines(windowed.target), strict=True):
        assert found == pytest.approx(expected, abs=1e-3, rel=1e-3)


@pytest.mark.parametrize("at", [4, 7])
def test_killed_within_a_window_it_goes_on_to_the_same_numbers(make_models, tmp_path, monkeypatch, events, at):
    """at: steps begun when it dies. In the third window (after four steps) two of three batches are computed in vain;
    a kill in a step loses none of them."""
    whole = start(make_models, tmp_path / "whole")
    fit(DPO(), whole)
    told, calls, logprobs, step = list(events), [], type(whole.models.policy).token_logprobs, loop._step

    def dies(role, batch, *more):
        calls.append(role.name)
        if at == 4 and len(events) == 7 and calls[-3:] == ["reference"] * 3:
            raise Killed
        return logprobs(role, batch, *more)

    def dies_in_step(*arguments):
        if at == 7 and events.count("step") == 7:
            raise Killed
        return step(*arguments)

    events.clear()
    with monkeypatch.context() as patch:
        patch.setattr(type(whole.models.policy), "token_logprobs", dies)
        patch.setattr(loop, "_step", dies_in_step)
        with pytest.raises(Killed):
            fit(DPO(), start(make_models, tmp_path / "torn", checkpoint_every=3))
    torn = start(make_models, tmp_path / "torn", checkpoint_every=3)
    assert kept(torn) == ([4, 4] if at == 4 else [4, 4, 8])
    events.clear()
    fit(DPO(), torn)
    computed = [one for one in events if one != "step"]
    assert computed == [one for one in told if one != "step"][2 if at == 4 else 3:], "what was kept is found"
    assert lines(torn.target) == lines(whole.target)
    found, expected = weights(torn.models), weights(whole.models)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    costs = [json.loads((folder / "cost.json").read_text())["seconds"] for _, folder in torn.store.entries(KIND)]
    assert torn.meter.seconds == pytest.approx(sum(costs)), "charged once, whichever of the two runs computed them"


def test_watched_records_are_prepared_where_they_are_first_watched(make_models, tmp_path, events):
    context = start(make_models, tmp_path, heldout=examples(5, responses=2, seed=9), evaluate_every=6)
    fit(DPO(), context)
    assert events[:13] == [4, "step", "step", 4, "step", "step", 8, "step", "step", 5, "step", "step", 4]
    assert "eval/loss/policy" in lines(context.target)[5]


@pytest.fixture
def clock(monkeypatch):
    """A second passes where an example is computed, a quarter where a step is taken, and no other."""
    now, compute, step = [100.0], StoredLogprobs.compute, loop._step

    def slowly(self, members):
        now[0] += len(members)
        return compute(self, members)

    def stepped(*arguments):
        now[0] += 0.25
        return step(*arguments)

    monkeypatch.setattr(loop, "_step", stepped)
    for module in (references, loop, pace):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(StoredLogprobs, "compute", slowly)
    return now


def test_a_window_is_charged_once_and_is_no_time_of_a_step(make_models, tmp_path, clock):
    heldout = examples(5, responses=2, seed=9)
    for _ in range(2):  # where they are computed, and where they are found
        context = start(make_models, tmp_path, heldout=heldout, evaluate_every=6)
        run = Run(DPO(), context)
        while run.step < run.total:
            run.advance()
        assert run.seconds == 0.25 * run.total
        run.charge_reference(context.visited())
        assert context.meter.seconds == pytest.approx(RECORDS), "what is only watched is free"
    assert clock[0] == 100 + RECORDS + len(heldout) + 2 * 0.25 * run.total


def test_a_pace_tells_the_reference_apart_from_the_steps(make_models, tmp_path, clock):
    recipe = dataclasses.replace(RECIPE, epochs=1.0, steps=6)
    context = start(make_models, tmp_path, recipe=recipe)
    pace.measure(DPO(), context, asked=len(context.visited()))
    found = pace.Pace.read(context.target)
    assert (found.seconds_per_step, found.seconds_per_record) == (0.25, pytest.approx(1.0))


def test_their_memory_is_none_of_the_steps(make_models, tmp_path, monkeypatch):
    """What is in use at each time: 7 before, 900 in a pass, in the n-th step 10 + n."""
    now, most, compute, step = [7], [7], StoredLogprobs.compute, loop._step

    def use(amount):
        now[0], most[0] = amount, max(most[0], amount)

    def computed(self, members):
        use(900)
        found = compute(self, members)
        use(7)
        return found

    def stepped(algorithm, context, *arguments):
        use(10 + context.step + 1)
        return step(algorithm, context, *arguments)

    monkeypatch.setattr(StoredLogprobs, "compute", computed)
    monkeypatch.setattr(loop, "_step", stepped)
    monkeypatch.setattr(loop, "peak_memory_bytes", lambda device: most[0])
    monkeypatch.setattr(loop, "reset_peak_memory", lambda device: most.__setitem__(0, now[0]))
    context = start(make_models, tmp_path)
    fit(DPO(), context)
    found = [line["peak_memory_bytes"] for line in lines(context.target, timing=True)]
    assert found == [10 + number for number in range(1, 21)]


def test_they_make_no_further_model_of_the_training(make_models, tmp_path):
    """The numbers are the same whether this run computed them or found them; so is what is said of it."""
    for _ in range(2):
        context = start(make_models, tmp_path, recipe=dataclasses.replace(RECIPE, epochs=1.0))
        fit(DPO(), context)
        assert json.loads((context.target / "fit.json").read_text())["resident_models"] == 1
        shutil.rmtree(context.work)


def test_what_another_process_keeps_meanwhile_is_found(make_models, tmp_path, events):
    one, other = (start(make_models, tmp_path).models.reference.stored for _ in range(2))
    data = examples(RECORDS, responses=2)
    one.prepare(data[:4])
    other.prepare(data[2:6])
    one.prepare(data[:8])
    assert events == [4, 2, 2]


def test_a_value_stays_the_same_in_all_epochs_whatever_another_process_keeps(make_models, tmp_path, monkeypatch):
    """Both are at the same records at once, in batches of their own."""
    one, other = (start(make_models, tmp_path).models.reference.stored for _ in range(2))
    data = examples(RECORDS, responses=2)
    for stored, value in ((one, 1.0), (other, 2.0)):
        monkeypatch.setattr(stored, "compute", lambda members, value=value: [[value, value] for _ in members])
    monkeypatch.setattr(other, "_find", lambda: None)
    one.prepare(data[:4])
    other.prepare(data[:6])
    one.prepare(data[4:6])  # finds the other's of all six
    assert [one._kept[example.key][0] for example in data[:6]] == [[1.0, 1.0]] * 4 + [[2.0, 2.0]] * 2
