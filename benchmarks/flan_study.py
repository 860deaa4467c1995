"""Does instruction tuning do what FLAN reports? Declared comparisons over tasks in clusters (`task=study`).

    trained     tuned on all tasks: accuracy on their rows that were not tuned on
    clusters    tuned on all clusters but one (Wei et al. 2021, arXiv 2109.01652, §2.2): accuracy on that one, against
                the un-tuned model in the same form and in the form it knows best, and against tuning with random
                answers
    tasks       accuracy on held-out clusters by the number of tasks tuned on (ibid. §4.1), over nested draws of tasks
    reasoning   chain of thought on held-out tasks after tuning without it, with direct answers in its place, and with
                it (Chung et al. 2022, arXiv 2210.11416, §4); the other examples stay as many

Every tuned model is a kept stage, so a study that was stopped goes on where it was. What was answered is written to
answers.parquet, and everything printed is made from it (`flan_page.py`).
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from algorithms.common.data.instructions import InstructionData
from algorithms.common.data.instructions.task_file import TaskFile
from algorithms.common.data.instructions.task_finding import find_tasks
from algorithms.common.data.records import DataSets, Record, Records
from algorithms.common.runs import results, tasks
from algorithms.common.runs.settings import Settings, settings
from algorithms.common.support.checks import Rule, at_least, require, within
from algorithms.common.support.errors import ConfigError
from algorithms.common.support.secrets import Mask
from benchmarks.flan_page import write

if TYPE_CHECKING:  # planning and reading a study need no model
    from algorithms.common.evaluation.evaluate import Evaluation
    from algorithms.common.runs.stages import Bench

log = logging.getLogger(__name__)
DIRECT = 64  # prompts answered by sampling where chain of thought is not the question


@dataclass
class Study:
    """What is compared; declared with the data, before it is run."""

    clusters: list[str]  # each held out in turn
    curve_heldout: list[str]  # held out together while the number of tasks varies
    reasoning: str  # the cluster of chain-of-thought tasks to tune on: never among the other examples
    reasoning_heldout: str  # the cluster of those never tuned on
    sizes: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16])
    draws: int = 5  # of the tasks tuned on
    reasoning_share: float = 0.25  # of all examples, where they are mixed in
    reasoning_states: list[str] = field(default_factory=list)  # tasks whose answers rationales tell: no "other tasks"
    seeds: int = 3  # mixtures, orders and answers drawn anew
    workers: int | None = None  # processes; null: as many as cores, one on a GPU. Nothing that is found depends on it

    in_trial: ClassVar[dict[str, int]] = {"clusters": 1, "curve_heldout": 1, "sizes": 1, "draws": 1, "seeds": 1}

    def __post_init__(self):
        require(self, "study", draws=at_least(1), seeds=at_least(1), workers=at_least(1).or_null(),
                sizes=Rule(lambda sizes: min(sizes, default=1) >= 1,
                           "numbers of tasks from 1 (0 is the un-tuned model)"),
                reasoning_share=within("(0, 1)", "a share between 0 and 1"))


@dataclass
class StudiedTasks(InstructionData):
    """Instruction tasks with the study that is declared for them."""

    study: Study | None = None


@dataclass(frozen=True)
class Arm:
    """One tuned model of a part, and the questions it answers."""

    part: str
    condition: str
    seed: int
    heldout: str = ""  # of the part `clusters`: which one
    size: int | None = None  # of the part `tasks`: how many were tuned on
    settings: dict = field(default_factory=dict)  # fields of the data
    clusters: tuple[str, ...] = ()  # whose questions it answers
    reasons: bool = False  # it also answers the chain-of-thought prompts

    @property
    def name(self) -> str:
        where = self.heldout or (f"{self.size} tasks" if self.size is not None else "")
        return "/".join(filter(None, (self.part, where, self.condition, f"seed {self.seed}")))


def arms(study: Study, clusters: dict[str, str], examples: int, offset: int = 0) -> Iterator[Arm]:
    """All models to tune. ``clusters``: task → its cluster; ``examples``: tuned on in each, chain of thought apart.
    ``offset``: the run's seed, to which an arm's own is added.
    """
    apart = [study.reasoning, study.reasoning_heldout]
    unknown = {*study.clusters, *study.curve_heldout, *apart} - set(clusters.values())
    unknown |= set(study.reasoning_states) - set(clusters)
    if unknown:
        raise ConfigError(f"data.study: found {', '.join(sorted(unknown))}; expected clusters of the data: "
                          f"{', '.join(sorted(set(clusters.values())))}")
    direct = [task for task, cluster in clusters.items() if cluster not in apart]
    reasoning = [task for task, cluster in clusters.items() if cluster == study.reasoning]
    scope = tuple(dict.fromkeys(clusters[task] for task in direct))
    added = round(examples * study.reasoning_share / (1 - study.reasoning_share))
    for seed in range(study.seeds):
        own = {"only": direct, "heldout_clusters": [study.reasoning_heldout]}
        yield Arm("trained", "tuned", seed, settings={**own, "heldout_clusters": apart}, clusters=scope, reasons=True)
        for condition, target in (("direct answers", "direct"), ("chain of thought", "rationale")):
            mixed = {**own, "cot_tasks": reasoning, "cot_examples": added, "cot_target": target}
            yield Arm("reasoning", condition, seed, settings=mixed, clusters=scope, reasons=True)
    for seed in range(study.seeds):
        for cluster in study.clusters:
            for condition, labels in (("tuned", "true_answers"), ("random answers", "random")):
                own = {"only": [task for task in direct if clusters[task] != cluster], "heldout_clusters": [cluster],
                       "labels": labels}
                yield Arm("clusters", condition, seed, cluster, settings=own, clusters=(cluster,))
    pool = [task for task in direct if clusters[task] not in study.curve_heldout]
    for draw in range(study.draws):
        order = round_robin(pool, clusters, offset + draw)
        for size in sorted({min(size, len(pool)) for size in study.sizes}):
            own = {"only": order[:size], "heldout_clusters": list(study.curve_heldout)}
            yield Arm("tasks", "tuned", draw, size=size, settings=own, clusters=tuple(study.curve_heldout))


def round_robin(pool: list[str], clusters: dict[str, str], draw: int) -> list[str]:
    """The pool in an order drawn anew: one task of each cluster in turn, so that few tasks are of many clusters."""
    random = Random(f"tasks/{draw}")
    groups: dict[str, list[str]] = {}
    for task in pool:
        groups.setdefault(clusters[task], []).append(task)
    names = random.sample(sorted(groups), len(groups))
    shuffled = {name: random.sample(groups[name], len(groups[name])) for name in names}
    longest = max(map(len, shuffled.values()), default=0)
    return [shuffled[name][i] for i in range(longest) for name in names if i < len(shuffled[name])]


def check(data: StudiedTasks, files: list[TaskFile]) -> None:
    """ConfigError for data that the declared study cannot be made of, before anything is tuned."""
    if data.examples is None:
        raise ConfigError("data.examples: found null; expected a number: a study tunes every model on as many")
    fields = {"only": None, "heldout_clusters": [], "exclusions": {}, "cot_examples": 0, "labels": "true_answers"}
    for key, usual in fields.items():
        if getattr(data, key) != usual:
            raise ConfigError(f"data.{key}: found {getattr(data, key)!r}; expected {usual!r}, a study sets it for "
                              "every model; fix: change data.study, or task=run for one model")
    for cluster in dict.fromkeys((*data.study.clusters, *data.study.curve_heldout)):
        if not any(file.options is not None for file in files if file.cluster == cluster):
            raise ConfigError(f"data.study: found the cluster {cluster}, none of whose tasks has options; expected "
                              "clusters whose questions can be ranked")


def run(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Tune and question all models of the data's study; data that declares none is trained on and evaluated once."""
    if config.data.get("study") is None:
        log.info("this data declares no study: one model is trained on it")
        tasks.run(config, name, folder, overrides)
        return
    chosen, mask = settings(config), Mask(config)
    from algorithms.common.support.memory import released

    with released(), _one_thread():
        answers, samples, told = _answers(chosen, folder, mask)
    head = results.header(name, chosen.seed, mask, overrides)
    study = dataclasses.asdict(chosen.data.study)
    results.write_json(folder / "study.json", mask.hide({**head, **told, "study": study}))
    for frame, file in ((answers, "answers.parquet"), (samples, "samples.parquet")):
        with results.whole(folder / file) as path:
            frame.to_parquet(path, index=False)
    print(write(folder))
    print(f"\nresults: {folder}")


