"""What a run writes: result.json, figures.parquet and start.parquet, samples.parquet, references.parquet, metrics.jsonl
and rollouts.jsonl."""

from __future__ import annotations

import json
import platform
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation.verdicts.pairings import REFERENCES
from ..evaluation.verdicts.records import DATA, START
from ..support.checkout import commit
from ..support.errors import full_disk
from ..support.provenance import files_of, installed
from ..support.secrets import Mask

if TYPE_CHECKING:
    import pandas as pd

    from ..data.records.refused import RefusedRows

SCHEMA = 2
START_FIGURES = "start.parquet"  # of the model that training started from, as figures.parquet
PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate", "hydra-core")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **installed(PACKAGES)}


def device_name() -> str:
    """What numbers depend on: ``trainer.mixed_precision=auto`` computes in bf16 where the hardware has it."""
    import torch

    from ..models.precision import cpu_has_bf16

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu {'with' if cpu_has_bf16() else 'without'} bf16, {torch.get_num_threads()} threads"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write a file under; it becomes ``path`` once it is written, and is removed where that fails.

    UserError where the disk is full.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        yield temporary
        temporary.replace(path)
    except Exception as error:
        temporary.unlink(missing_ok=True)
        if full := full_disk(error, f"writing {path}", "complete stages are intact", "hydra.run.dir=PATH"):
            raise full from error
        raise


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Strict JSON (no NaN), whole or not at all."""
    with whole(path) as file:
        file.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON Lines, whole or not at all."""
    with whole(path) as file:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8",
                        newline="\n")


def header(algorithm: str, seed: int, mask: Mask, overrides: list[str], ran: bool = True) -> dict[str, Any]:
    """What every result.json begins with. ran: on this process's device; naming it loads what runs on it."""
    whole = isinstance(seed, int) and not isinstance(seed, bool)  # where it is not, the job failed for it
    return {"schema": SCHEMA, "status": "complete", "algorithm": algorithm, "seed": seed if whole else None,
            "trial": bool(mask.config.get("trial")),
            "config": mask.config, "overrides": [mask.override(item) for item in overrides],
            "commit": commit(files_of(_targets(mask.config))), "versions": versions(),
            "device": device_name() if ran else None}


def heading(mask: Mask, overrides: list[str]) -> dict[str, str]:
    """Of what a page about data is, and how and when it was made."""
    data = mask.config.get("data") or {}
    source = data.get("path") or str(data.get("_target_", "")).rpartition(".")[2]
    return {"Source": str(source), "Command": shlex.join(["python", "run.py", *map(mask.override, overrides)]),
            "Made": datetime.now().astimezone().isoformat(" ", "minutes"),
            "Version": commit(files_of(_targets(mask.config))) or "no checkout"}


def _targets(config: Any) -> Iterator[str]:
    """The functions and classes that a config names, in all of it."""
    if isinstance(config, dict):
        if isinstance(name := config.get("_target_"), str) and re.fullmatch(r"[\w.]+", name):
            yield name
        config = list(config.values())
    for one in config if isinstance(config, list) else ():
        yield from _targets(one)


def write_bad_rows(folder: Path, rows: RefusedRows | None, mask: Mask) -> Path | None:
    """bad_rows.jsonl with every row that could not be used, or None, and no such file, where there is none."""
    path = folder / "bad_rows.jsonl"
    if not rows:
        path.unlink(missing_ok=True)
        return None
    with whole(path) as temporary:
        with open(temporary, "w", encoding="ascii") as file:
            file.writelines(json.dumps(mask.hide(row)) + "\n" for row in rows)
    return path


def write_samples(folder: Path, samples: pd.DataFrame) -> None:
    with whole(folder / "samples.parquet") as file:
        samples.to_parquet(file, index=False)


def write_references(folder: Path, start: pd.DataFrame | None, preferred: dict[str, str]) -> None:
    """references.parquet: what the answers may be compared with. start: the answers of the model that training started
    from; preferred: by ``prompt_id`` the answer that the data prefers."""
    import pandas as pd

    columns = ["prompt_id", "sample", "response", "finished"]
    rows = [(key, 0, text, True) for key, text in preferred.items()]
    parts = [pd.DataFrame(rows, columns=columns).assign(side=DATA)]
    if start is not None and len(start):
        parts.append(start.loc[start["picked"], columns].assign(side=START))
    with whole(folder / REFERENCES) as file:
        pd.concat([part for part in parts if len(part)] or parts, ignore_index=True).to_parquet(file, index=False)


def write_figures(folder: Path, rows: pd.DataFrame, name: str = "figures.parquet") -> None:
    """``figure, prompt_id, numerator, denominator``."""
    with whole(folder / name) as file:
        rows.to_parquet(file, index=False)


def copy_metrics(stage: Path, folder: Path) -> None:
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        if (stage / name).is_file():
            with whole(folder / name) as file:
                shutil.copyfile(stage / name, file)
