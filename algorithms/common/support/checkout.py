"""Which commit of the project this process runs, and whether its files are those of the commit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath

CODE = (".py", ".yaml", ".yml", ".jinja", ".jinja2", ".j2")  # what a commit that lacks such a file cannot compute again


def project() -> Path:
    """The folder of the project's packages."""
    return Path(sys.modules[__name__.partition(".")[0]].__path__[0]).resolve().parent


def local_folder(name: str) -> str:
    """A folder's absolute path, whether it is named from here or from the project's folder; another name as it is."""
    for path in (Path(name).expanduser(), project() / name):
        if path.is_dir():
            return str(path.resolve())
    return name


def commit(code: Iterable[Path] = ()) -> str | None:
    """The project's commit, with "+changes" where the work tree differs, or one of the files in ``code``, which a run
    computes with, is not in the commit: ignored, or outside the project. None outside a checkout."""
    found, code = commit_of(project()), list(code)
    if found is None or found.endswith("+changes") or not code:
        return found
    known = {(project() / name).resolve() for name in _known(project())}
    return found + "+changes" * any(path.resolve() not in known for path in code)


@cache
def _known(folder: Path) -> tuple[str, ...]:
    """The files below a folder that git knows, as paths from there."""
    return tuple(filter(None, (_git(folder, "ls-files", "-z") or "").split("\0")))


@cache
def commit_of(folder: Path) -> str | None:
    """The commit of a folder, with "+changes" where one of its files was changed or git does not know code in it.
    Git is asked once."""
    status = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=all", "-z", "--", ".")
    known = _known(folder)
    if status is None or not known:
        return None
    head, changed, unknown = "", False, []
    for line in status.split("\0"):
        if line.startswith("# branch.oid "):
            head = line.removeprefix("# branch.oid ")
        elif line.startswith("? "):
            unknown.append(line[2:])
        elif line and not line.startswith("# "):
            changed = True
    if not head or head == "(initial)":
        return None
    prefix = _git(folder, "rev-parse", "--show-prefix") or ""  # status tells paths from the repository's top
    inside = [path.removeprefix(prefix.strip()) for path in unknown]
    return head + ("+changes" if changed or any(_is_code(path, known) for path in inside) else "")


def _is_code(path: str, known: Iterable[str]) -> bool:
    """Whether a file that git does not know is a module, or a setting or template that lies where the project's code
    does: runs and users' data hold none of the one, and lie elsewhere than the other.

    The nearest folder that holds known files decides, by whether code is among them.
    """
    file = PurePosixPath(path)
    if file.suffix == ".py":  # it may be imported from anywhere
        return True
    if file.suffix not in CODE:
        return False
    for folder in list(file.parents)[:-1]:
        if beneath := [one for one in known if one.startswith(f"{folder}/")]:
            return any(one.endswith(CODE) for one in beneath)
    return False


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return None if done.returncode else done.stdout
