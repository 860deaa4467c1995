"""The stage store: folders of artifacts kept by the content that determines them, shared by processes.

    {folder}/{kind}-{key[:16]}/                  a complete entry: its files and manifest.json
    {folder}/.building/{kind}-{key[:16]}-…/      an entry being built; renamed into place when complete
    {folder}/.work/{kind}-{key[:16]}/            the builder's checkpoints; they outlive a kill
    {folder}/.locks/{kind}-{key[:16]}.lock       held by whoever builds

An entry appears by one rename, so it is never seen half-written, and every `get` compares it with its manifest.
Locks are `filelock.FileLock`, that is flock(2): the kernel drops them when their process dies, however it dies, so a
killed builder blocks nobody. A lock made of a file's existence would outlive it.

The manifest also says when and at which commit an entry was made. So the log tells what a kept entry is that is used
again, and what differs where one is made anew beside another like it.
"""

import errno
import json
import logging
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .cache import user_cache
from .checkout import commit
from .differences import differences, listed, value_at
from .digests import content_hash, file_digest, files_below
from .errors import ConfigError, UserError, full_disk
from .progress import tell

log = logging.getLogger(__name__)

VERSION = 1  # of the layout above and of the manifest; part of every key
MANIFEST = "manifest.json"

_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_MISSHAPEN = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)

Build = Callable[[Path, Path], None]