@dataclass
class _Room:
    """Where arms are tuned and answer; the same in every process."""

    chosen: Settings
    folder: Path
    mask: Mask

    def bench(self, data: DataSets, seed: int) -> Bench:
        from algorithms.common.runs.stages import Bench

        chosen = self.chosen
        settings_of = dataclasses.replace(chosen.eval, prompts=max(1, len(data.evaluation)))
        store = tasks.store_of(chosen.stages)
        return Bench(chosen.model, chosen.trainer, settings_of, data, seed, store, chosen.reward, self.folder,
                     self.mask.hide)

    def answer(self, arm: Arm) -> tuple[DataSets, Evaluation, float]:
        """The arm's questions, its answers (kept, as its model is) and the seconds that tuning took."""
        chosen, seed = self.chosen, self.chosen.seed + arm.seed
        tasks.store_of(chosen.stages)
        data = _scoped(dataclasses.replace(chosen.data, **arm.settings).load(seed), arm)
        bench = self.bench(data, seed)
        bench.check(chosen.algorithm)
        evaluation = bench.evaluate(chosen.algorithm, chosen.recipe, arm.name)
        return data, evaluation, bench.cost(chosen.algorithm, chosen.recipe)["seconds"]


def _prepare(room: _Room, arm: Arm) -> str:
    """In a process of its own: leaves the arm's model and answers in the store."""
    with _one_thread():
        room.answer(arm)
    return arm.name


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of floats depend on how many threads add them: with one each, answers do not depend on ``workers``."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _answers(chosen: Settings, folder: Path, mask: Mask) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    """What all models answered: questions with options, sampled responses; and how the models were tuned."""
    lab = chosen.data
    room = _Room(dataclasses.replace(chosen, trainer=dataclasses.replace(chosen.trainer, progress=False)), folder, mask)
    log.info("stages: %s (safe to delete)", tasks.store_of(chosen.stages).folder)
    files = find_tasks(lab.tasks)
    check(lab, files)
    clusters = {file.name: file.cluster for file in files}
    planned = list(arms(lab.study, clusters, lab.examples, chosen.seed))
    if (workers := lab.study.workers or _cores()) > 1:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            done = [pool.submit(_prepare, room, arm) for arm in planned]
            try:
                for number, one in enumerate(done, 1):
                    log.info("%d of %d tuned and questioned: %s", number, len(planned), one.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    questions, samples, asked, seconds = [], [], _Asked(), {}
    for number, arm in enumerate(planned, 1):
        if workers == 1:
            log.info("%d of %d: %s", number, len(planned), arm.name)
        data, evaluation, took = room.answer(arm)
        seconds[data.demonstrations.fingerprint, arm.seed] = took  # the curve may share a model with the clusters
        asked.add(data)
        questions.append(_questions(evaluation.choices, data, arm))
        samples.append(_samples(evaluation.measured, data, arm))
    data = asked.sets()
    log.info("the un-tuned model: %d questions, %d prompts", len(data.choices), len(data.evaluation))
    evaluation = room.bench(data, chosen.seed).evaluate_base(chosen.algorithm)
    untuned = Arm("untuned", "un-tuned", chosen.seed)
    questions.append(_questions(evaluation.choices, data, untuned))
    samples.append(_samples(evaluation.measured, data, untuned))
    told = {"tuned_models": len(seconds), "tuning_seconds": sum(seconds.values()), "clusters": clusters}
    return pd.concat(questions, ignore_index=True), pd.concat(samples, ignore_index=True), told


def _cores() -> int:
    """Processes that tune at the same time: small models gain nothing from a second core, a GPU takes one at a time."""
    import torch

    return 1 if torch.cuda.is_available() else min(8, len(os.sched_getaffinity(0)))


def _scoped(data: DataSets, arm: Arm) -> DataSets:
    """The questions and prompts that an arm answers: all of them would cost more than tuning."""
    inside = np.array([record.meta["cluster"] in arm.clusters for record in data.choices], bool)
    reasons = np.array([record.meta["variant"] == "cot" for record in data.evaluation], bool)
    if arm.reasons:
        prompts = data.evaluation.where(reasons)
    else:
        own = np.array([record.meta["cluster"] in arm.clusters for record in data.evaluation], bool)
        prompts = data.evaluation.select(np.flatnonzero(own & ~reasons)[:DIRECT])
    return dataclasses.replace(data, choices=data.choices.where(inside), evaluation=prompts)


class _Asked:
    """All questions and prompts that were asked, each once."""

    def __init__(self):
        self.choices: dict[tuple, Record] = {}
        self.evaluation: dict[str, Record] = {}
        self.data: DataSets | None = None

    def add(self, data: DataSets) -> None:
        self.data = data
        self.choices |= {(record.key, record.meta["variant"]): record for record in data.choices}
        self.evaluation |= {record.key: record for record in data.evaluation}

    def sets(self) -> DataSets:
        return dataclasses.replace(self.data, choices=Records.from_list(self.choices.values()),
                                   evaluation=Records.from_list(self.evaluation.values()))


def _questions(frame: pd.DataFrame, data: DataSets, arm: Arm) -> pd.DataFrame:
    """One row per question and arm."""
    metas = [record.meta for record in data.choices]
    return pd.DataFrame({
        "part": arm.part, "condition": arm.condition, "seed": arm.seed, "heldout": arm.heldout, "size": arm.size,
        "task": [meta["task"] for meta in metas], "cluster": [meta["cluster"] for meta in metas],
        "variant": [meta["variant"] for meta in metas], "record": frame["record"], "unit": frame["unit"],
        "row": [f"{meta['task']}:{meta['line']}" for meta in metas],
        "chance": [sum(record.scores) / len(record.scores) for record in data.choices],
        "correct": frame["correct"], "correct_with_end": frame["correct_with_end"]}).astype({"size": "Int64"})


def _samples(frame: pd.DataFrame, data: DataSets, arm: Arm) -> pd.DataFrame:
    """One row per figure of a sampled response and arm."""
    metas = {record.key: record.meta for record in data.evaluation}
    found = frame.assign(part=arm.part, condition=arm.condition, seed=arm.seed)
    found["task"] = [metas[key]["task"] for key in frame["prompt_id"]]
    found["cluster"] = [metas[key]["cluster"] for key in frame["prompt_id"]]
    found["unit"] = [metas[key]["unit"] for key in frame["prompt_id"]]
    return found
