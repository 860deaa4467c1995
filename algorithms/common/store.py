"""The stage store: folders of artifacts kept by the content that determines them, shared by processes.

    {folder}/{kind}-{key[:16]}/                  a complete entry: its files and manifest.json
    {folder}/.building/{kind}-{key[:16]}-…/      an entry being built; renamed into place when complete
    {folder}/.work/{kind}-{key[:16]}/            the builder's checkpoints; they outlive a kill
    {folder}/.locks/{kind}-{key[:16]}.lock       held by whoever builds

An entry appears by one rename, so it is never seen half-written, and every `get` compares it with its manifest.
Locks are `filelock.FileLock`, that is flock(2): the kernel drops them when their process dies, however it dies, so a
killed builder blocks nobody. A lock made of a file's existence would outlive it.
"""

import errno
import hashlib
import json
import logging
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import ConfigError, UserError

log = logging.getLogger(__name__)

VERSION = 1  # of the layout above and of the manifest; part of every key
MANIFEST = "manifest.json"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_MISSHAPEN = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)

Build = Callable[[Path, Path], None]


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
    return content_hash({name: file_digest(path / name) for name in _files(path)})


def weights_digest(folder: Path) -> str:
    """Content identity of a model's folder: its files' bytes; where they are large, the weights' sizes and times."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size < 2**28:
        return folder_digest(folder)
    # reading tens of gigabytes at every start costs more than it protects
    return content_hash({path.relative_to(folder).as_posix(): [path.stat().st_size, path.stat().st_mtime_ns]
                         if path.suffix == ".safetensors" else file_digest(path)
                         for path in sorted(folder.rglob("*")) if path.is_file()})


class Store:
    """Artifacts by kind and description; see the module's text for the layout.

    `folder=None` is alignment-zoo/stages in the user's cache folder. ConfigError if the folder cannot be written to.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = _default_folder() if folder is None else Path(folder).expanduser().absolute()
        try:
            self._make_rooms()
            with tempfile.TemporaryFile(dir=self.folder / ".building"):
                pass  # fails here, before anything is computed, where the folder is read-only
        except OSError as error:
            raise (self._full(error, "opening the store") if is_full(error) else self._unusable(error)) from error

    def key(self, kind: str, description: dict) -> str:
        """32 hex characters of the hash of kind, description and the store's version."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.]*", kind):
            raise ValueError(f"kind {kind!r}: expected lower-case letters, digits, '_' and '.'")
        if not isinstance(description, dict):
            raise TypeError(f"description of {kind}: expected a dict, found {type(description).__name__}")
        return content_hash({"kind": kind, "version": VERSION, "description": description})[:32]

    def has(self, kind: str, description: dict) -> bool:
        """Whether a complete entry is there whose files all match its manifest."""
        entry, key = self._entry(kind, description)
        return entry.is_dir() and _damage(entry, key) is None

    def get(self, kind: str, description: dict, build: Build) -> Path:
        """The folder of a complete, verified entry; built here, or by another process meanwhile, if it is not there.

        `build(target, work)` fills `target`, an empty folder whose content becomes the entry. `work` is a folder of
        this entry alone for checkpoints: it outlives kills and errors and is removed once the entry is complete.
        An entry that does not match its manifest is reported and built again. If `build` raises, no entry appears.
        UserError where the disk is full, ConfigError where the store cannot be written to.
        """
        entry, key = self._entry(kind, description)
        work = self.folder / ".work" / entry.name
        with self._explained(f"building {entry.name}"):
            if not work.exists() and entry.is_dir() and _damage(entry, key) is None:
                return entry
            self._make_rooms()  # a user may have emptied the folder since
            with self._lock(entry.name):
                self._sweep(entry.name)
                if os.path.lexists(entry) and (damage := _damage(entry, key)):
                    log.warning("stage %s in %s is damaged (%s); it is built again", entry.name, self.folder, damage)
                    self._discard(entry)
                if not os.path.lexists(entry):
                    manifest = {"version": VERSION, "key": key, "kind": kind, "description": description}
                    self._build(entry, manifest, build, work)
                shutil.rmtree(work, ignore_errors=True)
        return entry

    def entries(self, kind: str) -> Iterator[tuple[dict, Path]]:
        """(description, folder) of every complete, verified entry of a kind, by name."""
        for entry in sorted(self.folder.glob(f"{kind}-*")):
            try:
                manifest = json.loads((entry / MANIFEST).read_text(encoding="ascii"))
                description, key = manifest["description"], manifest["key"]
            except (OSError, ValueError, TypeError, KeyError):
                continue  # damaged: `get` reports it and builds it again where it is asked for
            if manifest.get("kind") == kind and _damage(entry, key) is None:
                yield description, entry

    def _build(self, entry: Path, manifest: dict, build: Build, work: Path) -> None:
        target = self._temporary(entry.name)
        target.mkdir()
        work.mkdir(exist_ok=True)
        try:
            build(target, work)
            _seal(target, manifest)
            try:
                os.rename(target, entry)
            except OSError:
                # Where locks do not hold (emptied store, NFS mounted without them) another may have been faster.
                if _damage(entry, manifest["key"]) is not None:
                    raise
            _sync(self.folder)
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def _make_rooms(self) -> None:
        for part in (".building", ".work", ".locks"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)

    def _entry(self, kind: str, description: dict) -> tuple[Path, str]:
        key = self.key(kind, description)
        return self.folder / f"{kind}-{key[:16]}", key

    def _temporary(self, name: str) -> Path:
        # A name of its own each time: a child that outlives a killed builder must not write into its successor's.
        return self.folder / ".building" / f"{name}-{secrets.token_hex(6)}"

    def _sweep(self, name: str) -> None:
        """Remove what killed builders of this entry left. Only under the entry's lock."""
        for leftover in (self.folder / ".building").glob(f"{name}-*"):
            _remove(leftover)

    def _discard(self, entry: Path) -> None:
        grave = self._temporary(entry.name)
        os.rename(entry, grave)  # at once out of sight; a kill during the removal leaves nothing half there
        _remove(grave)

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        lock = FileLock(self.folder / ".locks" / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("stage %s is being built by another process; waiting for it", name)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Turn a full or unwritable disk into an error that says what the user can do."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if is_full(error):
                raise self._full(error, doing) from error
            if isinstance(error, OSError) and error.errno in _DENIED and self._is_own(error.filename):
                raise self._unusable(error) from error
            raise

    def _full(self, error: Exception, doing: str) -> UserError:
        return UserError(
            f"disk full while {doing} in {self.folder}: {error}. Complete stages and the checkpoints of this one are "
            "intact; fix: free some space, or set stages.folder=PATH to another disk, and run the same command again"
        )

    def _unusable(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"stages.folder: found {self.folder}, which cannot be used ({error}); expected a folder that can be read "
            "and written; fix: set stages.folder=PATH"
        )

    def _is_own(self, name: Any) -> bool:
        """Whether a failed system call was about the store; a builder may fail on files elsewhere."""
        return isinstance(name, (str, os.PathLike)) and Path(name).is_relative_to(self.folder)


def _default_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # unset, empty or relative: the XDG specification says to use the default
        cache = Path.home() / ".cache"
    return cache / "alignment-zoo" / "stages"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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


def _files(folder: Path, links: bool = True) -> list[str]:
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


def _seal(target: Path, manifest: dict) -> None:
    """Write the manifest and bring everything to the disk, so that the rename that follows publishes whole files."""
    names = _files(target, links=False)
    if MANIFEST in names:
        raise ValueError(f"{MANIFEST} is the store's own; a stage cannot write one")
    files = {name: {"size": (target / name).stat().st_size, "sha256": file_digest(target / name)} for name in names}
    manifest = {**manifest, "files": files}
    manifest["digest"] = content_hash(manifest)
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False)
    (target / MANIFEST).write_text(text + "\n", encoding="ascii")
    for name in (*names, MANIFEST):
        _sync(target / name)
    for parent, _, _ in os.walk(target):
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damage(entry: Path, key: str) -> str | None:
    """What is wrong with an entry, in words; None if it is whole."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="ascii"))
        digest = manifest.pop("digest")
        if content_hash(manifest) != digest or manifest["key"] != key:
            return f"{MANIFEST} was edited"
        expected = manifest["files"]
        found = set(_files(entry, links=False)) - {MANIFEST}
        if odd := sorted(found ^ set(expected)):
            return f"{odd[0]} is {'not in the manifest' if odd[0] in found else 'missing'}"
        for name, record in expected.items():
            size = (entry / name).stat().st_size
            if size != record["size"]:
                return f"{name} has {size} bytes, its manifest says {record['size']}"
        for name, record in expected.items():
            if file_digest(entry / name) != record["sha256"]:
                return f"{name} has another content than its manifest says"
    except OSError as error:
        if error.errno not in _MISSHAPEN:
            raise  # too many open files, a failing disk: no reason to throw away hours of work
        return str(error)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk, or a share of it, is full."""
    # safetensors and torch wrap the system's error in their own, which carries only its text.
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
