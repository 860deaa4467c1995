"""Many records: storage on Arrow, the views algorithms train on, the split by prompt, and files as a data source.

    Record → Records (memory-mapped, content-addressed in the cache folder) → views → DataSets
"""

import hashlib
import json
import logging
import mmap
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from algorithms.common.columns import FIELDS
from algorithms.common.errors import ConfigError, UserError
from algorithms.common.loading import Loader, LoadReport, Mapper
from algorithms.common.readers import Hub, Source
from algorithms.common.record import Messages, Record, parse_transcript, prompt_hash, render_transcript
from algorithms.common.store import is_full

__all__ = ["DataSets", "FileData", "Gold", "LoadReport", "Messages", "Record", "Records", "cache_folder",
           "demonstrations", "pairs", "parse_transcript", "preferred", "prompt_hash", "prompts", "ranked", "rated",
           "render_transcript", "set_cache_folder", "split"]

log = logging.getLogger(__name__)

_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
_SCHEMA = pa.schema([
    ("text", pa.string()), ("messages", pa.list_(_MESSAGE)),        # the prompt: one of the two, the other null
    ("responses", pa.list_(pa.string())), ("scores", pa.list_(pa.float64())), ("meta", pa.string()),
    ("k", pa.int32()), ("key", pa.string()), ("prompt_hash", pa.uint64()),
])
_BATCH_ROWS, _BATCH_CHARACTERS = 2048, 4 << 20
_cache = Path("~/.cache/alignment-zoo/data")


def cache_folder() -> Path:
    """Where the Arrow files lie, each under its content's hash; safe to delete between runs."""
    return _cache.expanduser()


def set_cache_folder(path: str | os.PathLike):
    """Choose another cache folder for this process."""
    global _cache
    _cache = Path(path)


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
        path, rows = _write(records, cache_folder())
        return cls(os.fspath(path), rows)

    @classmethod
    def from_arrow(cls, path: str | os.PathLike) -> "Records":
        """Records of an Arrow file written by :meth:`save` or found in the cache folder."""
        path = os.fspath(path)
        return cls(path, sum(map(len, _stored(path))))

    def save(self, path: str | os.PathLike):
        """Write the records to one Arrow file, whole or not at all."""
        os.replace(_write(self, Path(path).parent)[0], path)

    def __len__(self) -> int:
        return self.rows if self.indices is None else len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return _record(self.dataset[int(index)])

    def __iter__(self) -> Iterator[Record]:
        if not self._ascending:
            yield from map(self.__getitem__, range(len(self)))
            return
        for batch in self._selected(_stored(self.path)):
            yield from map(_record, batch.to_pylist())

    def column(self, name: str) -> Iterator:
        """One stored column's values."""
        for values in self._chunks(name):
            yield from values.to_pylist()

    def array(self, name: str) -> np.ndarray:
        """(n,) a stored column of numbers."""
        array, start = np.empty(len(self), _SCHEMA.field(name).type.to_pandas_dtype()), 0
        for values in self._chunks(name):
            array[start:start + len(values)] = values.to_numpy()
            start += len(values)
        return array

    def _chunks(self, name: str) -> Iterator[pa.Array]:
        if self._ascending:
            for batch in self._selected(batch.select([name]) for batch in _stored(self.path)):
                yield batch.column(0)
        else:
            table = self.dataset.with_format("arrow").select_columns(name)
            for start in range(0, len(self), _BATCH_ROWS):
                yield table[start:start + _BATCH_ROWS].column(0).combine_chunks()

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
    def prompt_hashes(self) -> np.ndarray:
        """(n,) uint64: :func:`prompt_hash` of every record."""
        return self.array("prompt_hash")


def _record(row: dict) -> Record:
    prompt = row["text"] if row["text"] is not None else row["messages"]
    return Record(prompt, row["responses"], row["scores"], json.loads(row["meta"]))


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


def _write(records: Iterable[Record], folder: Path) -> tuple[Path, int]:
    """Stream records to an Arrow file named by their content (meta included), whole or not at all; its rows too."""
    digest, count = hashlib.blake2b(digest_size=16), 0
    temporary = folder / f"{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(temporary, "xb")
    except OSError as error:
        raise UserError(f"{folder}: found a folder that cannot be written ({error}); expected one for the data's Arrow "
                        "files; fix: free it, or set another folder") from None
    try:
        with file, pa.ipc.new_stream(file, _SCHEMA) as stream:
            for rows in _batches(_row(record, digest) for record in records):
                stream.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
                count += len(rows)
        path = folder / f"{digest.hexdigest()}.arrow"
        os.replace(temporary, path)
        return path, count
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_full(error):
            raise UserError(f"{folder}: found a full disk ({error}); expected room for the data's Arrow files; "
                            "fix: free some space, or set stages.folder=PATH to another disk") from None
        raise


