"""Bytes of a file → lines and text, the row that readers give, and the one form of all errors in input data."""

import codecs
import gzip
import re
import shlex
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ...support.errors import DataError

if TYPE_CHECKING:
    from .readers import Source

_MAGIC = (
    (b"\x1f\x8b", "gzip data", "name the file .gz"),
    (b"PAR1", "Parquet data", "name the file .parquet"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (codecs.BOM_UTF16_LE, "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
    (codecs.BOM_UTF16_BE, "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
)


class Row(NamedTuple):
    """One raw row: its physical line (JSON Lines, CSV, TSV; header included) or 1-based row, and its value."""

    line: int
    value: Any


def data_error(path: str, line: int, field: str, found: str, expected: str, fix: str) -> DataError:
    """The one form of all errors in input data."""
    field = field if field.isprintable() and field.strip() else ascii(field)
    return DataError(f"{path}:{line}: {field}: found {found}; expected {expected}; fix: {fix}")


def show(value: Any, length: int = 60) -> str:
    """A value on one short line."""
    try:
        text = repr(value[:length]) if isinstance(value, str) else repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= length else text[:length - 1] + "…"


def hydra_text(text: str) -> str:
    """A text as a value within an override: quoted where it could be read as anything else."""
    plain = re.fullmatch(r"[A-Za-z_][\w.-]*( [\w.-]+)*", text, re.ASCII)
    if plain and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    doubled = re.sub(r'(\\*)("|$)', lambda match: 2 * match[1] + "\\" * bool(match[2]) + match[2], text)
    return f'"{doubled}"'


def override(key: str, value: str) -> str:
    """An override as it is typed in a shell."""
    return shlex.quote(f"{key}={value}")


def lines(source: "Source", gz: bool) -> Iterator[tuple[int, str]]:
    """Decoded lines, split at line feeds only, which they keep; a byte order mark is left out."""
    number = 0
    try:
        with _open(source.path, gz) as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    _check_start(source, line)
                    line = line.removeprefix(codecs.BOM_UTF8)
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise _not_utf8(source.path, number, error) from None
                yield number, text
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(source.path, number + 1, error) from None


def whole_text(source: "Source", gz: bool) -> tuple[str, Callable[[int], DataError] | None]:
    """All text that can be read, and what broke it (a function of the row it is met at) or None."""
    data, broken = bytearray(), None
    try:
        with _open(source.path, gz) as file:
            while part := file.read1(1 << 16):        # read() would lose what comes before a break
                data += part
    except (OSError, EOFError, zlib.error) as error:
        broken = partial(_unreadable, source.path, error=error)
    _check_start(source, bytes(data[:8]))
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[start:].decode("utf-8"), broken
    except UnicodeDecodeError as error:
        return data[start:start + error.start].decode("utf-8"), broken or partial(_not_utf8, source.path, error=error)


def _open(path: str, gz: bool):
    return gzip.open(path, "rb") if gz else open(path, "rb")


def _unreadable(path: str, line: int, error: Exception) -> DataError:
    if isinstance(error, EOFError):
        return data_error(path, line, "file", "the end of the data inside a gzip stream", "a whole gzip file",
                          "fetch or write the file again")
    if isinstance(error, (gzip.BadGzipFile, zlib.error)):
        return data_error(path, line, "file", f"no valid gzip data ({error})", "a gzip file",
                          "fetch the file again, or drop .gz from its name if it is plain text")
    return data_error(path, line, "file", f"an unreadable file ({error})", "a readable file", "check the file")


def _not_utf8(path: str, line: int, error: UnicodeDecodeError) -> DataError:
    return data_error(path, line, "row", f"byte 0x{error.object[error.start]:02x} at byte {error.start + 1}, not UTF-8",
                      "UTF-8 text", "convert the file: iconv -f ENCODING -t UTF-8")


def _check_start(source: "Source", data: bytes):
    packed = source.kind.endswith(".gz")
    formats = {} if packed else {"gzip data": source.kind + ".gz", "Parquet data": "parquet"}
    for magic, name, fix in _MAGIC:
        if data.startswith(magic):
            fix = fix.replace("name the file", "unpack the file and name it") if packed else fix
            fix += f", or set {source.option('format', formats[name])}" if name in formats else ""
            raise data_error(source.path, 1, "file", name, f"{source.kind} text in UTF-8", fix)
