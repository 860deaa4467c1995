"""Sweeps and their pages: what is declared, frontiers and temperatures worked by hand, both on the lab (slow)."""

import re

import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from algorithms.common.evaluation.inference.claims import Answer
from algorithms.common.evaluation.inference.intervals import Matrix
from algorithms.common.support.errors import ConfigError
from benchmarks import curves
from benchmarks.aggregation import shared_prompts
from benchmarks.curves import Curves, declared
from benchmarks.frontier import FrontierPage, methods
from benchmarks.page.alone import colours
from benchmarks.page.alone import curves as drawn
from benchmarks.results_read import ReportError, collect
from benchmarks.sweeps import passed_on
from benchmarks.temperature import WINS, TemperaturePage, by_temperature, robustness
from command_line import choices, composed, invoke
from report_runs import GOLD, START, failed, figure, known, result, save

CLAIM = {"source": "a paper", "claim": "dpo's frontier dominates ppo's", "declared": "2026-11-29", "better": "dpo",
         "worse": "ppo", "parts": [0.25, 0.5, 0.75], "points": 10, "margin": 0.0, "alpha": 0.05}
CLAIMS = {"source": "a paper", "claims": {"robust": "dpo loses less than ppo", "better": "dpo is better at 0"},
          "declared": "2026-11-29", "better": "dpo", "worse": "ppo", "cold": 0.0, "hot": 1.0,
          "margins": {"robust": 0.05, "better": 0.02}, "alpha": 0.05}


def page(**fields) -> FrontierPage:
    return FrontierPage(**{**CLAIM, **fields})


def temperatures(**fields) -> TemperaturePage:
    return TemperaturePage(**{**CLAIMS, **fields})


# What is declared


@pytest.mark.parametrize("choice", choices("curves"))
def test_every_key_that_is_swept_is_one_of_its_method(choice):
    made = instantiate(composed(f"experiment={choice}").curves, _convert_="all")
    assert len(made.seeds) >= 5 and made.page.declared
    for method, swept in made.sweeps.items():
        for key, values in swept.items():
            first = "null" if values[0] is None else values[0]
            composed(f"algorithm={method}", f"{key}={first}")    # Hydra refuses a key that it does not know


def test_a_frontier_ends_with_the_whole_training_and_its_checkpoints_lie_within():
    swept = composed("experiment=frontier").curves.sweeps
    for method in ("dpo", "ppo"):
        stops = list(swept[method]["recipe.stop_after"])
        whole = instantiate(composed(f"algorithm={method}").recipe, _convert_="all").scheduled_steps(2048)
        assert stops[-1] is None and max(stops[:-1]) < whole


def test_the_temperatures_are_evaluated_as_the_frontier_is_so_that_models_and_answers_are_shared():
    one, other = composed("experiment=frontier"), composed("experiment=temperature")
    assert one.eval == other.eval and list(one.curves.seeds) == list(other.curves.seeds)
    assert other.algorithm.beta in one.curves.sweeps.dpo["algorithm.beta"]
    assert composed("algorithm=ppo").algorithm.kl_coef in one.curves.sweeps.ppo["algorithm.kl_coef"]


def test_a_sweep_is_of_its_method_its_seeds_and_its_values():
    made = Curves({"dpo": {"algorithm.beta": [0.1, 1], "recipe.stop_after": [16, None]}}, [3, 4], None)
    assert made.swept("dpo") == ["algorithm=dpo", "seed=3,4", "algorithm.beta=0.1,1", "recipe.stop_after=16,null"]


@pytest.mark.parametrize("fields, told", [
    ({"seeds": []}, "curves: found 1 sweeps with 0 seeds"), ({"sweeps": {}}, "curves: found 0 sweeps with 1 seeds"),
    ({"sweeps": {"dpo": {"algorithm.beta": 0.1}}},
     r"curves.sweeps.dpo.algorithm.beta: found 0.1; expected a list.*fix: "
     r"'curves.sweeps.dpo=\{algorithm.beta: \[0.1\]\}'")])
def test_what_cannot_be_swept_is_refused(fields, told):
    with pytest.raises(ConfigError, match=f"^{told}"):
        Curves(**{"sweeps": {"dpo": {}}, "seeds": [0], "page": None, **fields})


