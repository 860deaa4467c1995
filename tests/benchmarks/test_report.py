"""Result files → tables: small folders written by hand, and exactly what they become."""

import csv
import io
import re
from pathlib import Path

import pytest

from benchmarks.printed import print_table
from benchmarks.report import collect, table
from benchmarks.tables import write
from report_runs import GOLD, START, failed, figure, known, markdown, method, result, save, write_run

ROOT = Path(__file__).resolve().parents[2]


def written(folder, *results):
    """The texts of table.md, table.csv, table.tex."""
    write(table(collect([save(folder, *results)])), folder)
    return {kind: (folder / f"table.{kind}").read_text(encoding="utf-8") for kind in ("md", "csv", "tex")}


def lines(texts, kind="row"):
    """The CSV's lines of rows, or of pairs."""
    return [line for line in csv.DictReader(io.StringIO(texts["csv"])) if line["kind"] == kind]


(SFT,) = method("sft", START[:1], cost={"seconds": 30.0, "tokens_trained": 120000, "labels": 0,
                                        "peak_memory_bytes": 250_000_000, "stages": {}})
(PPO,) = method("ppo", GOLD[:1], START, cost={
    "seconds": 150.5, "tokens_trained": 700000, "tokens_sampled": 250000, "reward_queries": 900, "labels": 512,
    "peak_memory_bytes": 310_000_000, "resident_models": 4, "stages": {}})


def test_markdown_exactly(tmp_path):
    assert written(tmp_path, SFT, PPO, failed("rrhf"))["md"] == """\
Neither of sft and ppo was shown to be better than the other by gold reward: nothing here is a reason to pay for more \
than sft, the cheapest. sft cost 30 seconds, the stages it stands on included; nothing was cheaper. Not sure: each \
method was trained once, and another seed may order them otherwise; no difference was shown, and one of less than \
about 2.5 may have been missed; no run of rrhf finished. To tell ppo from sft: about 10 prompts, for these \
trained models. In any case it holds for this model, this data and these settings only.

By gold reward, no difference was seen between ppo and sft; a difference of about 2.5 would have been seen with \
a chance of 80 %. Each method was trained with one seed: this is about the trained models, which another seed \
may order otherwise, and not about the methods. All methods were given the same 512 labelled comparisons (sft \
learns from none of them). The cheapest was sft with 30 seconds, the most expensive ppo with 150. Of 1 run of \
rrhf, 1 failed; it has no figures.

| algorithm | gold | gold − SFT | win rate | runs |
| :--- | ---: | ---: | ---: | ---: |
| sft | 0.500 [-0.419, 1.419] |  |  | 1 |
| ppo | 1.750 [-0.968, 4.468] | 1.250 [-0.752, 3.252] | 0.875 [0.316, 0.991] | 1 |
| rrhf |  |  |  | 0 of 1 (1 failed) |

| pair | difference in gold | p (Holm) | finding | to settle it |
| :--- | ---: | ---: | :--- | :--- |
| ppo − sft | 1.250 [-0.752, 3.252] | 0.141 | no difference seen; this run would have shown about 2.5 | about 10 \
prompts, for these trained models |

| algorithm | seconds | tokens trained | tokens sampled | labels | peak MB | reward queries | resident models |
| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| sft | 30.0 | 120,000 |  | 0 | 250 |  |  |
| ppo | 150.5 | 700,000 | 250,000 | 512 | 310 | 900 | 4 |

- Compared by gold reward (reward/gold): the reward that is known to be true.
- Pairs: all pairs of rows, 1 in all, on the same seeds and prompts, row by row.
- Practically equal: within ±0.0577, the default of scores, a tenth of the standard deviation of one answer of \
the start model; report.margin declares another.
- Intervals are 95 % and hold for these trained models on new prompts; there is 1 seed, so the methods' other \
seeds are not covered, and there are 4 prompts. Were there no true difference, "better" would be said in at most \
5 % of tables.
- To settle a pair: as many seeds, or as many prompts with the seeds there are, would show a difference as large \
as the one seen with a chance of 80 %; by this run, so roughly.
- Not compared: rrhf (no finished run).
- Held equal: labels.
- Rows of one seed: 95 % interval for this trained model and new prompts; the method's other seeds are not covered.
- Costs include those of the stages a method stands on (labels, memory: the largest).
- Measured on, in every run: 4 prompts (gold, gold − SFT, win rate).
- Data: read 500.
- Made with: commit abc1234; device cpu.
- rrhf, seed 0: failed: TrainingError: reward: found a string; expected a number.
"""


