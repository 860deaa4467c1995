"""Runs of several seeds become figures of a row: seeds × prompts that are shared, and never the runs' own intervals."""

import numpy as np
import pytest
from scipy import stats

from algorithms.common.evaluation.inference.intervals import PERPLEXITY, SHARE, Matrix
from benchmarks.report import ReportError, main
from report_runs import GOLD, START, figure, known, made, markdown, method, result, save, seeded


def numbers(estimate):
    return pytest.approx((estimate.mean, estimate.low, estimate.high), abs=1e-9)


def told(estimate):
    return estimate.mean, estimate.low, estimate.high


# Figures of a row


def test_a_mean_is_of_seeds_and_prompts(tmp_path):
    (row,) = made(tmp_path, *method("dpo", GOLD)).rows
    assert told(row.estimates["reward/gold"]) == pytest.approx((2, -0.349468, 4.349468), abs=1e-6)
    assert (row.estimates["reward/gold"].n, row.estimates["reward/gold"].unit, row.seeds) == (4, "prompts", (0, 1, 2))


def test_every_kind_goes_through_its_own_estimator(tmp_path):
    hits, asked = np.array([[2, 1, 3, 0], [2, 2, 3, 1]]), np.array([[2, 3, 3, 1], [2, 3, 3, 1]])
    nll, tokens = np.array([[3.0, 9, 4, 7], [2, 8, 5, 9]]), np.array([[2.0, 5, 3, 4], [2, 5, 3, 4]])
    runs = seeded("dpo", {
        "accuracy/heldout": [figure(one, "share", weights=of) for one, of in zip(hits, asked)],
        "perplexity/heldout": [figure(one, "perplexity", weights=of, unit="demonstrations")
                               for one, of in zip(nll, tokens)],
        "kl/bound": [known(1.5), known(1.5)],
        "calibration/error": [known(0.1, 0.05, 0.2, "resampled"), known(0.2, 0.1, 0.3, "resampled")]})
    found = made(tmp_path, *runs).rows[0].estimates
    assert told(found["accuracy/heldout"]) == pytest.approx((0.777778, 0.044472, 0.996215), abs=1e-6)
    expected = PERPLEXITY.estimate(Matrix(nll, tokens), 0.95)
    assert told(found["perplexity/heldout"]) == numbers(expected)
    assert expected.mean == pytest.approx(np.exp(nll.sum() / tokens.sum()))
    assert told(found["kl/bound"]) == (1.5, 1.5, 1.5)
    half = stats.t.ppf(0.975, 1) * np.std([0.1, 0.2], ddof=1) / np.sqrt(2)
    assert told(found["calibration/error"]) == pytest.approx((0.15, 0.15 - half, 0.15 + half))
    assert (found["perplexity/heldout"].unit, found["kl/bound"].seeds) == ("demonstrations", 2)


def test_finished_intervals_are_not_read(tmp_path):
    """Whatever the runs' own intervals are, they are of one seed and say nothing of several."""
    runs = method("dpo", GOLD)
    for run in runs:
        run["evaluation"]["reward/gold"] |= {"low": -99.0, "high": 99.0}
    (row,) = made(tmp_path, *runs).rows
    assert row.estimates["reward/gold"].high == pytest.approx(4.349468, abs=1e-6)


def test_what_n_counts_is_said(tmp_path):
    runs = seeded("dpo", {"reward/gold": [figure(one) for one in GOLD],
                          "accuracy/heldout": [figure([1, 0, 1], "share", prompts=["a", "b", "c"])] * 3,
                          "perplexity/heldout": [figure([3, 4], "perplexity", weights=2, unit="demonstrations")] * 3})
    text = markdown(tmp_path, *runs)
    counts = "4 prompts (gold); 2 demonstrations (perplexity); 3 prompts (accuracy)"
    assert f"- Measured on, in every run: {counts}.\n" in text
    assert "reward/gold.n,reward/gold.unit" in (tmp_path / "table.csv").read_text()
    assert ",4,prompts," in (tmp_path / "table.csv").read_text()


def test_a_figure_that_only_some_answers_have_says_of_how_many_in_each_row(tmp_path):
    """An answer of one word has no pair of words: of four prompts dpo has two with some, the others all."""
    whole = {"length/mean": figure([5, 5, 5, 5])}
    some = figure([0.5, 1.0], "share", prompts=["p0", "p2"])
    runs = [result("dpo", figures={**whole, "distinct_2": some})]
    runs += [result(name, figures={**whole, "distinct_2": figure([0.5] * 4, "share")}) for name in ("sft", "ppo")]
    text = markdown(tmp_path / "some", *runs)
    assert "- Measured on, in every run: 4 prompts (length).\n" in text
    counts = "2 prompts (dpo); 4 prompts (sft, ppo)"
    assert f"- distinct-2 is of those that have it, not the same in all rows: {counts}.\n" in text
    assert "not the same" not in markdown(tmp_path / "all", *runs[1:])


