"""Result files → tables: small folders written by hand, and exactly what they become."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.report import ReportError, collect, main, table
from benchmarks.tables import print_table, write

ROOT = Path(__file__).resolve().parents[1]


def figure(mean, low, high, n=100):
    return {"mean": mean, "low": low, "high": high, "n": n}


def result(algorithm="dpo", seed=0, overrides=(), **fields):
    """A complete result.json."""
    return {
        "schema": 1, "status": "complete", "algorithm": algorithm, "seed": seed, "config": {},
        "overrides": [f"algorithm={algorithm}", f"seed={seed}", *overrides], "commit": "abc1234", "versions": {},
        "device": "cpu", "data": {"read": 500, "dropped": {}, "truncated": 0, "fallbacks": {}},
        "evaluation": {"reward/gold": figure(0.5, 0.4, 0.6)},
        "cost": {"seconds": 10.0, "stages": {}}, "budget": {"equal": "labels"}, **fields,
    }


def failed(algorithm="ppo", seed=0, message="loss is NaN at step 3", overrides=()):
    raw = result(algorithm, seed, overrides, status="failed", error={"type": "TrainingError", "message": message})
    return {key: value for key, value in raw.items() if key not in ("evaluation", "cost", "data", "budget")}


def save(folder, *results):
    for number, raw in enumerate(results):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "result.json").write_text(json.dumps(raw), encoding="utf-8")
    return folder


def written(folder, *results):
    """The texts of table.md, table.csv, table.tex."""
    write(table(collect([save(folder, *results)])), folder)
    return {kind: (folder / f"table.{kind}").read_text(encoding="utf-8") for kind in ("md", "csv", "tex")}


def rows(texts):
    return list(csv.DictReader(io.StringIO(texts["csv"])))


SFT = result("sft", evaluation={"reward/gold": figure(0.2, 0.1, 0.3), "length/mean": figure(20, 19, 21.25)},
             cost={"seconds": 30.0, "tokens_trained": 120000, "labels": 0, "peak_memory_bytes": 250_000_000,
                   "stages": {}})
PPO = result("ppo", evaluation={"reward/gold": figure(1.25, 1.0, 1.5), "reward/gold_minus_sft": figure(1.05, 0.8, 1.3),
                                "win_rate/sft": figure(0.8, 0.7, 0.9), "kl/k1": figure(-0.0001, -0.01, 0.01)},
             cost={"seconds": 150.5, "tokens_trained": 700000, "tokens_sampled": 250000, "reward_queries": 900,
                   "labels": 512, "peak_memory_bytes": 310_000_000, "resident_models": 4,
                   "stages": {"sft": {"seconds": 30.0, "tokens_trained": 120000, "peak_memory_bytes": 250_000_000},
                              "reward_model": {"seconds": 20.0, "tokens_trained": 80000, "labels": 512,
                                               "peak_memory_bytes": 310_000_000, "resident_models": 1}}})


def test_markdown_exactly(tmp_path):
    assert written(tmp_path, SFT, PPO, failed("rrhf"))["md"] == """\
| algorithm | gold | gold − SFT | win rate | KL (k1) | length | seeds |
| :--- | ---: | ---: | ---: | ---: | ---: | ---: |
| sft | 0.200 [0.100, 0.300] |  |  |  | 20.0 [19.0, 21.2] | 1 |
| ppo | 1.250 [1.000, 1.500] | 1.050 [0.800, 1.300] | 0.800 [0.700, 0.900] | 0.000 [-0.010, 0.010] |  | 1 |
| rrhf, seed 0: failed |  |  |  |  |  |  |

| algorithm | seconds | tokens trained | tokens sampled | labels | peak MB | reward queries | resident models |
| :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| sft | 30.0 | 120,000 |  | 0 | 250 |  |  |
| ppo | 150.5 | 700,000 | 250,000 | 512 | 310 | 900 | 4 |

