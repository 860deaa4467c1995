"""Records made of stored ones, column by column: prompt, hashes and place are carried over, never decoded and written
anew as rows."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from .record import content_key, meta_json, prompt_json
from .storage import BATCH_ROWS, Records, messages


def taking_one(records: Records, places: np.ndarray) -> Records:
    """The records with one of their responses, unjudged; (n,) places: which one, -1 for none."""
    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in records.batches():
            yield _with_response(batch, places[start:start + len(batch)])
            start += len(batch)

    return Records.from_batches(batches())


def _with_response(batch: pa.RecordBatch, places: np.ndarray) -> pa.RecordBatch:
    stored, k = batch.column("responses"), (places >= 0).astype(np.int32)
    at = stored.offsets.to_numpy()[:-1][places >= 0] + places[places >= 0]
    texts = stored.values.take(pa.array(at))
    extras = [_extra(text, place) for text, place in zip(batch.column("extras").to_pylist(), places.tolist())]
    responses = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(k)]), pa.int32()), texts)
    keys = [content_key(prompt, answers, None, extra)
            for prompt, answers, extra in zip(_prompts(batch), responses.to_pylist(), extras)]
    written = [None if extra is None else json.dumps(extra) for extra in extras]
    return with_columns(batch, responses=responses, scores=[None] * len(batch), extras=written, k=k, key=keys)


def _extra(stored: str | None, place: int) -> list[dict] | None:
    """The further keys of the one response, if it has any."""
    extra = json.loads(stored)[place] if stored is not None and place >= 0 else None
    return [extra] if extra else None


def _prompts(batch: pa.RecordBatch) -> Iterator[str]:
    for text, turns in zip(batch.column("text").to_pylist(), batch.column("messages").to_pylist()):
        yield prompt_json(messages(turns) if text is None else text)


def with_columns(batch: pa.RecordBatch, **columns: pa.Array | np.ndarray | Sequence) -> pa.RecordBatch:
    """A batch of records with other values in some of its columns."""
    made = [_column(columns[field.name], field.type) if field.name in columns else batch.column(field.name)
            for field in batch.schema]
    return pa.RecordBatch.from_arrays(made, schema=batch.schema)


def _column(values: pa.Array | np.ndarray | Sequence, kind: pa.DataType) -> pa.Array:
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def merged(sources: Sequence[Records], order: np.ndarray, told: Sequence[Callable[[dict], dict]]) -> Records:
    """The sources' records, each source's in its own order; `order[i]` says which source gives the i-th. told: source
    by source, the meta of its records → what it is then."""
    feeds = [_Feed(records.batches()) for records in sources]

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(order), BATCH_ROWS):
            which = order[start:start + BATCH_ROWS]
            counts = np.bincount(which, minlength=len(feeds)).tolist()
            parts = [part for feed, count, tell in zip(feeds, counts, told) for part in _told(feed.next(count), tell)]
            back = np.empty(len(which), np.int64)       # the parts lie one after the other: where each goes
            back[np.argsort(which, kind="stable")] = np.arange(len(which))
            yield from pa.Table.from_batches(parts).take(pa.array(back)).combine_chunks().to_batches()

    return Records.from_batches(batches())


def _told(parts: Iterable[pa.RecordBatch], tell: Callable[[dict], dict]) -> Iterator[pa.RecordBatch]:
    for part in parts:
        yield with_columns(part, meta=[meta_json(tell(json.loads(meta))) for meta in part.column("meta").to_pylist()])


class _Feed:
    """Gives so many of the next records as it is asked for."""

    def __init__(self, batches: Iterator[pa.RecordBatch]):
        self.batches, self.left = batches, None

    def next(self, count: int) -> Iterator[pa.RecordBatch]:
        while count:
            if not self.left:
                self.left = next(self.batches)
                continue
            part, self.left = self.left[:count], self.left[count:]
            count -= len(part)
            yield part
