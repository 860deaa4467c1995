"""What a table says of a budget that was turned into steps, and of money."""

import csv

from report_runs import made, markdown, result

STEPS = {"steps": 10, "beneath": 100.0, "per_step": 9.0, "per_record": 0.0}


def run(algorithm: str, trained: int, sampled: int = 0, calibration=STEPS, equal="tokens", **cost) -> dict:
    cost = {"tokens_trained": trained, "tokens_sampled": sampled, "seconds": 7.0, **cost}
    return result(algorithm, budget={"equal": equal, "amount": 1000.0}, calibration=calibration, cost=cost)


def test_the_spread_that_remains_is_said(tmp_path):
    text = markdown(tmp_path, run("dpo", 980), run("ppo", 600, 450))
    assert "- Held equal: tokens (amount 1,000).\n" in text
    assert ("- The spread that remains: rows took 980 (dpo) to 1,050 (ppo) tokens, trained and sampled, the stages "
            "they stand on included; -2.0% to +5.0% of the budget.") in text
    assert "All methods were given about the same tokens (980 to 1,050)." in text


def test_seconds_are_of_the_clock(tmp_path):
    runs = [run(name, 1, equal="seconds", seconds=seconds) for name, seconds in (("dpo", 900.0), ("ppo", 1000.0))]
    text = markdown(tmp_path, *runs)
    assert "rows took 900 (dpo) to 1,000 (ppo) seconds, the stages they stand on included; " in text
    assert "All methods were given about the same seconds (900 to 1,000)." in text


def test_rows_that_used_unlike_amounts_are_not_said_to_have_had_the_same(tmp_path):
    words = made(tmp_path / "two", run("dpo", 980), run("ppo", 1600)).words
    assert "All methods were given a budget of 1,000 tokens, and took 980 to 1,600." in words
    assert "dpo was given a budget of 1,000 tokens, and took 1,800." in made(tmp_path / "one", run("dpo", 1800)).words


def test_what_takes_no_steps_is_not_held(tmp_path):
    table = made(tmp_path, run("dpo", 980), run("best_of_n", 0, 90_000, calibration=None))
    assert any(note.startswith("Not held to the budget: best_of_n, which takes no steps") for note in table.notes)
    assert any("rows took 980 (dpo) to 980 (dpo)" in note for note in table.notes)
    assert table.words.endswith("No budget was held equal for all rows.")


def test_money_has_a_column_and_its_price_a_note(tmp_path):
    priced = [{**run(name, 1, money=money), "config": {"budget": {"price_per_hour": 2.5}, "report": {}}}
              for name, money in (("dpo", 0.25), ("ppo", 1.5))]
    text = markdown(tmp_path, *priced)
    assert "| money |" in text and "| 0.2500 |" in text and "| 1.5000 |" in text
    assert "- Money: 2.5 for an hour.\n" in text
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["money"] for row in rows if row["kind"] == "row"] == ["0.25", "1.5"]
    assert "money" not in markdown(tmp_path / "free", run("dpo", 1)).lower()