@pytest.mark.parametrize("given, told", [
    (["task=curves"], "curves: found no choice of what is swept.*fix: curves=frontier$"),
    (["experiment=compare", "task=curves", "curves=frontier", "hydra.mode=RUN"],
     "hydra.sweeper.params: found a sweep over algorithm with task=curves")])
def test_curves_refuse_what_they_cannot_draw_before_a_sweep_begins(tmp_path, given, told):
    ended = invoke(*given, f"hydra.run.dir={tmp_path}")
    assert ended.status == 2 and re.match(told, ended.err.strip())


def test_what_is_declared_reaches_the_runs_and_what_sweeps_set_does_not():
    given = ["experiment=frontier", "seed=7", "algorithm=sft", "curves.page.alpha=0.1", "task=curves"]
    common = passed_on(given, [], curves.OWN)
    assert common == ["task=run", "experiment=frontier", "curves.page.alpha=0.1"]
    assert composed(*common).curves.page.alpha == 0.1 and composed(*common).task == composed().task


# Frontiers


def measured(algorithm, seed, setting, distance, gains, **fields):
    """A run at √KL `distance` with one gain per prompt."""
    figures = {"kl/exact": figure(np.full(len(gains), float(distance) ** 2)), "reward/gold": figure(gains),
               "reward/gold_minus_sft": figure(gains)}
    return result(algorithm, seed, [f"algorithm.beta={setting}"], figures, **fields)


def line(algorithm, points, seeds=3):
    """Runs of a method whose seeds and prompts all have the same rewards, by √KL."""
    return [measured(algorithm, seed, distance, distance, [reward] * 4)
            for distance, reward in points.items() for seed in range(seeds)]


def test_methods_are_compared_where_both_have_been_by_straight_lines(tmp_path):
    runs = collect([save(tmp_path, *line("dpo", {1: 1, 2: 2, 9: 9}), *line("ppo", {2: 1}))])
    first, second = (method.frontier for method in methods(runs))
    found = page().findings(first, second)
    assert list(found) == [0.5, 1.0, 1.5], "the range ends where the shorter one does"
    assert [one.difference.mean for one in found.values()] == pytest.approx([0.25, 0.5, 0.75])
    assert {one.answer for one in found.values()} == {Answer.REPRODUCED}


def test_an_interval_at_equal_kl_is_that_of_the_interpolated_rewards(tmp_path):
    """Half of the difference of GOLD and START, 1.5 [−.308132, 3.308132], half-way to their one point."""
    runs = [measured(name, seed, 1, 2, rewards) for name, matrix in (("dpo", GOLD), ("ppo", START))
            for seed, rewards in enumerate(matrix)]
    first, second = (method.frontier for method in methods(collect([save(tmp_path, *runs)])))
    (one,) = page(parts=[0.5]).findings(first, second).values()
    assert (one.difference.mean, one.difference.low, one.difference.high) == pytest.approx((0.75, -0.154066, 1.654066))
    wider = page(parts=[0.5, 0.6]).findings(first, second)[1.0]
    assert wider.difference.low < one.difference.low, "two declared distances share what one has"


@pytest.mark.parametrize("dpo, ppo, answer", [
    ({1: 1, 2: 2}, {2: 1}, "is reproduced."), ({2: 1}, {1: 1, 2: 2}, "is not reproduced: the opposite was found."),
    ({1: 2, 1.4: 0, 2: 0}, {2: 1}, "is not reproduced. Which of the two is higher depends on the KL."),
    ({1.9: 2, 2: 0}, {2: 1}, "is undecided.")])   # higher at all declared distances, lower where both end
def test_a_frontier_dominates_where_it_is_higher_everywhere(tmp_path, dpo, ppo, answer):
    runs = collect([save(tmp_path / "runs", *line("dpo", dpo), *line("ppo", ppo))])
    words = page().write(runs, tmp_path / "page")
    assert words.startswith(f"That dpo's frontier dominates ppo's (a paper) {answer}")
    text = (tmp_path / "page" / "frontier.md").read_text()
    assert text.startswith(f"# Reward against KL\n\n{words}\n") and "All runs finished" in text
    picture = (tmp_path / "page" / "frontier.svg").read_text()
    assert picture.startswith("<svg") and "var(" not in picture and colours()["row-0"] in picture


