"""Unused names, unsorted imports, long lines: ``pyproject.toml`` says what is checked."""

import subprocess
import sys

import pytest

from command_line import ROOT


def ruff(*arguments: str, text: str = "") -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", *arguments], cwd=ROOT, input=text,
                          capture_output=True, text=True, timeout=60)


def test_nothing_is_found():
    done = ruff(".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_settings_are_read_without_scrolling():
    """Ruff reads no YAML."""
    files = sorted((ROOT / "conf").rglob("*.yaml"))
    long = [f"{file.relative_to(ROOT)}:{number}" for file in files
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if len(line) > 120]
    assert len(files) > 100 and not long, long


@pytest.mark.parametrize("file", ["run.py", "algorithms/common/new.py", "benchmarks/new.py", "tests/new.py"])
@pytest.mark.parametrize("text, rule", [("import os\n", "F401"), ("import sys\nimport os\n\nprint(os, sys)\n", "I001"),
                                        (f"x = '{'y' * 120}'\n", "E501"), ("l = 1\n", "E741")])
def test_it_would_be(text, rule, file):
    assert rule in ruff("--stdin-filename", file, "-", text=text).stdout
