"""How measures rank methods beside gold, on runs made by hand."""

import importlib.util

import pandas as pd
import pytest

from algorithms.common.evaluation.overlap import PACKAGES
from benchmarks import overlap
from benchmarks.members import members_of
from benchmarks.results_read import collect
from report_runs import figure, result, save

pytestmark = pytest.mark.skipif(not all(map(importlib.util.find_spec, PACKAGES.values())),
                                reason="the extra overlap is not installed")
PROMPTS = [f"p{index}" for index in range(6)]
DATA = "one two three four"


def runs(tmp_path, *of):
    """Each (method, seed, gold, answer, perplexity's nll): six prompts, two answers each."""
    made = [result(method, seed, figures={
        "reward/gold": figure([gold + 0.01 * place for place in range(6)]),
        "perplexity/heldout": figure([nll + 0.1 * place for place in range(6)], "perplexity"),
        "length/mean": figure([4.0] * 6)}) for method, seed, gold, _, nll in of]
    folder = save(tmp_path, *made)
    for number, (_, _, gold, answer, _) in enumerate(of):
        pd.DataFrame({"prompt_id": [prompt for prompt in PROMPTS for _ in range(2)], "sample": [0, 1] * 6,
                      "response": [answer, "nothing"] * 6, "gold": [1.0, 0.0] * 6, "length": [3, 4] * 6,
                      "picked": True}).to_parquet(folder / f"{number}/samples.parquet")
        pd.DataFrame({"prompt_id": PROMPTS, "sample": 0, "response": DATA, "finished": True,
                      "side": "data"}).to_parquet(folder / f"{number}/references.parquet")
    return folder


def measured(folder):
    members = members_of(collect([folder]))
    return members, {run.folder: overlap.Measured.of(run) for member in members for run in member.runs}


def test_cases_are_those_that_gold_decides_and_each_measure_ranks_them_by_its_sign(tmp_path):
    """b is better by gold than a in both seeds; by ROUGE-L in the first only; by perplexity never; c equals a."""
    folder = runs(tmp_path, ("a", 0, 0.0, "one", 1.0), ("a", 1, 0.0, "one two", 1.0), ("b", 0, 1.0, "one two", 2.0),
                  ("b", 1, 1.0, "one", 2.0), ("c", 0, 0.0, "one", 1.0), ("c", 1, 0.0, "one", 1.0))
    members, of_run = measured(folder)
    found = overlap.cases(members, of_run)
    assert [(case.seed, case.first, case.second) for case in found] == [
        (0, "a", "b"), (1, "a", "b"), (0, "b", "c"), (1, "b", "c")]
    assert [case.right(overlap.ROUGE) for case in found] == [1, 0, 1, 0.5]
    assert [case.right(overlap.PERPLEXITY) for case in found] == [0] * 4
    assert [case.right(overlap.LENGTH) for case in found] == [0.5] * 4, "no difference counts half"
    share = overlap.of_cases(found, overlap.ROUGE)
    assert (share.mean, share.n, share.unit) == (2.5 / 4, 2, "seeds") and 0 <= share.low < share.high <= 1
    assert overlap.of_cases(found, overlap.AUDITOR) is None
    single = overlap.of_answers(list(of_run.values()), overlap.ROUGE)
    assert single.mean == 1 and single.low < 1 and single.n == 6, "the answer of which it has more words is the better"
    assert overlap.of_answers(list(of_run.values()), overlap.LENGTH).mean == 0
    assert overlap.of_answers(list(of_run.values()), overlap.PERPLEXITY) is None


def test_the_page_has_every_measure_and_pair(tmp_path, capsys):
    folder = runs(tmp_path, ("a", 0, 0.0, "one", 1.0), ("b", 0, 1.0, "one two", 2.0))
    assert overlap.main([str(folder)]) == 0
    told = capsys.readouterr().out
    assert "1 pairs of rows in a seed that gold decides (seeds 0)" in told
    assert "b over a" in told and "1 of 1" in told and "held-out perplexity (lower is better)" in told
    assert "the auditor" not in told


def test_runs_without_the_datas_answers_or_without_gold_are_refused(tmp_path, capsys):
    folder = runs(tmp_path / "x", ("a", 0, 0.0, "one", 1.0))
    (folder / "0/references.parquet").unlink()
    assert overlap.main([str(folder)]) == 2 and "expected the data's answers beside the run" in capsys.readouterr().err
    save(tmp_path / "y", result(figures={"length/mean": figure([1, 2])}))
    assert overlap.main([str(tmp_path / "y")]) == 2 and "no finished run with reward/gold" in capsys.readouterr().err
