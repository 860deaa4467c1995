"""``python run.py task=rewritten``: what a model answers to instructions as they are, and as a rewriter has them.

    python run.py task=rewritten adapter=outputs/REWRITER model=hub model.name=ORG/MODEL data=file data.path=pairs.jsonl
    python run.py task=judge runs=outputs/REWRITTEN judge=local judge.model.name=FOLDER

The rewriter is a run's policy (without ``adapter`` the base), and what answers is the rewriter's base or
``rewriting.target``, in both cases untouched. The folder is like that of a run whose answers are those to the rewritten
instructions, and which began with those to the instructions as they are. Each stands beside the instruction as it is:
so that is what ``task=judge`` shows, and whose win rate "against what training began with" it tells.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ..data.rewriting import in_place, instruction_of, words
from ..support.errors import ConfigError
from ..support.secrets import Mask
from . import results
from .rewrites import RewritingConfig, Said, answers
from .settings import build, seed
from .tasks import adapter_of, load, store_of

if TYPE_CHECKING:
    import pandas as pd

    from ..data.records import Record
    from ..evaluation.evaluate import EvalConfig
    from ..models.model import ModelConfig, Models

FILE = "instructions.jsonl"

log = logging.getLogger(__name__)


def rewritten(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Rewrite the evaluated instructions, answer both, and leave what ``task=judge`` reads, with instructions.jsonl."""
    from ..evaluation.evaluate import data_answers, evaluated_prompts

    parts = build(config, ("trainer", "eval", "data", "model", "stages", "rewriting"))
    store_of(parts["stages"])
    number, mask, chosen = seed(config), Mask(config), parts["eval"]
    source, model = adapter_of(config) if config.adapter is not None else (None, parts["model"])
    data = load(parts["data"], number, folder, mask)
    prompts = list(evaluated_prompts(data, chosen))
    records = [record for record in prompts if (instruction_of(record.prompt) or "").strip()]
    if not records:
        raise ConfigError(f"data: found {len(prompts)} evaluated prompts, none of them a single instruction; expected "
                          "some to rewrite; fix: another data=…")
    if passed := len(prompts) - len(records):
        log.info("passed over: %d of %d prompts, which are no single instruction", passed, len(prompts))
    made = _made(records, model, source, parts["rewriting"], chosen, parts["trainer"].mixed_precision, number)
    before, after = made.frames
    rows = [{"prompt": instruction_of(record.prompt), "rewritten": one} for record, one in zip(records, made.rewritten)]
    results.write_lines(folder / FILE, rows)
    results.write_samples(folder, after)
    keys = {record.key for record in records}
    preferred = {key: text for key, text in data_answers(data, chosen).items() if key in keys}
    results.write_references(folder, before, preferred)
    told = {"prompts": len(records), "passed_over": passed, "unchanged": made.unchanged, "empty": made.empty}
    results.write_json(folder / "result.json", mask.hide({
        **results.header("rewritten", number, mask, overrides), "samples": chosen.samples, "rewriting": told,
        "data": data.report.to_dict(), "evaluation": {}, "cost": {}}))
    print(f"rewritten: {len(records)} instructions, {made.unchanged} of them unchanged, {made.empty} left as they are "
          f"since the rewriter wrote nothing\n\nanswers: {folder}\n"
          f"which are better: python run.py task=judge runs={folder} judge=local judge.model.name=…")


@dataclasses.dataclass
class _Made:
    rewritten: list[str]    # instructions
    frames: list[pd.DataFrame]  # answers to the instructions as they are, and rewritten
    unchanged: int
    empty: int


def _made(records: Sequence[Record], model: ModelConfig, source: Path | None, chosen: RewritingConfig,
          asked: EvalConfig, mixed_precision: str, number: int) -> _Made:
    from ..models.export import frozen_role
    from ..models.model import Models
    from ..models.roles import BASE
    from ..support.memory import released

    prompts = [record.prompt for record in records]
    with released():
        models = Models(model, mixed_precision)
        frozen_role(models, "rewriter", source)
        texts = [said.strip() for ((said, _),) in answers(models, "rewriter", prompts, chosen.sampling, number,
                                                          salt="rewriter/")]
        empty = sum(not text for text in texts)
        own = [instruction_of(prompt) for prompt in prompts]
        texts = [text or instruction for text, instruction in zip(texts, own)]
        unchanged = sum(words(text) == words(instruction) for text, instruction in zip(texts, own)) - empty
        if chosen.target is None:
            frames = _frames(models, BASE, records, texts, asked, number)
    if chosen.target is not None:
        del models
        with released():
            frames = _frames(Models(chosen.target, mixed_precision), BASE, records, texts, asked, number)
    return _Made(texts, frames, unchanged, empty)


def _frames(models: Models, role: str, records: Sequence[Record], texts: Sequence[str], asked: EvalConfig, number: int
            ) -> list[pd.DataFrame]:
    """The answers to each record's own prompt, and to its prompt with another instruction, as ``samples.parquet``.

    Of a prompt that nobody changed they are other draws, so that the rewriter gains nothing there.
    """
    sides = {"as it is/": [record.prompt for record in records],
             "rewritten/": [in_place(record.prompt, text) for record, text in zip(records, texts)]}
    return [_frame(models, records, answers(models, role, prompts, asked.sampling, number, asked.samples, salt))
            for salt, prompts in sides.items()]


def _frame(models: Models, records: Sequence[Record], found: Sequence[Sequence[Said]]) -> pd.DataFrame:
    import pandas as pd

    rows = [(record.key, place, 0, models.template.prompt_text(record.prompt), text, finished, True)
            for record, said in zip(records, found) for place, (text, finished) in enumerate(said)]
    return pd.DataFrame(rows, columns=["prompt_id", "sample", "candidate", "prompt", "response", "finished", "picked"])
