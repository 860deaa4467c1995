"""What verdicts come to: each pair's outcome, the judge's own quality, rates and strengths, figures in tables."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from algorithms.common.evaluation.inference.judging import strengths
from algorithms.common.evaluation.verdicts import FILE, Verdict, append, read
from algorithms.common.evaluation.verdicts.rates import outcomes, quality
from benchmarks.report import collect, publish
from benchmarks.verdict_figures import with_verdicts
from benchmarks.verdict_tables import verdict_table
from command_line import invoke
from report_runs import figure, result, save, write_run
from served_judge import honest, serving

BOTH = ("left_first", "right_first")


def verdict(prompt: int, outcome: str, order: str = "both", left: str = "0", right: str = "start", longer: int = 0,
            judge: str = "j", **fields) -> Verdict:
    """The left answer has so many more characters."""
    texts = {"left_response": "a" * (50 + longer), "right_response": "b" * 50, **fields}
    return Verdict(f"p{prompt}", "Q", left=left, right=right, outcome=outcome, judge=judge, order=order,
                   at="2026-01-01T00:00:00Z", **texts)


def in_both(prompt: int, first: str, second: str, **fields) -> list[Verdict]:
    return [verdict(prompt, outcome, order, **fields) for outcome, order in zip((first, second), BOTH)]


def test_the_orders_of_a_pair_are_joined():
    found = outcomes([*in_both(0, "left", "left"), *in_both(1, "left", "right"), *in_both(2, "tie", "right"),
                      *in_both(3, "tie", "tie"), *in_both(4, "right", "none"), verdict(5, "right"), verdict(6, "none"),
                      verdict(7, "left", "right_first"), *in_both(8, "left", "left", right_response="a" * 50),
                      verdict(9, "left"), verdict(9, "right"),
                      *in_both(10, "left", "left"), *in_both(10, "right", "left", longer=1)])  # of a run made again
    told = dict(zip(found["prompt_id"], found[["win", "consistent", "first", "chosen"]].to_numpy().tolist()))
    expected = {"p0": [1, 1, 0.5, 1], "p1": [0.5, 0, 1, 1], "p2": [0.5, 0, 0.75, 1], "p3": [0.5, 1, 0.5, 0],
                "p4": [None] * 4, "p5": [0, None, None, None], "p6": [None] * 4, "p7": [1, None, None, None],
                "p8": [0.5, None, None, None], "p9": [0, None, None, None],
                "p10": [0.5, 0, 0, 1]}
    assert {key: [None if np.isnan(one) else one for one in row] for key, row in told.items()} == expected


def judged(*shares: tuple[int, str, str]):
    """So many pairs with these outcomes of the two orders."""
    kinds = [both for count, *both in shares for _ in range(count)]
    return quality(outcomes([one for prompt, both in enumerate(kinds) for one in in_both(prompt, *both)]))


@pytest.mark.parametrize("shares, words, judges", [
    ([(19, "left", "right"), (1, "left", "left")], "no judge: it picks the answer shown first", False),   # 39 of 40
    ([(20, "right", "left")], "no judge: it picks the answer shown second", False),
    ([(20, "left", "right"), (20, "right", "left"), (4, "left", "left")], "no judge: where it prefers", False),
    ([(5, "left", "right"), (5, "left", "left")], "not shown to be a judge", True),
    ([(2, "left", "right"), (18, "left", "left")], "", True),
    ([(5, "tie", "tie")], "", True), ([(5, "none", "left")], "", True)])
def test_a_judge_of_places_is_said_to_be_none(shares, words, judges):
    found = judged(*shares)
    assert found.verdict.startswith(words) and bool(found.verdict) == bool(words) and found.judges == judges


def test_what_is_told_of_a_judge():
    found = judged((6, "left", "left"), (2, "left", "right"), (1, "tie", "tie"), (1, "none", "left"))
    assert (found.pairs, found.unread.mean) == (10, 0.1)
    assert found.consistent.mean == pytest.approx(7 / 9) and found.first.mean == pytest.approx((7 * 0.5 + 2) / 9)
    assert found.same.mean == pytest.approx(6 / 8) and found.same.n == 8


# Tables


WINS = [1, 1, 0, 1, 0.5, 0, 1, 1, 0, 1]
LONGER = [10, -5, -20, 15, 0, -10, 25, 5, -15, 30]
SAID = {1: "left", 0.5: "tie", 0: "right"}


def runs(folder: Path, *names: str, seeds=(0,)) -> Path:
    """Runs 0, 1, …: of each name one per seed."""
    figures = {"length/mean": figure(np.arange(10))}
    return save(folder, *(result(name, seed, figures=figures) for name in names for seed in seeds))


def told(folder: Path) -> str:
    return verdict_table(read(folder / FILE), collect([folder]), folder)


def test_a_row_against_its_start(tmp_path):
    """Raw 6.5 of 10; at equal length and with φ as the estimators' own test has it."""
    runs(tmp_path, "dpo", "ppo")
    append(tmp_path / FILE, [verdict(i, SAID[win], longer=longer) for i, (win, longer) in enumerate(zip(WINS, LONGER))])
    append(tmp_path / FILE, [verdict(i, "none" if i == 3 else "left", right="data") for i in range(10)])
    append(tmp_path / FILE, in_both(0, "left", "right", judge="other"))
    text = told(tmp_path)
    of_j, of_other = text.split("other, 1 pairs: ")
    assert "0.650" in of_j and "0.709" in of_j and "[0.392, 0.902]" in of_j and "10 prompts" in of_j and "+4" in of_j
    assert "against the answers that the data prefers" in of_j and "10.0 %" in of_j and "1.000" in of_j
    assert "the orders agree 0.0 %" in of_other and "first position 100.0 %" in of_other and "ppo" not in text


