"""Which tasks of the lab are in its table: those that the base can express and tuning can elicit.

The thresholds were declared before any task was measured. A task is admitted if

    natural     the un-tuned base is right on at least .85 of its rows, asked in the corpus' own form, and
    tuned       a model tuned on the task's own cluster is right on at least .80 of its held-out rows (of a quarter of the
                keys).

Right is rank classification: the option with the largest summed log-probability of " " + option + EOS. `tuned` is the
mean of prompts that list the options and prompts that do not. A task of worked reasoning is asked to reason instead:
right is the answer it writes after its steps, greedily; its natural form is the corpus' "Let us think step by step."
A refused task is shown with its figures: what cannot be expressed says nothing about instruction tuning.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from random import Random
from statistics import mean
from typing import NamedTuple

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from algorithms.common.data.instructions import InstructionData
from algorithms.common.data.instructions.task_file import read_task
from algorithms.common.data.instructions.task_records import normal
from algorithms.common.data.records import DataSets
from benchmarks.lab import chains
from benchmarks.lab.make_reviews import SFT_LR, supervised, train_step
from benchmarks.lab.task_rows import read_rows

NATURAL, TUNED = 0.85, 0.80
STEPS, BATCH = 150, 64          # of tuning on one cluster
REASONING = 0.25                # share of the tuning examples that reason
HELDOUT = 0.25
ROWS = 128                      # at most, of a task and a form
MAX_NEW_TOKENS = 64             # of a chain of thought; the longest has 44

log = logging.getLogger(__name__)


class Text(NamedTuple):
    """A prompt and its response."""

    prompt: str
    response: str


class Choice(NamedTuple):
    """A prompt with responses to rank; `group` is what the figure is of."""

    group: str
    prompt: str
    responses: Sequence[str]
    right: str


class Open(NamedTuple):
    """A prompt to be answered in steps."""

    group: str
    prompt: str
    answer: str


def admit(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, dict]:
    """Figures of every task of `folder` and its subfolders, and whether it is admitted."""
    paths = sorted(folder.rglob("*.yaml"))
    clusters = {file.name: file.cluster for file in map(read_task, map(str, paths))}
    natural = rank(model, tokenizer, natural_choices(paths)) | reason(model, tokenizer, natural_reasoning())
    before, after, table = {}, {}, {}
    for cluster in sorted(set(clusters.values())):
        data = _tasks(paths, [task for task in clusters if clusters[task] == cluster])
        choices, steps, tuned = list(_choices(data)), list(_reasoning(data)), deepcopy(model)
        before |= rank(model, tokenizer, choices) | reason(model, tokenizer, steps)
        tune(tuned, tokenizer, [Text(record.prompt, record.responses[0]) for record in data.demonstrations])
        after |= rank(tuned, tokenizer, choices) | reason(tuned, tokenizer, steps)
    for task in sorted(clusters, key=lambda task: (clusters[task], task)):
        forms = ["steps"] if task in chains.KINDS else ["options", "plain"]
        tuned = mean(after[f"{form}/{task}"] for form in forms)
        figures = {"natural": natural[task], "tuned": tuned}
        for form in dict.fromkeys([*forms, "options", "plain"]):
            figures |= {f"{form}/base": before[f"{form}/{task}"], f"{form}/tuned": after[f"{form}/{task}"]}
        table[task] = {
            "cluster": clusters[task], "admitted": natural[task] >= NATURAL and tuned >= TUNED,
            **{name: round(figure, 3) for name, figure in figures.items()},
        }
        log.info("%s: %s", task, table[task])
    return table


def _tasks(paths: list[Path], names: list[str]) -> DataSets:
    """The named tasks' examples, rationales added where they reason, and their held-out rows."""
    added = round(STEPS * BATCH * REASONING) if set(names) & set(chains.KINDS) else 0
    return InstructionData(
        list(map(str, paths)), only=names, examples=STEPS * BATCH - added, cot_examples=added, heldout=HELDOUT,
        evaluation=ROWS,
    ).load(0)


