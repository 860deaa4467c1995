"""Instruction tuning as a data source (``data=flan``): tasks in clusters, templates, a capped proportional mixture.

FLAN (Wei et al. 2021, arXiv 2109.01652), its caps and inverted templates; by option few-shot and chain-of-thought
prompts as in the Flan collection (Chung et al. 2022, arXiv 2210.11416; Longpre et al. 2023, arXiv 2301.13688). A task
is a YAML file, see ``task_file.py``. A cluster is unseen only if none of its tasks is trained on, and what resembles it
can be left out with it. FLAN draws each of a set's ten templates as often as any other, so its inverted ones, three at
most, are up to 30 % of the examples; here their share is a setting, and the default of 8 % this project's own.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import ClassVar

from ...support.checks import SHARE, SHARE_BELOW_1, at_least, one_of, require
from ...support.errors import ConfigError
from ..records import DataSets
from ..records.loading import Loader
from ..records.mixing import capped_rates, flags, quotas, walk
from ..records.record import Record, prompt_hash
from ..records.storage import Records
from ..records.told import SHOWN, LoadReport
from ..records.views import prompts
from .task_file import Pattern, TaskFile, TaskRow, ask
from .task_finding import find_tasks, locate
from .task_records import (
    Task,
    asked_records,
    choice_records,
    duplicates,
    heldout_rows,
    in_turn,
    is_held_out,
    measure,
    relabelled,
    task_record,
)

log = logging.getLogger(__name__)

EVALUATED = "prompt is evaluated"       # draws that were left out, another taken in their place
FEWER = "solved examples up to data.shots, no more differ"       # prompts that show what there is
NONE = "solved examples, none differs from the question"         # prompts that show none


@dataclass
class InstructionData:
    """Tasks, what is trained on and what is held out, and the mixture.

    tasks: task YAMLs, folders of them, or globs; relative ones also from the project's folder.
    path: where the tasks' rows are: null (beside each YAML), a folder (tasks without their file there are left out), a
    file or several (each taken by the task that names it, or else by the one task whose `file` is null).
    heldout_clusters: no task of theirs is trained on; all their rows can be evaluated. exclusions: cluster → further
    ones that are not trained on either where it is held out. only: names of the tasks trained on; null: all others.
    Tasks neither trained on nor of a held-out cluster are not read.
    cap: training rows a task, a seeded choice; rate: where more rows give a task no more weight. examples: records
    drawn; null: Σ min(rows, cap, rate).
    inverted: share of the draws of tasks that have inverted templates. few_shot: share that shows `shots` solved
    examples of the same template before, or as many as the training rows have: the report counts where these are fewer.
    options: share of direct prompts that list the options after them, where the template does not.
    cot_examples: records added, drawn of tasks with chain-of-thought templates: of `cot_tasks`, or of all trained on.
    cot_target: rationale, or direct (the control: the same tasks' direct templates, answers alone). cot_few_shot: as
    few_shot.
    labels: random gives training rows other answers, see ``task_records.relabelled``; what is evaluated stays as it is.
    chat: prompts are messages. heldout: share of the keys whose rows trained tasks hold out, by the keys' hash alone:
    two tasks about the same people hold out the same ones. Every second key held out is for `tuning`. evaluation: rows
    evaluated a task, and for tuning as many more. on_bad_row: error | drop.
    """

    tasks: list[str] | str | None
    path: str | list[str] | None = None
    heldout_clusters: list[str] = field(default_factory=list)
    exclusions: Mapping[str, list[str]] = field(default_factory=dict)
    only: list[str] | None = None
    cap: int = 30_000
    rate: int = 3000
    examples: int | None = None
    inverted: float = 0.08
    few_shot: float = 0.0
    shots: int = 4
    options: float = 0.5
    cot_examples: int = 0
    cot_tasks: list[str] | None = None
    cot_target: str = "rationale"
    cot_few_shot: float = 0.0
    labels: str = "true_answers"
    chat: bool = False
    heldout: float = 0.1
    evaluation: int = 128
    on_bad_row: str = "error"

    in_trial: ClassVar[dict[str, int]] = {"examples": 64, "cot_examples": 16, "evaluation": 2}

    def __post_init__(self):
        require(self, "data", cap=at_least(1), rate=at_least(1), shots=at_least(1), evaluation=at_least(1),
                cot_examples=at_least(0), examples=at_least(0).or_null(), inverted=SHARE, few_shot=SHARE, options=SHARE,
                cot_few_shot=SHARE, heldout=SHARE_BELOW_1, cot_target=one_of(("rationale", "direct")),
                labels=one_of(("true_answers", "random")), on_bad_row=one_of(("error", "drop")))

    def load(self, seed: int) -> DataSets:
        """The named sets; `seed` draws the mixture (and random labels) and nothing else.

        demonstrations: the mixture; prompts: its distinct prompts; evaluation, tuning: held-out prompts with their
        reference, one of each task in turn; choices: rank classification of the evaluated rows that have options;
        measure: exact match and chain-of-thought accuracy. Raises ConfigError, DataError.
        """
        chosen = self._chosen()
        tasks, report = self._read(chosen)
        held_out = [(task, *heldout_rows(task, self.evaluation)) for task in tasks]
        evaluated: set[int] = set()  # hashes of prompts
        evaluation = in_turn([asked_records(task.file, rows, self.chat) for task, rows, _ in held_out], evaluated)
        tuning = in_turn([asked_records(task.file, rows, self.chat) for task, _, rows in held_out], evaluated)
        trained_on = {*(chosen.trained if self.examples != 0 else ()), *(chosen.cot if self.cot_examples else ())}
        choices = [record for task, rows, _ in held_out
                   for record in choice_records(task, rows, task.name in trained_on, self.chat)]
        evaluated |= {prompt_hash(record.prompt) for record in choices}
        demonstrations = Records.from_list(self._mixture(tasks, chosen, seed, evaluated, report))
        _log(report)
        empty = Records.from_list([])
        return DataSets(preferences=empty, demonstrations=demonstrations, prompts=prompts(demonstrations),
                        evaluation=Records.from_list(evaluation), heldout=empty, tuning=Records.from_list(tuning),
                        report=report, choices=Records.from_list(choices) if choices else None, measure=measure,
                        on_bad_row=self.on_bad_row)

    # ---- which tasks

    def _chosen(self) -> "_Chosen":
        """The tasks of this run, with their files; refuses names that mean nothing."""
        files = {file.name: file for file in find_tasks(self.tasks)}
        left_out = self._left_out({file.cluster for file in files.values()})
        paths = locate(list(files.values()), self.path)
        trainable = [name for name, file in files.items() if name in paths and file.cluster not in left_out]
        self._check_trainable("only", self.only or [], files, paths, trainable)
        self._check_trainable("cot_tasks", self.cot_tasks or [], files, paths, trainable)
        trained = [name for name in trainable if self.only is None or name in self.only]
        cot = self._reasoning(trained, files)
        unseen = [name for name in paths if files[name].cluster in self.heldout_clusters]
        if without := set(self.heldout_clusters) - {files[name].cluster for name in unseen}:
            raise ConfigError(f"data.heldout_clusters: found {min(without)}, none of whose files is in data.path; "
                              "expected clusters with rows; fix: add the files, or leave the cluster out")
        if not self.cot_examples and (not trained or self.examples == 0):
            raise ConfigError("data.tasks: found no task to train on; expected one; fix: hold out fewer clusters, name "
                              "tasks in data.only, or draw examples")
        used = {*trained, *(self.cot_tasks or []), *unseen}
        return _Chosen(files, {name: paths[name] for name in files if name in used}, trained, cot, unseen)

    def _left_out(self, clusters: set[str]) -> set[str]:
        """The clusters that are not trained on: those held out, and what is excluded beside them."""
        self._check_names("heldout_clusters", self.heldout_clusters, clusters)
        for cluster, others in self.exclusions.items():
            self._check_names("exclusions", [cluster, *others], clusters)
        excluded = [self.exclusions.get(cluster, []) for cluster in self.heldout_clusters]
        return set(self.heldout_clusters).union(*excluded)

    def _check_trainable(self, key: str, names: list[str], files: dict[str, TaskFile], paths: dict[str, str],
                         trainable: list[str]):
        """Refuses tasks named by `key` that there are not, that have no rows, or that may not be trained on."""
        self._check_names(key, names, files)
        for name in names:
            if name not in paths:
                raise ConfigError(f"data.{key}: found {name}, whose file {files[name].file} is not in data.path; "
                                  "expected tasks with their rows; fix: add the file, or leave the task out")
            if name not in trainable:
                raise ConfigError(f"data.{key}: found {name}, whose cluster {files[name].cluster} is held out or "
                                  "excluded; expected tasks that may be trained on; fix: leave the task out")

    def _reasoning(self, trained: list[str], files: dict[str, TaskFile]) -> list[str]:
        """The tasks that chains of thought are drawn of."""
        named = trained if self.cot_tasks is None else self.cot_tasks
        cot = [name for name in named if files[name].cot]
        if without := [name for name in self.cot_tasks or [] if name not in cot]:
            raise ConfigError(f"data.cot_tasks: found {without[0]}, which has no chain-of-thought templates (cot); "
                              "expected tasks that have; fix: leave the task out")
        if self.cot_examples and not cot:
            raise ConfigError(f"data.cot_examples: found {self.cot_examples}, but no task that is trained on has "
                              "chain-of-thought templates; expected one; fix: data.cot_examples=0, or other tasks")
        return cot

    @staticmethod
    def _check_names(key: str, names: list[str], known: Mapping | set):
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"data.{key}: found {unknown[0]}; expected some of {', '.join(sorted(known))}; "
                              "fix: correct the name")

    # ---- rows

    def _read(self, chosen: "_Chosen") -> tuple[list[Task], LoadReport]:
        """The tasks with their rows, and what reading all of them found."""
        tasks, report = [], LoadReport()
        for name, path in chosen.paths.items():
            file = chosen.files[name]
            source, ignored = file.open(path)
            loader = Loader({}, file.record, self.on_bad_row == "drop", None)
            rows = Records.from_list(loader.records([source]))
            task = self._divided(file, rows, unseen=name in chosen.unseen)
            tasks.append(task)
            _add(report, loader.report)
            report.duplicates += duplicates(rows)
            report.layouts[path] = f"{report.layouts[path]}, {name}" if path in report.layouts else f"task {name}"
            if ignored:
                report.ignored_columns[path] = ignored
            report.sources[name] = {"read": loader.report.read, "train": len(task.train),
                                    "heldout": len(task.heldout), "drawn": 0}
        report.kinds = {"task row": report.kept}
        return tasks, report

    def _divided(self, file: TaskFile, rows: Records, unseen: bool) -> Task:
        """A task's rows on their two sides."""
        held_out = is_held_out(rows, 1.0 if unseen else self.heldout)
        if self.heldout and not held_out.any():
            log.warning("task %s: nothing is held out, all its rows have the same key", file.name)
        return Task(file, unseen, rows.where(~held_out), rows.where(held_out))

    # ---- the mixture

    def _mixture(self, tasks: list[Task], chosen: "_Chosen", seed: int, evaluated: set[int], report: LoadReport
                 ) -> Iterator[Record]:
        """The records drawn, task after task (training shuffles them); fills in what the report says of them."""
        direct = self._quotas([task for task in tasks if task.name in chosen.trained], self.examples)
        cot = self._quotas([task for task in tasks if task.name in chosen.cot], self.cot_examples)
        for task in tasks:
            counts = report.sources[task.name]
            rows = self._rows(task, seed) if direct[task.name] or cot[task.name] else []
            for part, count in (("mixture", direct[task.name]), ("cot", cot[task.name])):
                draws = _Draws(self, task.file, rows, part, seed, evaluated, report)
                for record in draws.take(count):
                    _count(counts, "drawn")
                    _count(counts, record.meta["variant"])
                    yield record

    def _quotas(self, tasks: list[Task], total: int | None) -> dict[str, int]:
        """Records of each task: p_i = rate_i / Σ rate."""
        rates = capped_rates([len(task.train) for task in tasks], self.cap, self.rate)
        counts = quotas(rates, sum(rates) if total is None else total) if tasks else []
        return defaultdict(int, zip([task.name for task in tasks], counts))

    def _rows(self, task: Task, seed: int) -> list[TaskRow]:
        """The training rows: at most `cap`, with other answers where labels are random."""
        count = len(task.train)
        chosen = sorted(Random(f"cap/{seed}/{task.name}").sample(range(count), min(count, self.cap)))
        rows = [TaskRow.of(record) for record in task.train.select(chosen)]
        return relabelled(rows, Random(f"labels/{seed}/{task.name}")) if self.labels == "random" else rows


@dataclass
class _Chosen:
    """Which tasks a run has, by name."""

    files: dict[str, TaskFile]  # of all tasks
    paths: dict[str, str]  # of the rows of those that are read
    trained: list[str]
    cot: list[str]  # drawn of for chains of thought
    unseen: list[str]  # of a held-out cluster


class _Draws:
    """Training records of one task: its rows in seeded permutations, a template drawn for each."""

    def __init__(self, data: InstructionData, file: TaskFile, rows: list[TaskRow], part: str, seed: int,
                 evaluated: set[int], report: LoadReport):
        self.data, self.file, self.rows, self.cot = data, file, rows, part == "cot"
        self.evaluated, self.report = evaluated, report
        self.patterns = {"cot": file.cot, "inverted": file.inverted, "direct": file.templates}
        self.random = Random(f"{part}/{seed}/{file.name}")
        self.order = walk(len(rows), f"{part}/rows/{seed}/{file.name}")
        self.others = walk(len(rows), f"{part}/examples/{seed}/{file.name}")
        # (pattern, suffix) → every (prompt, target) that may be shown, once a search for examples found too few
        self.showable: dict[tuple[Pattern, bool], list[tuple[str, str]]] = {}

    def take(self, count: int) -> Iterator[Record]:
        """`count` records; the shares of inverted and option prompts among them are exact. So is that of few-shot
        prompts, but one shows fewer examples, or none, where there are no more."""
        data = self.data
        inverted = flags(count, data.inverted if self.file.inverted and not self.cot else 0, self.random)
        shown = flags(count, data.cot_few_shot if self.cot else data.few_shot, self.random)
        listed = flags(count, data.options, self.random)
        reasoned = self.cot and data.cot_target == "rationale"
        for is_inverted, shows_examples, lists_options in zip(inverted, shown, listed):
            kind = "cot" if reasoned else "inverted" if is_inverted else "direct"
            suffix = lists_options and kind == "direct"
            yield self._record(kind, suffix, data.shots if shows_examples else 0)

    def _record(self, kind: str, suffix: bool, shots: int) -> Record:
        row, pattern, prompt, target = self._question(kind, suffix)
        variant = kind
        if kind == "direct":
            listed = row.options is not None and (suffix or pattern.lists_options)
            variant = "options" if listed else "plain"
        question = target if kind == "inverted" else prompt
        examples = self._examples(pattern, suffix, question, shots) if shots else []
        if len(examples) < shots:
            _count(self.report.skipped, f"task {self.file.name}: {FEWER if examples else NONE}")
        meta = {"answer": target if kind == "inverted" else row.answer} | ({"shots": len(examples)} if examples else {})
        return task_record(self.file, row, "\n\n".join([*examples, prompt]), [target], variant, self.data.chat, **meta)

    def _question(self, kind: str, suffix: bool) -> tuple[TaskRow, Pattern, str, str]:
        """The next row, a template of that kind, and the prompt and target they make; evaluated prompts are passed."""
        for _ in range(2 * len(self.rows) + 100):
            row, pattern = self.rows[next(self.order)], self.random.choice(self.patterns[kind])
            prompt, target = ask(pattern, row, suffix)
            if prompt_hash(prompt) not in self.evaluated:
                return row, pattern, prompt, target
            self._count_left_out(row)
        raise ConfigError(f"{self.file.path}: key: found that the prompts of all training rows are evaluated too; "
                          "expected rows that differ in what prompts show; fix: set key to a field that they show")

    def _examples(self, pattern: Pattern, suffix: bool, question: str, shots: int) -> list[str]:
        """Different solved examples of the same template, fewer than `shots` where there are no more; none has the
        drawn row's question as prompt or target."""
        if (pattern, suffix) not in self.showable:
            found = self._search(pattern, suffix, question, shots)
            if len(found) == shots:
                return found
            asked = dict.fromkeys(ask(pattern, row, suffix) for row in self.rows)  # each once, in the rows' order
            self.showable[pattern, suffix] = [(prompt, target) for prompt, target in asked
                                              if prompt_hash(prompt) not in self.evaluated]
        others = [f"{prompt} {target}" for prompt, target in self.showable[pattern, suffix]
                  if question not in (prompt, target)]
        return self.random.sample(others, min(shots, len(others)))

    def _search(self, pattern: Pattern, suffix: bool, question: str, shots: int) -> list[str]:
        """The same, of the next rows alone: up to twice as many as there are, which mostly is enough."""
        found: list[str] = []
        for index in islice(self.others, 2 * len(self.rows)):
            prompt, target = ask(pattern, self.rows[index], suffix)
            text = f"{prompt} {target}"
            if question not in (prompt, target) and text not in found and prompt_hash(prompt) not in self.evaluated:
                found.append(text)
            if len(found) == shots:
                break
        return found

    def _count_left_out(self, row: TaskRow):
        _count(self.report.dropped, EVALUATED)
        lines = self.report.lines.setdefault(EVALUATED, [])
        if len(lines) < SHOWN:
            lines.append(f"{row.source}:{row.line}")


# ---- the report


def _count(counts: dict[str, int], what: str, more: int = 1):
    counts[what] = counts.get(what, 0) + more


def _add(report: LoadReport, found: LoadReport):
    """Add what reading one more task's rows found."""
    report.read += found.read
    report.kept += found.kept
    report.blank_lines += found.blank_lines
    report.refused += found.refused
    report.first = found.first | report.first
    for reason, count in found.dropped.items():
        _count(report.dropped, reason, count)
    for reason, lines in found.lines.items():
        report.lines[reason] = (report.lines.get(reason, []) + lines)[:SHOWN]


def _log(report: LoadReport):
    for name, counts in report.sources.items():
        log.info("task %s: %s", name, ", ".join(f"{key} {count}" for key, count in counts.items()))
    for reason, count in report.dropped.items():
        log.warning("left out %d: %s (%s)", count, reason, report.places(reason))
    for what, count in report.skipped.items():
        log.warning("skipped %d times: %s", count, what)
