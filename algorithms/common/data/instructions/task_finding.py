"""Which instruction tasks there are, and where their rows lie."""

import glob
import logging
import os
from collections import Counter
from pathlib import Path

from ...support.errors import ConfigError
from .task_file import TaskFile, read_task

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[4]


def find_tasks(given: list[str] | str | None) -> list[TaskFile]:
    """The tasks of data.tasks: YAMLs, folders or globs of them, relative ones also from the project's folder.

    Raises ConfigError; also where two have a name in common, or figures of a task and of a cluster would.
    """
    if not given:
        raise ConfigError("data.tasks: found none; expected task YAMLs, folders or globs of them; "
                          "fix: data.tasks=[FOLDER], see algorithms/common/data/instructions/task_file.py for a task's keys")
    entries = [given] if isinstance(given, str) else given
    paths = {os.path.abspath(path): path for entry in entries for path in _yamls(entry)}
    files: dict[str, TaskFile] = {}
    for path in paths.values():
        file = read_task(path)
        if file.name in files:
            raise ConfigError(f"data.tasks: found two tasks named {file.name}, {files[file.name].path} and {path}; "
                              "expected different names; fix: give one a name of its own")
        files[file.name] = file
    sizes = Counter(file.cluster for file in files.values())
    for file in files.values():
        alone = file.name == file.cluster and sizes[file.cluster] == 1
        if {file.name, file.cluster} & {"heldout", "trained"} or file.name in sizes and not alone:
            raise ConfigError(f"{file.path}: name: found the task {file.name} in the cluster {file.cluster}; expected a "
                              "name that no other cluster has (nor heldout, trained), or figures would mix; fix: rename one")
    return list(files.values())


def _yamls(given: str) -> list[str]:
    """The YAMLs of one entry, sorted."""
    for path in (given, os.path.join(PROJECT, given)):
        pattern = os.path.join(glob.escape(path), "*.yaml") if os.path.isdir(path) else path
        if found := [path] if os.path.isfile(path) else sorted(glob.glob(pattern)):
            return found
    raise ConfigError(f"data.tasks: found {given!r}, where no YAML is; expected a task's YAML, a folder or a glob of them; "
                      "fix: correct data.tasks")


def locate(files: list[TaskFile], path: str | list[str] | None) -> dict[str, str]:
    """Task → the path of its rows. A file's name is tried as it is, with and without .gz.

    path: null: beside each YAML, where all must be. A folder: tasks without their file there are left out. Files: each is
    taken by the tasks that name it; one that no task names, by the one task whose `file` is null. Raises ConfigError.
    """
    known = ", ".join(file.file for file in files if file.file is not None)
    if path is None:
        return {file.name: _beside(file) for file in files}
    found: dict[str, str] = {}
    if isinstance(path, str) and os.path.isdir(path):
        for file in files:
            if file.file is not None and (rows := _existing(path, file.file)):
                found[file.name] = rows
        if not found:
            raise ConfigError(f"data.path: found no file of any task in {path}; expected some of {known or 'no names'}, "
                              "each also .gz; fix: correct data.path, or name a task YAML of your own in data.tasks")
    else:
        for one in [path] if isinstance(path, str) else path:
            found |= dict.fromkeys(_takers(files, one, found, known), one)
    if missing := [f"{file.name} ({file.file})" for file in files if file.name not in found]:
        log.info("tasks left out, whose files are not in data.path: %s", ", ".join(missing))
    return found


def _beside(file: TaskFile) -> str:
    rows = file.file and _existing(os.path.dirname(file.path), file.file)
    if not rows:
        raise ConfigError(f"data.path: found null, and beside {file.path} no {file.file or 'file of its own'}; expected the "
                          "task's rows; fix: set data.path to a folder or a file")
    return rows


def _takers(files: list[TaskFile], path: str, found: dict[str, str], known: str) -> list[str]:
    """The tasks a file holds the rows of."""
    if not os.path.isfile(path):
        raise ConfigError(f"data.path: found nothing at {path}; expected a folder or a file of rows; fix: correct data.path")
    named = [file.name for file in files if file.file is not None and Path(path).name in _names(Path(file.file).name)]
    free = [file.name for file in files if file.file is None]
    named = named or free if len(free) == 1 else named
    if not named or found.keys() & named:
        what = f"a second file of {named[0]}" if named else "the file of no task"
        raise ConfigError(f"data.path: found {path}, {what}; expected one file each of the names the tasks know "
                          f"({known or 'none'}; each also .gz); fix: rename the file, or name a task YAML of your own in "
                          "data.tasks")
    return named


def _existing(folder: str, name: str) -> str | None:
    paths = [os.path.join(folder, one) for one in _names(name)]
    return next((path for path in paths if os.path.isfile(path)), None)


def _names(name: str) -> list[str]:
    return [name, name.removesuffix(".gz") if name.endswith(".gz") else name + ".gz"]
