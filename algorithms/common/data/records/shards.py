"""Globs and folders of shards → the files they stand for, in an order that names alone decide.

A folder is read as its data files, at any depth. Those whose names say which split they are of (``train-00000-of-2``,
``test/part.jsonl``) are told apart; a file that says nothing is of the training split.
"""

import glob
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .lines import data_error

SAVED = ("state.json", "dataset_dict.json")     # what datasets.save_to_disk leaves in a folder
TRAIN = "train"
_SPLITS = {"train": "train training", "validation": "validation valid val dev",
           "test": "test tests testing eval evaluation"}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words.split()}
_NAMED_SPLIT = re.compile(rf"(?<![A-Za-z0-9])({'|'.join(_SPLIT_OF)})(?![A-Za-z])", re.IGNORECASE)
ABOUT = ("dataset_info.json", "dataset_infos.json")     # what the hub's tools write beside the data
SHOWN = 5                                       # files that a message names


@dataclass(frozen=True)
class Shards:
    """The files that one path stands for, `files`; and what lies beside them in no format that is read, `others`."""

    path: str
    files: tuple[str, ...]
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = list(map(os.path.basename, self.files))
        several = f"{len(names)} files, {names[0]} to {names[-1]}"
        told = f"{self.path}: {several if len(names) > 1 else names[0]}"
        left = [os.path.relpath(path, self.path) for path in self.others[:SHOWN]]
        return told + (f"; not read: {', '.join(left)}{', …' * (len(self.others) > SHOWN)}" if left else "")


def found_in(path: str, formats: Mapping[str, str] | None, split: str = TRAIN) -> Shards:
    """What `path` stands for: itself where it is a file, a folder of ``datasets.save_to_disk`` or nothing at all;
    else a folder's files of `split`, or what a glob matches, folders with their files.

    formats: the endings of the names that are read → their format; None: any name. Raises DataError where there is no
    such file.
    """
    if os.path.isdir(path) and not is_saved(path):
        return _in_folder(path, formats, split)
    if os.path.exists(path) or not glob.has_magic(path):
        return Shards(path, (path,))
    named = next(i for i, part in enumerate(path.split(os.sep)) if glob.has_magic(part))    # what stands before it
    hidden = not _visible(os.path.basename(path))
    matched = [one for one in glob.glob(path, recursive=True)
               if hidden or _visible(os.sep.join(one.split(os.sep)[named:]))]
    matched.sort(key=natural)
    folders = [] if path.endswith("**") else filter(os.path.isdir, matched)     # ** matches what lies in them, too
    parts = {folder: found_in(folder, formats, split) for folder in folders}
    files = [one for one in matched if os.path.isfile(one)]
    known = {one for one in files if _format(one, formats) is not None} or set([] if parts else files)
    read = [file for one in matched for file in (parts[one].files if one in parts else [one] if one in known else [])]
    if not read:
        raise data_error(path, 1, "file", "no file that this pattern matches", "at least one", "check data.path")
    found = dict.fromkeys(read)
    return Shards(path, tuple(found), tuple(one for one in files if one not in found))


def is_saved(path: str) -> bool:
    """Whether a folder was written by ``datasets.save_to_disk``."""
    return any(os.path.isfile(os.path.join(path, name)) for name in SAVED)


def splits_of(path: str, formats: Mapping[str, str] | None) -> tuple[str, ...]:
    """The splits of a saved DatasetDict, or of a folder whose files' names say theirs; none of anything else."""
    saved = os.path.join(path, SAVED[1])
    if os.path.isfile(saved):
        try:
            with open(saved, encoding="utf-8") as file:
                return tuple(json.load(file)["splits"])
        except (OSError, ValueError, KeyError, TypeError):      # whoever reads the folder is told
            return ()
    return _shards_of(path, formats)[1] if os.path.isdir(path) and not is_saved(path) else ()


def split_of(path: str) -> str:
    """The split that a file's name says, by the words the hub knows them by; `train` where it says none."""
    return _split_named(path) or TRAIN


def natural(path: str) -> list:
    """A key that sorts numbers within names by their value: part-2 comes before part-10."""
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]