- Held equal: labels.
- Rows of one seed: 95% bootstrap interval over prompts. With one seed the intervals hold for these trained models, \
not for the algorithm.
- Costs include those of the stages a method stands on (labels, memory: the largest).
- Data: read 500.
- Made with: commit abc1234; device cpu.
- rrhf, seed 0: failed: TrainingError: loss is NaN at step 3.
"""


def test_csv_exactly(tmp_path):
    dpo = result("dpo", 3, ["algorithm.beta=0.1"], evaluation={"reward/gold": figure(1 / 3, 0.25, 0.5)},
                 cost={"seconds": 10, "peak_memory_bytes": 123456, "stages": {}})
    assert written(tmp_path, dpo, failed("ppo", 1, "it, \"broke\""))["csv"] == (
        "algorithm,algorithm.beta,reward/gold.mean,reward/gold.low,reward/gold.high,reward/gold.n,"
        "seconds,peak_memory_bytes,seeds,status,error\n"
        "dpo,0.1,0.3333333333333333,0.25,0.5,100,10.0,123456.0,3,complete,\n"
        'ppo,,,,,,,,1,failed,"TrainingError: it, ""broke"""\n')


def test_columns_come_in_the_stated_order_and_the_rest_stands_in_the_csv(tmp_path):
    names = ["zeta", "perplexity/heldout", "distinct_2", "eos_rate", "length/mean", "kl/bound", "kl/k1", "kl/exact",
             "reward/proxy", "win_rate/sft", "reward/gold_minus_sft", "reward/gold", "accuracy/heldout"]
    texts = written(tmp_path, result(evaluation={name: figure(1, 0, 2) for name in names}))
    assert texts["md"].splitlines()[0] == (
        "| algorithm | gold | gold − SFT | win rate | proxy | KL | KL (bound) | length | EOS | distinct-2 "
        "| perplexity | accuracy | seeds |")
    assert "zeta" in texts["csv"].splitlines()[0] and "kl/k1" in texts["csv"].splitlines()[0]
    assert "- KL (bound) is the upper bound log n − (n−1)/n of best-of-n" in texts["md"]


def test_refusals_and_over_refusals_have_columns_their_parts_stand_in_the_csv(tmp_path):
    names = ["refusal/unanswerable", "refusal/answerable", "accuracy/answerable"]
    more = ["wrong/answerable", "refusal/unanswerable_minus_sft", *(f"{name}/city" for name in names)]
    texts = written(tmp_path, result(evaluation={name: figure(0.5, 0.25, 0.75) for name in [*names, *more]}))
    assert texts["md"].splitlines()[0] == "| algorithm | refused unknown | refused known | right known | seeds |"
    assert all(f",{name}.mean," in texts["csv"].splitlines()[0] for name in [*names, *more])
    assert "city" not in texts["md"] + texts["tex"]


def test_several_seeds_become_one_row_with_a_t_interval(tmp_path):
    runs = [result("dpo", seed, evaluation={"reward/gold": figure(mean, 0, 9)}, cost={"seconds": 10.0 * mean})
            for seed, mean in ((0, 1.0), (1, 2.0), (2, 3.0))]
    texts = written(tmp_path, *runs)
    (row,) = rows(texts)
    # mean 2, s = 1, t(.975; 2) = 4.302653 → 2 ± 2.484138
    assert float(row["reward/gold.low"]) == pytest.approx(2 - 2.484138, abs=1e-6)
    assert (row["reward/gold.mean"], row["reward/gold.n"]) == ("2.0", "3")
    assert (row["seeds"], row["seconds"]) == ("0 1 2", "20.0")
    assert "| dpo | 2.000 [-0.484, 4.484] | 3 |" in texts["md"]
    assert "t-interval over seeds" in texts["md"] and "not for the algorithm" not in texts["md"]


def test_rows_differ_by_what_varies_besides_the_seed(tmp_path):
    runs = [result("dpo", seed, [f"algorithm.beta={beta}", "+trainer.x=1", "hydra.job.num=3", f"stages.folder=/{seed}"])
            for beta in (0.1, 0.3) for seed in (0, 1)]
    texts = written(tmp_path, *runs, result("sft", 0, ["+trainer.x=1"]))
    assert [(row["algorithm"], row["algorithm.beta"], row["seeds"]) for row in rows(texts)] == [
        ("dpo", "0.1", "0 1"), ("dpo", "0.3", "0 1"), ("sft", "", "0")]
    assert "| dpo (beta=0.1) |" in texts["md"] and "| sft |" in texts["md"]
    assert "t-interval" in texts["md"] and "not for the algorithm" in texts["md"]  # both kinds of rows, both explained


def test_the_same_run_twice_is_not_two_seeds(tmp_path):
    texts = written(tmp_path, result("dpo", 0), result("dpo", 0), result("dpo", 1))
    assert [row["seeds"] for row in rows(texts)] == ["0", "0", "1"]
    assert "| dpo, 1 |" in texts["md"]


