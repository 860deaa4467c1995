"""Rows of instruction tasks → records: prompts with their answers, questions with options, and what a response shows."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from random import Random

import numpy as np

from ..records.record import Record, prompt_hash
from ..records.storage import Records
from .task_file import Pattern, TaskFile, TaskRow, ask


@dataclass
class Task:
    """A task with its rows (see ``TaskRow.record``). unseen: its whole cluster is held out, so no row is trained on."""

    file: TaskFile
    unseen: bool
    train: Records
    heldout: Records

    @property
    def name(self) -> str:
        return self.file.name


def task_record(file: TaskFile, row: TaskRow, prompt: str, responses: Iterable[str], variant: str, chat: bool,
                scores: list[float] | None = None, **meta) -> Record:
    """As plain text an answer follows its prompt after a space; in chat the prompt is a user's message."""
    asked = [{"role": "user", "content": prompt}] if chat else prompt
    told = {"task": file.name, "cluster": file.cluster, "variant": variant, "origin": file.name,
            "unit": file.unit_of(row), "source": row.source, "line": row.line}
    return Record(asked, [text if chat else " " + text for text in responses], scores, {**told, **meta})


def duplicates(rows: Records) -> int:
    """How many rows came before with the same fields and options."""
    hashes = np.fromiter((prompt_hash(json.dumps([record.meta["values"], record.meta["options"]])) for record in rows),
                         np.uint64, len(rows))
    return len(hashes) - len(np.unique(hashes))


def relabelled(rows: list[TaskRow], random: Random) -> list[TaskRow]:
    """The control: answers drawn from a row's options, or, where they are free, permuted; rationales permuted."""
    others = random.sample(rows, len(rows))
    made = []
    for row, other in zip(rows, others):
        values = {**row.values, "answer": random.choice(row.options) if row.options else other.answer}
        if "rationale" in values:
            values["rationale"] = other.values["rationale"]
        made.append(TaskRow(values, row.options, row.side, row.source, row.line))
    return made


# ---- evaluation: drawn by task and line, never by the run's seed


def is_held_out(rows: Records, share: float) -> np.ndarray:
    """(n,) bool: whether the hash of a row's key is in the lowest `share` of all there could be.

    So it does not depend on the other keys: tasks about the same people hold out the same ones. But where there are two
    keys and 0 < share < 1, at least one is held out and one is not.
    """
    if share in (0, 1):
        return np.full(len(rows), bool(share))
    hashes = rows.prompt_hashes
    keys = np.unique(hashes)
    count = int(np.searchsorted(keys, np.uint64(int(share * 2**64))))
    count = min(max(count, 1), len(keys) - 1)
    return hashes < keys[count] if count else np.zeros(len(rows), bool)


def heldout_rows(task: Task, count: int) -> tuple[list[TaskRow], list[TaskRow]]:
    """At most `count` rows each for the reported evaluation and for tuning.

    Rows with the same key lie in the same of the two: keys take turns in the order of their hashes. A task of a held-out
    cluster has no tuning rows.
    """
    hashes = task.heldout.prompt_hashes
    tuning = np.zeros(len(hashes), bool) if task.unseen else np.isin(hashes, np.unique(hashes)[1::2])
    sides = []
    for purpose, mask in (("evaluation", ~tuning), ("tuning", tuning)):
        members = np.flatnonzero(mask).tolist()
        chosen = sorted(Random(f"{purpose}/{task.name}").sample(members, min(count, len(members))))
        sides.append([TaskRow.of(record) for record in task.heldout.select(chosen)])
    return sides[0], sides[1]


def asked_records(file: TaskFile, rows: list[TaskRow], chat: bool) -> Iterator[Record]:
    """For every row a prompt with its reference answer, and one for a chain of thought where the task has them."""
    for row in rows:
        listed = row.options is not None
        prompt, target = ask(_drawn(file, "asked", row, file.templates), row, suffix=listed)
        yield task_record(file, row, prompt, [target], "options" if listed else "plain", chat, answer=row.answer)
        if file.cot:
            prompt, target = ask(_drawn(file, "cot", row, file.cot), row)
            yield task_record(file, row, prompt, [target], "cot", chat, answer=row.answer, answer_after=file.answer_after)


def choice_records(task: Task, rows: list[TaskRow], trained: bool, chat: bool) -> Iterator[Record]:
    """Every row with options in each variant the task can ask it in, the options as responses, the right one scored 1.

    options: the prompt lists them; plain: it does not; new: a template not trained on; natural: the declared form.
    """
    file = task.file
    side = ["heldout"] if task.unseen else ["trained"] if trained else []
    variants = {"options": file.templates, "plain": [one for one in file.templates if not one.lists_options],
                "new": file.unseen, "natural": [file.natural] if file.natural else []}
    for row in rows if file.options is not None else []:
        for variant, patterns in variants.items():
            if patterns:
                pattern = _drawn(file, variant, row, patterns)
                prompt, _ = ask(pattern, row, suffix=variant == "options")
                groups = [variant] + [f"{variant}/{part}" for part in dict.fromkeys([file.cluster, file.name, *side])]
                yield task_record(file, row, prompt, [_said(pattern, row, option) for option in row.options], variant, chat,
                                  [float(option == row.answer) for option in row.options],
                                  groups=groups)


def _said(pattern: Pattern, row: TaskRow, option: str) -> str:
    """The template's target, were this option the answer."""
    return ask(pattern, replace(row, values={**row.values, "answer": option}))[1]


def _drawn(file: TaskFile, purpose: str, row: TaskRow, patterns: list[Pattern]) -> Pattern:
    return Random(f"{purpose}/{file.name}/{row.line}").choice(patterns)


def in_turn(parts: Iterable[Iterable[Record]], seen: set[int]) -> list[Record]:
    """One record of each part in turn, every prompt once; prompts in `seen` are left out, the others are added to it."""
    records = []
    for turn in zip_longest(*parts):
        for record in turn:
            if record is not None and (found := prompt_hash(record.prompt)) not in seen:
                seen.add(found)
                records.append(record)
    return records


# ---- what a sampled response shows


def measure(record: Record, response: str, finished: bool) -> dict[str, float]:
    """Figures of a response to a record of :func:`asked_records`.

    Direct questions: exact_match, with the reference. Chains of thought: accuracy/cot, of what follows the last mark of
    an answer on its line (without a mark, of the whole response), and rationale/cot, whether there is a mark.
    """
    task = record.meta["task"]
    if record.meta["variant"] != "cot":
        hit = float(normal(response) == normal(record.responses[0]))
        return {"exact_match": hit, f"exact_match/{task}": hit}
    _, marked, after = response.rpartition(record.meta["answer_after"])
    hit = float(normal(after.strip().split("\n")[0]) == normal(record.meta["answer"]))
    reasoned = float(bool(marked))
    return {"accuracy/cot": hit, f"accuracy/cot/{task}": hit, "rationale/cot": reasoned, f"rationale/cot/{task}": reasoned}


def normal(text: str) -> str:
    """Without case, outer white space and a final period."""
    return text.strip().removesuffix(".").rstrip().casefold()
