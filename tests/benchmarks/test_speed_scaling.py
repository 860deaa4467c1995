"""Curves of cost: a point of each kind runs, in small; tables and pictures of fixed numbers; what fails is left out."""

import json
import xml.etree.ElementTree as ET

import pytest

from benchmarks.random_models import SHAPES
from benchmarks.speed.scaling import __main__ as command
from benchmarks.speed.scaling import jobs, k, length, picture, point, records, size
from benchmarks.speed.scaling.page import figures, shown, table, write
from benchmarks.speed.scaling.point import KINDS, MEMORY, Figure, Point, Spread, kind, per, spread

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def small(monkeypatch):
    """Models and texts of a few numbers."""
    for module in (k, length):
        monkeypatch.setattr(module, "SHAPE", SHAPES["tiny"])
        monkeypatch.setattr(module, "STEPS", 1)
    monkeypatch.setattr(k, "PROMPT", 8)
    monkeypatch.setattr(k, "RESPONSE", 4)
    monkeypatch.setattr(size, "SIZES", {0: SHAPES["tiny"]})
    monkeypatch.setattr(size, "STEPS", 1)


@pytest.mark.parametrize("one, items", [
    (Point("k", "shared", 3), 8), (Point("k", "plain", 1), 8), (Point("length", "sdpa", 16), 4 * 24),
    (Point("length", "eager", 16), 4 * 24), (Point("size", "DPO", size.parameters(SHAPES["tiny"])), 4 * (96 + 2 * 48)),
    (Point("records", "DPO's data", 20), 20)], ids=lambda one: getattr(one, "kind", ""))
def test_a_point_is_measured(small, one, items, tmp_path):
    found = kind(one.kind).measure(one, str(tmp_path))
    assert found["items"] == items and found["seconds"] > 0 and found["cpu_seconds"] >= 0
    run = {"imported_bytes": 1, "peak_bytes": 2, **found}
    assert all(spread(figure, [run]) is not None for figure in kind(one.kind).FIGURES)


def test_parameters_are_those_of_the_model():
    from transformers import LlamaForCausalLM

    for shape in (SHAPES["tiny"], SHAPES["5m"], size.SIZES[1]):
        assert size.parameters(shape) == sum(one.numel() for one in LlamaForCausalLM(shape.config()).parameters())
    assert all(0.9 < size.parameters(shape) / (1e6 * millions) < 1.1 for millions, shape in size.SIZES.items())


def test_the_work_of_a_model_is_six_times_its_parameters_by_tokens(small, tmp_path):
    found = size.measure(Point("size", "DPO", size.parameters(SHAPES["tiny"])), str(tmp_path))
    assert found["flop"] == 6 * size.parameters(SHAPES["tiny"]) * found["items"]
    assert size.RATE.of({"flop": 3e9, "seconds": 2.0}) == 1.5


def test_prompts_of_a_file_all_differ_and_sizes_go_by_tens(tmp_path):
    records.write(tmp_path / "pairs.jsonl", 50)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["prompt"] for row in rows}) == 50 and set(rows[0]) == {"prompt", "chosen", "rejected"}
    assert [one.x for one in records.points(100_000)] == [1000, 10_000, 100_000]
    assert records.points(1_000_000)[-1].x == 1_000_000


# Jobs


def test_a_sweep_is_one_command_and_jobs_apart_have_stores_of_their_own(tmp_path):
    def stores(commands):
        return [next(word for word in one if word.startswith("stages.folder=")) for one in commands]

    (sweep,) = jobs.commands(Point("jobs", jobs.SWEEP, 3), tmp_path)
    assert "-m" in sweep and "algorithm.beta=0.05,0.1,0.2" in sweep
    kept, apart = (jobs.commands(Point("jobs", line, 3), tmp_path) for line in (jobs.KEPT, jobs.APART))
    assert len(kept) == len(apart) == 3 and not any("-m" in one for one in kept)
    assert len(set(stores(kept))) == 1 and len(set(stores(apart))) == 3
    assert "algorithm.beta=0.2" in apart[2]


