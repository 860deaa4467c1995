"""Log-probabilities of the data under a frozen role, computed once and kept by content.

A value's identity is the base (its files' digest), the role's adapter (digest), the precision it is computed in, the
code and the libraries that compute it, and the token ids of prompt and response. A changed template, length limit or
record changes the ids and so misses; β, the learning rate, the data's order or other records cannot change a value, and
so hit.
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

from ..data.batches import Batch, longest_first
from ..data.template import Example
from ..models.model import Models
from ..models.role import Role
from ..support.digests import content_hash
from ..support.phases import in_parts
from ..support.provenance import code_of, versions

if TYPE_CHECKING:
    from ..support.store import Store

log = logging.getLogger(__name__)
KIND = "reference_logprobs"
AT_ONCE = 16_384  # examples of an entry


class StoredLogprobs:
    """log π(y|x) per response of one frozen role, by the example's key."""

    def __init__(self, role: Role, identity: dict):
        self._role, self._identity = role, identity
        self._values: dict[str, list[float]] = {}
        self.seconds = 0.0  # what the values took where they were computed, here or in another run
        self.computed = 0  # examples computed here rather than found

    def prepare(self, examples: Iterable[Example], store: Store, batch_size: int) -> None:
        """Find the examples' values in the store; compute and keep those that are missing, ``AT_ONCE`` examples at a
        time: no more of them are in memory, and a pass that was killed goes on after the last that were kept.
        """
        kept: dict[str, tuple[list[float], float]] = {}
        for description, folder in store.entries(KIND):
            if description.get("identity") == self._identity:
                kept.update(_read(folder))
        examples, before, computed = iter(examples), len(self._values), self.computed
        while wanted := {example.key: example for example in islice(examples, AT_ONCE)}:
            if missing := [example for key, example in sorted(wanted.items()) if key not in kept]:
                kept.update(_read(self._compute_and_keep(missing, store, batch_size)))
            for key in wanted:
                if key not in self._values:
                    self._values[key], seconds = kept[key]
                    self.seconds += seconds
        log.info("reference log-probabilities: %d used, %d of them computed now", len(self._values) - before,
                 self.computed - computed)

    def _compute_and_keep(self, missing: list[Example], store: Store, batch_size: int) -> Path:
        description = {"identity": self._identity, "examples": content_hash([example.key for example in missing])}

        def build(target: Path, work: Path) -> None:
            started = time.monotonic()
            computed = self.compute(missing, batch_size)
            cost = {"seconds": time.monotonic() - started}
            (target / "cost.json").write_text(json.dumps(cost), encoding="utf-8")
            keys = np.array([list(bytes.fromhex(example.key)) for example in missing], dtype=np.uint8)  # (N, 16)
            lengths = np.array([len(values) for values in computed], dtype=np.int64)
            save_file({"keys": keys, "lengths": lengths,
                       "logprobs": np.array([v for values in computed for v in values], dtype=np.float32)},
                      target / "logprobs.safetensors")

        return store.get(KIND, description, build)

    def compute(self, examples: list[Example], batch_size: int) -> list[list[float]]:
        """[K sums] per example."""
        self.computed += len(examples)
        results: list[list[float]] = [[] for _ in examples]
        parts = longest_first([example.length for example in examples], batch_size)
        for members in in_parts("reference log-probabilities", parts, "records"):
            with torch.no_grad():
                batch = self._role.models.collate([examples[i] for i in members])
                sums = self._role.token_logprobs(batch).sum(-1).tolist()  # (B, K)
            for row, index in enumerate(members):
                results[index] = sums[row][:len(examples[index].responses)]
        return results

    def lookup(self, batch: Batch) -> Tensor:
        """(B, K) on the batch's device; 0 where a response is absent."""
        rows = torch.zeros(batch.present.shape)
        for row, key in enumerate(batch.keys):
            if key not in self._values:
                raise KeyError(f"record {batch.records[row]}: its reference log-probability was not prepared")
            values = self._values[key]
            rows[row, :len(values)] = torch.tensor(values)
        return rows.to(batch.labels.device)


def _read(folder: Path) -> dict[str, tuple[list[float], float]]:
    """Example's key → its values, and its share of the seconds that the entry took."""
    tensors = load_file(folder / "logprobs.safetensors")
    seconds = json.loads((folder / "cost.json").read_text(encoding="utf-8"))["seconds"]
    ends = tensors["lengths"].cumsum()
    return {bytes(key).hex(): (tensors["logprobs"][end - length:end].tolist(), seconds / len(ends))
            for key, length, end in zip(tensors["keys"], tensors["lengths"], ends)}


def identity(models: Models, base_digest: str, adapter_digest: str | None) -> dict:
    """What a log-probability depends on besides the token ids."""
    return {"base": base_digest, "adapter": adapter_digest, "precision": models.config.precision,
            "autocast": str(models.autocast_dtype), "device": models.device.type, "code": code_of(StoredLogprobs),
            "versions": versions()}