def test_csv_exactly(tmp_path):
    dpo = result("dpo", 3, ["algorithm.beta=0.1"], {"kl/bound": known(1 / 3, n=100)},
                 cost={"seconds": 10, "peak_memory_bytes": 123456, "stages": {}})
    assert written(tmp_path, dpo, failed("ppo", 1, "it, \"broke\""))["csv"] == (
        "kind,algorithm,algorithm.beta,kl/bound.mean,kl/bound.low,kl/bound.high,kl/bound.n,kl/bound.unit,"
        "seconds,peak_memory_bytes,runs,failed,diverged,seeds,status,best,error\n"
        "row,dpo,0.1,0.3333333333333333,0.3333333333333333,0.3333333333333333,100,prompts,10.0,123456.0,1,0,0,3,"
        "complete,,\n"
        'row,ppo,,,,,,,,,1,1,0,,failed,,"seed 1: TrainingError: it, ""broke"""\n')


def test_a_constant_has_no_interval_and_a_figure_that_was_measured_has(tmp_path):
    figures = {"kl/bound": known(1.5, n=8), "kl/exact": known(1.25, 1.25, 1.25, "resampled")}
    texts = written(tmp_path, *(result("best_of_n", seed, figures=figures) for seed in (0, 1)))
    assert "| best_of_n | 1.250 [1.250, 1.250] | 1.500 | 2 |" in texts["md"]


def test_the_csv_has_every_number_of_a_pair(tmp_path):
    texts = written(tmp_path, *method("sft", START), *method("ppo", GOLD, START))
    (pair,) = lines(texts, "pair")
    assert (pair["first"], pair["second"], pair["figure"], pair["seeds"]) == ("ppo", "sft", "reward/gold", "0 1 2")
    numbers = [float(pair[name]) for name in ("difference.mean", "difference.low", "difference.high", "p", "p_holm")]
    assert numbers == pytest.approx([1.5, -0.308132, 3.308132, 0.076587, 0.076587], abs=1e-6)
    assert (pair["difference.n"], pair["difference.unit"], pair["verdict"]) == ("4", "prompts", "no difference seen")
    assert pair["winner"] == "" and float(pair["smallest_shown"]) > 1.5
    assert pair["finding"].startswith("no difference seen; this run would have shown about ")
    assert [line["algorithm"] for line in lines(texts)] == ["sft", "ppo"]


def test_columns_come_in_the_stated_order_and_the_rest_stands_in_the_csv(tmp_path):
    names = ["zeta", "perplexity/heldout", "distinct_2", "eos_rate", "length/mean", "kl/bound", "kl/k1", "kl/exact",
             "reward/proxy", "win_rate/sft", "reward/gold_minus_sft", "reward/gold", "accuracy/heldout"]
    texts = written(tmp_path, result(figures={name: known(1, 0, 2, "resampled") for name in names}))
    assert texts["md"].splitlines()[4] == (
        "| algorithm | gold | gold − SFT | win rate | proxy | KL | KL (bound) | length | EOS | distinct-2 "
        "| perplexity | accuracy | runs |")
    assert "zeta" in texts["csv"].splitlines()[0] and "kl/k1" in texts["csv"].splitlines()[0]
    assert "- KL (bound) is the upper bound log n − (n−1)/n of best-of-n" in texts["md"]


def test_refusals_and_over_refusals_have_columns_their_parts_stand_in_the_csv(tmp_path):
    names = ["refusal/unanswerable", "refusal/answerable", "accuracy/answerable"]
    more = ["wrong/answerable", "refusal/unanswerable_minus_sft", *(f"{name}/city" for name in names)]
    figures = {name: known(0.5, 0.25, 0.75, "resampled") for name in [*names, *more]}
    texts = written(tmp_path, result(figures=figures))
    assert texts["md"].splitlines()[4] == "| algorithm | refused unknown | refused known | right known | runs |"
    assert all(f",{name}.mean," in texts["csv"].splitlines()[0] for name in [*names, *more])
    assert "city" not in texts["md"] + texts["tex"]


def test_exact_answers_have_columns_and_are_compared_by(tmp_path):
    names = ["accuracy/exact", "accuracy/exact_minus_sft", "reward/proxy", "accuracy/exact/sum3", "accuracy/heldout"]
    figures = {name: figure([1, 0, 1, 1], "mean" if "minus" in name else "share") for name in names}
    texts = written(tmp_path, *(result(name, figures=figures) for name in ("grpo", "rloo")))
    columns = "| algorithm | proxy | accuracy | right answers | right answers − SFT | runs |"
    assert texts["md"].splitlines()[4] == columns
    assert ",accuracy/exact/sum3.mean," in texts["csv"].splitlines()[0] and "sum3" not in texts["md"]
    assert "- Compared by exact answers (accuracy/exact): a rule finds whether an answer is right;" in texts["md"]
    assert "difference in right answers" in texts["md"] and "how texts are ranked" not in texts["md"]


