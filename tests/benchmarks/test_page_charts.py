"""The report's pictures: names that cover nothing, colours that are told apart, curves of what was measured."""

import html
import json
import re
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.comparison_tables import Member
from benchmarks.members import members_of
from benchmarks.page import charts, runs
from benchmarks.page.labels import Box, placed
from benchmarks.page.paint import COLOURS, painted
from benchmarks.report import collect, publish
from benchmarks.tables import Row
from report_runs import figure, known, method, result, save

CSS = (Path(charts.__file__).parent / "page.css").read_text(encoding="utf-8")


# Names


@pytest.mark.parametrize("seed", range(5))
def test_names_cover_no_name_and_no_point_and_stay_inside(seed):
    generator = np.random.default_rng(seed)
    points = [tuple(point) for point in generator.uniform((20, 20), (940, 310), (10, 2))]
    points[1] = (points[0][0] + 4, points[0][1] + 3)    # nearly the same place
    names = [f"method_{index}" for index in range(10)]
    labels = placed(names, points, [], 960, 330)
    assert [label.text for label in labels] == names
    for one, other in combinations(labels, 2):
        assert one.box.shared(other.box) == 0
    for label in labels:
        assert label.box.outside(960, 330) == 0
        assert not any(label.box.shared(Box(x - 5, y - 5, x + 5, y + 5)) for x, y in points)


def test_a_name_leaves_lines_alone_and_one_that_is_far_is_led_to():
    line = Box(100, 95, 400, 105)
    (label,) = placed(["dpo"], [(250.0, 100.0)], [line], 500, 200)
    assert label.box.shared(line) == 0 and not label.led
    crowd = [(250.0, 100.0)] * 9
    assert any(label.led for label in placed([f"m{index}" for index in range(9)], crowd, [], 500, 200))


def test_a_long_name_is_cut_in_the_picture_alone():
    (label,) = placed(["ppo (kl_coef=0.05, lr=0.0001, beta=0.1)"], [(0.0, 0.0)], [], 960, 330)
    assert label.text == "ppo (kl_coef=0.05, lr=0.0…"


# Colours


def luminance(colour):
    return linear(colour) @ (0.2126, 0.7152, 0.0722)


def linear(colour):
    values = np.array([int(colour[index:index + 2], 16) / 255 for index in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(light):
    """CIE 1976 L*a*b* of linear sRGB under D65."""
    matrix = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    ratio = matrix @ light.clip(0, 1) / (0.9505, 1.0, 1.0888)
    cube = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * cube[1] - 16, 500 * (cube[0] - cube[1]), 200 * (cube[1] - cube[2])])


# As people without the red, the green or the blue cones see linear sRGB: Machado et al. 2009, table 1, severity 1.
SIGHTS = {
    "whole": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]}


@pytest.mark.parametrize("dress, card", [(0, "#ffffff"), (1, "#1b1f23")])
def test_colours_of_rows_are_told_apart_by_every_eye_and_from_the_paper(dress, card):
    """A difference of 15 in L*a*b* is seen at a glance; 3 : 1 is WCAG 2's least contrast of graphics."""
    colours = re.findall(r"--row-\d: (#\w{6})", CSS)[dress * COLOURS:(dress + 1) * COLOURS]
    assert len(colours) == COLOURS
    for sight in SIGHTS.values():
        seen = [lab(np.array(sight) @ linear(colour)) for colour in colours]
        assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 15
    for colour in colours:
        dark, light = sorted((luminance(colour), luminance(card)))
        assert (light + 0.05) / (dark + 0.05) > 3


def test_rows_have_a_colour_each_or_of_many_each_method_one():
    few = painted([Row("dpo", {"beta": "1"}, (0,)), Row("dpo", {"beta": "2"}, (0,)), Row("ppo", {}, (0,))])
    assert [paint for paint in few.values()] == [(0, "circle"), (1, "circle"), (2, "circle")]
    many = painted([Row(name, {"beta": str(beta)}, (0,)) for name in ("dpo", "ppo") for beta in range(5)])
    assert {colour for label, (colour, _) in many.items() if label.startswith("dpo")} == {0}
    assert len(set(many.values())) == 10, "shapes tell a method's rows apart"
    one = painted([Row("dpo", {"beta": str(beta)}, (0,)) for beta in range(20)])
    assert len({colour for colour, _ in one.values()}) == COLOURS and len(set(one.values())) == 20


# Curves


def page(folder, *given):
    publish(collect([save(folder, *given)]), folder)
    return html.unescape((folder / "report.html").read_text(encoding="utf-8"))