def test_a_judge_that_is_none_has_no_rates(tmp_path):
    runs(tmp_path, "dpo")
    append(tmp_path / FILE, [one for i in range(10) for one in in_both(i, "left", "right")])
    assert "j is no judge" in told(tmp_path) and "win rate" not in told(tmp_path).partition("Win rates:")[0]


def test_seeds_make_one_row_and_all_samples_count(tmp_path):
    runs(tmp_path, "dpo", seeds=(0, 1))
    append(tmp_path / FILE, [verdict(i, "left" if sample else "right", left=run, sample=sample, longer=i + sample)
                             for i in range(10) for sample in (0, 1) for run in "01"])
    text = told(tmp_path)
    assert "10 prompts × 2 seeds" in text and "0.500" in text and text.count("dpo") == 1


def test_strengths_of_a_round_robin(tmp_path):
    runs(tmp_path, "sft", "dpo", "ppo")
    rng = np.random.default_rng(0)
    wins = {pair: rng.choice([0, 0.5, 1], 10) for pair in (("0", "1"), ("0", "2"), ("2", "1"))}
    append(tmp_path / FILE, [verdict(i, SAID[win], left=left, right=right)
                             for (left, right), values in wins.items() for i, win in enumerate(values)])
    found = strengths({("sft", "dpo"): wins["0", "1"][None], ("sft", "ppo"): wins["0", "2"][None],
                       ("dpo", "ppo"): 1 - wins["2", "1"][None]}, ["sft", "dpo", "ppo"])
    text = told(tmp_path)
    for name, one in found.items():
        assert f"{one.log_ratio.mean:.3f}" in text and f"[{one.log_ratio.low:.3f}, {one.log_ratio.high:.3f}]" in text
        assert f"{one.preferred.mean:.3f}" in text, name
    assert "beside sft" in text and "10 prompts with a verdict on every pair" in text


def test_a_round_robin_that_is_not_whole_has_no_strengths(tmp_path):
    runs(tmp_path, "sft", "dpo", "ppo")
    append(tmp_path / FILE, [verdict(i, "left", right=right) for right in "12" for i in range(5)])
    assert "round robin: no strengths; expected verdicts of every two rows" in told(tmp_path)


def markdown(folder: Path) -> str:
    publish(with_verdicts(collect([folder]), [folder]), folder)
    return (folder / "table.md").read_text(encoding="utf-8")


