"""Records on Arrow: written once under their content's hash, memory-mapped, read batch after batch.

    Record → Records (a file in the cache folder) → selections of it
"""

import hashlib
import json
import mmap
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...support.cache import user_cache
from ...support.errors import UserError, full_disk
from .record import Messages, Record, content_key, further, hashes, meta_json

# further: a turn's other keys, as JSON
_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("further", pa.string())])
_SCHEMA = pa.schema([
    ("text", pa.string()), ("messages", pa.list_(_MESSAGE)),        # the prompt: one of the two, the other null
    ("responses", pa.list_(pa.string())), ("scores", pa.list_(pa.float64())), ("meta", pa.string()),
    ("extras", pa.string()),                                        # JSON
    ("k", pa.int32()), ("key", pa.string()), ("prompt_hash", pa.uint64()), ("root_hash", pa.uint64()),
])
PLACE = ("source", "line", "lines", "response_lines")     # what meta tells of where a record was read
BATCH_ROWS, _BATCH_CHARACTERS = 2048, 4 << 20
_cache: Path | None = None


def cache_folder() -> Path:
    """Where the Arrow files lie, each under its content's hash; safe to delete between runs."""
    return user_cache() / "data" if _cache is None else _cache


def set_cache_folder(path: str | os.PathLike | None):
    """Choose the cache folder of this process; None: ``data`` in the user's."""
    global _cache
    _cache = None if path is None else Path(path).expanduser()