def _row(record: Record, digest) -> dict:
    plain = isinstance(record.prompt, str)
    meta, key = json.dumps(record.meta), record.key
    digest.update(key.encode() + hashlib.blake2b(meta.encode(), digest_size=16).digest())
    return {"text": record.prompt if plain else None, "messages": None if plain else record.prompt,
            "responses": record.responses, "scores": record.scores, "meta": meta,
            "k": len(record.responses), "key": key, "prompt_hash": prompt_hash(record.prompt)}


def _batches(rows: Iterable[dict]) -> Iterator[list[dict]]:
    """Batches bounded in rows and, so that large texts do not pile up, in characters."""
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += len(row["text"] or "") + sum(len(turn["content"]) for turn in row["messages"] or [])
        size += sum(map(len, row["responses"]))
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


# ---- views


def demonstrations(records: Records) -> Records:
    """Single responses to imitate: k = 1 without a score, or with a positive one."""
    return records.where(_mask(records, lambda k, scores: k == 1 and (scores is None or scores[0] > 0)))


def preferred(records: Records) -> Records:
    """The best response of every record that orders at least two, as a demonstration (Preferred-FT)."""
    return Records.from_list(Record(record.prompt, [record.best], None, record.meta) for record in ranked(records))


def pairs(records: Records) -> Records:
    """All strict pairs of every record, each a record with k = 2, the better response first, scores kept."""
    return Records.from_list(
        Record(record.prompt, [record.responses[i] for i in pair], [record.scores[i] for i in pair], record.meta)
        for record in ranked(records) for pair in record.strict_pairs)


def ranked(records: Records) -> Records:
    """Records with at least one strict pair, all their responses and scores as they are."""
    return records.where(_mask(records, lambda k, scores: scores is not None and k > 1 and min(scores) < max(scores)))


def rated(records: Records) -> Records:
    """Records whose responses have scores, single ones and ties too."""
    return records.where(_mask(records, lambda k, scores: scores is not None and k > 0))


def prompts(records: Records) -> Records:
    """Every distinct prompt once, at its first place, without responses."""
    hashes = records.prompt_hashes
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    first = np.zeros(len(hashes), bool)
    first[order[_first_of_each(hashes)]] = True
    del hashes, order       # memory: no more than these two at once
    return Records.from_list(Record(record.prompt, [], None, record.meta) for record in records.where(first))


def _first_of_each(ascending: np.ndarray) -> np.ndarray:
    """(n,) bool: where a value differs from the one before."""
    first = np.ones(len(ascending), bool)
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    return first