def test_stages_are_counted_by_their_content(tmp_path):
    for store, stage in ((0, "trained-a"), (0, "trained-b"), (1, "trained-a"), (1, ".building/trained-c")):
        folder = tmp_path / f"stages{store}" / stage
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
    assert jobs.entries(tmp_path) == {"trained-a": 2, "trained-b": 1}


def test_what_a_sweep_takes_is_compared_with_its_parts():
    title = jobs.SECONDS.title
    found = {(line, 2): {title: Spread(value, value, value)}
             for line, value in ((jobs.SWEEP, 21.0), (jobs.KEPT, 20.0), (jobs.APART, 30.0))}
    assert jobs.sentence(found) == ("2 jobs as one sweep take 1.05 of the sum of their own parts, and 0.70 of what "
                                    "they take apart.")
    assert jobs.sentence({(jobs.SWEEP, 2): found[jobs.SWEEP, 2]}) == ""


@pytest.mark.slow
def test_a_sweep_builds_a_shared_stage_once(tmp_path):
    found = {}
    for number, line in enumerate((jobs.SWEEP, jobs.APART)):
        work = tmp_path / str(number)
        work.mkdir()
        found[line] = jobs.measure(Point("jobs", line, 2), str(work))
    swept, apart = found[jobs.SWEEP], found[jobs.APART]
    assert swept["built"] == swept["different"] == apart["different"] < apart["built"]


# Figures, tables, pictures


def told(line, x, seconds, peaks, failed=None):
    runs = [{"seconds": s, "cpu_seconds": s, "items": 4, "peak_bytes": peak << 20, "imported_bytes": 100 << 20}
            for s, peak in zip(seconds, peaks)]
    return {"kind": "k", "line": line, "x": x, "runs": runs, "failed": failed}


@pytest.fixture
def measured():
    return [told("shared", 1, [2.0, 4.0, 3.0], [110, 120, 130]), told("plain", 1, [2.0, 2.0, 2.0], [150, 150, 150]),
            told("shared", 4, [4.0, 4.0, 4.0], [140, 140, 140]), told("plain", 4, [8.0, 8.0, 8.0], [180, 180, 180]),
            told("plain", 16, [], [], "RuntimeError: no room")]


def test_figures_are_medians_with_the_smallest_and_the_largest(measured):
    found = figures(measured, k.FIGURES)
    assert found["shared", 1] == {"CPU seconds a prompt": Spread(0.75, 0.5, 1.0),
                                  "peak memory, MiB": Spread(20.0, 10.0, 30.0)}
    assert ("plain", 16) not in found
    assert k.sentence(found) == "At K = 4 shared rows take 0.50 of the CPU time and 0.50 of the memory of plain ones."
    assert per("seconds", "s", factor=10.0).of({"seconds": 3.0, "items": 6}) == 5.0
    assert MEMORY.of({"peak_bytes": 5, "imported_bytes": 9}) == 0.0
    assert spread(Figure("none", lambda run: None), [{}]) is None


def test_a_table_by_hand(measured):
    found = figures(measured[:2], k.FIGURES)
    assert table(found, "K", k.FIGURES).splitlines() == [
        "| K |  | CPU seconds a prompt | peak memory, MiB |", "| :--- | ---: | ---: | ---: |",
        "| 1 | shared | 0.75 [0.5, 1] | 20 [10, 30] |", "| 1 | plain | 0.5 | 50 |"]
    assert shown(Spread(1234.5, 1000.0, 2000.0)) == "1,234 [1,000, 2,000]" and shown(None) == ""


