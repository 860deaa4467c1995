"""``python run.py task=harness``: lm-evaluation-harness over finished runs, beside what each began from.

A run's folder gets ``harness.json`` (the figures, the harness's own results, versions and task files) and the rows of
its figures, as ``figures.parquet`` has them, in ``harness.parquet`` and ``harness_start.parquet``. A figure is what is
a mean over a task's documents, ``harness/TASK.METRIC``, a row for each, unless less of it is better; others stand in
the harness's own results.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import json
import logging
import math
import shutil
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from ..evaluation.verdicts.pairings import finished_runs
from ..figures import Figure
from ..support.checks import at_least, require
from ..support.errors import ConfigError
from ..support.secrets import Mask
from ..support.terminal import show
from . import results
from .beside import Finished, told
from .judging import as_run
from .settings import build
from .tasks import adapter_of, store_of

if TYPE_CHECKING:
    from ..models.model import ModelConfig, Models

log = logging.getLogger(__name__)
FILE, ROWS, START_ROWS = "harness.json", "harness.parquet", "harness_start.parquet"
KEPT = ("results", "versions", "n-shot", "higher_is_better", "configs")  # of what the harness returns


@dataclass
class HarnessConfig:
    """What lm-evaluation-harness (Gao et al.) is asked."""

    tasks: list[str] = field(default_factory=list)
    include_path: str | None = None  # a folder of task files, whose paths count from there; null: the harness's own
    chat: bool = False  # ask by the model's chat template
    limit: int | None = None  # documents of each task; null: all

    def __post_init__(self):
        require(self, "harness", limit=at_least(1).or_null())

    def check(self) -> None:
        """ConfigError for what cannot be asked; reads the tasks and their data."""
        if importlib.util.find_spec("lm_eval") is None:
            raise ConfigError("task: found harness, and lm-evaluation-harness is not installed; expected the extra "
                              "harness; fix: pip install -e '.[harness]' -c constraints.txt")
        if not self.tasks:
            raise ConfigError("harness.tasks: found none; expected names of tasks; fix: 'harness.tasks=[NAME,…]', and "
                              "harness.include_path=FOLDER of task files of your own")
        if self.include_path is not None and not Path(self.include_path).is_dir():
            raise ConfigError(f"harness.include_path: found no folder {self.include_path}; expected one of task files; "
                              "fix: correct the path")
        tasks = self._manager()
        if unknown := [name for name in self.tasks if name not in tasks.all_tasks]:
            where = self.include_path or "lm-evaluation-harness"
            raise ConfigError(f"harness.tasks: found {unknown[0]}, which is no task of {where}; expected some of "
                              f"{', '.join(tasks.all_tasks[:20]) or 'none there'}; fix: correct the name, or "
                              "harness.include_path")
        try:
            with self._beside_tasks():
                tasks.load(list(self.tasks))
        except Exception as error:  # of datasets, of the hub, of a task file's own code
            raise ConfigError(f"harness.tasks: found {', '.join(self.tasks)}, which could not be read "
                              f"({type(error).__name__}: {' '.join(str(error).split())[:300]}); expected a dataset "
                              "that is there; fix: dataset_path: json with data_files on this machine, or the "
                              "network") from error

    def _manager(self):
        from lm_eval.tasks import TaskManager

        folder = None if self.include_path is None else str(Path(self.include_path).resolve())
        return TaskManager(include_path=folder, include_defaults=folder is None)

    def _beside_tasks(self):
        return contextlib.nullcontext() if self.include_path is None else contextlib.chdir(self.include_path)

    def ask(self, models: Models, role: str, batch_size: int) -> dict[str, Any]:
        """What the harness finds of a role."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        logging.getLogger("lm_eval").setLevel(logging.WARNING)  # what it goes through
        with models.roles.use(models.role(role).name), models.autocast(), self._beside_tasks():
            asked = HFLM(pretrained=models.roles.module, tokenizer=copy.deepcopy(models.template.tokenizer),
                         batch_size=batch_size)
            return simple_evaluate(model=asked, tasks=list(self.tasks), task_manager=self._manager(), limit=self.limit,
                                   apply_chat_template=self.chat, bootstrap_iters=0)


def figures(found: dict[str, Any]) -> dict[str, Figure]:
    """Of the harness's results, by name: metrics that are means over a task's documents, less of which is not better.
    """
    made = {}
    for task, samples in found["samples"].items():
        for key, mean in found["results"][task].items():
            metric, _, way = key.partition(",")
            values = {str(one["doc_id"]): one[metric] for one in samples if metric in one and one["filter"] == way}
            less = found.get("higher_is_better", {}).get(task, {}).get(metric) is False
            if less or not values or not all(isinstance(value, (bool, int, float)) for value in values.values()):
                continue
            if math.isclose(math.fsum(values.values()) / len(values), mean, rel_tol=1e-6, abs_tol=1e-9):
                name = f"harness/{task}.{metric}" + ("" if way == "none" else f".{way}")
                kind = "share" if set(values.values()) <= {0, 1} else "mean"
                made[name] = Figure.of(name, values, [float(value) for value in values.values()], kind=kind,
                                       unit="documents")
    return made


