"""The commit that results name: edited files and code that git does not know are changes, runs and data are not."""

import subprocess

import pytest

from algorithms.common.support import checkout
from algorithms.common.support.checkout import commit_of


def git(folder, *arguments: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path):
    """A checkout with code, results and an ignored folder of runs; its commit is asked for anew each time."""
    folder = tmp_path / "project"
    for name in ("run.py", "zoo/method.py", "conf/method/one.yaml", "zoo/results/table.md", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("1\n")
    (folder / ".gitignore").write_text("outputs/\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def told(folder) -> str | None:
    commit_of.cache_clear()
    checkout._known.cache_clear()
    return commit_of(folder)


@pytest.mark.parametrize("name, changes", [
    ("zoo/other.py", True), ("zoo/deep/er/other.py", True), ("conf/method/two.yaml", True), ("zoo/chat.jinja", True),
    ("zoo/chat.j2", True),
    ("methods/rewards.py", True),
    ("mine.py", True), ("zoo/method.py", True), ("README.md", True),
    ("outputs/run.py", False), ("runs/1/config.yaml", False), ("zoo/results/new/config.yaml", False),
    ("zoo/rows.jsonl", False), ("data/task.yaml", False), ("rows.yaml", False)])
def test_what_counts_as_a_change(project, name, changes):
    head = git(project, "rev-parse", "HEAD")
    assert told(project) == head
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / name).write_text("2\n")
    assert told(project) == head + "+changes" * changes


def test_a_project_in_a_folder_of_a_checkout(project):
    (project / "zoo/new.py").write_text("")
    assert told(project / "zoo").endswith("+changes") and not told(project / "conf").endswith("+changes")


def test_no_checkout(tmp_path, project):
    assert told(tmp_path) is None
    (project / "outputs/env").mkdir(parents=True)
    assert told(project / "outputs/env") is None, "installed into somebody else's checkout"


@pytest.mark.parametrize("name, changes", [("zoo/method.py", False), ("outputs/mine.py", True), ("../mine.py", True)])
def test_code_that_a_run_names_is_in_the_commit_or_a_change(project, monkeypatch, name, changes):
    """A reward function in a folder that is ignored, or outside the project."""
    monkeypatch.setattr(checkout, "project", lambda: project.resolve())
    head = git(project, "rev-parse", "HEAD")
    (project / name).parent.mkdir(exist_ok=True)
    if changes:
        (project / name).write_text("2\n")
    assert told(project) == head and checkout.commit([project / name]) == head + "+changes" * changes


def test_git_is_asked_once(project, monkeypatch):
    before = told(project)
    monkeypatch.setattr(checkout, "_git", lambda *_: pytest.fail("asked again"))
    assert commit_of(project) == before
