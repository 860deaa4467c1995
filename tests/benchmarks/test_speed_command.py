"""The command of the benchmark beside TRL, and its page."""

import json
import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace

import pytest

from benchmarks.speed import __main__ as command
from benchmarks.speed.page import page
from benchmarks.speed.request import Lengths
from benchmarks.speed.side import KINDS
from training_setup import ROOT


def test_the_command_line():
    plan = command.parse(["what=dpo,ppo", "size=tiny", "repeats=3"])
    assert (plan.what, plan.size, plan.repeats, plan.device) == (("dpo", "ppo"), ("tiny",), 3, "cpu")
    assert set(command.Plan().what) == set(KINDS)
    assert plan.lengths == Lengths() and not plan.others
    other = command.parse(["prompt=8-40", "response=5-5"])
    assert other.lengths == Lengths((8, 40), (5, 5)) and other.others == ("8-40", "5-5")
    for wrong, word in (("whta=dpo", "no such setting"), ("prompt=64", "prompt, response: found"),
                        ("response=9-4", "found 9-4"), ("prompt=1-1000", "at most 512"),
                        ("what=dop", "found dop"), ("repeats=0", "above 0"), ("repeats=few", "above 0"),
                        ("device=tpu", "cpu, cuda"), ("response=9-400 size=5m,tiny", "of tiny"),
                        ("trl_ppo=/no/python", "found no program")):
        with pytest.raises(SystemExit, match=word):
            command.parse(["size=tiny", *wrong.split()])


def test_results_of_other_files_have_names_of_their_own(tmp_path):
    """And such as a table and a shell take for nothing else."""
    found = set()
    for number, name in enumerate(("mine.a.jsonl", "mine.b.jsonl", "a|b`c d=.jsonl", ".hidden")):
        (tmp_path / name).write_text(str(number))
        plan = command.parse([f"data={tmp_path / name}"])
        (other,) = plan.others
        assert other.replace("-", "").replace(".", "").isalnum() and other.startswith(command.told_name(plan.data))
        found.add(other)
    (tmp_path / ".hidden").write_text("changed")
    assert len({*found, *command.parse([f"data={tmp_path / '.hidden'}"]).others}) == 5


def test_help_says_all(capsys):
    assert command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in (*KINDS, *(field.name + " " for field in fields(command.Plan)), "tiny", "100m", "bf16"):
        assert word in shown


def test_ppo_of_trl_is_left_out_without_its_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    assert command.main(["what=ppo_trl", "size=tiny", f"out={tmp_path}"]) == 0
    assert "ppo_trl tiny: left out" in (shown := capsys.readouterr().out) and "trl==1.12.0" in shown


@pytest.mark.slow
def test_the_command_measures_and_writes_a_page(tmp_path):
    done = subprocess.run([sys.executable, "-m", "benchmarks.speed", "what=rrhf_4", "size=tiny", "repeats=2", "steps=2",
                           "prompt=16-48", "response=4-24", f"out={tmp_path}"],
                          cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "rrhf_4_tiny_cpu_fp32_16-48_4-24.json").read_text(encoding="utf-8"))
    runs = [run for side in found["sides"].values() for run in side["runs"]]
    assert len(runs) == 4 and all(run["peak_bytes"] > run["imported_bytes"] > 0 for run in runs)
    assert "| rrhf_4, prompts | tiny | fp32 | 16-48, 4-24 | plain rows | as they come |" in page(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == page(tmp_path)


def test_a_page_of_nothing_has_a_head(tmp_path):
    assert page(tmp_path).startswith("# Speed")


@pytest.mark.parametrize("written, word", [(None, "data: found no file"), ("{}\n", "fix: ")])
def test_a_file_that_cannot_be_used_is_told_before_anything_is_made(tmp_path, written, word):
    """By a message of one line, no more."""
    data = tmp_path / "mine.jsonl"
    if written:
        data.write_text(written, encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "benchmarks.speed", "what=sft", "size=tiny", f"data={data}",
                           f"out={tmp_path / 'out'}"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and word in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out/*"))