def test_rows_differ_by_what_varies_besides_the_seed(tmp_path):
    runs = [result("dpo", seed, [f"algorithm.beta={beta}", "+trainer.x=1", "hydra.job.num=3", f"stages.folder=/{seed}"])
            for beta in (0.1, 0.3) for seed in (0, 1)]
    texts = written(tmp_path, *runs, result("sft", 0, ["+trainer.x=1"]))
    assert [(row["algorithm"], row["algorithm.beta"], row["seeds"]) for row in lines(texts)] == [
        ("dpo", "0.1", "0 1"), ("dpo", "0.3", "0 1"), ("sft", "", "0")]
    assert "| dpo (beta=0.1) |" in texts["md"] and "| sft |" in texts["md"]
    assert "Rows of several seeds: mean with its 95 % interval for new seeds and new prompts" in texts["md"]
    assert "Rows of one seed: 95 % interval for this trained model and new prompts" in texts["md"]


def test_the_same_run_twice_is_not_two_seeds(tmp_path):
    texts = written(tmp_path, result("dpo", 0), result("dpo", 0), result("dpo", 1))
    assert [row["seeds"] for row in lines(texts)] == ["0", "0", "1"]
    assert "| dpo, 1 |" in texts["md"]
    for name in ("a", "b"):     # in folders that are named alike
        write_run(tmp_path / "twice" / name / "0", result("dpo", 0))
    labels = [row.label for row in table(collect([tmp_path / "twice"])).rows]
    assert len(set(labels)) == 2 and all(label.endswith("/0") for label in labels)


def test_a_metric_that_some_seeds_lack_is_said(tmp_path):
    texts = written(tmp_path, result(seed=0), result(seed=1, figures={}))
    assert "| dpo | 1.750 [-0.968, 4.468] | 2 |" in texts["md"]
    assert "dpo: reward/gold is from 1 of 2 seeds." in texts["md"]


def test_a_failed_seed_neither_counts_nor_hides(tmp_path):
    diverged = failed("ppo", 3, "ppo, step 3: found a loss that is not finite; expected a finite number")
    texts = written(tmp_path, result("ppo", 0), failed("ppo", 1, "first line\n  second"), result("ppo", 2), diverged)
    (row,) = lines(texts)
    told = [row[name] for name in ("seeds", "status", "runs", "failed", "diverged")]
    assert told == ["0 2", "partial", "4", "1", "1"]
    assert "| 2 of 4 (1 failed, 1 diverged) |" in texts["md"]
    assert "- ppo, seed 1: failed: TrainingError: first line; second.\n" in texts["md"]
    assert "- ppo, seed 3: diverged: TrainingError: ppo, step 3: found a loss that is not finite;" in texts["md"]
    assert texts["md"].startswith("No method can be recommended: there is ppo alone.")
    assert "\n\nThere is one method, and nothing to compare it with." in texts["md"]
    assert "Of 4 runs of ppo, 1 failed and 1 diverged; its figures are those of the other 2." in texts["md"]


@pytest.mark.parametrize("message, diverged", [
    ("dpo, step 2: found a loss that is not finite; expected", True),
    ("dpo, step 2: found a gradient that is not finite; expected", True),
    ("dpo, step 1: found parameters that give no finite numbers; expected a finite number", True),
    ("evaluation: found log-probabilities that are not finite for 3 of 9", True),
    ("reward f: found nan for a response to record r; expected a finite number, at most 1e+30 in size", False)])
def test_what_diverged_is_told_from_what_failed(tmp_path, message, diverged):
    (row,) = lines(written(tmp_path, failed("dpo", 0, message)))
    assert (row["failed"], row["diverged"]) == (("0", "1") if diverged else ("1", "0"))
    (row,) = lines(written(tmp_path / "other", failed("dpo", 0, message, kind="ConfigError")))
    assert (row["failed"], row["diverged"]) == ("1", "0")


