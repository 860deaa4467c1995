"""Content as hashes: of JSON values, files, folders, models' folders."""

import hashlib
import json
import math
import os
import stat
from pathlib import Path
from typing import Any


def content_hash(obj: Any) -> str:
    """sha256 (64 hex characters) of `obj` as canonical JSON: sorted keys, no spaces, ASCII.

    TypeError or ValueError for what strict JSON cannot hold (other types, keys that are not strings, NaN, infinity).
    """
    _check_json(obj, "$")
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def file_digest(path: str | Path) -> str:
    """sha256 (64 hex characters) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(path: str | Path) -> str:
    """Content hash of a folder: relative names and bytes of all its files, not their times or modes.

    Links to files count as the files they lead to (model caches are made of such links). ValueError for links to
    folders and for what is no file; FileNotFoundError where there is no such folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    return content_hash({name: file_digest(path / name) for name in files_below(path)})


def weights_digest(folder: Path) -> str:
    """Content identity of a model's folder: its files' bytes; where they are large, the weights' sizes and times."""
    if bytes_below(folder) < 2**28:
        return folder_digest(folder)
    # reading tens of gigabytes at every start costs more than it protects
    return content_hash({path.relative_to(folder).as_posix(): [path.stat().st_size, path.stat().st_mtime_ns]
                         if path.suffix == ".safetensors" else file_digest(path)
                         for path in sorted(folder.rglob("*")) if path.is_file()})


def bytes_below(folder: Path) -> int:
    """The size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _check_json(obj: Any, where: str) -> None:
    # Exact types: json.dumps would write a bool key, an enum or a subclass of float as something that reads alike.
    if type(obj) is dict:
        for name, value in obj.items():
            if type(name) is not str:
                raise TypeError(f"{where}: key {name!r} is a {type(name).__name__}; expected a string")
            _check_json(value, f"{where}.{name}")
    elif type(obj) in (list, tuple):
        for index, value in enumerate(obj):
            _check_json(value, f"{where}[{index}]")
    elif type(obj) is float:
        if not math.isfinite(obj):
            raise ValueError(f"{where}: {obj} is not a JSON number")
    elif obj is not None and type(obj) not in (str, int, bool):
        raise TypeError(f"{where}: a {type(obj).__name__} is not a JSON value")


def files_below(folder: Path, links: bool = True) -> list[str]:
    """Relative POSIX names of all files below `folder`, sorted. ValueError for links (as asked) and special files."""
    names = []
    for parent, folders, files in os.walk(folder, onerror=_raise):
        for name in folders:
            if (Path(parent) / name).is_symlink():
                raise ValueError(f"{Path(parent) / name}: a link to a folder")
        for name in files:
            path = Path(parent) / name
            if path.is_symlink() and not links:
                raise ValueError(f"{path}: a link")
            if not stat.S_ISREG(path.stat().st_mode):
                raise ValueError(f"{path}: not a regular file")
            names.append(path.relative_to(folder).as_posix())
    return sorted(names)


def _raise(error: OSError) -> None:
    raise error
