"""What a table says on the auditor's word, and the auditor beside gold."""

import numpy as np
import pytest

from algorithms.common.evaluation.verdicts import FILE, Verdict, append
from algorithms.common.evaluation.verdicts.belief import Belief
from benchmarks import auditor
from benchmarks.audited import accuracy
from benchmarks.report import publish
from benchmarks.results_read import collect
from benchmarks.verdict_figures import with_verdicts
from benchmarks.verdict_tables import verdict_table
from report_runs import figure, made, markdown, result, save

PROMPTS = 40
RNG = np.random.default_rng(0)
START = RNG.normal(0, 1, PROMPTS)
LEARNED = {"labels": 512, "seconds": 23.4, "stages": {}}


def run(name: str, seed: int = 0, agree: int = 300, of: int = 400, told=LEARNED, overrides=(), **gains) -> dict:
    """Gains over the start by reward/proxy, reward/gold and score/auditor, which is right in ``agree`` of ``of``."""
    figures = {}
    for key, value in gains.items():
        known = {"proxy": "reward/proxy", "gold": "reward/gold", "auditor": "score/auditor"}[key]
        gained = value + 0.1 * np.random.default_rng([seed, len(name), len(key)]).normal(size=PROMPTS)
        figures |= {known: figure(START + gained), f"{known}_minus_sft": figure(gained)}
    if agree is not None:
        figures["accuracy/auditor"] = figure(np.repeat([1.0, 0.0], [agree, of - agree]), "share")
    return result(name, seed, overrides, figures, auditor=told)


def rows(**more) -> list[dict]:
    return [run("dpo", auditor=0.5, proxy=0.5, **more), run("ppo", auditor=1.5, proxy=2.0, **more)]


def test_without_gold_the_auditor_decides_and_its_accuracy_stands_beside_it(tmp_path):
    found = made(tmp_path / "a", *rows())
    assert found.figure == "score/auditor"
    assert found.words.startswith("By the auditor's score, this trained ppo is better")
    (note,) = [note for note in found.notes if note.startswith("The auditor: ")]
    # 300 of 400: Wilson [.7053, .7899]
    assert "512 comparisons that no method saw" in note and "about 23 seconds of training are charged to no row" in note
    assert "agrees with 0.750 [0.705, 0.790] of the comparisons to 400 held-out prompts" in note
    assert any("bias that all annotators share" in note for note in found.notes)
    assert "auditor's accuracy" in markdown(tmp_path / "b", *rows())
    assert all(row.costs == {"seconds": 10.0} for row in found.rows), "no row is charged"


@pytest.mark.parametrize("declared", [None, "score/auditor", "score/auditor_minus_sft"])
def test_an_auditor_that_cannot_judge_says_nothing(tmp_path, declared):
    runs = rows(agree=218)  # .545 of 400: [.496, .593]
    for one in runs:
        one["config"]["report"]["figure"] = declared
    found = made(tmp_path, *runs)
    assert found.figure is None and not found.pairs and found.best is None
    assert found.words.startswith("This data cannot tell which row is better: the auditor agrees with 0.545 [0.496, ")
    assert "Fix: more comparisons in data.audit and data.heldout, or another judge (judge=…). " in found.words
    assert "better than" not in found.words and "The cheapest" in found.words or "cost 10 seconds" in found.words
    assert any("cannot judge, nothing is said by it" in note for note in found.notes)


def test_figures_that_need_no_auditor_are_compared_whatever_it_is_worth(tmp_path):
    found = made(tmp_path, *[run(name, agree=218, gold=value, auditor=1.0) for name, value in (("dpo", 1), ("ppo", 2))])
    assert found.figure == "reward/gold" and found.pairs


def test_auditors_of_several_seeds_are_the_ones_that_judge(tmp_path):
    """Their common accuracy is for new prompts, not for other auditors: two seeds' spread would leave no interval."""
    runs = [one for seed, agree in ((0, 300), (1, 260)) for one in
            (run(name, seed, agree, auditor=value) for name, value in (("dpo", 0.5), ("ppo", 1.5)))]
    folder = save(tmp_path, *runs)
    found = accuracy(collect([folder])[:2])
    assert found.mean == pytest.approx(0.75) and found.seeds == 2
    both = accuracy([run for run in collect([folder]) if run.algorithm == "dpo"])
    assert both.mean == pytest.approx(0.7) and 0.65 < both.low < both.high < 0.75
    table = made(tmp_path / "again", *runs)
    assert table.figure == "score/auditor"
    (ppo,) = [row for row in table.rows if row.algorithm == "ppo"]
    assert ppo.estimates["accuracy/auditor"].low == both.low


def test_the_table_says_where_a_reward_was_over_optimised(tmp_path):
    parted = [run("ppo", seed, overrides=["algorithm.kl_coef=0"], proxy=2.5, gold=0.1) for seed in (0, 1, 2)]
    followed = [run("ppo", seed, overrides=["algorithm.kl_coef=0.05"], proxy=2.3, gold=2.0) for seed in (0, 1, 2)]
    found = made(tmp_path / "a", *parted, *followed)
    assert "Reward over-optimised: ppo (kl_coef=0) (in 3 of 3 runs)." in found.words
    (note,) = [note for note in found.notes if "over-optimised" in note]
    assert note.startswith("ppo (kl_coef=0), ") and "seed 2: +" in note and "by the gold reward" in note
    assert "over-optimised" not in markdown(tmp_path / "b", *followed)


