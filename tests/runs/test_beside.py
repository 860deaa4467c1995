"""A run beside its start: lines of figures, and answers that a terminal and a page may show whatever a model writes."""

import dataclasses

import pandas as pd
import pytest
from test_streams import Hashed, hashed

from algorithms.best_of_n import BestOfN
from algorithms.common.evaluation.metrics import BASE, TRAINED, figures
from algorithms.common.runs.beside import Answers, Finished, fenced, first_answers
from algorithms.common.runs.jobs import headline
from algorithms.common.support.store import Store
from algorithms.dpo import DPO
from algorithms.reward_model import RewardModel
from stage_setup import EVAL, RECIPE, make_bench, make_data, on_sft

ONE = {"mean": 1.0, "low": 0.5, "high": 1.5, "n": 7, "unit": "prompts", "kind": "mean"}


def ended(figures=None, before=None, answers=()) -> Finished:
    return Finished("dpo", figures or {}, "sft", before or {}, list(answers))


def test_every_figure_stands_beside_the_start_s():
    before = {"length/mean": {**ONE, "mean": 3.0}}
    own = {"length/mean": ONE, "kl/k1": ONE, "kl/bound": {**ONE, "kind": "constant"}, "gold@2": ONE}
    text = ended(own, before).text(100)
    line = {row.split()[0]: row for row in text.splitlines() if row.startswith("  ")}
    beside = ["length/mean", "1.0000", "[0.5000,", "1.5000]", "3.0000", "[0.5000,", "1.5000]", "7", "prompts"]
    assert line["length/mean"].split() == beside
    assert line["kl/k1"].split() == ["kl/k1", "1.0000", "[0.5000,", "1.5000]", "7", "prompts"], "the start has none"
    assert line["kl/bound"].split() == ["kl/bound", "1.0000"] and "gold@2" not in text
    assert line["start"].index("start (sft)") == line["length/mean"].index("3.0000") - 3
    assert "start (" not in ended({"length/mean": ONE}).text(100), "no column without a figure"


def test_in_a_sweep_a_run_is_one_figure():
    run = ended({"length/mean": ONE, "reward/gold": ONE}, {"reward/gold": {**ONE, "mean": -2.0}})
    assert headline(None, run.figures) == "reward/gold" and headline("length/mean", run.figures) == "length/mean"
    assert run.line("reward/gold") == "dpo: reward/gold 1.0000 [0.5000, 1.5000] (start -2.0000)"
    assert run.line("length/mean") == "dpo: length/mean 1.0000 [0.5000, 1.5000]"
    assert headline(None, {"length/mean": ONE}) is None and run.line(None) == "dpo: done"


def test_answers_are_of_the_same_prompts_the_first_of_each():
    rows = [(f"p{i}", sample, candidate, f"Prompt {i}", f"{i}/{sample}/{candidate}", candidate == 1)
            for i in range(5) for sample in range(2) for candidate in range(2)]
    own = pd.DataFrame(rows, columns=["prompt_id", "sample", "candidate", "prompt", "response", "picked"])
    own["finished"] = True
    start = own.assign(response="before " + own["response"]).iloc[::-1]
    assert first_answers(own, start) == [Answers(f"Prompt {i}", f"before {i}/0/1", f"{i}/0/1") for i in range(3)]
    cut = own.assign(response="那在机场\ufffd", finished=False)  # its limit came within a character of three bytes
    assert {one.own for one in first_answers(cut, start)} == {"那在机场 …"}


def test_what_a_model_writes_moves_no_terminal_and_breaks_no_page():
    hostile = "ok \x1b]0;owned\x07 \u202eback\n```\n<script>x</script>\r| a |\n````html"
    lines = ended(answers=[Answers(hostile, hostile, hostile)]).answer_lines(80)
    assert not set("\n".join(lines)) & set("\x1b\x07\u202e\r") and r"\u001b]0;owned\u0007" in lines[0]
    block = fenced(lines)
    assert block[0] == "`````text" and block[-1] == "`````" and not [line for line in lines if "`````" in line]


def test_long_texts_are_cut_and_fit_the_columns():
    words = " ".join(f"w{i}" for i in range(500))
    lines = ended(answers=[Answers(words, words, "x" * 500), Answers("", "", " ")]).answer_lines(60)
    assert all(len(line) <= 62 for line in lines), "the mark of a cut beside 60"
    prompt, start, own = lines[:6], lines[6:12], lines[12:18]
    assert prompt[0].split()[:2] == ["prompt", "…"] and prompt[-1].endswith("w499"), "its end is what is answered"
    assert start[0].split()[:2] == ["start", "w0"] and start[-1].endswith(" …")
    assert own[0].split()[0] == "dpo" and lines[18:] == ["", "  prompt", "  start", "  dpo"]


def test_wide_letters_take_two_columns_and_a_long_name_its_own():
    """Of 60 columns the name and the spaces around it leave 43: 21 letters of two columns each."""
    finished = dataclasses.replace(ended(answers=[Answers("问", "答", "好" * 50)]), method="rrhf_iterated")
    assert finished.answer_lines(60) == [
        f"  prompt{'':9s}问", f"  start{'':10s}答", "  rrhf_iterated  " + "好" * 21, " " * 17 + "好" * 21,
        " " * 17 + "好" * 8]


# What the start is evaluated as


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("stages"))


def test_methods_without_a_trained_start_share_the_base_s_answers(store):
    bench = make_bench(store, dataclasses.replace(make_data(), gold=hashed))
    base, same = (bench.baseline(method).samples for method in (on_sft().needs["reference"].algorithm, DPO()))
    pd.testing.assert_frame_equal(base, same)
    own = bench.evaluate(DPO(), RECIPE)
    found = figures(DPO(), own, bench.baseline(DPO()), BASE)
    assert {"reward/gold_minus_base", "win_rate/base", "win_rate_data/gold"} <= set(found)
    assert bench.baseline(RewardModel()) is None, "it answers nothing"


@pytest.mark.parametrize("reference", [True, False])
def test_a_start_has_a_proxy_where_the_method_s_answers_do(store, reference):
    bench = make_bench(store, reward=Hashed("proxy"), eval=dataclasses.replace(EVAL, proxy=False))
    method = on_sft(BestOfN, n=2) if reference else BestOfN(n=2)
    start = bench.baseline(method)
    expected = hashed(start.samples["prompt"], start.samples["response"], salt="proxy")
    assert start.samples["proxy"].tolist() == pytest.approx(expected)
    found = figures(method, bench.evaluate(method, RECIPE), start, TRAINED if reference else BASE)
    assert f"reward/proxy_minus_{'sft' if reference else 'base'}" in found
    assert bench.baseline(on_sft() if reference else DPO()).samples["proxy"].isna().all(), "unless it is asked for"