def test_a_metric_that_some_seeds_lack_is_said(tmp_path):
    texts = written(tmp_path, result(seed=0), result(seed=1, evaluation={}))
    assert "| dpo | 0.500 [0.400, 0.600] | 2 |" in texts["md"]
    assert "dpo: reward/gold is from 1 of 2 seeds." in texts["md"]


def test_a_failed_seed_neither_counts_nor_hides(tmp_path):
    texts = written(tmp_path, result("ppo", 0), failed("ppo", 1, "first line\n  second"), result("ppo", 2))
    assert [(row["seeds"], row["status"]) for row in rows(texts)] == [("0 2", "complete"), ("1", "failed")]
    assert "| ppo, seed 1: failed |" in texts["md"]
    assert "- ppo, seed 1: failed: TrainingError: first line second.\n" in texts["md"]


def test_all_failed_is_still_a_table(tmp_path):
    texts = written(tmp_path, failed("ppo"), failed("dpo"))
    assert texts["md"].startswith("| algorithm | seeds |\n| :--- | ---: |\n| ppo, seed 0: failed |  |\n")
    assert "Held equal" not in texts["md"] and "interval" not in texts["md"]


def test_budgets_data_and_origins_are_named(tmp_path):
    tokens = result("ppo", budget={"equal": "policy tokens", "tokens": 10000}, commit="def", device="H100",
                    data={"read": 900, "dropped": {"tied pair": 2, "empty": 1, "none": 0}, "truncated": 4,
                          "fallbacks": {"demonstrations": "preferred responses"}})
    text = written(tmp_path / "a", tokens)["md"]
    assert "- Held equal: policy tokens (tokens 10000).\n" in text
    assert ("- Data: read 900; dropped 3 (tied pair 2, empty 1); truncated 4; "
            "demonstrations ← preferred responses.\n") in text
    mixed = written(tmp_path / "b", tokens, result("dpo"), result("sft", budget={}))["md"]
    assert ("- Held equal: not the same in all rows: policy tokens (tokens 10000) for ppo; labels for dpo; "
            "nothing for sft.\n") in mixed
    assert "- Data of dpo, sft: read 500.\n" in mixed
    assert "- Made with: commit abc1234, def; device H100, cpu.\n" in mixed


def test_long_errors_are_cut_in_the_notes_and_whole_in_the_csv(tmp_path):
    texts = written(tmp_path, failed("ppo", 0, "x" * 1000))
    assert len(texts["md"]) < 600 and "x …." in texts["md"] and "x" * 1000 in texts["csv"]


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
    for columns, tabular in re.findall(r"\\begin\{tabular\}\{(lr*)\}(.*?)\\end\{tabular\}", body, re.DOTALL):
        for line in tabular.splitlines():
            if line.endswith("\\\\"):
                assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1, line
                assert not line.startswith(("[", "*"))             # \\ would take it for its argument
            else:
                assert line in ("", "\\toprule", "\\midrule", "\\bottomrule")


def test_latex_is_well_formed(tmp_path):
    text = written(tmp_path, SFT, PPO, failed("rrhf"))["tex"]
    check_latex(text)
    assert "gold $-$ SFT" in text and "sft & $0.200\\ [0.100, 0.300]$ &  &  &" in text and text.count("\\toprule") == 2


def test_hostile_text_harms_no_format(tmp_path):
    texts = written(tmp_path, result("dpo", 0, [f"x={HOSTILE}"]), failed("ppo", 0, HOSTILE, [f"x=[{HOSTILE}"]))
    check_latex(texts["tex"])
    assert "\\textbackslash{}end" in texts["tex"] and "U+6F22" in texts["tex"]
    lines = [line for line in texts["md"].splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines[:4]} == {4}   # algorithm, gold, seeds
    assert "\\`t\\`" in texts["md"] and "\\<u>" in texts["md"]
    for text in texts.values():
        assert all(char.isprintable() or char == "\n" for char in text)
    assert len(rows(texts)) == 2
    screen = io.StringIO()
    print_table(table(collect([tmp_path])), 100, screen)
    assert "\\x1b[2J" in screen.getvalue() and "\\u202e" in screen.getvalue() and "\\ud800" in screen.getvalue()
    assert all(char.isprintable() or char == "\n" for char in screen.getvalue())


