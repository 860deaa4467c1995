"""Bytes of a file → lines and text, the row that readers give, and the one form of all errors in input data."""

import codecs
import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, NamedTuple, Protocol

from ...support.errors import DataError
from .packing import BROKEN, PACKINGS, NotOneFile, opened

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PARQUET = b"PAR1"
UTF8 = "utf-8"


class Row(NamedTuple):
    """One raw row: its physical line (JSON Lines, CSV, TSV; header included) or 1-based row, and its value."""

    line: int
    value: Any


class File(Protocol):
    """A file to read, and the options it is read with: what is asked of ``readers.Source``."""

    path: str
    rows: str | None
    blank_lines: int
    part: float | None          # which share of it is read, where `raw` does not tell
    raw: IO[bytes] | None       # the file as it lies on the disk, while it is read

    @property
    def packing(self) -> str: ...

    @property
    def text_encoding(self) -> str: ...

    @property
    def kind(self) -> str: ...

    def key(self, name: str) -> str: ...

    def option(self, name: str, value: str) -> str: ...


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


def lines(source: File) -> Iterator[tuple[int, str]]:
    """Decoded lines, split at line feeds only, which they keep; a byte order mark is left out."""
    number = 0
    try:
        with opened(source.path, source.packing) as (file, source.raw):
            if source.text_encoding != UTF8:
                for number, text in enumerate(_decoded(source, file), 1):
                    yield number, text
                return
            for number, line in enumerate(file, 1):
                if number == 1:
                    _check_start(source, line)
                    line = line.removeprefix(codecs.BOM_UTF8)
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise _not_utf8(source, number, error) from None
                yield number, text
    except BROKEN as error:
        raise unreadable(source.path, source.packing, number + 1, error) from None


def _decoded(source: File, file: IO[bytes]) -> Iterator[str]:
    """The lines of text in another encoding, of which a line feed may be several bytes."""
    decoder, left, number = codecs.getincrementaldecoder(source.text_encoding)(), "", 1
    try:
        for place, part in enumerate(file):
            if not place:
                _check_start(source, part)
            *whole, left = (left + decoder.decode(part)).split("\n")
            for line in whole:
                yield (line.removeprefix("\ufeff") if number == 1 else line) + "\n"
                number += 1
        left += decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise _not_encoded(source, number, error) from None
    if left:
        yield left.removeprefix("\ufeff") if number == 1 else left


def whole_text(source: File) -> tuple[str, Callable[[int], DataError] | None]:
    """All text that can be read, and what broke it (a function of the row it is met at) or None."""
    data, broken, encoding = bytearray(), None, source.text_encoding
    try:
        with opened(source.path, source.packing) as (file, source.raw):
            while part := file.read1(1 << 16):        # read() would lose what comes before a break
                data += part
    except BROKEN as error:
        broken = partial(unreadable, source.path, source.packing, error=error)
    _check_start(source, bytes(data[:8]))
    start = len(codecs.BOM_UTF8) if encoding == UTF8 and data.startswith(codecs.BOM_UTF8) else 0
    refuse = _not_utf8 if encoding == UTF8 else _not_encoded
    try:
        return data[start:].decode(encoding).removeprefix("\ufeff"), broken
    except UnicodeDecodeError as error:
        return data[start:start + error.start].decode(encoding), broken or partial(refuse, source, error=error)


def unreadable(path: str, packed: str, line: int, error: Exception) -> DataError:
    """What breaks a file that is packed, or not (""), as one of BROKEN."""
    if isinstance(error, NotOneFile):
        return data_error(path, line, "file", str(error), "an archive of one data file",
                          "unpack it, and set data.path to the folder")
    if packed and (isinstance(error, EOFError) or "runcated" in str(error)):
        name = PACKINGS[packed].name
        return data_error(path, line, "file", f"the end of the data inside a {name} stream", f"a whole {name} file",
                          "fetch or write the file again")
    if packed and getattr(error, "errno", None) is None:
        name, told = PACKINGS[packed].name, " ".join(str(error).split())
        return data_error(path, line, "file", f"no valid {name} data ({told})", f"a {name} file",
                          f"fetch the file again, or drop .{packed} from its name if it is plain text")
    return data_error(path, line, "file", f"an unreadable file ({error})", "a readable file", "check the file")


def _not_utf8(source: File, line: int, error: UnicodeDecodeError) -> DataError:
    likely, *others = _encodings(error.object[:error.end + 200])
    told = source.option("encoding", likely) + (f" (others that fit: {', '.join(others)})" if others else "")
    byte = f"byte 0x{error.object[error.start]:02x} at byte {error.start + 1}"
    return data_error(source.path, line, "row", f"{byte}, not UTF-8", "UTF-8 text",
                      f"convert the file: iconv -f ENCODING -t UTF-8; or name its encoding, as in {told}")


def _encodings(data: bytes) -> list[str]:
    """Encodings in which these bytes may be text: of an alphabet, of which single letters are beyond ASCII, or of a
    script of East Asia, whose characters take two bytes or more."""
    beyond = re.findall(rb"[\x80-\xff][\x40-\x7e\x80-\xff]?", data)
    pairs = sum(len(one) == 2 and one[1] >= 0x80 for one in beyond)
    if 2 * pairs <= len(beyond):
        return ["cp1252"]
    fitting = []
    for name in ("gb18030", "shift_jis", "big5", "euc_kr"):
        try:
            codecs.getincrementaldecoder(name)().decode(data)
        except UnicodeDecodeError:
            continue
        fitting.append(name)
    return [*fitting, "cp1251"]


def _not_encoded(source: File, line: int, error: UnicodeDecodeError) -> DataError:
    return data_error(source.path, line, "row", f"bytes that are no {source.text_encoding} ({error.reason})",
                      f"text in that encoding ({source.key('encoding')})", f"correct {source.key('encoding')}")


def _check_start(source: File, data: bytes):
    """Refuses data that begin as those of another format do."""
    base, packed = source.kind.partition(".")[0], source.packing
    known = [(one.magic, f"{one.name} data" if ending != "zip" else "a zip archive", f".{ending}", f"{base}.{ending}")
             for ending, one in PACKINGS.items()] + [(_PARQUET, "Parquet data", ".parquet", "parquet")]
    for magic, name, ending, kind in known:
        if data.startswith(magic):
            fix = f"{'unpack the file and name it' if packed else 'name the file'} {ending}"
            fix += "" if packed else f", or set {source.option('format', kind)}"
            raise data_error(source.path, 1, "file", name, f"{source.kind} text in UTF-8", fix)
    if source.text_encoding == UTF8 and data.startswith(_UTF16):
        raise data_error(source.path, 1, "file", "UTF-16 text", f"{source.kind} text in UTF-8",
                         f"set {source.option('encoding', 'utf-16')}, or convert it: iconv -f UTF-16 -t UTF-8")
