"""What was read of files, kept: the sets of a data source under all that determines them, so that the same files are
not read again.

    {cache folder}/reading-{key}/   the sets' Arrow files, which of their records each set has, report, refused rows and
                                    what the log said

The key is of the files' bytes and names, the settings, the code that reads (a mapper's and a filter's too) and the
libraries' versions. Nothing is kept where a user's mapper or filter may read more than its row: no key would know what.
An entry is made and verified as every stage is (``support.store``); it is safe to delete.
"""

import json
import logging
import os
import platform
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...support import phases
from ...support.collector import leaving_alone
from ...support.digests import content_hash, file_digest, folder_digest
from ...support.errors import ConfigError, DataError
from ...support.phases import progress
from ...support.plain import plain
from ...support.provenance import code_of, installed
from ...support.purity import beyond_arguments
from ...support.store import Store
from .own_files import parts_of
from .readers import EXTENSIONS
from .refused import RefusedRows
from .shards import found_in
from .storage import Records, cache_folder
from .told import LoadReport
from .watching import MEGABYTE, size_of

log = logging.getLogger(__name__)

SMALL = 1 << 20             # bytes on disk; what is smaller is read as fast as it is looked up
LIBRARIES = ("datasets", "numpy", "pyarrow")
SETS, REPORT, REFUSED, LOG = "sets.json", "report.json", "refused.jsonl", "log.json"
_PACKAGE = __name__.rpartition(".data.")[0]  # votes are made scores of elsewhere

Sets = dict[str, Records | None]


class _Changed(Exception):
    """The files are not what they were when their bytes were looked at: what was read of them, the argument, is not
    kept."""


def kept(data: Any, read: Callable[[], tuple[Sets, LoadReport]]) -> tuple[Sets, LoadReport]:
    """What `read` makes of a FileData's files, or what it made of the same before; the log tells the same either way.

    Files that are small or no regular ones, and hub datasets, are read each time.
    """
    files = _files(data)
    before = files and _stats(files)
    if not before or sum(map(size_of, files)) < SMALL:
        return read()
    description = _description(data, files)
    if description is None:
        return read()
    made = False

    def build(target: Path, work: Path) -> None:
        nonlocal made
        with _listening() as told, leaving_alone():
            found = read()
        if _files(data) != files or _stats(files) != before:
            raise _Changed(*found)
        made = True
        _write(target, *found)
        (target / LOG).write_text(json.dumps(told), encoding="ascii")

    try:
        entry = Store(cache_folder()).get("reading", description, build)
    except _Changed as changed:
        log.warning("%s: found other content after reading than before; not kept", data.told())
        return changed.args
    if not made:
        log.info("reading kept: %s is as it was read before; not read again (%s, safe to delete)", data.told(), entry)
        for name, level, message in json.loads((entry / LOG).read_text(encoding="ascii")):
            logging.getLogger(name).log(level, "%s", message)
    return _read(entry)


# ---- what determines it


def _files(data: Any) -> list[str] | None:
    """The files and saved folders that are read; None where something else is, or a file cannot be found."""
    found: list[str] = []
    for part in parts_of(data).values():
        if not part.path:
            return None
        try:
            found += [file for shards in _shards(part) for file in shards.files]
        except DataError:       # whoever reads is told
            return None
    regular = all(os.path.isdir(file) or os.path.isfile(file) and stat.S_ISREG(os.stat(file).st_mode) for file in found)
    return list(dict.fromkeys(found)) if regular else None


def _shards(part: Any) -> Iterator[Any]:
    for path in [part.path] if isinstance(part.path, (str, os.PathLike)) else part.path:
        yield found_in(os.fspath(path), EXTENSIONS if part.format is None else None, part.split)