def test_what_trains_nothing_is_said_to(tmp_path):
    runs = [result(name, cost={"seconds": 1.0, "trainable_parameters": count, "stages": {}})
            for name, count in (("best_of_n", 0), ("dpo", 8))]
    told = "- trainable: what the method itself trains, without the stages it stands on; 0 of one that only chooses.\n"
    assert told in markdown(tmp_path / "both", *runs) and told not in markdown(tmp_path / "dpo", runs[1])


def test_gold_less_sft_is_the_difference_of_the_rows_as_printed(tmp_path):
    """SFT, which training started from, has none; means are of 8 whole numbers, so that three digits are all."""
    gold, start = GOLD[:2], START[:2]
    text = markdown(tmp_path, *method("sft", start), *method("dpo", gold, start))
    sft, dpo = ([cell.strip() for cell in line.split("|")] for line in text.splitlines()[6:8])
    of = {name: column for column, name in enumerate(cell.strip() for cell in text.splitlines()[4].split("|"))}
    mean = lambda row, name: float(row[of[name]].split()[0])  # noqa: E731
    assert mean(dpo, "gold − SFT") == mean(dpo, "gold") - mean(sft, "gold") == 1.5
    assert sft[of["gold − SFT"]] == sft[of["win rate"]] == ""
    (pair,) = made(tmp_path / "again", *method("sft", start), *method("dpo", gold, start)).pairs
    difference = made(tmp_path / "third", *method("dpo", gold, start)).rows[0].estimates["reward/gold_minus_sft"]
    assert told(pair.difference) == numbers(difference)


def test_a_difference_to_another_sft_than_the_rows_is_said(tmp_path):
    text = markdown(tmp_path, *method("sft", np.add(START, 1)), *method("dpo", GOLD, START))
    assert "- gold − SFT of dpo is to the SFT that training began with, which is no row of this table.\n" in text
    assert "to the SFT that" not in markdown(tmp_path / "same", *method("sft", START), *method("dpo", GOLD, START))


def test_a_single_answer_has_no_interval_and_says_so(tmp_path):
    text = markdown(tmp_path, *method("sft", [[1]]), *method("dpo", [[2]]))
    assert "- sft: no reward/gold: one answer has no interval; expected two prompts or two seeds.\n" in text
    assert "Nothing was compared: one answer has no interval" in text


# Prompts that are shared


def names(*indices):
    return [f"p{index}" for index in indices]


def test_rows_are_of_the_prompts_that_all_runs_have_in_any_order(tmp_path):
    gold = np.arange(20.0)
    order = np.random.default_rng(0).permutation(20)
    whole = result("sft", figures={"reward/gold": figure(gold)})
    mixed = result("dpo", figures={"reward/gold": figure(gold[order] + 1, prompts=names(*order))})
    part = result("ppo", figures={"reward/gold": figure(gold[:19] + 2)})
    found = made(tmp_path, whole, mixed, part)
    assert [row.estimates["reward/gold"].mean for row in found.rows] == [9.0, 10.0, 11.0]
    assert [pair.difference.mean for pair in found.pairs] == [1.0, 2.0, 1.0]
    assert found.rows[0].estimates["reward/gold"].n == 19
    assert "Measured on, in every run (those that all runs have): 19 of up to 20 prompts (gold)." in found.notes


