"""Log-probabilities of the data under a frozen role, computed once and kept by content.

A value's identity is the base (its files' digest), the role's adapter (digest), the precision it is computed in, the
code and the libraries that compute it, and the token ids of prompt and response. A changed template, length limit or
record changes the ids and so misses; β, the learning rate, the data's order or other records cannot change a value, and
so hit.

Values are computed as training comes to their records, a window of the walk at a time, and each window is kept when it
is whole: a run that is killed loses no more than the window it was at.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from ..data.batches import Batch
from ..data.template import Example
from ..models.model import Models
from ..models.role import Role
from ..support.digests import content_hash
from ..support.provenance import code_of, versions

if TYPE_CHECKING:
    from ..support.store import Store

log = logging.getLogger(__name__)
KIND = "reference_logprobs"
FIRST = 16  # examples of the first window
AT_ONCE = 1024  # examples of an entry, and of a window, at most


class StoredLogprobs:
    """log π(y|x) per response of one frozen role, by the example's key."""

    def __init__(self, role: Role, identity: dict, store: Store, batch_size: int):
        """batch_size: examples in one forward pass."""
        self._role, self._identity, self._store, self._batch_size = role, identity, store, batch_size
        self._kept: dict[str, tuple[list[float], float]] = {}  # by key: values, and the seconds that they took
        self._read: set[str] = set()  # names of the entries in it, and of those of other identities
        self.computed = 0  # examples computed here rather than found

    def has(self, examples: Iterable[Example]) -> bool:
        """Whether ``lookup`` knows them all."""
        return all(example.key in self._kept for example in examples)

    def prepare(self, examples: Iterable[Example]) -> float:
        """Find the examples' values in the store; compute and keep those that are missing, ``AT_ONCE`` examples at a
        time. Returns the seconds that the values took where they were computed, here or in another run.
        """
        examples, seconds = iter(examples), 0.0
        asked: set[str] = set()
        while wanted := {example.key: example for example in islice(examples, AT_ONCE)}:
            if not wanted.keys() <= self._kept.keys():
                self._find()
            if missing := [example for key, example in sorted(wanted.items()) if key not in self._kept]:
                self._add(self._compute_and_keep(missing))
            seconds += sum(self._kept[key][1] for key in wanted.keys() - asked)
            asked |= wanted.keys()
        return seconds

    def _find(self) -> None:
        """Read what was kept since it was last asked for, by this process or another."""
        for description, folder in self._store.entries(KIND, self._read):
            self._read.add(folder.name)
            if description.get("identity") == self._identity:
                self._add(folder)

    def _add(self, folder: Path) -> None:
        self._read.add(folder.name)
        for key, found in _read(folder).items():  # another process's may differ in the last bits: the first one stays
            self._kept.setdefault(key, found)

    def _compute_and_keep(self, missing: list[Example]) -> Path:
        description = {"identity": self._identity, "examples": content_hash([example.key for example in missing])}

        def build(target: Path, work: Path) -> None:
            started = time.monotonic()
            computed = self.compute(missing)
            cost = {"seconds": time.monotonic() - started}
            (target / "cost.json").write_text(json.dumps(cost), encoding="utf-8")
            keys = np.array([list(bytes.fromhex(example.key)) for example in missing], dtype=np.uint8)  # (N, 16)
            lengths = np.array([len(values) for values in computed], dtype=np.int64)
            save_file({"keys": keys, "lengths": lengths,
                       "logprobs": np.array([v for values in computed for v in values], dtype=np.float32)},
                      target / "logprobs.safetensors")

        return self._store.get(KIND, description, build)

    def compute(self, examples: list[Example]) -> list[list[float]]:
        """[K sums] per example."""
        models, used = self._role.models, set(self._role.models.used)
        self.computed += len(examples)
        with torch.no_grad():
            sums = models.of_each(examples, self._batch_size, "reference log-probabilities", "records",
                                  lambda batch: self._role.token_logprobs(batch).sum(-1).tolist())  # N lists of K
        models.used &= used  # a run that finds the values uses as many models as the one that computes them
        return [values[:len(example.responses)] for values, example in zip(sums, examples)]

    def lookup(self, batch: Batch) -> Tensor:
        """(B, K) on the batch's device; 0 where a response is absent."""
        rows = torch.zeros(batch.present.shape)
        for row, key in enumerate(batch.keys):
            if key not in self._kept:
                raise KeyError(f"record {batch.records[row]}: its reference log-probability was not prepared")
            values, _ = self._kept[key]
            rows[row, :len(values)] = torch.tensor(values)
        return rows.to(batch.labels.device)


def _read(folder: Path) -> dict[str, tuple[list[float], float]]:
    """Example's key → its values, and its share of the seconds that the entry took."""
    tensors = load_file(folder / "logprobs.safetensors")
    seconds = json.loads((folder / "cost.json").read_text(encoding="utf-8"))["seconds"]
    ends = tensors["lengths"].cumsum()
    return {bytes(key).hex(): (tensors["logprobs"][end - length:end].tolist(), seconds / len(ends))
            for key, length, end in zip(tensors["keys"], tensors["lengths"], ends)}


def window(step: int, size: int) -> range:
    """The steps, of ``size`` records each, whose values are computed together with those of a 0-based one.

    Few at first, so that training soon begins; then as many as came before, up to ``AT_ONCE`` records, so that a pass
    finds like lengths to batch. They depend on nothing but the step: a resumed run computes in the same batches.
    """
    start, count, most = 0, -(-FIRST // size), max(1, AT_ONCE // size)
    while start + count <= step:
        start += count
        count = min(start, most)
    return range(start, start + count)


def identity(models: Models, base_digest: str, adapter_digest: str | None) -> dict:
    """What a log-probability depends on besides the token ids."""
    return {"base": base_digest, "adapter": adapter_digest, "precision": models.config.precision,
            "autocast": str(models.autocast_dtype), "device": models.device.type, "code": code_of(StoredLogprobs),
            "versions": versions()}
