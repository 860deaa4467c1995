"""What a table comes to in three sentences: no more than the corrected comparison allows."""

import numpy as np
import pytest

from benchmarks.spending import amount
from report_runs import failed, figure, known, made, method, result

PROMPTS = 48


def rows(seeds=5, spent=None, **means):
    """Runs of methods by the mean of their gold, with a little noise that differs by method, seed and prompt."""
    found = []
    for index, (name, mean) in enumerate(means.items()):
        noise = np.random.default_rng(index).normal(0, 0.3, (seeds, PROMPTS))
        cost = {"seconds": (spent or {}).get(name, 10.0 * (index + 1)), "stages": {}}
        found += method(name, mean + noise, cost=cost)
    return found


def advice(folder, *runs):
    return made(folder, *runs).advice


def test_one_that_beats_all_is_taken_with_its_cost_and_what_it_holds_for(tmp_path):
    found = advice(tmp_path, *rows(sft=0, dpo=3, ppo=6))
    assert found.take == "Take ppo: by gold reward it is better than each of the others."
    assert found.cost == ("ppo cost 30 seconds, the stages it stands on included: 3 times the cheapest, sft "
                          "(10 seconds); dpo, which has the next best mean, cost 20 seconds.")
    assert found.doubt == ('As sure as 5 trainings of each and 48 prompts make it: where no method is better than '
                           'another, at most one of 20 such sweeps would say "better". In any case it holds for this '
                           'model, this data and these settings only.')


def test_those_between_which_nothing_was_seen_are_taken_both(tmp_path):
    """The issue's own example: better than the start, and not told from each other."""
    found = advice(tmp_path, *rows(sft=0, dpo=2.0, ppo=2.01))
    told = "Take dpo or ppo: by gold reward each is better than sft; "
    assert found.take in (f"{told}between them no difference was seen.", f"{told}they are practically equal.")
    assert found.cost.startswith("dpo cost 20 seconds and ppo cost 30 seconds, the stages they stand on included; the "
                                 "cheapest of all, sft, cost 10 seconds")


def test_a_row_that_could_not_be_told_from_the_best_is_named(tmp_path):
    runs = rows(sft=0, dpo=3)
    wild = np.random.default_rng(9).normal(0, 1, (5, PROMPTS)) + np.array([[-6], [8], [-3], [7], [2]])
    found = advice(tmp_path, *runs, *method("ppo", wild, cost={"seconds": 9.0, "stages": {}}))
    assert found.take == "Take dpo: by gold reward it is better than sft; ppo could not be told from it."
    assert "in 2 of 3 comparisons no difference was shown" in found.doubt


def test_where_nothing_is_better_cost_is_all_that_is_left(tmp_path):
    found = advice(tmp_path, *rows(seeds=3, dpo=0, ipo=0.01, spent={"dpo": 30.0, "ipo": 10.0}))
    assert "better than the other by gold reward" in found.take or "practically equal" in found.take
    assert found.take.endswith("nothing here is a reason to pay for more than ipo, the cheapest.")
    assert "each method was trained 3 times only" in found.doubt
    same = advice(tmp_path / "same", *rows(seeds=3, dpo=0, ipo=0.01, spent={"dpo": 10.0, "ipo": 10.5}))
    assert same.take.endswith("they cost about the same: take any.")


def test_one_seed_takes_a_trained_model(tmp_path):
    found = advice(tmp_path, *rows(seeds=1, sft=0, dpo=3))
    assert found.take == "Take this trained dpo: by gold reward it is ahead of this trained sft."
    assert found.doubt.startswith("Not sure: each method was trained once, and another seed may order them otherwise.")


def test_rows_that_were_compared_with_one_alone_are_not_ranked(tmp_path):
    runs = rows(sft=0, dpo=3, ppo=6)
    for run in runs:
        run["config"]["report"]["family"] = "sft"
    assert advice(tmp_path, *runs).take == ("Take dpo or ppo: by gold reward each is better than sft; they were not "
                                            "compared with each other.")


