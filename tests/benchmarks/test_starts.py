"""Rows of what training started from, where the table has none: shown, and compared with nothing."""

import pandas as pd

from benchmarks.results_read import collect
from report_runs import GOLD, START, figure, made, markdown, method, result, write_run


def before(values, **figures):
    return {"reward/gold": figure(values), **figures}


def began(runs, kind, starts, identities=None):
    """The runs, with what they kept of their starts: gold ``starts`` (S, P)."""
    for index, run in enumerate(runs):
        run["identity"] = f"{run['algorithm']} {run['overrides'][2:]}"
        run["start"] = {"kind": kind, "identity": (identities or [f"the {kind}"] * len(runs))[index]}
        run["before"] = before(starts[index])
    return runs


def test_a_start_that_is_no_row_is_one(tmp_path):
    runs = began(method("sft", GOLD), "base", START)
    table = made(tmp_path, *runs)
    assert [row.label for row in table.rows] == ["base, start", "sft"]
    first, own = table.rows
    assert first.estimates["reward/gold"].mean == pd.DataFrame(START).to_numpy().mean() and first.seeds == (0, 1, 2)
    assert first.estimates["reward/gold"].seeds == 3 and not first.costs
    assert not table.pairs, "it is compared with nothing"
    assert own.estimates["reward/gold"].mean == pd.DataFrame(GOLD).to_numpy().mean()
    text = markdown(tmp_path / "again", *runs)
    assert "| base, start |" in text
    assert pd.read_csv(tmp_path / "again/table.csv")["kind"].tolist() == ["start", "row"]


def test_a_start_that_is_a_row_is_shown_once_and_changes_no_comparison(tmp_path):
    sft, dpo = method("sft", START), method("dpo", GOLD, START)
    plain = made(tmp_path / "a", *sft, *dpo)
    with_starts = made(tmp_path / "b", *began(sft, "base", START), *began(dpo, "sft", START, ["sft []"] * 3))
    assert [row.label for row in with_starts.rows] == ["base, start", "sft", "dpo"]
    assert with_starts.words == plain.words and with_starts.pairs == plain.pairs
    assert [row.estimates for row in with_starts.rows[1:]] == [row.estimates for row in plain.rows]
    assert with_starts.notes == plain.notes


def test_starts_of_one_kind_say_whose_they_are(tmp_path):
    runs = [run for number, shift in enumerate((0, 1)) for run in began(
        method("dpo", GOLD, START, overrides=[f"recipe.lr={number}"]), "sft", pd.DataFrame(START).to_numpy() + shift,
        [f"sft {number}"] * 3)]
    labels = [row.label for row in made(tmp_path, *runs).rows]
    assert labels[:2] == ["sft, start of dpo (recipe.lr=0)", "sft, start of dpo (recipe.lr=1)"]


def test_a_run_s_start_is_read_with_its_rows(tmp_path):
    (run,) = began([result("sft")], "base", [[1.0, 2.0]])
    write_run(tmp_path / "0", run)
    (found,) = collect([tmp_path])
    assert found.start == ("base", "the base") and found.identity == "sft []"
    assert found.before["reward/gold"].cells["numerator"].tolist() == [1.0, 2.0]
