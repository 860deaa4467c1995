"""How a stage or the base is evaluated, and what is kept of it. This code is part of the key, see ``stages.py``."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..algorithm import Algorithm, RewardSource, Scorer
from ..evaluation.evaluate import Evaluation, Spent, evaluate, noted
from ..models.export import frozen_role
from ..models.roles import BASE
from ..rewards.sources import truth
from ..support.memory import peak_memory_bytes, reset_peak_memory
from ..support.pieces import Pieces

if TYPE_CHECKING:  # named here, not run: how a bench loads things is no part of what is measured
    from .material import Material


def measure(bench: Material, algorithm: Algorithm, inputs: dict[str, Path | None], trained: Path,
            source: RewardSource | None, scored: dict[str, Path], seed: int, target: Path, work: Path) -> None:
    """Fill ``target`` with the evaluation of a trained stage and what it cost; inputs, scored: see ``training``. work:
    keeps answers and scores as they come."""
    started = time.monotonic()
    models = bench.models
    reset_peak_memory(models.device)
    models.clear_roles()
    for role, folder in inputs.items():
        frozen_role(models, role, folder)
    frozen_role(models, algorithm.role, trained)
    algorithm.load_state_dict(json.loads((trained / "state.json").read_text(encoding="utf-8")))
    scorer = source and source.load(models, scored, bench.data, bench.eval.batch_size)
    spent, pieces = Spent(), Pieces(work, lambda: noted(models))
    result = evaluate(algorithm, models, bench.data, bench.eval, seed, "reference" in inputs, scorer, spent,
                      _gold(bench), pieces)
    keep(result, target)
    peak = max([peak_memory_bytes(models.device), *(note["peak_memory_bytes"] for note in pieces.noted)])
    cost = {"seconds": time.monotonic() - started + pieces.seconds,
            "answers": {**vars(spent), "peak_memory_bytes": peak}}
    (target / "cost.json").write_text(json.dumps(cost), encoding="utf-8")


def measure_base(bench: Material, algorithm: Algorithm, source: RewardSource | None, scored: dict[str, Path], seed: int,
                 target: Path, work: Path) -> None:
    """Fill ``target`` with the evaluation of the base as it came; source, scored: see ``training``."""
    models = bench.models
    models.clear_roles()
    models.alias("policy", BASE)
    scorer = source and source.load(models, scored, bench.data, bench.eval.batch_size)
    found = evaluate(algorithm, models, bench.data, bench.eval, seed, False, scorer, gold=_gold(bench),
                     pieces=Pieces(work))
    keep(found, target)


def _gold(bench: Material) -> Scorer | None:
    source = truth(bench.data)
    return source and source.load(bench.models, {}, bench.data, bench.eval.batch_size)


def keep(evaluation: Evaluation, folder: Path) -> None:
    for field in dataclasses.fields(evaluation):
        getattr(evaluation, field.name).to_parquet(folder / f"{field.name}.parquet", index=False)


def kept(folder: Path) -> Evaluation:
    return Evaluation(**{field.name: pd.read_parquet(folder / f"{field.name}.parquet")
                         for field in dataclasses.fields(Evaluation)})