def test_all_failed_is_still_a_table(tmp_path):
    texts = written(tmp_path, failed("ppo"), failed("dpo", message="another"))
    assert texts["md"].startswith("No method can be recommended: no run has finished. What the methods cost was not "
                                  "measured. Every run failed or was stopped; the notes say how.\n\n"
                                  "Nothing was compared. Of 1 run of ppo, 1 failed; it has no figures. "
                                  "Of 1 run of dpo, 1 failed; it has no figures.\n\n"
                                  "| algorithm | runs |\n| :--- | ---: |\n| ppo | 0 of 1 (1 failed) |\n")
    assert "Held equal" not in texts["md"] and "interval" not in texts["md"]
    told = "No run ended: both failed for one reason. x.jsonl:3: chosen: found none; fix: correct the row; all: "
    runs = [failed(name, message="x.jsonl:3: chosen: found none; fix: correct the row\n"
                                 f"all: {tmp_path / 'alike' / str(number)}/bad_rows.jsonl")
            for number, name in enumerate("ab")]
    assert f"\n\n{told}" in written(tmp_path / "alike", *runs)["md"]
    assert "one reason" not in written(tmp_path / "some", *runs, SFT)["md"]


def test_budgets_data_and_origins_are_named(tmp_path):
    tokens = result("ppo", budget={"equal": "policy tokens", "tokens": 10000}, commit="def", device="H100",
                    data={"read": 900, "dropped": {"tied pair": 2, "empty": 1, "none": 0}, "truncated": 4,
                          "fallbacks": {"demonstrations": "preferred responses"}})
    text = written(tmp_path / "a", tokens)["md"]
    assert "- Held equal: policy tokens (tokens 10000).\n" in text
    assert "ppo was given the same policy tokens (tokens 10000)." in text
    assert ("- Data: read 900; dropped 3 (tied pair 2, empty 1); truncated 4; "
            "demonstrations ← preferred responses.\n") in text
    mixed = written(tmp_path / "b", tokens, result("dpo"), result("sft", budget={}))["md"]
    assert ("- Held equal: not the same in all rows: policy tokens (tokens 10000) for ppo; labels for dpo; "
            "nothing for sft.\n") in mixed
    assert "given" not in mixed
    assert "- Data of dpo, sft: read 500.\n" in mixed
    assert "- Made with: commit abc1234, def; device H100, cpu.\n" in mixed


def test_runs_that_began_with_different_models_are_said(tmp_path):
    other = result("dpo", start={"kind": "sft", "identity": "another"})
    assert "Not from one start" not in written(tmp_path / "same", result("ppo"), result("dpo"))["md"]
    text = written(tmp_path / "two", result("ppo"), other, result("sft", start={"kind": None, "identity": None}))["md"]
    assert "- Not from one start: runs of seed 0 (2 of sft) began with different models.\n" in text


def test_long_errors_are_cut_in_the_notes_and_whole_in_the_csv(tmp_path):
    texts = written(tmp_path, failed("ppo", 0, "x" * 1000))
    assert len(texts["md"]) < 700 and "x …." in texts["md"] and "x" * 1000 in texts["csv"]


# Escaping

HOSTILE = "a|b\x1b[2J\u202e_x & 50% #1 $y$ {z} ~^ \\end [w] *v* <u> 漢 \ud800 `t`"


def check_latex(text):
    """Braces balance, environments close, every row of a tabular has its columns, no special character is bare."""
    assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    depth = 0
    for token in re.findall(r"\\.|[{}]", body, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0
    assert depth == 0
    bare = re.sub(r"\\[\\{}$&#_%]", "", body)                       # what is escaped is fine
    assert len(re.findall(r"\$", bare)) % 2 == 0
    assert not re.search(r"[#_%~^]", bare)
    assert all(ord(char) < 0x180 for char in body)
    for columns, tabular in re.findall(r"\\begin\{tabular\}\{(l[lr]*)\}(.*?)\\end\{tabular\}", body, re.DOTALL):
        for line in tabular.splitlines():
            if line.endswith("\\\\"):
                assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1, line
                assert not line.startswith(("[", "*"))             # \\ would take it for its argument
            else:
                assert line in ("", "\\toprule", "\\midrule", "\\bottomrule")


def test_latex_is_well_formed(tmp_path):
    text = written(tmp_path, SFT, PPO, failed("rrhf"))["tex"]
    check_latex(text)
    assert "gold $-$ SFT" in text and "sft & $0.500\\ [-0.419, 1.419]$ &  &  &" in text and text.count("\\toprule") == 3


def test_hostile_text_harms_no_format(tmp_path):
    texts = written(tmp_path, result("dpo", 0, [f"x={HOSTILE}"]), failed("ppo", 0, HOSTILE, [f"x=[{HOSTILE}"]))
    check_latex(texts["tex"])
    assert "\\textbackslash{}end" in texts["tex"] and "U+6F22" in texts["tex"]
    table_lines = [line for line in texts["md"].splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table_lines[:4]} == {4}   # algorithm, gold, runs
    assert "\\`t\\`" in texts["md"] and "\\<u>" in texts["md"]
    for text in texts.values():
        assert all(char.isprintable() or char == "\n" for char in text)
    assert len(lines(texts)) == 2
    screen = io.StringIO()
    print_table(table(collect([tmp_path])), 100, screen)
    assert "\\x1b[2J" in screen.getvalue() and "\\u202e" in screen.getvalue() and "\\ud800" in screen.getvalue()
    assert all(char.isprintable() or char == "\n" for char in screen.getvalue())


def test_hostile_names_of_a_pair_harm_no_format(tmp_path):
    other = method("dpo", [[value + 9 for value in GOLD[0]]], overrides=[f"x=2{HOSTILE}"])
    texts = written(tmp_path, result("dpo", 0, [f"x={HOSTILE}"]), *other)
    check_latex(texts["tex"])
    assert "this trained dpo (x=2a\\|b\\\\x1b\\[2J" in texts["md"] and len(lines(texts, "pair")) == 1
    table_lines = [line for line in texts["md"].splitlines() if line.startswith("|") and "better than" in line]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table_lines} == {5}