def test_a_margin_holds_at_every_distance(tmp_path):
    """1 above at the end of the range, .1 at its tenth."""
    runs = collect([save(tmp_path / "runs", *line("dpo", {2: 2}), *line("ppo", {2: 1}))])
    assert "ppo's (a paper) is reproduced" in page(margin=0.05).write(runs, tmp_path)
    assert "ppo's (a paper) is not reproduced." in page(margin=0.3).write(runs, tmp_path)
    assert "Found: higher at 7, lower at 0 of 10" in (tmp_path / "frontier.md").read_text()


def test_one_seed_says_nothing_about_methods(tmp_path):
    runs = collect([save(tmp_path, *line("dpo", {1: 1, 2: 2}, 1), *line("ppo", {2: 1}, 1))])
    assert "is undecided: one seed says nothing about methods." in page().write(runs, tmp_path)
    assert "One seed says nothing about it" in (tmp_path / "frontier.md").read_text()


def best_of(seed, points):
    """Best-of-n's curve: n → (√ of the bound, gain); the start has 2 at every prompt."""
    figures = {"reward/gold": figure([2] * 4), "reward/gold_minus_sft": figure([0] * 4)}
    for n, (distance, gain) in points.items():
        figures |= {f"kl/bound@{n}": known(distance**2), f"reward/gold@{n}": figure([2 + gain] * 4)}
    return result("best_of_n", seed, figures=figures, before={"reward/gold": figure([2] * 4)})


@pytest.mark.parametrize("last, peak", [({16: (4, 2.0)}, "3.000 [3.000, 3.000]"), ({}, "not reached")])
def test_best_of_n_has_all_its_n_and_a_peak_only_where_it_went_beyond(tmp_path, last, peak):
    """R = d(1.5 − .25d), whose peak is d = 3."""
    points = {1: (0, 0), 2: (0.5, 0.6875), 4: (1, 1.25), 8: (2, 2.0), 12: (3, 2.25), **last}
    runs = [*line("dpo", {1: 1, 2: 2}), *line("ppo", {2: 1}), *(best_of(seed, points) for seed in range(3))]
    found = collect([save(tmp_path, *runs)])
    (best,) = (method for method in methods(found) if method.bounded)
    assert [point.told for point in best.points] == [f"best of {n}" for n in points if n != 1]
    curve = best.over_optimisation()
    assert (curve.alpha.mean, curve.beta.mean) == pytest.approx((1.5, 0.25))
    page().write(found, tmp_path)
    text = (tmp_path / "frontier.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| best_of_n | d(")]
    assert row.endswith(f"| {peak} |") and "d(α − βd)" in row


def test_a_seed_that_a_setting_lacks_is_left_out_and_said(tmp_path):
    runs = [*line("dpo", {1: 1, 2: 2}, 3), *line("ppo", {2: 1}, 2),
            failed("ppo", 2, "parameters that give no finite numbers", ["algorithm.beta=2"])]
    found = collect([save(tmp_path, *runs)])
    assert {method.seeds for method in methods(found)} == {(0, 1)}
    assert "1 of 9 runs have no figures" in page().write(found, tmp_path)
    assert "Without figures: ppo, seed 2, 8: TrainingError: param" in (tmp_path / "frontier.md").read_text()


def test_what_makes_no_frontier_is_refused(tmp_path):
    with pytest.raises(ReportError, match="found runs without it"):
        methods(collect([save(tmp_path / "a", result(figures={"length/mean": figure([1, 2])}))]))
    with pytest.raises(ReportError, match="^ppo: found no points of it"):
        page().write(collect([save(tmp_path / "b", *line("dpo", {1: 1, 2: 2}))]), tmp_path)
    same = [measured("dpo", 0, setting, 1, [1, 2]) for setting in (1, 2)]
    with pytest.raises(ReportError, match="^dpo: found 2 points of which distances of a seed are positive and differ"):
        methods(collect([save(tmp_path / "c", *same)]))[0].frontier.reach
    with pytest.raises(ReportError, match="found no seed that all settings have"):
        methods(collect([save(tmp_path / "d", *line("dpo", {1: 1}, 1), measured("ppo", 1, 1, 1, [1, 2, 3, 4]))]))


# Temperatures


