"""Reading what runs left: every file is checked, and what cannot be used is refused with its place."""

import csv
import json

import pandas as pd
import pytest

from benchmarks.report import ReportError, collect, main, table
from benchmarks.tables import write
from report_runs import GOLD, failed, figure, known, result, save, write_run


def test_runs_are_found_at_any_depth_in_natural_order_and_once(tmp_path):
    for name in ("10", "9", "a/b/2"):
        write_run(tmp_path / name, result())
    found = [str(run.folder.relative_to(tmp_path)) for run in collect([tmp_path, tmp_path / "9"])]
    assert found == ["9", "10", "a/b/2"]
    assert [run.folder for run in collect([tmp_path / "9"])] == [tmp_path / "9"]  # a run's own folder


def broken(**changes):
    return json.dumps({key: value for key, value in {**result(), **changes}.items() if key != "figures"})


def kl(**changes):
    return {"kl/k1": {**known(1, 0, 2, "resampled"), **changes}}


@pytest.mark.parametrize("text, message", [
    ("{", "no strict JSON"),
    ('{"schema": 2, "schema": 2}', "a key twice"),
    ("[]", "file: found a list; expected an object"),
    ("{}", "schema: found nothing; expected an integer"),
    (broken(schema=3), "schema: found 3; expected 2"),
    (broken(status="done"), "status: found 'done'"),
    (broken(status="failed"), "error: found nothing; expected an object"),
    (broken(status="failed", error={"type": "X"}), "error.message: found nothing; expected a string"),
    (broken(seed="0"), "seed: found '0'; expected an integer"),
    (broken(seed=True), "seed: found True"),
    (broken(overrides=[1]), "overrides: found 1"),
    (broken(start=[]), "start: found []; expected an object"),
    (broken(start={"kind": 1}), "start.kind: found 1"),
    (broken(config={"report": {"margin": "x"}}), "config.report.margin: found 'x'"),
    (broken(evaluation=None), "evaluation: found None; expected an object"),
    (broken(evaluation=kl(high=None)), "evaluation.kl/k1.high: found None"),
    (broken(evaluation=kl(low=3)), "evaluation.kl/k1: low 3.0 is above high 2.0"),
    (broken(evaluation=kl(mean=float("nan"))), "NaN is not a JSON number"),
    (broken(evaluation=kl()).replace('"mean": 1', '"mean": 1e999'), "kl/k1.mean: found inf"),
    (broken(evaluation=kl(kind="median")), "evaluation.kl/k1.kind: found 'median'; expected one of mean, share"),
    (broken(evaluation=kl(seeds=2)), "evaluation.kl/k1.seeds: found 2; expected 1"),
    (broken(evaluation=kl(unit=None)), "evaluation.kl/k1.unit: found None; expected a string"),
    (broken(evaluation=kl(n=0)), "evaluation.kl/k1: n is 0; expected a positive integer"),
    (broken(evaluation=kl(kind="mean")), "evaluation.kl/k1: found no rows of it in figures.parquet"),
    (broken(evaluation={"reward/gold": known(1.5, kind="mean")}), "mean: found 1.5, and 1.75 in figures.parquet"),
    (broken(evaluation={"reward/gold": known(1.75, kind="share")}), "found a share's numerator outside of"),
    (broken(cost={"seconds": "3"}), "cost.seconds: found '3'; expected an integer or a number"),
    (broken(cost={"labels": []}), "cost.labels: found []"),
    (broken(data={"dropped": {"tied": "x"}}), "data.dropped.tied: found 'x'"),
])
def test_malformed_results_are_refused_with_file_and_field(tmp_path, text, message):
    path = save(tmp_path, result()) / "0" / "result.json"
    path.write_text(text)
    with pytest.raises(ReportError) as caught:
        collect([tmp_path])
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


CELLS = figure(GOLD[0])["cells"].assign(figure="reward/gold")


@pytest.mark.parametrize("frame, message", [
    (None, "found no such file; expected the figures of a finished run"),
    ("text", "found no Parquet that can be read"),
    (CELLS.drop(columns="denominator"), "denominator: found no such column"),
    (CELLS.assign(numerator="x"), "numerator: found what is no finite number"),
    (CELLS.assign(numerator=[1, 2, 0, float("inf")]), "numerator: found what is no finite number"),
    (CELLS.assign(denominator=[1, 1, 1, None]), "denominator: found what is no finite number"),
    (CELLS.assign(denominator=[1, 1, 1, -1]), "denominator: found a negative number"),
    (pd.concat([CELLS, CELLS]), "found reward/gold of prompt p0 twice"),
], ids=str)
def test_malformed_figures_are_refused_with_the_file_and_what_to_do(tmp_path, frame, message):
    path = save(tmp_path, result()) / "0" / "figures.parquet"
    path.unlink()
    if isinstance(frame, str):
        path.write_text(frame)
    elif frame is not None:
        frame.to_parquet(path)
    with pytest.raises(ReportError) as caught:
        collect([tmp_path])
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "fix: run the same command again; kept stages make it quick" in str(caught.value)


def test_results_without_figures_by_prompt_are_refused(tmp_path, capsys):
    save(tmp_path, {**result(), "schema": 1})
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"{tmp_path}/0/result.json: schema: found 1, which kept no figures by prompt; expected 2; fix: run the same "
        "command again; kept stages make it quick\n")
    assert not list(tmp_path.glob("table.*"))


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
    assert [(row.label, row.runs) for row in made.rows] == [("dpo", "1"), ("ppo", "0 of 1 (1 failed)")]
    assert made.notes[-1] == "ppo, seed 7: failed: no result.json: the job was killed or is still running."


def test_what_was_stopped_has_not_failed(tmp_path):
    stopped = failed("ppo", 0, "stopped at step 3 of 9", kind="Stopped")
    unbegun = failed("ppo", 1, "not started: the sweep was stopped before", kind="Stopped")
    made = table(collect([save(tmp_path, result(), stopped, unbegun, failed("rrhf"))]))
    assert made.words.startswith("Stopped: 1 of 4 runs finished (1 stopped, 1 not started); the same command goes on.")
    assert "Of 1 run of rrhf, 1 failed" in made.words and "of ppo" not in made.words
    assert [row.runs for row in made.rows] == ["1", "0 of 2 (1 stopped, 1 not started)", "0 of 1 (1 failed)"]
    assert made.notes[-3:-1] == ["ppo, seed 0: stopped at step 3 of 9.",
                                 "ppo, seed 1: not started: the sweep was stopped before."]
    write(made, tmp_path)
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        told = [(row["algorithm"], row["status"], row["runs"], row["failed"]) for row in csv.DictReader(file)]
    assert told == [("dpo", "complete", "1", "0"), ("ppo", "stopped", "2", "0"), ("rrhf", "failed", "1", "1")]


def test_trials_are_said_once_where_all_rows_are_trials(tmp_path):
    runs = [result(name, overrides=[f"data.limit={limit}"], trial=True) for name, limit in (("dpo", 1), ("ipo", 2))]
    made = table(collect([save(tmp_path / "a", *runs)]))
    assert made.words.startswith("A trial: ") and made.words.count("debug=trial") == 1
    assert "dpo (data.limit=1)" in made.words and made.rows[0].label == "dpo (data.limit=1, debug=trial)"
    mixed = table(collect([save(tmp_path / "b", result(), result(trial=True))]))
    assert "dpo (debug=trial)" in mixed.words, "where it tells rows apart"
