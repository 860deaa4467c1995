"""The methods that CONTRIBUTING.md shows are what it says: written into a copy of the project, their tests pass and
they keep the contract; its commands compose.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/.]+)`\n\n```\w+\n(.*?)^```$", PAGE, re.M | re.S))
METHODS = sorted(Path(name).stem for name in FILES if name.startswith("conf/algorithm/"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The project with the page's files in it."""
    folder = tmp_path_factory.mktemp("contributing") / "project"
    for part in ("algorithms", "benchmarks", "conf", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("run.py", "pyproject.toml", "constraints.txt", "README.md"):
        shutil.copy(ROOT / part, folder / part)
    for name, text in FILES.items():
        assert not (folder / name).exists(), f"{name} is the project's own"
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def checked(copy: Path, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments], cwd=copy,
                          env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout


def test_the_page_shows_whole_methods():
    assert METHODS == ["moving_baseline", "odpo", "unlikelihood"]
    for name in METHODS:
        assert {f"algorithms/{name}.py", f"conf/recipe/lab/{name}.yaml",
                f"conf/recipe/qlora/{name}.yaml"} <= FILES.keys()


@pytest.mark.parametrize("name", re.findall(r"`((?:algorithms|conf|benchmarks|tests)/[\w/.]+\.\w+)`", PAGE))
def test_what_the_page_names_is_there(name):
    assert name in FILES or (ROOT / name).is_file()


@pytest.mark.slow
def test_the_methods_tests_pass(copy):
    checked(copy, *(name for name in FILES if name.startswith("tests/")))


@pytest.mark.slow
def test_the_methods_keep_the_contract(copy):
    checked(copy, "tests/methods/test_contract.py", "-k", " or ".join(METHODS))


@pytest.mark.slow
def test_the_house_takes_the_methods(copy):
    checked(copy, "tests/house/test_layout.py", "tests/house/test_docstrings.py", "-k", "not tracked and not commit")
    checked(copy, "tests/house/test_configs.py", "-k", " or ".join(METHODS))