def test_terminal_exactly(tmp_path):
    screen = io.StringIO()
    print_table(table(collect([save(tmp_path, SFT, PPO)])), 60, screen)
    assert screen.getvalue().startswith("""\
algorithm            gold      gold − SFT        win rate
─────────────────────────────────────────────────────────
sft                 0.200
           [0.100, 0.300]
ppo                 1.250           1.050           0.800
           [1.000, 1.500]  [0.800, 1.300]  [0.700, 0.900]

algorithm          KL (k1)        length  seeds
───────────────────────────────────────────────
sft                                 20.0      1
                            [19.0, 21.2]
ppo                  0.000                    1
           [-0.010, 0.010]

algorithm  seconds  tokens trained  tokens sampled  labels
""")


@pytest.mark.parametrize("width", [20, 100, 160])
def test_terminal_keeps_to_its_width_and_loses_no_column(tmp_path, width):
    screen = io.StringIO()
    made = table(collect([save(tmp_path, SFT, PPO)]))
    made.notes = []
    print_table(made, width, screen)
    longest = max(map(len, screen.getvalue().splitlines()))
    assert longest <= max(width, 9 + 2 + 15)  # the first column and one other always
    for title in ("gold − SFT", "KL (k1)", "seeds", "peak MB", "resident models"):
        assert screen.getvalue().count(title) == 1


def test_a_terminal_without_unicode_is_no_error(tmp_path):
    raw = io.BytesIO()
    screen = io.TextIOWrapper(raw, "ascii")
    print_table(table(collect([save(tmp_path, SFT, PPO)])), 100, screen)
    screen.flush()
    assert b"gold \\u2212 SFT" in raw.getvalue()


# Reading


def test_runs_are_found_at_any_depth_in_natural_order_and_once(tmp_path):
    for name in ("10", "9", "a/b/2"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "result.json").write_text(json.dumps(result()))
    found = [str(run.folder.relative_to(tmp_path)) for run in collect([tmp_path, tmp_path / "9"])]
    assert found == ["9", "10", "a/b/2"]
    assert [run.folder for run in collect([tmp_path / "9"])] == [tmp_path / "9"]  # a run's own folder


def broken(**changes):
    return json.dumps({**result(), **changes})


@pytest.mark.parametrize("text, message", [
    ("{", "no strict JSON"),
    ('{"schema": 1, "schema": 1}', "a key twice"),
    ("[]", "file: found a list; expected an object"),
    ("{}", "schema: found nothing; expected an integer"),
    (broken(schema=2), "schema: found 2; expected 1"),
    (broken(status="done"), "status: found 'done'"),
    (broken(status="failed"), "error: found nothing; expected an object"),
    (broken(status="failed", error={"type": "X"}), "error.message: found nothing; expected a string"),
    (broken(seed="0"), "seed: found '0'; expected an integer"),
    (broken(seed=True), "seed: found True"),
    (broken(overrides=[1]), "overrides: found 1"),
    (broken(evaluation=None), "evaluation: found None; expected an object"),
    (broken(evaluation={"kl/k1": {"mean": 1, "low": 0, "high": None, "n": 3}}), "evaluation.kl/k1.high: found None"),
    (broken(evaluation={"kl/k1": figure(1, 3, 2)}), "evaluation.kl/k1: low 3.0 is above high 2.0"),
    (broken(evaluation={"kl/k1": figure(float("nan"), 0, 1)}), "NaN is not a JSON number"),
    (broken(evaluation={"kl/k1": figure(1, 0, 2)}).replace('"mean": 1', '"mean": 1e999'), "kl/k1.mean: found inf"),
    (broken(cost={"seconds": "3"}), "cost.seconds: found '3'; expected an integer or a number"),
    (broken(cost={"labels": []}), "cost.labels: found []"),
    (broken(data={"dropped": {"tied": "x"}}), "data.dropped.tied: found 'x'"),
])
def test_malformed_results_are_refused_with_file_and_field(tmp_path, text, message):
    path = save(tmp_path, {}) / "0" / "result.json"
    path.write_text(text)
    with pytest.raises(ReportError) as caught:
        collect([tmp_path])
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def hydra_job(folder, task="run"):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "hydra.yaml").write_text(
        f"hydra:\n  overrides:\n    task: [algorithm=ppo, seed=7]\n"
        f"  runtime:\n    choices: {{task: {task}, algorithm: ppo}}\n")