def test_what_cannot_be_told_is_not_advised(tmp_path):
    own = [result(name, seed, figures={"reward/proxy": figure(np.arange(8) * weight)})
           for name, weight in (("dpo", 1), ("ppo", 3)) for seed in range(3)]
    found = advice(tmp_path / "own", *own)
    assert found.take == "No method can be recommended: this data cannot tell whose answers are better."
    assert found.doubt.startswith("The only score is one that methods were trained on, which favours them. Fix: ")
    apart = advice(tmp_path / "apart", *method("sft", [[0, 1]], seeds=[0]), *method("dpo", [[0, 1]], seeds=[1]))
    assert apart.take == "No method can be recommended: nothing was compared."
    assert apart.doubt == "Nothing was compared: no seed is in all rows. Fix: run the same seeds of all."
    trial = [{**run, "trial": True} for run in rows(sft=0, dpo=3)]
    assert advice(tmp_path / "trial", *trial).take == "No method can be recommended: this was a trial."
    lone = advice(tmp_path / "lone", *rows(dpo=3), failed("ppo"))
    assert lone.take == "No method can be recommended: dpo is the only one with a finished run."
    none = advice(tmp_path / "none", failed("ppo"))
    assert (none.take, none.cost) == ("No method can be recommended: no run has finished.",
                                      "What the methods cost was not measured.")


def test_runs_that_were_lost_and_answers_that_were_cut_are_reasons_for_doubt(tmp_path):
    runs = rows(sft=0, dpo=3)
    for run in runs:
        run["figures"]["eos_rate"] = figure([0.0] * 24 + [1.0] * 24, "share")
        run["evaluation"]["eos_rate"] = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 48, "unit": "prompts", "seeds": 1,
                                         "kind": "share"}
    found = advice(tmp_path, *runs, failed("rrhf"), failed("dpo", 7))
    assert found.doubt.startswith("Not sure: many answers of dpo were cut at the limit of their length; no run of rrhf "
                                  "finished; some runs of dpo did not finish.")


def test_rows_that_were_not_compared_are_no_others_that_were_beaten(tmp_path):
    found = advice(tmp_path, *rows(sft=0, dpo=3, ppo=6), failed("rrhf"))
    assert found.take == "Take ppo: by gold reward it is better than each of the others that were compared."
    runs = rows(sft=0, dpo=3, ppo=0.001)
    for run in runs:
        run["config"]["report"]["family"] = "sft"
    assert advice(tmp_path / "family", *runs).take == ("Take dpo: by gold reward it is better than sft; ppo was not "
                                                       "compared with it.")


def test_many_that_may_be_taken_are_one_of_many_the_cheapest_first(tmp_path):
    names = ("dpo", "ipo", "kto", "ppo", "rloo")
    found = advice(tmp_path, *rows(sft=0, **{name: 3 + index / 1000 for index, name in enumerate(names)},
                                   spent={"sft": 90.0, "rloo": 5.0}))
    assert found.take.startswith("Take one of 5 methods such as rloo, dpo, ipo or kto: by gold reward each is better "
                                 "than sft; ")
    assert found.cost.startswith("rloo cost 5 seconds, dpo cost 20 seconds") and found.cost.endswith(
        "; rloo was the cheapest of all.")


def test_of_many_that_were_compared_with_one_alone_the_best_means_are_named(tmp_path):
    """Not the cheapest: cost is a reason to choose among rows of which none was seen to be better."""
    runs = rows(sft=0, dpo=3, ipo=4, kto=5, ppo=6, rloo=7, spent={"sft": 9.0, "dpo": 5.0})
    for run in runs:
        run["config"]["report"]["family"] = "sft"
    found = advice(tmp_path, *runs)
    assert found.take == ("Take one of 5 methods such as rloo, ppo, kto or ipo, whose means are the best: by gold "
                          "reward each is better than sft; they were not compared with each other.")
    assert found.doubt.startswith("Not sure: which of 5 methods is better was not asked (report.family=all compares "
                                  "all pairs). ")


