"""Compressed files, opened as what they hold: gzip, xz, bzip2, Zstandard, and zip archives of one data file."""

import bz2
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple


class Packing(NamedTuple):
    """What a packing is called, what its data begin with, and what opens it over a file of bytes."""

    name: str
    magic: bytes
    open: Callable[[IO[bytes]], Any]


class NotOneFile(ValueError):
    """A zip archive that does not hold one data file; its text says what it holds."""


def _zstandard(raw: IO[bytes]) -> Any:
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw), "zstd"))


def _zip(raw: IO[bytes]) -> Any:
    archive = zipfile.ZipFile(raw)
    return archive.open(_member(archive))


PACKINGS = {"gz": Packing("gzip", b"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=raw)),
            "xz": Packing("xz", b"\xfd7zXZ\0", lzma.LZMAFile), "bz2": Packing("bzip2", b"BZh", bz2.BZ2File),
            "zst": Packing("Zstandard", b"\x28\xb5\x2f\xfd", _zstandard),
            "zip": Packing("zip", b"PK\x03\x04", _zip)}
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotOneFile,
          RuntimeError, NotImplementedError)       # the last two: of an archive with a password, or of a rare kind


@contextmanager
def opened(path: str, packing: str) -> Iterator[tuple[Any, IO[bytes]]]:
    """(what a file holds, the file itself), both of bytes; packing: a key of PACKINGS, or "" for none."""
    with open(path, "rb") as raw:
        if not packing:
            yield raw, raw
            return
        with PACKINGS[packing].open(raw) as file:
            yield file, raw


def member_name(path: str) -> str:
    """The name of the one data file in a zip archive; raises one of BROKEN."""
    with zipfile.ZipFile(path) as archive:
        return _member(archive).filename


def _member(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    found = [one for one in archive.infolist() if not one.is_dir() and "__MACOSX" not in one.filename.split("/")
             and not os.path.basename(one.filename).startswith((".", "_"))]
    if len(found) != 1:
        names = ", ".join(one.filename for one in found[:3]) + (", …" if len(found) > 3 else "")
        raise NotOneFile(f"an archive of {len(found)} files" + (f": {names}" if found else ""))
    return found[0]