class Store:
    """Artifacts by kind and description; see the module's text for the layout.

    `folder=None` is stages in the user's cache folder. ConfigError if the folder cannot be written to.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = user_cache() / "stages" if folder is None else Path(folder).expanduser().absolute()
        self._told: set[Path] = set()  # entries that the log has spoken of
        try:
            self._make_rooms()
            with tempfile.TemporaryFile(dir=self.folder / ".building"):
                pass  # fails here, before anything is computed, where the folder is read-only
        except OSError as error:
            raise (self._full(error, "opening the store") or self._unusable(error)) from error

    def key(self, kind: str, description: dict) -> str:
        """32 hex characters of the hash of kind, description and the store's version."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.]*", kind):
            raise ValueError(f"kind {kind!r}: expected lower-case letters, digits, '_' and '.'")
        if not isinstance(description, dict):
            raise TypeError(f"description of {kind}: expected a dict, found {type(description).__name__}")
        return content_hash({"kind": kind, "version": VERSION, "description": description})[:32]

    def name(self, kind: str, description: dict) -> str:
        """Of the folder in the store that holds such an entry, once it is built."""
        return self._entry(kind, description)[0].name

    def has(self, kind: str, description: dict) -> bool:
        """Whether a complete entry is there whose files all match its manifest."""
        entry, key = self._entry(kind, description)
        return entry.is_dir() and _damage(entry, key) is None

    def get(self, kind: str, description: dict, build: Build, name: str = "", alike: tuple[str, ...] = ()) -> Path:
        """The folder of a complete, verified entry; built here, or by another process meanwhile, if it is not there.

        `build(target, work)` fills `target`, an empty folder whose content becomes the entry. `work` is a folder of
        this entry alone for checkpoints: it outlives kills and errors and is removed once the entry is complete.
        An entry that does not match its manifest is reported and built again. If `build` raises, no entry appears.
        With a `name` the log says, once for every entry, whether a kept one is used or what makes this one another than
        the nearest kept one of the same values at `alike`, dotted places in descriptions.
        UserError where the disk is full, ConfigError where the store cannot be written to.
        """
        entry, key = self._entry(kind, description)
        work = self.folder / ".work" / entry.name
        with self._explained(f"building {entry.name}"):
            if not work.exists() and entry.is_dir() and _damage(entry, key) is None:
                if name:
                    self._tell(entry, f"{name}: kept stage {entry.name} is used, {_made(_manifest(entry))}")
                return entry
            self._make_rooms()  # a user may have emptied the folder since
            with self._lock(entry.name, name or kind):
                self._sweep(entry.name)
                if os.path.lexists(entry) and (damage := _damage(entry, key)):
                    log.warning("stage %s in %s is damaged (%s); it is built again", entry.name, self.folder, damage)
                    self._discard(entry)
                if not os.path.lexists(entry):
                    if name and (near := self._nearest(kind, description, alike)):
                        self._tell(entry, f"{name}: stage {entry.name} is made anew; what differs from the kept one "
                                          f"{_made(near[0])}: {listed(near[1])}")
                    self._told.add(entry)
                    manifest = {"version": VERSION, "key": key, "kind": kind, "description": description,
                                "commit": commit()}
                    self._build(entry, manifest, build, work)
                shutil.rmtree(work, ignore_errors=True)
        return entry

    def _tell(self, entry: Path, text: str) -> None:
        if entry not in self._told:
            self._told.add(entry)
            log.info("%s", text)

    def _nearest(self, kind: str, description: dict, alike: tuple[str, ...]) -> tuple[dict, list[str]] | None:
        """The manifest and the differing parts of the kept entry that differs in the fewest, the newest of these."""
        found = []
        for path in self.folder.glob(f"{kind}-*/{MANIFEST}"):
            manifest = _manifest(path.parent)
            kept = manifest.get("description")
            if isinstance(kept, dict) and all(value_at(kept, place) == value_at(description, place) for place in alike):
                if parts := differences(kept, description):
                    found.append((manifest, parts))
        found.sort(key=lambda one: str(one[0].get("made", "")), reverse=True)
        return min(found, key=lambda one: len(one[1]), default=None)

    def entries(self, kind: str, known: Container[str] = ()) -> Iterator[tuple[dict, Path]]:
        """(description, folder) of every complete, verified entry of a kind, by name, but for folders of ``known``
        names."""
        for entry in sorted(self.folder.glob(f"{kind}-*")):
            if entry.name in known:
                continue
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
    def _lock(self, name: str, stage: str) -> Iterator[None]:
        lock = FileLock(self.folder / ".locks" / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("stage %s is being built by another process; waiting for it", name)
            tell(f"waiting for {stage}")
            lock.acquire()
        tell(stage)
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
            if full := self._full(error, doing):
                raise full from error
            if isinstance(error, OSError) and error.errno in _DENIED and self._is_own(error.filename):
                raise self._unusable(error) from error
            raise

    def _full(self, error: Exception, doing: str) -> UserError | None:
        return full_disk(error, f"{doing} in {self.folder}", "complete stages and this one's checkpoints are intact")

    def _unusable(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"stages.folder: found {self.folder}, which cannot be used ({error}); expected a folder that can be read "
            "and written; fix: set stages.folder=PATH"
        )

    def _is_own(self, name: Any) -> bool:
        """Whether a failed system call was about the store; a builder may fail on files elsewhere."""
        return isinstance(name, (str, os.PathLike)) and Path(name).is_relative_to(self.folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _manifest(entry: Path) -> dict:
    """An entry's manifest; empty where it cannot be read: `get` reports damage, to whom the entry matters."""
    try:
        manifest = json.loads((entry / MANIFEST).read_text(encoding="ascii"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _made(manifest: dict) -> str:
    at = str(manifest.get("made", "some time ago")).replace("T", " ").replace("+00:00", " UTC")
    commit_of, mark, _ = str(manifest.get("commit") or "").partition("+")
    return f"made {at}" + (f" at commit {commit_of[:10]}{mark and '+changes'}" if commit_of else "")


def _seal(target: Path, manifest: dict) -> None:
    """Write the manifest and bring everything to the disk, so that the rename that follows publishes whole files."""
    names = files_below(target, links=False)
    if MANIFEST in names:
        raise ValueError(f"{MANIFEST} is the store's own; a stage cannot write one")
    files = {name: {"size": (target / name).stat().st_size, "sha256": file_digest(target / name)} for name in names}
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    manifest = {**manifest, "made": made, "files": files}
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
        found = set(files_below(entry, links=False)) - {MANIFEST}
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