def split(records: Records, share: float) -> tuple[Records, Records]:
    """(train, heldout): the `share` of distinct prompts with the lowest hashes is held out, with all their records.

    At least one prompt stays on each side where there are two and 0 < share < 1. It depends on content alone: neither
    order nor seed changes it.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"data.heldout: found {share}; expected a share from 0 up to, not including, 1")
    hashes = records.prompt_hashes
    distinct = np.sort(hashes)
    distinct = distinct[_first_of_each(distinct)]
    count = min(max(round(share * len(distinct)), 1), len(distinct) - 1) if share > 0 and len(distinct) > 1 else 0
    held = hashes < distinct[count] if count else np.zeros(len(hashes), bool)
    del hashes, distinct    # memory: they are not needed beside the indices made now
    return records.where(~held), records.where(held)


def _mask(records: Records, test: Callable[[int, list[float] | None], bool]) -> np.ndarray:
    """(n,) bool: `test(k, scores)` of every record."""
    values = zip(records.column("k"), records.column("scores"))
    return np.fromiter((test(k, scores) for k, scores in values), bool, len(records))


def _evaluation(heldout: Records) -> Records:
    """Every held-out prompt once, with its best response where one of its records has one."""
    has_best = np.fromiter((record.best is not None for record in heldout), bool, len(heldout))
    order = np.argsort(~has_best, kind="stable")
    first = order[np.unique(heldout.prompt_hashes[order], return_index=True)[1]]
    return Records.from_list(Record(record.prompt, [] if record.best is None else [record.best], None, record.meta)
                             for record in heldout.select(np.sort(first)))


# ---- what a data source yields


Gold = Callable[[list[str], list[str], list[bool]], list[float]]


@dataclass
class DataSets:
    """The named sets of a data source; prompts of evaluation and heldout are in no training set.

    preferences: judged responses, single ratings too; heldout: the same of held-out prompts.
    evaluation: prompts of the reported evaluation, with one demonstration or preferred response where there is one.
    tuning: prompts to choose hyper-parameters on; may be empty.
    gold: (prompts, responses, finished) → scores, where the true reward is known.
    """

    preferences: Records
    demonstrations: Records
    prompts: Records
    evaluation: Records
    heldout: Records
    tuning: Records
    report: LoadReport
    gold: Gold | None = None


@dataclass
class FileData:
    """Files, a folder written by ``datasets.save_to_disk``, or a dataset of the Hugging Face hub (``data=file``).

    path: one or several, as JSON Lines, JSON array, CSV, TSV (each also .gz) or Parquet. name: a hub dataset instead;
    `subset` is its configuration, `split` the part to read (also of a folder).
    format, header, quoting: see ``readers.Source``.
    columns: our field (one of ``columns.FIELDS``) → the column's name, or a list of columns (texts are joined by line
    breaks); empty: by convention. mapper: instead, a function from a row to its record or records.
    on_bad_row: error | drop. heldout: share of the prompts held out. limit: the first so many usable records only.
    Raises ConfigError for options that cannot be used, DataError for data that cannot.
    """

    path: str | list[str] | None = None
    name: str | None = None
    split: str = "train"
    subset: str | None = None
    format: str | None = None
    columns: Mapping[str, str | list[str]] = field(default_factory=dict)
    header: bool = True
    quoting: bool = True
    mapper: Mapper | None = None
    on_bad_row: str = "error"
    heldout: float = 0.1
    limit: int | None = None

    def __post_init__(self):
        def refuse(key: str, found: str, expected: str):
            raise ConfigError(f"data.{key}: found {found}; expected {expected}")

        if bool(self.path) == bool(self.name):
            refuse("path", "neither it nor data.name" if not self.path else "both it and data.name", "one of them")
        if self.on_bad_row not in ("error", "drop"):
            refuse("on_bad_row", repr(self.on_bad_row), "error or drop")
        if self.limit is not None and self.limit < 1:
            refuse("limit", str(self.limit), "at least 1")
        if self.columns and self.mapper is not None:
            refuse("columns", "both columns and data.mapper", "one of them")
        if unknown := sorted(self.columns.keys() - set(FIELDS)):
            refuse("columns", f"the field {unknown[0]}", "fields among " + ", ".join(FIELDS))

    def records(self) -> tuple[Records, LoadReport]:
        """All usable records and the report, before any split."""
        loader = Loader(self.columns, self.mapper, self.on_bad_row == "drop", self.limit)
        records = Records.from_list(loader.records(self._sources()))
        keys = np.fromiter((int(key[:16], 16) for key in records.column("key")), np.uint64, len(records))
        keys.sort()
        loader.report.duplicates = len(keys) - int(np.count_nonzero(_first_of_each(keys)))
        return records, loader.report

    def load(self, seed: int) -> DataSets:
        """The named sets. `seed` changes nothing: runs with different seeds share their held-out prompts."""
        records, report = self.records()
        _log_report(report)
        train, heldout = split(records, self.heldout)
        preferences, demos = rated(train), demonstrations(train)
        if not len(demos) and len(ranked(preferences)):
            demos = preferred(preferences)
            report.fallbacks["demonstrations"] = "preferred responses"
        if set(report.kinds) != {"prompt"}:
            report.fallbacks["prompts"] = "prompts of all training records"
        for name, source in report.fallbacks.items():
            log.info("%s: none of their own in the data; made from: %s", name, source)
        if self.heldout and not len(heldout):
            log.warning("nothing is held out: the data has a single prompt")
        return DataSets(preferences, demos, prompts(train), evaluation=_evaluation(heldout), heldout=rated(heldout),
                        tuning=Records.from_list([]), report=report)

    def _sources(self) -> list[Source | Hub]:
        if self.name:
            return [Hub(self.name, self.subset, self.split)]
        paths = [self.path] if isinstance(self.path, (str, os.PathLike)) else self.path
        return [Source(os.fspath(path), self.format, self.header, self.quoting, self.split) for path in paths]


def _log_report(report: LoadReport):
    log.info("read %d rows, kept %d records: %s", report.read, report.kept, report.kinds)
    for reason, count in report.dropped.items():
        log.warning("dropped %d rows: %s (%s …)", count, reason, ", ".join(report.lines[reason]))
    for path, names in report.ignored_columns.items():
        log.info("%s: columns not read: %s", path, ", ".join(map(repr, names)))
    for count, what in ((report.duplicates, "duplicate records (kept)"), (report.blank_lines, "blank lines (skipped)"),
                        (report.rows_without_records, "rows without a record")):
        if count:
            log.warning("%d %s", count, what)