def test_the_page_says_what_was_left_out_and_has_a_picture(measured, tmp_path):
    (tmp_path / "scaling").mkdir()
    content = {"what": "k", "commit": "c", "versions": {"torch": "2"}, "device": "cpu", "repeats": 3, "most": 10,
               "points": measured}
    (tmp_path / "scaling/k.json").write_text(json.dumps(content), encoding="utf-8")
    write(tmp_path)
    text = (tmp_path / "scaling.md").read_text(encoding="utf-8")
    assert "Left out: plain, 16: RuntimeError: no room" in text and "(scaling/k.svg)" in text
    assert "`python -m benchmarks.speed.scaling what=k repeats=3`: cpu; commit c; torch 2" in text
    drawn = ET.parse(tmp_path / "scaling/k.svg").getroot()
    words = {element.text for element in drawn.iter(f"{SVG}text")}
    assert drawn.tag == f"{SVG}svg" and {"shared", "plain", "CPU seconds a prompt", "peak memory, MiB", k.X} <= words
    assert {"1", "4"} <= words
    dashed = {element.get("stroke-dasharray") for element in drawn.iter(f"{SVG}path")}
    assert {"1,0", "7,4"} <= dashed  # lines are told apart without colour


@pytest.mark.parametrize("what", KINDS)
def test_every_kind_has_a_sentence_for_one_point_and_for_all(what):
    module = kind(what)
    points = module.points(100_000)
    both = [{figure.title: Spread(x, x, x) for figure in module.FIGURES} for x in (1.0, 2.0)]
    found = {(one.line, one.x): both[one.x == points[-1].x] for one in points}
    assert module.sentence(found).endswith(".")
    assert module.sentence({(points[0].line, points[0].x): both[0]}) == ""


@pytest.mark.parametrize("low, high", [(0.0015, 0.011), (38, 90), (0.00036, 0.00064), (1, 1e6), (99.8, 130)])
def test_an_axis_has_some_round_numbers(low, high):
    found = picture.marks(low, high)
    assert 3 <= len(found) <= 9 and all(low <= value <= high for value in found) and found == sorted(set(found))


# The command


def test_points_take_turns_and_one_that_fails_is_left_out():
    seen = []

    def run(one):
        seen.append(one.x)
        if one.x == 2:
            raise RuntimeError("Traceback\nRuntimeError: not enough memory")
        return {"seconds": 1.0}

    found = command.measured([Point("k", "shared", x) for x in (1, 2, 3)], 2, run)
    assert seen == [1, 2, 3, 1, 3]
    assert [len(one["runs"]) for one in found] == [2, 0, 2] and found[1]["failed"] == "RuntimeError: not enough memory"


def test_the_command_line(capsys):
    plan = command.parse(command.Plan, ["what=k,jobs", "repeats=2", "most=1000"], {"what": KINDS})
    assert (plan.what, plan.repeats, plan.most) == (("k", "jobs"), 2, 1000)
    for wrong, word in (("waht=k", "no such setting"), ("what=kk", "found kk"), ("repeats=0", "above 0")):
        with pytest.raises(SystemExit, match=word):
            command.main([wrong])
    assert command.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"{field} " in said for field in vars(plan)) and all(f"{what}: " in said for what in KINDS)


@pytest.mark.slow
def test_a_point_in_a_process_of_its_own():
    found = point.ran(Point("records", "DPO's data", 100))
    assert found["items"] == 100 and found["peak_bytes"] > found["imported_bytes"] > 0 < found["process_seconds"]


@pytest.mark.slow
def test_the_command_measures_and_writes_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "points", lambda most: [Point("records", "DPO's data", most)])
    assert command.main(["what=records", "most=50", "repeats=2", f"out={tmp_path}"]) == 0
    assert "| 50 |" in (tmp_path / "scaling.md").read_text(encoding="utf-8")
    (one,) = json.loads((tmp_path / "scaling/records.json").read_text(encoding="utf-8"))["points"]
    assert len(one["runs"]) == 2 and not one["failed"]
