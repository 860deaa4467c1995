"""The table from the command line, and at a multirun's end."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.report import main
from command_line import invoke
from report_runs import failed, method, result, save, write_run

ROOT = Path(__file__).resolve().parents[2]
(SFT,), (PPO,) = method("sft", [[0, 1, 0, 1]]), method("ppo", [[1, 2, 0, 4]])


@pytest.mark.slow
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
    assert capsys.readouterr().out.endswith(f"the report is {tmp_path / 'out' / 'report.html'}\n")
    kept = ["report.html", "table.csv", "table.md", "table.tex"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == kept


def test_command_line_errors_are_one_message(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path}: found no result.json; expected the folder of a run\n"
    assert main([str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


APP = """
import json, shutil, sys
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
from benchmarks import report

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def job(config):
    if config.task == "run":
        folder, kept = Path(HydraConfig.get().runtime.output_dir), Path(config.algorithm)
        raw = json.loads((kept / "result.json").read_text())
        raw["overrides"] = list(HydraConfig.get().overrides.task)
        (folder / "result.json").write_text(json.dumps(raw))
        if (kept / "figures.parquet").exists():
            shutil.copyfile(kept / "figures.parquet", folder / "figures.parquet")

job()
sys.exit(report.exit_code)
"""


@pytest.mark.parametrize("arguments, status, tabled", [
    ("algorithm=sft,dpo", 0, True), ("algorithm=sft,ppo", 1, True), ("algorithm=sft,torn", 1, False),
    ("task=inspect", 0, False)])
def test_the_callback_makes_the_table_and_the_exit_code(tmp_path, monkeypatch, recwarn, arguments, status,
                                                             tabled):
    (tmp_path / "conf" / "algorithm").mkdir(parents=True)
    (tmp_path / "conf" / "task").mkdir()
    for name in ("sft", "dpo", "ppo", "torn"):
        (tmp_path / "conf" / "algorithm" / f"{name}.yaml").write_text(f"# @package _global_\nalgorithm: {name}\n")
    for name in ("run", "inspect"):
        (tmp_path / "conf" / "task" / f"{name}.yaml").write_text(f"# @package _global_\ntask: {name}\n")
    (tmp_path / "conf" / "config.yaml").write_text(
        "defaults: [{task: run}, {algorithm: dpo}]\n"
        "hydra: {callbacks: {table: {_target_: benchmarks.table_callback.TableCallback}}, "
        "sweep: {dir: 'out/${now:%H}'}}\n")
    (tmp_path / "app.py").write_text(APP)
    for name, raw in {"sft": SFT, "dpo": result(), "ppo": failed(), "torn": {}}.items():
        write_run(tmp_path / name, raw)
    monkeypatch.chdir(tmp_path)
    ended = invoke("-m", arguments, script=tmp_path / "app.py")
    assert ended.status == status, ended.err
    assert len(list(tmp_path.glob("out/*/table.*"))) == 3 * tabled
    assert ("Held equal" in ended.out) == tabled
    if "torn" in arguments:
        assert any("schema: found nothing" in str(one.message) for one in recwarn)


def test_reads_files_only():
    code = ("import sys, benchmarks.report\n"
            "print(*sorted(n for n in sys.modules if n.split('.')[0] in ('torch', 'transformers', 'algorithms')))")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    inside = ("algorithms.common.evaluation.inference", "algorithms.common.evaluation.verdicts",
              "algorithms.common.support.checks", "algorithms.common.support.errors")
    assert all(any(one.startswith(name) or name.startswith(f"{one}.") for one in inside)
               for name in run.stdout.split()), run.stdout
    assert report.exit_code == 0


def test_a_run_without_a_table_loads_nothing_that_makes_one():
    code = ("import sys, benchmarks.table_callback\n"
            "print([name for name in ('pandas', 'scipy', 'torch', 'benchmarks.report') if name in sys.modules])")
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