def at(algorithm, seed, temperature, wins, **fields):
    """A run with one win share per prompt."""
    figures = {WINS: figure(wins, "share"), "reward/gold": figure(wins)}
    if temperature:
        figures["kl/exact"] = figure(np.ones(len(wins)))
    before = {WINS: figure([0.5] * len(wins), "share"), "reward/gold": figure([0.0] * len(wins))}
    config = {"eval": {"sampling": {"temperature": temperature}}, "report": {}}
    return result(algorithm, seed, [f"eval.sampling.temperature={temperature}"], figures, before=before, config=config,
                  **fields)


def both(dpo, ppo, seeds=3, prompts=64):
    """Runs whose win rates are (at 0, at 1) of two methods, in every seed."""
    share = {name: [np.arange(prompts) < round(rate * prompts) for rate in rates]
             for name, rates in (("dpo", dpo), ("ppo", ppo))}
    return [at(name, seed, temperature, share[name][index].astype(float)) for name in share
            for index, temperature in enumerate((0.0, 1.0)) for seed in range(seeds)]


def test_what_a_method_loses_is_taken_prompt_by_prompt():
    wins = {("dpo", 0.0): Matrix.of([[1, 0.5]]), ("dpo", 1.0): Matrix.of([[1, 0]]), ("ppo", 0.0): Matrix.of([[1, 1]]),
            ("ppo", 1.0): Matrix.of([[0, 0.5]])}
    worse, better = robustness(wins, "dpo", "ppo", 0.0, 1.0)
    assert worse.numerator.tolist() == [[1, 0.5]] and better.numerator.tolist() == [[0, 0.5]]


@pytest.mark.parametrize("dpo, ppo, robust, better", [
    ((1, 1), (0.5, 0), "reproduced", "reproduced"),
    ((0.5, 0), (1, 1), "not reproduced: the opposite was found", "not reproduced: the opposite was found"),
    ((0.5, 0.5), (0.5, 0.5), "not reproduced", "not reproduced")])
def test_claims_of_temperature_are_answered_by_their_margins(tmp_path, dpo, ppo, robust, better):
    runs = collect([save(tmp_path / "runs", *both(dpo, ppo, prompts=512))])
    words = temperatures().write(runs, tmp_path)
    assert f"That dpo loses less than ppo by more than 0.05 (a paper) is {robust}." in words
    assert f"That dpo is better at 0 by more than 0.02 (a paper) is {better}." in words


def test_two_win_rates_that_agree_everywhere_are_not_known_to_be_the_same(tmp_path):
    runs = collect([save(tmp_path, *both((1, 1), (1, 1)))])
    found = temperatures().findings(by_temperature(runs), shared_prompts(WINS, runs))["better"]
    assert found.difference.low < -0.02 < 0.02 < found.difference.high and found.answer is Answer.UNDECIDED


def test_the_table_of_temperatures_has_the_start_first_and_no_kl_at_0(tmp_path):
    runs = collect([save(tmp_path / "runs", *both((1, 1), (0.5, 0)))])
    frame = pd.DataFrame({"prompt_id": ["p0", "p0", "p1", "p1"], "picked": [True, True, True, False],
                          "logprob_reference": [-1.0, -3.0, -4.0, None]})
    for run in runs:
        frame.to_parquet(run.folder / "samples.parquet")
    temperatures().write(runs, tmp_path)
    text = (tmp_path / "temperature.md").read_text()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines()
            if re.match(r"\| \w+ \| [01] \|", row)]
    assert [row[:2] for row in rows] == [[name, at] for name in ("sft", "dpo", "ppo") for at in "01"]
    assert rows[2][4] == "" and rows[3][4] == "1.000 [1.000, 1.000]", "greedy answers have no KL to greedy ones"
    assert rows[0][5] == "" and rows[2][5].startswith("3.000 ["), "of what was picked: (2 + 4) / 2"
    assert colours()["row-1"] in (tmp_path / "temperature.svg").read_text()