def test_pairs_that_were_declared_beside_a_family_do_not_stand_for_those_that_were_not(tmp_path):
    runs = rows(sft=0, dpo=3, ipo=3.001, kto=5, ppo=6, rloo=7)
    for run in runs:
        run["config"]["report"] |= {"family": "sft", "pairs": [["dpo", "ipo"]]}
    found = advice(tmp_path, *runs)
    assert found.take.startswith("Take one of 5 methods such as rloo, ppo, kto or ipo, whose means are the best: ")
    assert found.take.endswith("each is better than sft; only 1 of their 10 pairs was compared.")
    assert found.doubt.startswith("Not sure: which of 5 methods is better was asked of 1 of their pairs only (")


def test_what_found_the_settings_is_said_to_be_charged(tmp_path):
    runs = rows(sft=0, dpo=3)
    for run in runs:
        run["tuning"] = {"trials": 8, "full": 4}
    assert advice(tmp_path, *runs).cost.startswith(
        "dpo cost 20 seconds, the stages it stands on and the trials that found its settings included")


def test_a_cost_that_nobody_measured_may_be_the_lowest(tmp_path):
    runs = rows(sft=0, dpo=3, ppo=6)
    for run in runs:
        run["cost"] = {"stages": {}, **({} if run["algorithm"] == "sft" else
                                        {"tokens_trained": {"dpo": 1000, "ppo": 6500}[run["algorithm"]]})}
    assert advice(tmp_path / "dear", *runs).cost == (
        "ppo cost 6,500 tokens, the stages it stands on included: 6.5 times the cheapest whose cost was measured, dpo "
        "(1,000 tokens).")
    for run in runs:
        run["cost"] = {"stages": {}, **({"tokens_trained": 9} if run["algorithm"] == "ppo" else {})}
    assert advice(tmp_path / "alone", *runs).cost == (
        "ppo cost 9 tokens, the stages it stands on included; none whose cost was measured was cheaper.")


def test_where_an_hour_has_a_price_the_answer_has_what_the_rows_come_to(tmp_path):
    runs = rows(sft=0, dpo=3, ppo=6)
    for run in runs:
        run["cost"]["money"] = run["cost"]["seconds"] / 1000
    assert advice(tmp_path / "one", *runs).cost == (
        "ppo cost 30 seconds or 0.03 in money, the stages it stands on included: 3 times the cheapest, sft (10 seconds "
        "or 0.01 in money); dpo, which has the next best mean, cost 20 seconds or 0.02 in money.")
    assert advice(tmp_path / "none", *[{**run, "trial": True} for run in runs]).cost == (
        "sft (debug=trial) was the cheapest with 10 seconds or 0.01 in money, ppo (debug=trial) the most expensive "
        "with 30 seconds or 0.03 in money.")


def test_win_rates_against_different_starts_rank_nothing_where_the_datas_answers_are_there_too(tmp_path):
    """SFT beats the base more often than DPO beats SFT: that says nothing of SFT and DPO."""
    wins = {"sft": np.ones(PROMPTS), "dpo": np.zeros(PROMPTS)}
    starts = {"sft": {"kind": "base", "identity": "b"}, "dpo": {"kind": "sft", "identity": "s"}}

    def judged(*names):
        return [result(name, start=starts[name], figures={one: figure(values) for one, values in (
            ("win_rate/judge", wins[name]), ("win_rate_data/judge", 1 - wins[name])) if one in names})
            for name in wins]
    both = advice(tmp_path / "both", *judged("win_rate/judge", "win_rate_data/judge"))
    assert both.take.startswith("Take this trained dpo: by win rate against the data's answers")
    alone = advice(tmp_path / "alone", *judged("win_rate/judge"))
    assert "a win rate is against what each began with, which is not the same model for all" in alone.doubt
    starts["sft"] = starts["dpo"]
    same = advice(tmp_path / "same", *judged("win_rate/judge", "win_rate_data/judge"))
    assert same.take.startswith("Take this trained sft: by win rate it is ahead") and "began with" not in same.doubt


def test_what_would_settle_a_pair_is_part_of_the_answer(tmp_path):
    noise = np.random.default_rng(3).normal(0, 1, (2, PROMPTS))
    noise -= noise.mean(1, keepdims=True)
    pair = [*method("dpo", noise[:1], seeds=[0]), *method("ipo", noise[1:] + 0.05, seeds=[0])]
    table = made(tmp_path, *pair)
    (row,) = table.pairs
    assert row.settled and f"To tell ipo from dpo: {row.settled}. In any case" in table.advice.doubt