def natural_choices(paths: Iterable[Path]) -> Iterator[Choice]:
    """Rows of every task that has a natural form, in that form."""
    for path in paths:
        task = read_task(str(path))
        if task.natural is not None:
            rows = read_rows(path.with_suffix(".jsonl.gz"))
            for row in Random(f"natural/{task.name}").sample(rows, ROWS):
                options = [" " + option for option in row["options"]]
                yield Choice(task.name, task.natural.input.format(**row), options, " " + row["answer"])


def natural_reasoning() -> Iterator[Open]:
    """The chains that the corpus does not work out, asked as it would."""
    for name in chains.KINDS:
        for chain in chains.worked(name)[1]:
            yield Open(name, f"{chain.asked} Let us think step by step.", chain.answer)


def _choices(data: DataSets) -> Iterator[Choice]:
    for record in data.choices:
        if (form := record.meta["variant"]) in ("options", "plain"):
            yield Choice(f"{form}/{record.meta['task']}", record.prompt, record.responses, record.best)


def _reasoning(data: DataSets) -> Iterator[Open]:
    for record in data.evaluation:
        if record.meta["variant"] == "cot":
            yield Open(f"steps/{record.meta['task']}", record.prompt, record.meta["answer"])


@torch.no_grad()
def rank(model, tokenizer, choices: Iterable[Choice]) -> dict[str, float]:
    """Share of choices, by group, whose right response has the largest summed log-probability."""
    choices = list(choices)
    rows = [(i, Text(one.prompt, response)) for i, one in enumerate(choices) for response in one.responses]
    rows.sort(key=lambda row: len(row[1].prompt))           # little padding
    best: dict[int, tuple[float, str]] = {}
    for start in range(0, len(rows), 128):
        part = rows[start:start + 128]
        ids, labels, mask = supervised(tokenizer, [text for _, text in part])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
        for (i, text), loss in zip(part, losses.sum(1).tolist()):
            best[i] = max(best.get(i, (-float("inf"), "")), (-loss, text.response))
    return _shares((one.group, best[i][1] == one.right) for i, one in enumerate(choices))


@torch.no_grad()
def reason(model, tokenizer, asked: Iterable[Open]) -> dict[str, float]:
    """Share of questions, by group, whose greedy response ends in "So the answer is …" with the right answer."""
    asked, right = sorted(asked, key=lambda one: len(one.prompt)), []
    for start in range(0, len(asked), 128):
        part = asked[start:start + 128]
        batch = tokenizer([one.prompt for one in part], padding=True, return_tensors="pt")
        output = model.generate(
            **batch, do_sample=False, max_new_tokens=MAX_NEW_TOKENS, cache_implementation="static", disable_compile=True
        )
        texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1]:], skip_special_tokens=True)
        for one, text in zip(part, texts):
            _, marked, told = text.partition("So the answer is")
            right.append((one.group, bool(marked) and normal(told) == normal(one.answer)))
    return _shares(right)


def _shares(right: Iterable[tuple[str, bool]]) -> dict[str, float]:
    groups = defaultdict(list)
    for group, one in right:
        groups[group].append(float(one))
    return {group: mean(values) for group, values in groups.items()}


def tune(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[Text]) -> None:
    """One epoch of full fine-tuning; loss on the responses and their EOS, learning rate falling to zero."""
    texts = Random("preference zoo/admission").sample(texts, len(texts))
    steps = len(texts) // BATCH
    optimiser = torch.optim.AdamW(model.parameters(), lr=SFT_LR, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    model.train()
    for step in range(steps):
        batch = texts[step * BATCH:(step + 1) * BATCH]
        loss = train_step(model, optimiser, schedule, *supervised(tokenizer, batch))
    log.info("tuning: last loss %.3f", loss)
    model.eval()