def _stats(files: list[str]) -> list[tuple] | None:
    """What changes with a file's content; None where one is gone."""
    inside = [os.path.join(place, name) for file in files for place, _, names in os.walk(file) for name in names]
    try:
        found = list(map(os.stat, sorted([*files, *inside])))
    except OSError:
        return None
    return [(one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in found]


def _description(data: Any, files: list[str]) -> dict | None:
    """All that determines what is read; None where that cannot be told. It is written down, so of settings and names
    no more than a hash."""
    functions = data.mapper, data.filter, data.reading, data.votes and type(data.votes)
    try:
        # what is the truth changes no set, but whether there is one what is said; what is measured neither
        settings = content_hash([plain(_exact(replace(data, gold=None, measure=None))), data.gold is None])
        code, beyond = code_of(type(data), functions), beyond_arguments(functions)
    except (ConfigError, TypeError, ValueError):
        return None
    if beyond is not None:
        log.info("read each time: a function that the data names may depend on more than its row (%s), and so nothing "
                 "is kept", beyond)
        return None
    digests = {}
    with progress("comparing the files with what was read before", sum(map(size_of, files)) / MEGABYTE, "MB",
                  digits=1) as advance:
        for file in files:
            try:
                digests[file] = folder_digest(file) if os.path.isdir(file) else file_digest(file)
            except (OSError, ValueError):       # whoever reads is told
                return None
            advance(size_of(file) / MEGABYTE)
    read = {name: list(map(str, _shards(part))) for name, part in parts_of(data).items()}
    return {"settings": settings, "files": content_hash([digests, read]), "code": code,
            "versions": {"python": platform.python_version(), **installed(LIBRARIES)}}


def _exact(value: Any) -> Any:
    """Settings as lists of pairs: of what has a name, `plain` leaves out what sounds like a secret, such as a mapper's
    argument `key`."""
    if isinstance(value, partial):
        return [value.func, _exact(value.args), _exact(value.keywords)]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value), *([one.name, _exact(getattr(value, one.name))] for one in fields(value))]
    if isinstance(value, Mapping):
        return [[_exact(key), _exact(one)] for key, one in value.items()]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(map(_exact, value)) if isinstance(value, (list, tuple)) else value


# ---- an entry


def _write(target: Path, sets: Sets, report: LoadReport) -> None:
    names: dict[str, str] = {}      # path of an Arrow file → its name here
    told: dict[str, dict | None] = {}
    for name, records in sets.items():
        if records is None:
            told[name] = None
            continue
        if records.path not in names:
            names[records.path] = f"{len(names)}.arrow"
            _link(records.path, target / names[records.path])
        if records.indices is not None:
            np.save(target / f"{name}.npy", records.indices, allow_pickle=False)
        told[name] = {"file": names[records.path], "rows": records.rows, "selected": records.indices is not None}
    plainly = asdict(replace(report, refused=None))
    (target / REPORT).write_text(json.dumps(plainly), encoding="ascii")
    with open(target / REFUSED, "w", encoding="ascii") as file:
        file.writelines(json.dumps(row) + "\n" for row in report.refused)
    (target / SETS).write_text(json.dumps(told), encoding="ascii")


def _link(path: str, to: Path) -> None:
    try:
        os.link(path, to)
    except OSError:         # a file system without links
        shutil.copyfile(path, to)


def _read(entry: Path) -> tuple[Sets, LoadReport]:
    sets: Sets = {}
    for name, told in json.loads((entry / SETS).read_text(encoding="ascii")).items():
        indices = np.load(entry / f"{name}.npy", allow_pickle=False) if told and told["selected"] else None
        sets[name] = Records(os.fspath(entry / told["file"]), told["rows"], indices) if told else None
    report = LoadReport(**json.loads((entry / REPORT).read_text(encoding="ascii")))
    report.refused = RefusedRows.of(entry / REFUSED)
    return sets, report


# ---- what the log says


class _Listener(logging.Handler):
    """Notes what it hears, and hands on what would be heard without it."""

    def __init__(self, logger: logging.Logger):
        super().__init__()
        self.logger, self.heard, self.level_before = logger, [], logger.getEffectiveLevel()

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != phases.__name__:      # how far it is
            self.heard.append((record.name, record.levelno, record.getMessage()))
        if record.levelno >= self.level_before:
            self.logger.parent.handle(record)


@contextmanager
def _listening() -> Iterator[list[tuple[str, int, str]]]:
    """What this package's loggers say meanwhile, at whatever level the log is shown."""
    logger = logging.getLogger(_PACKAGE)
    listener, before = _Listener(logger), (logger.level, logger.propagate)
    logger.addHandler(listener)
    logger.setLevel(min(logging.INFO, listener.level_before))
    logger.propagate = False
    try:
        yield listener.heard
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before[0])
        logger.propagate = before[1]