class Records(Sequence):
    """A read-only sequence of records in an Arrow file.

    path: the file. rows: how many it holds. indices: which of them, in which order; None: all.
    Going through all records reads batch after batch where the order allows it; only access by index needs `dataset`.
    """

    def __init__(self, path: str, rows: int, indices: np.ndarray | None = None):
        self.path, self.rows, self.indices = path, rows, indices

    @cached_property
    def dataset(self) -> datasets.Dataset:
        """The records as a memory-mapped dataset, whose columns are those of the file."""
        whole = datasets.Dataset.from_file(self.path)
        return whole if self.indices is None else whole.select(self.indices, new_fingerprint="selected")

    @classmethod
    def from_list(cls, records: Iterable[Record]) -> "Records":
        """Write records, one after the other, to the cache folder."""
        return cls.from_batches(_batches(map(_row, records)))

    @classmethod
    def from_batches(cls, batches: Iterable[pa.RecordBatch]) -> "Records":
        """Write records that are stored ones in part, with all their columns."""
        path, rows = _write(batches, cache_folder())
        return cls(os.fspath(path), rows)

    def __len__(self) -> int:
        return self.rows if self.indices is None else len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return _record(self.dataset[int(index)])

    def __iter__(self) -> Iterator[Record]:
        if not self._ascending:
            yield from map(self.__getitem__, range(len(self)))
            return
        for batch in self.batches():
            yield from map(_record, batch.to_pylist())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All columns as they are stored, some thousand records at once."""
        if self._ascending:
            yield from self._selected(_stored(self.path))
            return
        table = self.dataset.with_format("arrow")
        for start in range(0, len(self), BATCH_ROWS):
            part = table[start:start + BATCH_ROWS].combine_chunks()
            yield pa.RecordBatch.from_arrays([column.combine_chunks() for column in part.columns], schema=_SCHEMA)

    def column(self, name: str) -> Iterator:
        """One column's values, as records have them."""
        for values in self._chunks(name):
            yield from map(messages, values.to_pylist()) if name == "messages" else values.to_pylist()

    def array(self, name: str) -> np.ndarray:
        """(n,) a stored column of numbers."""
        array, start = np.empty(len(self), _SCHEMA.field(name).type.to_pandas_dtype()), 0
        for values in self._chunks(name):
            array[start:start + len(values)] = values.to_numpy()
            start += len(values)
        return array

    def score_ranges(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Part after part of the records: (p,) their numbers of responses, (p,) their lowest and (p,) highest scores;
        nan where a record has none."""
        for of, values in zip(self._chunks("k"), self._chunks("scores")):
            lowest, highest = np.full((2, len(values)), np.nan)
            counts = np.diff(values.offsets.to_numpy())
            judged = np.flatnonzero(counts * values.is_valid().to_numpy(zero_copy_only=False))
            if len(judged):
                flat, firsts = values.flatten().to_numpy(), np.cumsum(counts[judged]) - counts[judged]
                lowest[judged], highest[judged] = np.minimum.reduceat(flat, firsts), np.maximum.reduceat(flat, firsts)
            yield of.to_numpy(), lowest, highest

    def conversations(self) -> np.ndarray:
        """(n,) bool: records whose prompt is messages."""
        return np.concatenate([np.empty(0, bool), *(values.is_valid() for values in self._chunks("messages"))])

    def answered_with(self, texts: Iterable[str]) -> np.ndarray:
        """(n,) bool: records with a response that holds one of `texts`."""
        found, start, pattern = np.zeros(len(self), bool), 0, "|".join(map(re.escape, texts))
        for values in self._chunks("responses") if pattern else ():
            of = pc.list_parent_indices(values).to_numpy()
            inside = pc.match_substring_regex(values.flatten(), pattern)
            found[start + of[inside.to_numpy(zero_copy_only=False)]] = True
            start += len(values)
        return found

    def holding(self, texts: Iterable[str]) -> np.ndarray:
        """(n,) bool: records with one of `texts` anywhere in a prompt."""
        pattern = "|".join(map(re.escape, texts))
        if not pattern:
            return np.zeros(len(self), bool)
        found = [pc.fill_null(pc.match_substring_regex(values, pattern), False).to_numpy(zero_copy_only=False)
                 for values in self._chunks("text")]
        found, start = np.concatenate([np.empty(0, bool), *found]), 0
        for values in self._chunks("messages"):
            of = pc.list_parent_indices(values).to_numpy()
            inside = pc.match_substring_regex(pc.struct_field(values.flatten(), "content"), pattern)
            found[start + of[inside.to_numpy(zero_copy_only=False)]] = True
            start += len(values)
        return found

    def _chunks(self, name: str) -> Iterator[pa.Array]:
        if self._ascending:
            for batch in self._selected(batch.select([name]) for batch in _stored(self.path)):
                yield batch.column(0)
        else:
            table = self.dataset.with_format("arrow").select_columns(name)
            for start in range(0, len(self), BATCH_ROWS):
                yield table[start:start + BATCH_ROWS].column(0).combine_chunks()

    @property
    def _ascending(self) -> bool:
        return self.indices is None or bool(np.all(self.indices[1:] >= self.indices[:-1]))

    def _selected(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """What is selected of every batch of the file; the indices ascend."""
        start = 0
        for batch in batches:
            end = start + len(batch)
            if self.indices is None:
                yield batch
            else:
                first, last = np.searchsorted(self.indices, (start, end))
                yield batch.take(pa.array(self.indices[first:last] - start))
            start = end

    def select(self, indices: Iterable[int]) -> "Records":
        """The records at `indices`, in that order."""
        indices = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), np.int64)
        if len(indices) and not (0 <= indices.min() and indices.max() < len(self)):
            raise IndexError(f"indices from {indices.min()} to {indices.max()} for {len(self)} records")
        return Records(self.path, self.rows, indices if self.indices is None else self.indices[indices])

    def where(self, mask: np.ndarray) -> "Records":
        """The records where the (n,) bool `mask` is true."""
        return self if mask.all() else self.select(np.flatnonzero(mask))

    @property
    def fingerprint(self) -> str:
        """Hash of all records in order (their keys), wherever the file lies."""
        digest = hashlib.blake2b(digest_size=16)
        for key in self.column("key"):
            digest.update(bytes.fromhex(key))
        return digest.hexdigest()

    @property
    def meta_fingerprint(self) -> str:
        """Hash of all records' meta in order, but for where they were read (PLACE)."""
        digest = hashlib.blake2b(digest_size=16)
        for meta in self.column("meta"):
            told = {key: value for key, value in json.loads(meta).items() if key not in PLACE}
            digest.update(json.dumps(told, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    @property
    def prompt_hashes(self) -> np.ndarray:
        """(n,) uint64: :func:`prompt_hash` of every record."""
        return self.array("prompt_hash")


def _record(row: dict) -> Record:
    prompt = row["text"] if row["text"] is not None else messages(row["messages"])
    extras = None if row["extras"] is None else json.loads(row["extras"])
    return Record(prompt, row["responses"], row["scores"], json.loads(row["meta"]), extras)


def messages(stored: list[dict] | None) -> Messages | None:
    """A prompt's turns as records have them."""
    return stored and [turn if (more := turn.pop("further")) is None else {**turn, **json.loads(more)}
                       for turn in stored]


def _stored_turn(turn: dict) -> dict:
    more = further(turn)
    return {"role": turn["role"], "content": turn["content"], "further": json.dumps(more) if more else None}


def _stored(path: str) -> Iterator[pa.RecordBatch]:
    """The batches of a file of records; each is mapped anew, since pages of one mapping would all stay in memory."""
    position = 0
    try:
        with open(path, "rb") as file:
            while True:
                reader = pa.BufferReader(pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
                reader.seek(position)
                message = pa.ipc.read_message(reader)
                if position:
                    yield pa.ipc.read_record_batch(message, _SCHEMA)
                elif not pa.ipc.read_schema(message).equals(_SCHEMA):
                    raise pa.ArrowInvalid("other columns")
                position = reader.tell()
    except EOFError:        # the mark at the end
        return
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: found {' '.join(str(error).split())[:80]}; expected an Arrow file of records; "
                        "fix: remove it, and it is made again") from None


def _write(batches: Iterable[pa.RecordBatch], folder: Path) -> tuple[Path, int]:
    """Stream records to an Arrow file named by their content (meta included), whole or not at all; its rows too."""
    digest, count = hashlib.blake2b(digest_size=16), 0
    temporary = folder / f"{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(temporary, "xb")
    except OSError as error:
        raise UserError(f"{folder}: found a folder that cannot be written ({error}); expected one for the data's Arrow "
                        "files; fix: make it writable, or set stages.folder=PATH to another") from None
    try:
        with file, pa.ipc.new_stream(file, _SCHEMA) as stream:
            for batch in batches:
                told = zip(batch.column("key").to_pylist(), batch.column("meta").to_pylist())
                digest.update("".join([f"{key}{meta}\n" for key, meta in told]).encode())  # JSON has no line feed
                stream.write_batch(batch)
                count += len(batch)
        path = folder / f"{digest.hexdigest()}.arrow"
        os.replace(temporary, path)
        return path, count
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if full := full_disk(error, f"writing the data's Arrow files in {folder}"):
            raise full from None
        raise


def _row(record: Record) -> tuple:
    """A record's values in the order of _SCHEMA."""
    prompt, plain = record.prompt, isinstance(record.prompt, str)
    content, of_prompt, of_root = hashes(prompt)
    return (prompt if plain else None, None if plain else list(map(_stored_turn, prompt)),
            record.responses, record.scores, meta_json(record.meta),
            None if record.extras is None else json.dumps(record.extras), len(record.responses),
            content_key(content, record.responses, record.scores, record.extras), of_prompt, of_root)


def _batches(rows: Iterable[tuple]) -> Iterator[pa.RecordBatch]:
    """Batches bounded in rows and, so that large texts do not pile up, in characters."""
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += len(row[0]) if row[1] is None else sum(len(turn["content"]) for turn in row[1])
        size += sum(map(len, row[2]))
        if len(batch) >= BATCH_ROWS or size >= _BATCH_CHARACTERS:
            yield _batch(batch)
            batch, size = [], 0
    if batch:
        yield _batch(batch)


def _batch(rows: list[tuple]) -> pa.RecordBatch:
    columns = (pa.array(values, field.type) for values, field in zip(zip(*rows), _SCHEMA))
    return pa.RecordBatch.from_arrays(list(columns), schema=_SCHEMA)
