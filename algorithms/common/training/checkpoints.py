"""Checkpoints of a stage in training: safetensors and JSON, written under another name and renamed.

A checkpoint being written at a kill is never read: it has no final name. The newest whole one is used; one whose bytes
do not match its own digests is passed over for the one before it, and said so. Only files named there are read.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..support.digests import content_hash, file_digest
from ..support.errors import full_disk

log = logging.getLogger(__name__)
KEEP = 2


def save(folder: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict) -> Path:
    """Write ``folder/step-00000042``: one safetensors file per group of ``tensors``, and ``state`` as JSON.

    UserError where the disk is full; what was there before stays as it was.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f".writing-{step:08d}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write(temporary, step, tensors, state)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)  # half a checkpoint would keep the disk full
        if full := full_disk(error, f"writing the checkpoint of step {step} in {folder}",
                             f"last good checkpoint: {newest(folder) or 'none yet'}"):
            raise full from error
        raise
    # later ones, if any, could not be used: they must not push out what can
    for old in [path for path in sorted(folder.glob("step-*")) if path.name < final.name][:1 - KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _write(temporary: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict) -> None:
    temporary.mkdir(parents=True)
    digests = {}
    for name, group in tensors.items():
        path = temporary / f"{name}.safetensors"
        save_file({key: value.detach().contiguous().cpu().clone() for key, value in group.items()}, path)
        digests[path.name] = file_digest(path)
    record = {"step": step, "state": state, "digests": digests}
    with open(temporary / "checkpoint.json", "w", encoding="utf-8") as file:
        json.dump({**record, "digest": content_hash(record)}, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def load_latest(folder: Path) -> tuple[int, dict[str, dict[str, torch.Tensor]], dict] | None:
    """The newest whole checkpoint as (step, tensors by group, state), or None."""
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            record = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
            if record.pop("digest") != content_hash(record):
                raise ValueError("checkpoint.json changed since it was written")
            broken = [name for name, digest in record["digests"].items() if file_digest(path / name) != digest]
            if broken:
                raise ValueError(f"{', '.join(broken)} changed since it was written")
            tensors = {Path(name).stem: load_file(path / name) for name in record["digests"]}
            return record["step"], tensors, record["state"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.warning("checkpoint %s cannot be used (%s); trying the one before it", path, error)
    return None


def newest(folder: Path) -> Path | None:
    return max(folder.glob("step-*"), default=None)