def test_runs_that_answered_other_prompts_are_refused_and_the_fix_works(tmp_path, capsys):
    runs = [result("sft", figures={"reward/gold": figure(np.arange(20.0))}),
            result("dpo", figures={"reward/gold": figure(np.arange(20.0))}),
            result("ppo", figures={"reward/gold": figure(np.arange(17.0))})]
    save(tmp_path, *runs)
    assert main([str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("reward/gold: found 17 prompts that all 3 runs have, of up to 20 (")
    assert "share 17); expected at least 90%" in message and "fix: evaluate all with the same data" in message
    assert message.count("\n") == 1
    out = tmp_path / "out"
    assert main([str(tmp_path / "0"), str(tmp_path / "1"), "--out", str(out)]) == 0 and (out / "table.md").is_file()


def test_answers_that_have_none_of_a_figure_leave_none_of_it(tmp_path):
    """Which pairs' chosen response is longer differs by seed: no reason to refuse, and no prompt counts as zero."""
    whole = [figure([1, 0, 1, 1], "share"), figure([1, 1, 0, 1], "share")]
    longer = [figure([1, 0], "share", names(0, 1)), figure([0, 1], "share", names(2, 3))]
    runs = seeded("dpo", {"accuracy/heldout": whole, "accuracy/chosen_longer": longer})
    found = made(tmp_path, *runs).rows[0].estimates
    there = np.array([[1, 1, 0, 0], [0, 0, 1, 1]])
    expected = SHARE.estimate(Matrix(np.array([[1, 0, 0, 0], [0, 0, 0, 1]]), there), 0.95)
    assert told(found["accuracy/chosen_longer"]) == numbers(expected) and expected.mean == 0.5
    (row,) = made(tmp_path / "one", runs[0]).rows
    assert row.estimates["accuracy/chosen_longer"].n == 2


def test_a_figure_that_is_a_share_in_some_runs_only_is_a_mean(tmp_path):
    runs = seeded("dpo", {"refusal/answerable": [figure([1, 0, 1], "share"), figure([0.5, 0, 1], "mean")]})
    assert made(tmp_path, *runs).rows[0].estimates["refusal/answerable"].mean == pytest.approx(3.5 / 6)
    other = seeded("dpo", {"refusal/answerable": [figure([1, 0, 1], "share"), known(1)]})
    with pytest.raises(ReportError, match="found constant and share of prompts; expected one kind of one unit"):
        made(tmp_path / "other", *other)


def own_prompts(seeds, count=4):
    return [[f"s{seed}p{index}" for index in range(count)] for seed in range(seeds)]


def test_seeds_with_prompts_of_their_own_are_compared_by_students_t(tmp_path):
    prompts = own_prompts(3)
    runs = [*method("sft", START, prompts=prompts), *method("dpo", GOLD, START, prompts=prompts)]
    found = made(tmp_path, *runs)
    means, before = np.mean(GOLD, 1), np.mean(START, 1)
    low, high = stats.t.interval(0.95, 2, means.mean(), stats.sem(means))
    assert told(found.rows[1].estimates["reward/gold"]) == pytest.approx((2, low, high))
    (pair,) = found.pairs
    assert pair.pair.p == pytest.approx(stats.ttest_rel(means, before).pvalue, rel=1e-6)
    assert (pair.difference.n, pair.difference.unit) == (4, "prompts in each seed")
    assert any("3 seeds and 4 prompts in each seed" in note for note in found.notes)


def test_shares_of_seeds_with_prompts_of_their_own_stay_inside(tmp_path):
    prompts = own_prompts(3, 50)
    agree = [figure(np.ones(50), "share", prompts=one) for one in prompts]
    some = [figure(np.arange(50) < 25 + seed, "share", prompts=prompts[seed]) for seed in range(3)]
    found = made(tmp_path, *seeded("dpo", {"eos_rate": agree, "accuracy/heldout": some})).rows[0].estimates
    n = max(50, 150 * 1.959964**2 / stats.t.ppf(0.975, 2)**2)
    assert found["eos_rate"].low == pytest.approx(n / (n + 1.959964**2), abs=1e-5) and found["eos_rate"].high == 1
    accuracy = found["accuracy/heldout"]
    assert 0.4 < accuracy.low < accuracy.mean == 0.52 < accuracy.high < 0.65


def test_seeds_that_share_a_part_of_their_prompts_are_refused(tmp_path):
    prompts = [names(*range(seed * 2, seed * 2 + 4)) for seed in range(3)]
    with pytest.raises(ReportError, match="found 0 prompts that all 3 runs have, of up to 4"):
        made(tmp_path, *method("dpo", GOLD, prompts=prompts))


def test_a_share_less_its_starts_is_the_pair_of_both_rows(tmp_path):
    """Its interval is the pair's, and has a width where all answers agree."""
    own = np.array([[1, 1, 0, 1], [1, 1, 1, 1], [1, 0, 1, 1.]])
    before = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.]])
    rows = seeded("sft", {"refusal/unanswerable": [figure(one, "share") for one in before]})
    rows += seeded("dpo", {"refusal/unanswerable": [figure(one, "share") for one in own],
                           "refusal/unanswerable_minus_sft": [figure(one) for one in own - before],
                           "refusal/answerable": [figure(np.zeros(4), "share") for _ in own],
                           "refusal/answerable_minus_sft": [figure(np.zeros(4)) for _ in own]})
    table = made(tmp_path, *rows)
    (pair,) = table.pairs
    less = next(row for row in table.rows if row.algorithm == "dpo").estimates
    found = less["refusal/unanswerable_minus_sft"]
    assert (found.mean, found.low, found.high) == pytest.approx(
        (pair.difference.mean, pair.difference.low, pair.difference.high))
    none = less["refusal/answerable_minus_sft"]
    assert none.mean == 0 and none.low < -0.05 and none.high > 0.05