def test_tables_have_columns_of_judges(tmp_path):
    runs(tmp_path / "sweep", "sft", "dpo")
    append(tmp_path / "sweep" / FILE, [
        *(verdict(i, SAID[win], left="1", judge="aud", left_score=float(i), right_score=0.0)
          for i, win in enumerate(WINS)),
        *(verdict(i, "none" if i == 9 else "left", left="1", right="data", judge="aud") for i in range(10)),
        *(verdict(i, "right", left="0", right="data", judge="aud", left_score=1.0, right_score=2.0) for i in range(10)),
        *(one for i in range(10) for one in in_both(i, "left", "right", left="1", judge="parrot"))])
    text = markdown(tmp_path / "sweep")
    header = next(line for line in text.splitlines() if line.startswith("| algorithm | length |"))
    assert header == "| algorithm | length | score (aud) | win rate (aud) | win rate against data (aud) | runs |"
    rows = {line.split(" | ")[0]: line for line in reversed(text.splitlines()) if line.startswith("| ")}
    assert "| 4.500 [" in rows["| dpo"] and "| 0.650 [" in rows["| dpo"] and "| 1.000 [" in rows["| dpo"]
    assert "| 1.000 [1.000, 1.000] |  | 0.000 [" in rows["| sft"]
    assert "parrot is no judge: it picks the answer shown first" in text and "(parrot)" not in text
    assert "aud: no verdict on 3.3% of 30 pairs." in text
    assert "Compared by a judge's score (score/aud)" in text
    page = (tmp_path / "sweep/report.html").read_text(encoding="utf-8")
    assert "win rate against data (aud)" in page and "than the one that" not in page and "parrot is no judge" in page


def answering(folder: Path, run: str, texts: str, name: str = "dpo") -> None:
    """A run as it leaves its answers, one letter each, of which the first sample alone was picked, and the data's."""
    shutil.rmtree(folder / run, ignore_errors=True)
    write_run(folder / run, result(name, figures={"length/mean": figure(np.arange(len(texts)))}))
    rows = [(f"p{i}", sample, "Q", text, sample == 0) for i, text in enumerate(texts) for sample in (0, 1)]
    columns = ["prompt_id", "sample", "prompt", "response", "picked"]
    pd.DataFrame(rows, columns=columns).assign(finished=True).to_parquet(folder / run / "samples.parquet")
    other = [("data", f"p{i}", 0, "-") for i in range(len(texts))]
    pd.DataFrame(other, columns=["side", "prompt_id", "sample", "response"]).assign(finished=True).to_parquet(
        folder / run / "references.parquet")


def of_answers(texts: str, outcome: str, right: str = "data", theirs: str = "-") -> list[Verdict]:
    return [verdict(i, outcome, right=right, left_response=text, right_response=theirs) for i, text in enumerate(texts)]


def test_a_verdict_belongs_to_the_answers_that_it_judged(tmp_path):
    """Of a run made again two of four answers are others: the verdicts on them, in which it lost, count for nothing."""
    answering(tmp_path, "0", "abcd")
    append(tmp_path / FILE, [*of_answers("ab", "right"), *of_answers("abcd", "left")[2:]])
    assert "0.500" in told(tmp_path) and "no longer have" not in told(tmp_path)
    answering(tmp_path, "0", "xycd")
    said = "j: 2 verdicts are of answers that the runs no longer have, and not counted; judge again"
    assert "j, 2 pairs" in told(tmp_path) and "1.000" in told(tmp_path) and said in told(tmp_path)
    (found,) = with_verdicts(collect([tmp_path]), [tmp_path])
    assert (found.evaluation["win_rate_data/j"].estimate.mean, found.evaluation["win_rate_data/j"].estimate.n) == (1, 2)
    assert said in markdown(tmp_path)
    append(tmp_path / FILE, of_answers("xy", "right"))
    assert "j, 4 pairs" in told(tmp_path) and "0.500" in told(tmp_path)
    answering(tmp_path, "0", "abcd")    # as it was: the first verdicts are of these answers, the last no more
    assert "j, 4 pairs" in told(tmp_path) and "0.500" in told(tmp_path) and said in told(tmp_path)