def test_a_job_killed_before_it_wrote_a_result_is_shown(tmp_path):
    save(tmp_path, result())
    hydra_job(tmp_path / "1")
    hydra_job(tmp_path / "2", task="inspect")  # writes none
    made = table(collect([tmp_path]))
    assert [row.label for row in made.rows] == ["dpo", "ppo, seed 7: failed"]
    assert made.notes[-1] == "ppo, seed 7: failed: no result.json: the job was killed or is still running."


def test_command_line_rebuilds_and_prints(tmp_path):
    save(tmp_path, SFT, failed())
    command = [sys.executable, "-m", "benchmarks.report", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "sft" in run.stdout and "ppo, seed 0: failed: TrainingError" in run.stdout
    first = {kind: (tmp_path / f"table.{kind}").read_bytes() for kind in ("md", "csv", "tex")}
    assert main([str(tmp_path)]) == 0
    assert first == {kind: (tmp_path / f"table.{kind}").read_bytes() for kind in ("md", "csv", "tex")}


def test_command_line_with_several_folders_writes_only_where_told(tmp_path, capsys):
    one, two = save(tmp_path / "one", SFT), save(tmp_path / "two", PPO)
    assert main([str(one), str(two)]) == 0
    assert "ppo" in capsys.readouterr().out and not list(tmp_path.rglob("table.*"))
    assert main([str(one), str(two), "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_command_line_errors_are_one_message(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path}: found no result.json; expected the folder of a run\n"
    assert main([str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


APP = """
import json, sys
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
from benchmarks import report

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(config):
    if config.task == "run":
        raw = json.loads(Path("raw.json").read_text())[config.algorithm]
        raw["overrides"] = list(HydraConfig.get().overrides.task)
        (Path(HydraConfig.get().runtime.output_dir) / "result.json").write_text(json.dumps(raw))

job()
sys.exit(report.exit_code)
"""


@pytest.mark.parametrize("arguments, status, tabled", [
    ("algorithm=sft,dpo", 0, True), ("algorithm=sft,ppo", 1, True), ("algorithm=sft,torn", 1, False),
    ("task=inspect", 0, False)])
def test_the_callback_makes_the_table_and_the_exit_code(tmp_path, arguments, status, tabled):
    (tmp_path / "conf" / "algorithm").mkdir(parents=True)
    (tmp_path / "conf" / "task").mkdir()
    for name in ("sft", "dpo", "ppo", "torn"):
        (tmp_path / "conf" / "algorithm" / f"{name}.yaml").write_text(f"# @package _global_\nalgorithm: {name}\n")
    for name in ("run", "inspect"):
        (tmp_path / "conf" / "task" / f"{name}.yaml").write_text(f"# @package _global_\ntask: {name}\n")
    (tmp_path / "conf" / "config.yaml").write_text(
        "defaults: [{task: run}, {algorithm: dpo}]\n"
        "hydra: {callbacks: {table: {_target_: benchmarks.report.TableCallback}}, sweep: {dir: 'out/${now:%H}'}}\n")
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "raw.json").write_text(json.dumps({"sft": SFT, "dpo": result(), "ppo": failed(), "torn": {}}))
    run = subprocess.run([sys.executable, "app.py", "-m", arguments], cwd=tmp_path, capture_output=True, text=True,
                         env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert run.returncode == status, run.stderr
    assert len(list(tmp_path.glob("out/*/table.*"))) == 3 * tabled
    assert ("Held equal" in run.stdout) == tabled
    if "torn" in arguments:
        assert "schema: found nothing" in run.stderr


def test_reads_files_only():
    code = ("import sys, benchmarks.report\n"
            "print(*sorted(n for n in sys.modules if n.split('.')[0] in ('torch', 'transformers', 'algorithms')))")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["algorithms", "algorithms.common", "algorithms.common.evaluation.statistics"]
    assert report.exit_code == 0


def test_labels_that_differ_are_not_called_equal(tmp_path):
    runs = [result("sft", cost={"labels": 0}), result("dpo", cost={"labels": 512}), result("ppo", cost={"labels": 2048})]
    assert "- Not held equal: labels were to be, but rows used 512, 2,048." in written(tmp_path, *runs)["md"]
    assert "- Held equal: labels." in written(tmp_path / "same", runs[0], runs[1])["md"]