def grouped(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of files, once for all of the same: "a.jsonl and 11 more files" → it."""
    paths: dict[str, list[str]] = {}
    for path, value in told.items():
        paths.setdefault(repr(value), []).append(path)
    return {of[0] if len(of) == 1 else f"{of[0]} and {len(of) - 1} more file{'s' * (len(of) > 2)}": told[of[0]]
            for of in paths.values()}


def _split_named(path: str) -> str | None:
    found = _NAMED_SPLIT.search(path)
    return _SPLIT_OF[found[1].lower()] if found else None


def _in_folder(folder: str, formats: Mapping[str, str] | None, split: str) -> Shards:
    of, splits, others = _shards_of(folder, formats)
    if not of:
        there = [os.path.relpath(file, folder) for file in others]
        named = f" with {', '.join(there[:SHOWN])}{', …' * (len(there) > SHOWN)}" if there else ", empty,"
        raise data_error(folder, 1, "file", f"a folder{named} and no data file", "files of a format that is read, or a "
                         "folder written by datasets.save_to_disk",
                         "set data.path to the files, and data.format where their names do not say it")
    chosen = _of_split(folder, of, split) if splits else of[TRAIN]
    _check_one_format(folder, chosen, formats)
    return Shards(folder, tuple(chosen), tuple(others))


def _shards_of(folder: str, formats: Mapping[str, str] | None
               ) -> tuple[dict[str, list[str]], tuple[str, ...], list[str]]:
    """(split → its files, the splits where names say them, the files of no format that is read) of a folder."""
    of: dict[str, list[str]] = {}
    others, named = [], False
    for file in _walk(folder):
        path = os.path.relpath(file, folder)
        if not _visible(path):
            continue
        if _format(file, formats) is None:
            others.append(file)
        else:
            of.setdefault(split_of(path), []).append(file)
            named = named or _split_named(path) is not None
    return of, tuple(of) if named else (), others


def _walk(folder: str) -> list[str]:
    """All files and saved datasets in a folder, sorted; links to folders are not followed."""
    found = []
    for place, inner, names in os.walk(folder):
        if is_saved(place):
            inner.clear()
            names = [""]
        found += [os.path.join(place, name).removesuffix(os.sep) for name in names]
    return sorted(found, key=natural)


def _visible(path: str) -> bool:
    """Whether no part of a path is hidden, or one of the marks that Spark leaves (_SUCCESS)."""
    return not any(part.startswith((".", "_")) for part in path.split(os.sep))


def _format(file: str, formats: Mapping[str, str] | None) -> str | None:
    """The format that a file's name says, "" where it need not say one, "saved" of a saved dataset; None: no data."""
    if formats is None or os.path.isdir(file):
        return "saved" if os.path.isdir(file) else ""
    name = file.lower()
    if os.path.basename(name) in ABOUT:
        return None
    return next((formats[ending].partition(".")[0] for ending in formats if name.endswith("." + ending)), None)


def _of_split(folder: str, of: dict[str, list[str]], split: str) -> list[str]:
    wanted = _SPLIT_OF.get(split, split)
    if wanted not in of:
        raise data_error(folder, 1, "file", f"files of the splits {', '.join(sorted(of))}, by their names",
                         f"some of {split}", f"set data.split={min(of)}, or data.path to the files")
    return of[wanted]


def _check_one_format(folder: str, files: list[str], formats: Mapping[str, str] | None):
    """Refuses a folder whose files are of several formats: one of them is likely no data."""
    first = {_format(file, formats): file for file in reversed(files)}
    if len(first) > 1:
        some = " and ".join(os.path.relpath(file, folder) for file in first.values())
        endings = [_ending(file, formats) for file in files]
        mine = max(endings, key=endings.count)
        raise data_error(folder, 1, "file", f"files of several formats, such as {some}", "one format in a folder",
                         f"set data.path to those to read, as in '{folder}/**/*.{mine}'")


def _ending(file: str, formats: Mapping[str, str]) -> str:
    """What the name ends with, packing included, as it is written there."""
    ending = next((one for one in formats if file.lower().endswith("." + one)), "")
    return file[len(file) - len(ending):]