def test_win_rates_against_temperature_where_it_varies(tmp_path):
    given = []
    for name in ("sft", "dpo"):
        for warm in (0.0, 0.5, 1.0):
            figures = {"reward/gold": figure([warm, 1, 2, 3]), "win_rate/sft": figure([0, 1, 1, warm], "share")}
            given.append(result(name, 0, [f"eval.sampling.temperature={warm}"], figures,
                                config={"eval": {"sampling": {"temperature": warm}}, "report": {}}))
    text = page(tmp_path / "warm", *given)
    marks = re.findall(r'aria-label="((?:sft|dpo) [^"]*: [\d.]+) \[[^"]*\] at temperature ([\d.]+)"', text)
    assert [warm for _, warm in marks] == ["0", "0.5", "1"] * 2
    assert "How warm the answers are drawn" in text
    assert "How warm" not in page(tmp_path / "one", *given[::3])


def test_rows_that_differ_in_one_number_are_joined():
    def members(*settings):
        return [Member(Row("dpo", one, (0,)), []) for one in settings]

    assert set(runs._lines_of(members({"beta": "0.1"}, {"beta": "0.3"}, {})).values()) == {"dpo"}
    assert runs._lines_of(members({"beta": "0.1"}, {"beta": "0.3", "lr": "1"}, {})) == {}
    assert runs._lines_of(members({"loss": "a"}, {"loss": "b"}, {})) == {}


def test_best_of_n_has_the_methods_colour_for_what_rows_are_compared_by(tmp_path):
    names = {f"reward/{kind}@{n}": known(n / 4, n / 5, n / 3, "resampled")
             for kind in ("proxy", "gold") for n in (1, 2, 4)}
    text = page(tmp_path, *method("sft", [[0, 1, 0, 1]]), result("best_of_n", figures={
        "reward/gold": figure([1, 2, 1, 2]), **names}))
    painted = re.findall(r'aria-label="(reward/\w+), best of \d:[^"]*"[^>]*fill="var\(--([\w-]+)\)"', text)
    assert set(painted) == {("reward/gold", "row-1"), ("reward/proxy", "shade-0")}


def test_where_training_went_is_drawn_against_the_root_of_its_distance(tmp_path):
    save(tmp_path, *method("ppo", [[0, 1, 0, 1]]))
    steps = [{"step": step, "reward/proxy": step / 2, "kl/k1": step ** 2} for step in (1, 2, 3)]
    steps.append({"step": 4, "reward/proxy": 2.0, "kl/k1": -0.01})
    (tmp_path / "0" / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    publish(collect([tmp_path]), tmp_path)
    drawn = runs.paths(members_of(collect([tmp_path])))
    assert [(one["x"], one["y"]) for one in drawn] == [(1, 0.5), (2, 1.0), (3, 1.5), (0, 2.0)]
    assert "On the way" in (tmp_path / "report.html").read_text(encoding="utf-8")


def staged(name, **stages):
    cost = {"seconds": 30.0, "stages": {one: {"seconds": seconds} for one, seconds in stages.items()}}
    return Member(Row(name, {}, (0,)), [SimpleNamespace(raw={"cost": cost}, seed=0)])


def test_stages_that_are_only_named_alike_are_not_shared():
    """Each method's trials, or a supervised stage of other data: built for it alone."""
    parts = runs.stage_costs([staged("dpo", tuning=4.0), staged("ppo", tuning=9.0)], "seconds")
    assert [(one["row"], one["stage"]) for one in parts] == [
        ("dpo", "tuning"), ("dpo", "its own"), ("ppo", "tuning"), ("ppo", "its own")]


def test_a_stage_that_several_stand_on_is_marked_shared():
    parts = runs.stage_costs([staged("dpo", reference=10.0), staged("ppo", reference=10.0, reward=10.0)], "seconds")
    assert [(one["row"], one["stage"], one["value"], one["own"]) for one in parts] == [
        ("dpo", "reference (shared)", 10, False), ("dpo", "its own", 20, True),
        ("ppo", "reference (shared)", 10, False), ("ppo", "reward", 10, False), ("ppo", "its own", 10, True)]


@pytest.mark.parametrize("seconds, axis", [(20.0, "seconds of training"), (900.0, "minutes of training"),
                                           (20_000.0, "hours of training")])
def test_times_are_drawn_in_units_that_people_use(tmp_path, seconds, axis):
    text = page(tmp_path, *method("sft", [[0, 1, 0, 1]], cost={"seconds": seconds / 2}),
                *method("dpo", [[1, 2, 1, 2]], cost={"seconds": seconds}))
    assert axis in text