def test_terminal_exactly(tmp_path):
    screen = io.StringIO()
    print_table(table(collect([save(tmp_path, SFT, PPO)])), 70, screen)
    assert screen.getvalue().startswith("""\
Neither of sft and ppo was shown to be better than the other by gold
reward: nothing here is a reason to pay for more than sft, the
cheapest. sft cost 30 seconds, the stages it stands on included;
nothing was cheaper. Not sure: each method was trained once, and
another seed may order them otherwise; no difference was shown, and
one of less than about 2.5 may have been missed. To tell ppo from sft:
about 10 prompts, for these trained models. In any case it holds for
this model, this data and these settings only.

By gold reward, no difference was seen between ppo and sft; a
difference of about 2.5 would have been seen with a chance of 80 %.
Each method was trained with one seed: this is about the trained
models, which another seed may order otherwise, and not about the
methods. All methods were given the same 512 labelled comparisons (sft
learns from none of them). The cheapest was sft with 30 seconds, the
most expensive ppo with 150.

algorithm             gold       gold − SFT        win rate  runs
─────────────────────────────────────────────────────────────────
sft                  0.500                                      1
           [-0.419, 1.419]
ppo                  1.750            1.250           0.875     1
           [-0.968, 4.468]  [-0.752, 3.252]  [0.316, 0.991]

pair       difference in gold  p (Holm)
───────────────────────────────────────
ppo − sft               1.250     0.141
              [-0.752, 3.252]

pair       finding
──────────────────────────────────────────────────
ppo − sft  no difference seen; this run would have
           shown about 2.5

pair       to settle it
──────────────────────────────────────────────
ppo − sft  about 10 prompts, for these trained
           models

""")


@pytest.mark.parametrize("width", [20, 100, 160])
def test_terminal_keeps_to_its_width_and_loses_no_column(tmp_path, width):
    screen = io.StringIO()
    made = table(collect([save(tmp_path, SFT, PPO)]))
    made.notes, made.words = [], ""
    print_table(made, width, screen)
    longest = max(map(len, screen.getvalue().splitlines()))
    assert longest <= max(width, 9 + 2 + 40)  # the first column and one other always
    for title in ("gold − SFT", "runs", "finding", "to settle it", "peak MB", "resident models"):
        assert screen.getvalue().count(title) == 1


def test_a_terminal_without_unicode_is_no_error(tmp_path):
    raw = io.BytesIO()
    screen = io.TextIOWrapper(raw, "ascii")
    print_table(table(collect([save(tmp_path, SFT, PPO)])), 100, screen)
    screen.flush()
    assert b"gold \\u2212 SFT" in raw.getvalue()


def test_labels_that_differ_are_not_called_equal(tmp_path):
    runs = [result(name, cost={"labels": labels}) for name, labels in (("sft", 0), ("dpo", 512), ("ppo", 2048))]
    assert "- Not held equal: labels were to be, but rows used 512, 2,048." in written(tmp_path, *runs)["md"]
    assert "- Held equal: labels." in written(tmp_path / "same", runs[0], runs[1])["md"]


def test_overlap_with_the_datas_answers_is_said_to_be_no_judgement(tmp_path):
    figures = {"overlap/rouge_l": figure([0.2, 0.3]), "overlap/bleu": figure([0.1, 0.2])}
    text = markdown(tmp_path / "with", result(figures={"reward/gold": figure([1, 2]), **figures}))
    assert "| gold | ROUGE-L | BLEU |" in text and "they do not say which answer is better" in text
    assert "ROUGE-L" not in markdown(tmp_path / "without", result())