def test_seconds_of_different_devices_are_not_alike(tmp_path):
    runs = [{**run, "device": "cuda" if run["algorithm"] == "dpo" else "cpu"} for run in rows(sft=0, dpo=3)]
    assert advice(tmp_path, *runs).cost.endswith("different devices, whose seconds are not alike.")


def test_rows_that_were_only_tried_are_not_advised(tmp_path):
    runs = [{**run, "trial": run["algorithm"] == "sft"} for run in rows(sft=0, dpo=3)]
    table = made(tmp_path, *runs)
    assert table.advice.take == "No method can be recommended: sft (debug=trial) was only tried."
    assert table.best is None and not any(note.startswith("Marked") for note in table.notes)


def test_starts_that_differ_and_seeds_that_some_lack_are_reasons_for_doubt(tmp_path):
    runs = [{**run, "start": {"kind": "sft", "identity": run["algorithm"]}} for run in rows(dpo=0, ppo=3)]
    told = "Not sure: runs of one seed began with different models, and differ by more than their methods; "
    few = advice(tmp_path, *(run for run in runs if run["algorithm"] == "dpo" or run["seed"] < 1))
    assert few.doubt.startswith(f"{told}all methods have one seed alone in common, and another seed may order them")
    some = advice(tmp_path / "some", *(run for run in runs if run["algorithm"] == "dpo" or run["seed"] < 3))
    assert some.doubt.startswith(f"{told}all methods have 3 seeds only in common.")


def test_by_a_figure_without_a_doubt_of_its_own_nothing_stands_for_one(tmp_path):
    runs = [run for name, gold in (("dpo", 0), ("ppo", 0.01)) for run in
            method(name, gold + np.random.default_rng(1).normal(0, 1, (3, PROMPTS)), np.zeros((3, PROMPTS)))]
    for run in runs:
        run["config"]["report"]["figure"] = "win_rate/sft"
    assert advice(tmp_path, *runs).doubt.startswith("Not sure: each method was trained 3 times only. In any case")


def test_an_alarm_is_of_the_runs_in_which_it_sounds(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.advice.parted", lambda run: ("reward/gold", None) if run.seed < 2 else None)
    assert advice(tmp_path, *rows(sft=0, ppo=3)).doubt.startswith(
        "Not sure: ppo (in 2 of 5 runs) learned to please the reward model more than to answer better. ")


def test_a_method_that_chooses_is_said_to_pay_with_every_use(tmp_path):
    runs = rows(sft=0, best_of_n=3)
    for run in runs:
        run["cost"]["trainable_parameters"] = 0 if run["algorithm"] == "best_of_n" else 1000
    assert advice(tmp_path, *runs).cost.endswith(
        "best_of_n chooses among several answers, and pays for drawing them again with every use.")
    for run in runs:    # 20 seconds for 48 prompts with one answer each
        run["figures"]["length/mean"] = figure(np.full(PROMPTS, 20.0))
        run["evaluation"]["length/mean"] = known(20.0, n=PROMPTS, kind="mean")
    assert advice(tmp_path / "told", *runs).cost.endswith(
        "drawing them again with every use (0.417 seconds an answer here; its cost has those of the evaluation).")


def test_a_lead_that_may_be_practically_none_is_told(tmp_path):
    runs = rows(sft=0, dpo=2.8, ppo=3)
    for run in runs:
        run["config"]["report"]["margin"] = 0.19
    assert advice(tmp_path, *runs).doubt.startswith("Not sure: its lead over dpo may be as small as 0.1")


@pytest.mark.parametrize("seconds, said", [(32.44, "32.4 seconds"), (212, "3.53 minutes"), (9000, "2.5 hours")])
def test_a_time_is_said_as_people_say_it(seconds, said):
    assert amount(seconds, "seconds") == said and amount(1234567, "tokens") == "1,234,567 tokens"