def test_what_makes_no_temperatures_is_refused(tmp_path):
    wins = np.ones(4)
    with pytest.raises(ReportError, match=f"found no {WINS}"):
        by_temperature(collect([save(tmp_path / "a", result())]))
    with pytest.raises(ReportError, match="found dpo with seed 0 at temperature 0, as in"):
        by_temperature(collect([save(tmp_path / "b", at("dpo", 0, 0.0, wins), at("dpo", 0, 0.0, wins))]))
    with pytest.raises(ReportError, match="found no seed that every method has"):
        by_temperature(collect([save(tmp_path / "c", at("dpo", 0, 0.0, wins), at("dpo", 1, 1.0, wins))]))
    alone = collect([save(tmp_path / "d", at("dpo", 0, 0.0, wins), at("dpo", 0, 1.0, wins))])
    with pytest.raises(ReportError, match="^ppo: found no runs at temperature 0; expected dpo and ppo at 0 and 1"):
        temperatures().write(alone, tmp_path)


# Pages from folders


def test_a_picture_has_as_many_methods_as_there_are():
    rows = [f"method {index}" for index in range(20)]
    points = [{"row": row, "x": x, "y": index, "low": index - 1, "high": index + 1}
              for index, row in enumerate(rows) for x in (1, 2)]
    assert "method 19" in drawn(points, points, rows, "x", "y")


def test_the_page_that_the_runs_declared_is_made_again(tmp_path, capsys):
    config = {"curves": {"page": {"_target_": "benchmarks.frontier.FrontierPage", **CLAIM}}, "report": {}}
    runs = [*line("dpo", {1: 1, 2: 2}), *line("ppo", {2: 1})]
    folder = save(tmp_path / "runs", *({**run, "config": config} for run in runs))
    assert curves.main([str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "is reproduced" in capsys.readouterr().out and (tmp_path / "out" / "frontier.md").is_file()
    assert declared(collect([folder])) == page()
    save(tmp_path / "others", *line("dpo", {1: 1}, 1))
    assert curves.main([str(tmp_path / "others")]) == 2
    assert capsys.readouterr().err.startswith("config.curves.page: found 0 in these runs")
    assert curves.main([str(folder), str(folder)]) == 2
    assert capsys.readouterr().err.startswith("--out: found none with 2 folders")


@pytest.mark.parametrize("target", ["subprocess.run", "benchmarks.sweeps.subprocess.Popen"])
def test_no_file_of_results_decides_which_code_runs(tmp_path, target):
    config = {"curves": {"page": {"_target_": target, "args": ["false"]}}, "report": {}}
    runs = collect([save(tmp_path, *({**run, "config": config} for run in line("dpo", {1: 1}, 1)))])
    with pytest.raises(ReportError, match="^config.curves.page._target_: found "):
        declared(runs)


def test_sweeps_that_finish_and_make_no_page_end_with_1(tmp_path, monkeypatch, capsys):
    for name, value in {"build": lambda *_: {"curves": Curves({"dpo": {}}, [0], page())}, "passed_on": lambda *_: [],
                        "check_alone": lambda *_: None,
                        "sweep": lambda given, common, folder: save(folder, *line("dpo", {1: 1}, 1))}.items():
        monkeypatch.setattr(curves, name, value)
    monkeypatch.setattr(curves.HydraConfig, "get", lambda: OmegaConf.create({"overrides": {"hydra": []}}))
    monkeypatch.setattr(curves.report, "exit_code", 0)
    curves.run(OmegaConf.create({"curves": {}}), "name", tmp_path, [])
    assert curves.report.exit_code == 1 and "no page: ppo: found no points of it" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("experiment, fewer", [
    ("frontier", ["~curves.sweeps.rrhf", "~curves.sweeps.best_of_n", "curves.sweeps.dpo={algorithm.beta: [0.1]}",
                  "curves.sweeps.ppo={recipe.stop_after: [1, null]}"]),
    ("temperature", ["curves.sweeps.dpo={eval.sampling.temperature: [0.0, 1.0]}",
                     "curves.sweeps.ppo={eval.sampling.temperature: [0.0, 1.0]}"])])
def test_the_experiments_on_the_lab_in_small(tmp_path, experiment, fewer):
    ended = invoke(f"experiment={experiment}", "debug=trial", *fewer, f"stages.folder={tmp_path}/stages",
                   f"hydra.run.dir={tmp_path}/out")
    assert ended.status == 0, ended.err
    assert "is undecided: one seed says nothing about methods" in ended.out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {f"{experiment}.md", f"{experiment}.svg", "report.html"}