def test_verdicts_of_another_side_or_of_prompts_that_are_not_asked_any_more_do_not_count(tmp_path):
    answering(tmp_path, "0", "ab")
    answering(tmp_path, "1", "ab", "ppo")
    append(tmp_path / FILE, [*of_answers("ab", "left", "1", "z"), *of_answers("ab", "left", "start", "s"),
                             *of_answers("ab", "left", theirs="e"), *of_answers("abc", "left")[2:]])
    text = told(tmp_path)
    assert text.startswith("j: 7 verdicts are of answers") and "win rate" not in text.partition("Win rates:")[0]
    results = with_verdicts(collect([tmp_path]), [tmp_path])
    assert not [name for run in results for name in run.evaluation if "/j" in name]
    assert "j: 7 verdicts" in markdown(tmp_path)


# The task


def answering_runs(folder: Path) -> Path:
    """Two finished runs as they leave their answers."""
    for number, name in enumerate(("sft", "dpo")):
        write_run(folder / str(number), result(name, figures={"length/mean": figure(np.arange(3))}))
        answers = [(f"p{i}", 0, f"Question {i}?", f"good {i} of {name}", True, True) for i in range(3)]
        pd.DataFrame(answers, columns=["prompt_id", "sample", "prompt", "response", "picked", "finished"]).to_parquet(
            folder / str(number) / "samples.parquet")
        other = [("data", f"p{i}", 0, f"bad {i}", True) for i in range(3)]
        pd.DataFrame(other, columns=["side", "prompt_id", "sample", "response", "finished"]).to_parquet(
            folder / str(number) / "references.parquet")
    return folder


def test_the_task_judges_finished_runs_once(tmp_path):
    pytest.importorskip("openai", reason="the extra judge is not installed")
    folder = answering_runs(tmp_path / "sweep")
    with serving(honest) as served:
        command = ["task=judge", f"runs={folder}", "judge=openai", "judge.model=some/m", f"judge.url={served.url}",
                   f"stages.folder={tmp_path / 'stages'}", f"hydra.run.dir={tmp_path / 'out'}"]
        first = invoke(*command, "verdicts.prompts=2")
        assert first.status == 0 and len(served.questions) == 8, first.err
        second = invoke(*command)
        assert second.status == 0 and len(served.questions) == 12
    found = {(one.left, one.right, one.outcome) for one in read(folder / FILE)}
    assert found == {(run, "data", "left") for run in "01"}
    assert re.search("m-[0-9a-f]{6}@v1, 6 pairs: the orders agree 100.0 %", second.out)
    assert "against the answers that the data" in second.out
    assert f"verdicts: {folder / FILE}" in second.out
    gone = invoke(*command, "judge.prompt=v1", "judge.model=some/other", "judge.tries=1")
    assert gone.status == 2 and "judge.url: found no answer to any of 6 pairs" in gone.err
    assert re.search("m-[0-9a-f]{6}@v1, 6 pairs", gone.out)


@pytest.mark.parametrize("given, message", [
    ([], "runs: found none; expected the folder of finished runs; fix: runs=multirun/…"),
    (["runs=RUNS"], "judge: found none; expected a judge; fix: judge=local judge.model.name=FOLDER"),
    (["runs=RUNS", "judge=scorer", "verdicts.against=start"], "verdicts.against: found start, but no answers"),
    (["runs=RUNS", "judge=scorer"], "judge.source: found gold, and runs on data that has no gold reward; expected a "
     "source that can score their answers; fix: reward@judge.source=classifier judge.source.name=…, or judge=auditor"),
    (["runs=nowhere", "judge=scorer"], "runs: found no folder nowhere"),
    (["runs=RUNS", "judge=scorer", "verdicts.against=me"], "verdicts.against: found 'me'; expected one of start, data"),
    (["runs=RUNS", "judge=local"], "judge.model.name: found no value; expected")])
def test_what_the_task_lacks_is_said(given, message, tmp_path):
    folder = answering_runs(tmp_path / "sweep")
    given = [one.replace("RUNS", str(folder)) for one in given]
    ended = invoke("task=judge", *given, f"hydra.run.dir={tmp_path / 'out'}")
    assert ended.status == 2 and ended.err.startswith(message)
    assert not (folder / FILE).exists() and not ended.out.count("No verdicts")