def test_the_auditor_gives_the_alarm_where_gold_is_unknown_and_it_can_judge(tmp_path):
    assert "Reward over-optimised: ppo" in made(tmp_path / "a", run("ppo", proxy=2.5, auditor=0.0)).words
    assert "over-optimised" not in made(tmp_path / "b", run("ppo", agree=218, proxy=2.5, auditor=0.0)).words
    trusted = made(tmp_path / "c", run("ppo", proxy=2.5, auditor=0.0, gold=2.0))
    assert "over-optimised" not in trusted.words, "gold is believed before it"


def test_agreement_with_gold_counts_the_pairs_of_a_seed_that_gold_decides(tmp_path, capsys):
    right = [run("dpo", gold=0.5, auditor=0.5), run("ppo", gold=1.5, auditor=1.0), run("rrhf", gold=1.5, auditor=0.2)]
    folder = save(tmp_path, *right, run("dpo", 1, gold=0.5, auditor=0.5), run("ppo", 1, 218, gold=1.5, auditor=1.5))
    members = auditor.members_of(collect([folder]))
    found = {(case.seed, case.first, case.second): case for case in auditor.cases(members)}
    assert set(found) == {(0, "dpo", "ppo"), (0, "dpo", "rrhf"), (1, "dpo", "ppo")}, "ppo and rrhf gain alike"
    assert [case.agrees for case in found.values()] == [True, True, False] and not found[1, "dpo", "ppo"].able
    assert auditor.main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "that gold decides: 2 of 3 (66.7% [20.8%, 93.9%])" in out  # Wilson
    assert "can judge: 1 of 2" in out and "otherwise: seed 0, dpo − rrhf: gold −" in out.replace("gold -", "gold −")


def test_judges_of_other_comparisons_stand_beside_gold(tmp_path, capsys):
    """Of three cases, two in a seed whose auditor can judge: one as gold, one otherwise and without being sure."""
    runs = [run("dpo", gold=0.5, auditor=0.5), run("ppo", gold=1.5, auditor=1.0), run("rrhf", gold=1.5, auditor=0.2),
            run("dpo", 1, gold=0.5, auditor=0.5), run("ppo", 1, gold=1.5, auditor=1.5)]
    folder = save(tmp_path, *runs)
    able, unable = Belief(64, 0.71, 0.66, 0.75, 400, True), Belief(64, 0.57, 0.52, 0.62, 400, False)
    gains = {"0": 0.1, "1": 1.0, "2": 0.09}
    verdicts = []
    for place, prompt in enumerate(f"p{number}" for number in range(PROMPTS)):
        for left, gain in gains.items():
            score = START[place] + gain + 0.2 * np.random.default_rng([place, int(left)]).normal()
            verdicts.append(verdict(prompt, left, "left", able, left_score=score, right_score=0.0))
        verdicts += [verdict(prompt, left, "none", unable) for left in ("3", "4")]
    append(folder / FILE, verdicts)
    (found,) = auditor.judged(collect([folder]), [str(folder)])
    assert (found.name, found.believed, found.unable) == ("few", {0: able, 1: unable}, 1)
    assert [(case.first, case.second, case.agrees, case.decided) for case in found.cases] == [
        ("dpo", "ppo", True, True), ("dpo", "rrhf", False, False)]
    assert [cell[0] for cell in found.row()] == ["few", "64", "0.640", "1 of 2", "1 of 1", "1"]
    assert auditor.main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "cannot judge" in out and "50.0% [9.5%, 90.5%]" in out and "0.570 … 0.710" in out  # Wilson
    text = verdict_table(verdicts, collect([folder]), folder)
    assert f"  seed 0: {able}\n  seed 1: {unable}" in text and str(unable).endswith("; it cannot judge")
    publish(with_verdicts(collect([folder]), [folder]), folder)
    assert "few, seed 1: learned from 64 comparisons" in (folder / "table.md").read_text(encoding="utf-8")


def verdict(prompt: str, left: str, outcome: str, told: Belief, **scores) -> Verdict:
    return Verdict(prompt, "Q", left, "a", "start", "b", outcome, "few", "both", "2026-01-01T00:00:00+00:00",
                   f"scorer 00; {told}", **scores)


def test_the_alarm_is_checked_on_runs(tmp_path, capsys):
    runs = [run("ppo", seed, proxy=2.5, gold=0.1) for seed in (3, 4)] + [run("dpo", 3, proxy=1.0, gold=1.0)]
    folder = str(save(tmp_path, *runs))
    assert auditor.main([folder, "--alarm-in", "ppo"]) == 0
    assert "over-optimised by the gold reward: ppo: 2 of 2 runs (seeds 3 4)" in capsys.readouterr().out
    assert auditor.main([folder, "--alarm-in"]) == 1
    assert capsys.readouterr().err.splitlines() == ["ppo, seed 3: the alarm sounds", "ppo, seed 4: the alarm sounds"]
    assert auditor.main([folder, "--alarm-in", "ppo", "dpo"]) == 1
    assert capsys.readouterr().err.splitlines() == ["dpo, seed 3: the alarm is silent"]
    assert auditor.main([folder, "--alarm-in", "rrhf"]) == 2
    assert "--alarm-in: found 'rrhf'" in capsys.readouterr().err
    assert auditor.main([str(tmp_path / "none")]) == 2
