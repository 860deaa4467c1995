"""How a table compares its rows: with whom, by what, on which seeds, and what it says, which is no word more."""

import io
import re

import numpy as np
import pytest

from algorithms.common.data.records import sets
from algorithms.common.evaluation.inference.comparisons import Verdict
from algorithms.common.evaluation.inference.crossed import mean_squares
from benchmarks.comparison_tables import TO_BE_SCORED
from benchmarks.printed import print_table
from benchmarks.report import ReportError, collect, main, table
from benchmarks.tables import write
from report_runs import GOLD, START, failed, figure, known, made, markdown, method, result, save, seeded


def better(count=3, prompts=64, lift=(0.0, 1.0, 3.0), noise=0.3, seed=0):
    """Three methods that differ by far more than seeds and prompts do."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=prompts)
    return [shared + one + rng.normal(0, 0.02, (count, 1)) + rng.normal(0, noise, (count, prompts)) for one in lift]


def three(values, **fields):
    start = values[0]
    return [*method("sft", start, **fields), *method("dpo", values[1], start, **fields),
            *method("ppo", values[2], start, **fields)]


def test_the_best_row_is_marked_and_no_other(tmp_path):
    found = made(tmp_path, *three(better()))
    assert found.best == "ppo" and [pair.finding for pair in found.pairs] == [
        "dpo is better than sft", "ppo is better than sft", "ppo is better than dpo"]
    said = "By gold reward, ppo is better than all others (sft and dpo); dpo is better than sft."
    assert found.words.startswith(said)
    write(found, tmp_path)
    assert "| **ppo** |" in (tmp_path / "table.md").read_text() and "**dpo**" not in (tmp_path / "table.md").read_text()
    assert "\\textbf{ppo}" in (tmp_path / "table.tex").read_text()
    screen = io.StringIO()
    print_table(found, 100, screen)
    assert re.findall(r"^(\w+) \*", screen.getvalue(), re.MULTILINE) == ["ppo"]
    assert "Marked: ppo, the one row that was shown to be better than every other." in screen.getvalue()


def test_latex_begins_with_what_the_page_begins_with(tmp_path):
    values = better(3)
    found = made(tmp_path, *method("sft", values[0]), *method("best_of_n", values[2], overrides=["model.name=50%"]))
    write(found, tmp_path)
    paragraphs = (tmp_path / "table.tex").read_text().partition("\\begin{tabular}")[0].split("\\par\\medskip\n")
    assert "by gold reward it is better than" in paragraphs[0] and "best\\_of\\_n (model.name=50\\%)" in paragraphs[0]
    assert found.advice.cost.split()[2] in paragraphs[0] and "only." in paragraphs[0] and "Holm" not in paragraphs[0]
    assert paragraphs[1].startswith("By gold reward, ") and len(paragraphs) == 3


@pytest.mark.parametrize("change", ["one seed", "a row that failed", "a row without the figure", "as good as another"])
def test_what_is_not_shown_to_be_best_is_not_marked(tmp_path, change):
    lift = (0.0, 3.0, 3.0) if change == "as good as another" else (0.0, 1.0, 3.0)
    runs = three(better(1 if change == "one seed" else 3, lift=lift))
    runs += {"a row that failed": [failed("rrhf")], "a row without the figure": [
        result("reward_model", figures={"accuracy/heldout": figure([1, 0], "share")})]}.get(change, [])
    found = made(tmp_path, *runs)
    assert found.best is None and not any(note.startswith("Marked") for note in found.notes)
    write(found, tmp_path)
    assert "**" not in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("seed", range(8))
def test_marked_if_and_only_if_claimed_better_than_every_other(tmp_path, seed):
    lift = np.random.default_rng(seed).normal(0, 0.15, 3)
    found = made(tmp_path, *three(better(3, 32, lift, 0.5, seed)))
    rows = {row.label for row in found.rows}
    claimed = {(pair.pair.winner, pair.pair.loser) for pair in found.pairs if pair.pair.verdict is Verdict.BETTER}
    winners = [row for row in rows if {(row, other) for other in rows - {row}} <= claimed]
    assert ([found.best] if found.best else []) == winners
    findings = [pair.finding for pair in found.pairs]
    assert all(f"{winner} is better than {loser}" in findings for winner, loser in claimed)


def test_one_seed_speaks_of_trained_models_only(tmp_path):
    """In every sentence, note, cell and head of the table."""
    found = made(tmp_path, *three(better(1)))
    write(found, tmp_path)
    screen = io.StringIO()
    print_table(found, 2000, screen)
    texts = [screen.getvalue(), *((tmp_path / f"table.{kind}").read_text() for kind in ("md", "csv", "tex"))]
    for text in texts:
        text = re.sub(r"\s+", " ", re.sub(r"\[[-\d., ]+\]", "", text))    # a terminal has intervals between the lines
        claims = re.findall(r"this trained \w+ is better than (?:this|these) trained", text)
        assert len(claims) >= 3 and text.count("better than") == len(claims)
        assert "new seeds" not in text and "seeds and new" not in text and "several seeds" not in text
    assert "about the trained models, which another seed may order otherwise, and not about the methods" in texts[1]


def test_a_family_against_one_row_is_smaller(tmp_path, capsys):
    folder = save(tmp_path, *three(better(noise=2.0)))
    both = table(collect([folder]))
    assert main([str(folder), "--family", "sft"]) == 0
    capsys.readouterr()
    text = (folder / "table.md").read_text()
    assert "- Pairs: each row with sft, 2 in all" in text and "| ppo − dpo |" not in text and "| ppo − sft |" in text
    assert len(both.pairs) == 3
    assert "Pairs: all pairs of rows, 3 in all, on the same seeds and prompts, row by row." in both.notes


def test_more_pairs_are_declared_beside_those_with_one_row(tmp_path, capsys):
    config = {"report": {"figure": None, "family": "sft", "pairs": [["ppo", "dpo"], ["dpo", "sft"]], "margin": None}}
    found = table(collect([save(tmp_path / "runs", *three(better(noise=2.0), config=config))]))
    pairs = [(row.pair.first, row.pair.second) for row in found.pairs]
    assert pairs == [("dpo", "sft"), ("ppo", "sft"), ("ppo", "dpo")]
    assert ("Pairs: each row with sft, ppo with dpo, dpo with sft, 3 in all, on the same seeds and prompts, row by row."
            in found.notes)
    folder = save(tmp_path / "told", *three(better(noise=2.0)))
    assert main([str(folder), "--family", "sft", "--pair", "ppo", "dpo"]) == 0
    assert "- Pairs: each row with sft, ppo with dpo, 3 in all" in (folder / "table.md").read_text()
    assert main([str(folder), "--family", "sft", "--pair", "ppo", "dpo", "--pair", "dpo", "ppo"]) == 0
    assert ", 3 in all" in (folder / "table.md").read_text(), "a pair that is declared twice is one"
    capsys.readouterr()


def test_a_declared_row_that_is_not_among_the_runs_leaves_a_table_that_says_so(tmp_path):
    """As in the sweep of one method, of a comparison of several."""
    config = {"report": {"figure": None, "family": "rrhf", "pairs": [["dpo", "grpo"]], "margin": None}}
    found = table(collect([save(tmp_path, *three(better(), config=config))]))
    assert not found.pairs and "Nothing was compared: rrhf and grpo, of the declared pairs, have no reward/gold." in \
        " ".join([found.words, *found.notes])


def test_how_to_compare_is_declared_with_the_runs_and_can_be_told_later(tmp_path, capsys):
    config = {"report": {"figure": "win_rate/sft", "family": "all", "margin": 0.25}}
    folder = save(tmp_path, *three(better(), config=config))
    found = table(collect([folder]))
    assert found.figure == "win_rate/sft" and [pair.pair.first for pair in found.pairs] == ["ppo"]
    assert "Compared by win rate (win_rate/sft): declared." in found.notes
    assert "Practically equal: within ±0.25, as declared." in found.notes
    assert "Not compared: sft (no win_rate/sft)." in found.notes
    assert main([str(folder), "--figure", "reward/gold", "--margin", "5"]) == 0
    text = (folder / "table.md").read_text()
    assert "- Practically equal: within ±5, as declared.\n" in text
    assert "by less than the ±5 that count as practically equal" in text
    assert "Compared by gold reward" in text
    capsys.readouterr()


def test_runs_that_were_declared_otherwise_are_refused(tmp_path):
    config = {"report": {"figure": None, "family": "sft", "margin": None}}
    runs = [*method("sft", START), *method("dpo", GOLD, config=config)]
    with pytest.raises(ReportError, match="report.family: found all, sft in these runs; expected one; .* --family"):
        made(tmp_path, *runs)
    assert main([str(tmp_path), "--family", "sft"]) == 0


@pytest.mark.parametrize("arguments, message", [
    (["--figure", "reward/silver"], "figure: found 'reward/silver'; expected one of reward/gold, "),
    (["--figure", "length/mean"], "figure: found 'length/mean', of which neither more nor less is better; expected"),
    (["--family", "rrhf"], "family: found 'rrhf', which names 0 rows; expected all, or one of sft; dpo"),
    (["--family", "sft", "--pair", "dpo", "grpo"], "pairs: found 'grpo', which names 0 rows; expected one of sft; dpo"),
    (["--margin", "-1"], "margin: found -1.0; expected a number above 0"),
])
def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path, capsys, arguments, message):
    (sft,), (dpo,) = method("sft", START[:1]), method("dpo", GOLD[:1], START)
    dpo["figures"]["length/mean"], dpo["evaluation"]["length/mean"] = figure(GOLD[0]), known(1.75, kind="mean")
    save(tmp_path, sft, dpo)
    assert main([str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"report.{message}") and error.count("\n") == 1 and "fix: " in error


def test_without_gold_the_table_says_by_what_it_compares_and_why(tmp_path):
    def runs(*figures):
        return [result(name, seed, figures={one: figure(rng.normal(5, 1, 6), kind) for one, kind in figures})
                for name in ("sft", "dpo") for seed in (0, 1)]

    rng = np.random.default_rng(0)
    likelihood, length = ("perplexity/heldout", "perplexity"), ("length/mean", "mean")
    proxy = made(tmp_path / "a", *runs(likelihood, ("reward/proxy", "mean"), length))
    assert proxy.figure == "reward/proxy" and "By proxy reward alone, " in proxy.words
    cannot = "The data cannot tell whose answers are better: "
    assert proxy.words.startswith(f"{cannot}the only score is one that methods were trained on")
    assert any("methods that were trained on this score are favoured" in note for note in proxy.notes)
    judged = made(tmp_path / "b", *runs(("reward/proxy", "mean"), ("score/classifier", "mean")))
    assert judged.figure == "score/classifier"
    likely = made(tmp_path / "c", *runs(likelihood, length))
    assert likely.figure == "perplexity/heldout" and likely.unknown and likely.best is None
    assert likely.words.startswith(f"{cannot}nothing scored them. Fix: data.audit=0.3, ")
    assert ", or a judge: task=judge. By perplexity, compared in nats per token (lower is better)" in likely.words
    assert "A difference of 0.01 nats per token is a perplexity that is 1 % higher." in likely.notes
    ranked = made(tmp_path / "f", *runs(("accuracy/heldout", "perplexity"), length))
    assert ranked.words.startswith(cannot) and "By accuracy" in ranked.words
    assert "difference in nats per token" in markdown(tmp_path / "d", *runs(likelihood))
    nothing = made(tmp_path / "e", *runs(length))
    assert nothing.words.startswith("Nothing was compared.") and not nothing.pairs


def test_the_way_out_names_the_comparisons_that_an_auditor_is_set_aside_from():
    least = round(sets.LEAST_AUDIT / sets.AUDIT)
    assert f"fewer than {least} left for training no auditor" in TO_BE_SCORED


def test_one_score_that_not_all_rows_have_does_not_say_whose_answers_are_better(tmp_path):
    rng = np.random.default_rng(0)
    runs = [result(name, figures={"perplexity/heldout": figure(rng.normal(2, 1, 6), "perplexity")}) for name in "ab"]
    runs[0] = result("a", figures={**runs[0]["figures"], "reward/proxy": figure(rng.normal(0, 1, 6))})
    found = made(tmp_path, *runs)
    assert found.figure == "perplexity/heldout"
    assert found.words.startswith("The data cannot tell whose answers are better: the only score is one that methods")


def test_lower_perplexity_is_better(tmp_path):
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 30, 40).astype(float)
    nll = [tokens * (level + rng.normal(0, 0.05, (3, 40))) for level in (1.0, 1.5)]     # of 3 seeds each
    declared = {"report": {"figure": "perplexity/heldout", "family": "all", "margin": None}}
    runs = [seeded(name, {"perplexity/heldout": [figure(one, "perplexity", weights=tokens) for one in of]},
                   config=declared)
            for name, of in zip(("sft", "dpo"), nll)]
    found = made(tmp_path, *runs[0], *runs[1])
    assert found.words.startswith("By perplexity"), "as was asked"
    assert found.best == "sft" and found.pairs[0].finding == "sft is better than dpo"
    assert found.pairs[0].difference.mean == pytest.approx(0.5, abs=0.02)


def test_margins_have_defaults_where_the_figure_has_one(tmp_path):
    start = np.array(START, dtype=float)
    one = made(tmp_path / "a", *method("sft", start), *method("dpo", GOLD, start))
    margin = 0.1 * start.std(ddof=1)
    assert f"Practically equal: within ±{margin:.3g}, the default of scores" in " ".join(one.notes)
    gold = np.array(GOLD, dtype=float)
    runs = seeded("dpo", {"reward/gold": [figure(2 * row, weights=2) for row in gold],
                          "reward/gold_minus_sft": [figure(row) for row in gold - start]})
    base = method("sft", start)
    found = [" ".join(made(tmp_path / f"{seeds} seeds", *base, *runs[:seeds]).notes) for seeds in (3, 1)]
    squares = mean_squares(start)   # of means of two answers: e² of one answer is twice that of a mean
    variance = 2 * squares.rest + max(squares.prompts - squares.rest, 0) / 3 + max(squares.seeds - squares.rest, 0) / 4
    assert f"within ±{0.1 * variance**0.5:.3g}, the default of scores" in found[0]
    assert "of one answer of the start model" in found[0]
    assert f"within ±{0.1 * start[0].std(ddof=1):.3g}, the default of scores" in found[1]
    assert "of the mean of the answers to a prompt of the start model" in found[1]
    none = made(tmp_path / "b", *method("sft", START), *method("dpo", GOLD))
    assert "said of no pair, since report.margin declares no difference that is none" in " ".join(none.notes)
    config = {"report": {"figure": "win_rate/sft", "family": "all", "margin": None}}
    wins = made(tmp_path / "c", *method("dpo", GOLD, start, config=config), *method("ppo", GOLD, start, config=config))
    assert "within ±0.05, the default of win rates" in " ".join(wins.notes)
    shares = [seeded(name, {"accuracy/heldout": [figure([1, 0, 1], "share")] * 2}) for name in "ab"]
    assert "within ±0.02, the default of shares" in " ".join(made(tmp_path / "d", *shares[0], *shares[1]).notes)


def test_practically_equal_is_said_within_a_declared_margin_only(tmp_path):
    config = {"report": {"figure": None, "family": "all", "margin": 1.0}}
    values = better(lift=(0.0, 0.0, 0.0), noise=0.5)
    found = made(tmp_path / "a", *three(values, config=config))
    assert {pair.finding for pair in found.pairs} == {"practically equal (within ±1)"}
    assert "practically equal (within ±1)" in found.words and not any(pair.settled for pair in found.pairs)
    config = {"report": {"figure": None, "family": "all", "margin": 0.001}}
    small = made(tmp_path / "b", *three(values, config=config))
    assert all(pair.finding.startswith("no difference seen; this run would have shown") for pair in small.pairs)


def test_an_undecided_pair_says_what_would_settle_it(tmp_path):
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1.3, (2, 3, 128)) + rng.normal(0, 0.1, (2, 3, 1)) + np.array([0.0, 0.15])[:, None, None]
    (pair,) = made(tmp_path / "a", *method("sft", values[0]), *method("dpo", values[1])).pairs
    seeds = int(re.match(r"about (\d+) seeds", pair.settled)[1])
    assert pair.pair.verdict is Verdict.UNDECIDED and seeds > 3
    (pair,) = made(tmp_path / "b", *method("sft", START[:1]), *method("dpo", GOLD[:1])).pairs
    assert re.fullmatch(r"about [\d,]+ prompts, for these trained models", pair.settled)
    text = markdown(tmp_path / "c", *method("sft", values[0]), *method("dpo", values[1]))
    assert "| finding | to settle it |" in text and "| about " in text and "- To settle a pair: as many seeds" in text


def test_rows_of_different_seeds_are_compared_on_those_that_all_have(tmp_path):
    values = better(4)
    runs = [*method("sft", values[0]), *method("ppo", values[2][1:3], seeds=(1, 2))]
    found = made(tmp_path / "a", *runs)
    assert found.pairs[0].seeds == (1, 2) and found.pairs[0].difference.seeds == 2
    assert found.pairs[0].difference.mean == pytest.approx((values[2] - values[0])[1:3].mean())
    assert found.rows[0].estimates["reward/gold"].seeds == 4
    assert "Compared on the seeds that all rows have (1 2); left out of the comparison: sft 0 3." in found.notes
    apart = made(tmp_path / "b", *method("sft", values[0][:1]), *method("ppo", values[2][1:2], seeds=(1,)))
    assert "Nothing was compared: no seed is in all rows. Fix: run the same seeds of all." in apart.notes
    assert not apart.pairs
    assert apart.words.startswith("Nothing was compared.")


# Words


def test_the_words_name_budget_costs_and_lost_runs(tmp_path):
    values = better()
    sft = method("sft", values[0], cost={"seconds": 20.0, "labels": 0})
    dpo = method("dpo", values[1], cost={"seconds": 60.0, "labels": 2000})
    ppo = method("ppo", values[2][:2], cost={"seconds": 90.0, "labels": 2000})
    words = made(tmp_path / "a", *sft, *dpo, *ppo, failed("ppo", 2, "found a loss that is not finite")).words
    assert "All methods were given the same 2,000 labelled comparisons (sft learns from none of them)." in words
    assert "The cheapest was sft with 20 seconds, the most expensive ppo with 90." in words
    assert "Of 3 runs of ppo, 1 diverged; its figures are those of the other 2." in words
    costs = [{**run, "cost": {"tokens_trained": 1000, "tokens_sampled": sampled}}
             for run, sampled in ((sft[0], 0), (dpo[0], 500))]
    words = made(tmp_path / "b", *costs).words
    assert "The cheapest was sft with 1,000 tokens, the most expensive dpo with 1,500." in words
    free = [{**run, "budget": {"equal": None}} for run in (sft[0], dpo[0])]
    assert made(tmp_path / "c", *free).words.endswith("No budget was held equal for all rows.")
    uneven = [{**dpo[0], "cost": {"labels": 512}}, {**ppo[0], "cost": {"labels": 2048}}]
    assert "given" not in made(tmp_path / "d", *uneven).words