@dataclass(frozen=True)
class _Asked:
    """What is evaluated: weights (None: the base's own) of a model, and those it began from."""

    name: str
    target: Path  # where it is written
    weights: Path
    model: ModelConfig
    start: str | None  # its kind; None where its weights are not there
    began: Path | None


def harness(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Ask each of the finished runs, or the model of ``adapter``, and what it began from."""
    parts = build(config, ("harness", "stages"))
    parts["harness"].check()
    asked = _of_adapter(config, folder) if config.runs is None else _of_runs(config, store_of(parts["stages"]).folder,
                                                                             overrides)
    from ..models.model import Models
    from .speakers import base_of

    key, models, kept, mask = None, None, {}, Mask(config)
    for one in asked:
        if base_of(one.model) != key:  # one base in memory
            models, kept = None, {}
            models, key = Models(one.model, config.trainer.mixed_precision), base_of(one.model)
        found = _found(parts["harness"], models, one.weights, config.eval.batch_size, kept)
        start = one.start and _found(parts["harness"], models, one.began, config.eval.batch_size, kept)
        _write(one, parts["harness"], found, start or None, mask)
        show(mask.text(Finished(one.name, told(figures(found)), one.start or "not there",
                                told(figures(start)) if start else {}, []).text(
            shutil.get_terminal_size((100, 40)).columns)) + f"\n\nresults: {one.target / FILE}")


def _of_adapter(config: DictConfig, folder: Path) -> list[_Asked]:
    if config.adapter is None:
        raise ConfigError("runs: found none, and no adapter; expected the folder of finished runs, or of one model; "
                          "fix: runs=multirun/…, or adapter=FOLDER")
    weights, model = adapter_of(config)
    return [_Asked(str(weights), folder, weights, model, "base", None)]


def _of_runs(config: DictConfig, store: Path, overrides: list[str]) -> list[_Asked]:
    top = Path(config.runs)
    raws = {top / run.name: json.loads((top / run.name / "result.json").read_text(encoding="utf-8"))
            for run in finished_runs(top)}
    stages = {(raw["identity"], raw["seed"]): folder for folder, raw in raws.items() if raw.get("identity")}
    asked = []
    for folder, raw in raws.items():
        own = as_run(config, folder, overrides)
        own.adapter = str(folder)
        weights, model = adapter_of(own)
        start = raw.get("start") or {}
        kind, began = start.get("kind"), stages.get((start.get("identity"), raw["seed"]))
        if kind not in (None, "base") and began is None:
            began = store / str(start.get("stage"))
            if not began.is_dir():
                log.warning("%s: the %s that it began from is neither among these runs nor a kept stage in %s, so it "
                            "has nothing beside it; the same command makes it again", folder, kind, store)
                kind = None
        asked.append(_Asked(f"{raw['algorithm']}, seed {raw['seed']}", folder, weights, model, kind,
                            None if kind == "base" else began))
    return asked


def _found(harness: HarnessConfig, models: Models, weights: Path | None, batch_size: int, kept: dict[str, Any]
           ) -> dict[str, Any]:
    """What the harness finds of weights, asked once."""
    from ..models.export import frozen_role, role_digest

    key = "base" if weights is None else role_digest(weights)
    if key not in kept:
        models.clear_roles()
        frozen_role(models, "policy", weights)
        kept[key] = harness.ask(models, "policy", batch_size)
    return kept[key]


def _write(one: _Asked, asked: HarnessConfig, found: dict[str, Any], start: dict[str, Any] | None, mask: Mask
           ) -> None:
    from ..evaluation.metrics import figure_rows

    own, before = figures(found), figures(start) if start else {}
    results.write_figures(one.target, figure_rows(own.values()), ROWS)
    results.write_figures(one.target, figure_rows(before.values()), START_ROWS)
    harness = {key: _plain(found.get(key)) for key in KEPT}
    versions = {**results.versions(), "lm_eval": version("lm_eval")}
    results.write_json(one.target / FILE, mask.hide({
        "evaluation": told(own), "start": {"kind": one.start, "evaluation": told(before)}, "versions": versions,
        "asked": dataclasses.asdict(asked), "harness": harness}))


def _plain(value: Any) -> Any:
    """As strict JSON: a task file may hold functions and numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if isinstance(value, (bool, int, float, str, type(None))) and finite else str(value)
