"""``python run.py task=rewrites``: instructions that a model rewrites, seeing which of two answers people preferred.

    python run.py task=rewrites data=file data.path=pairs.jsonl model=hub model.name=ORG/MODEL
    python run.py task=rewrites data=file data.path=pairs.jsonl judge=openai judge.model=gpt-4o-mini
    python run.py algorithm=sft data=bpo data.path=outputs/…/rewrites.jsonl …

The model is the run's own (with ``adapter=…`` a trained one), or the one behind the endpoint that ``judge`` names. What
is kept of its proposals is written as demonstrations that ``data=bpo`` reads; what is not, with the reason. Held-out
comparisons are not asked about. See ``data/rewriting.py``.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ..data.records import Record, pairs, prompt_hash
from ..data.rewriting import REASONS, Rules, instruction_of, question
from ..models.model import ModelConfig
from ..models.sampling import Sampling
from ..support.checks import SHARE, at_least, require
from ..support.errors import ConfigError, DataError
from ..support.secrets import Mask
from .results import write_json, write_lines
from .settings import build, seed
from .tasks import adapter_of, load, store_of

if TYPE_CHECKING:
    from ..data.records.record import Messages
    from ..evaluation.verdicts.endpoint import EndpointJudge
    from ..models.model import Models

FILE, DROPPED = "rewrites.jsonl", "dropped.jsonl"
TURNS, AGAIN = "no single instruction", "another pair of the same instruction"
UNASKED = "not asked: no room for the question, or refused by the endpoint"

log = logging.getLogger(__name__)


@dataclass
class RewritingConfig:
    """Of ``task=rewrites`` and ``task=rewritten``."""

    least_kept: float = 0.5
    longest_shared: int = 5
    # of proposals and of a trained rewriter; the paper's temperature and top-p for the latter
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=512, temperature=0.6, top_p=0.9))
    target: ModelConfig | None = None  # task=rewritten: what answers both instructions; null: the rewriter's base

    def __post_init__(self):
        require(self, "rewriting", least_kept=SHARE, longest_shared=at_least(0))

    @property
    def rules(self) -> Rules:
        return Rules(self.least_kept, self.longest_shared)


@dataclass(frozen=True)
class Asked:
    """A comparison that a model is asked about."""

    instruction: str
    better: str
    worse: str

    @property
    def text(self) -> str:
        return question(self.instruction, self.better, self.worse)


Said = tuple[str, bool]  # a model's text, and whether it ended by itself


def asked_of(records: Iterable[Record]) -> tuple[list[Asked], Counter]:
    """What is asked: the first strict pair of every single instruction; and how many pairs are passed over, by why."""
    asked: dict[str, Asked] = {}
    passed: Counter = Counter()
    for record in records:
        instruction = instruction_of(record.prompt)
        if instruction is None or not instruction.strip():
            passed[TURNS] += 1
        elif instruction in asked:
            passed[AGAIN] += 1
        else:
            asked[instruction] = Asked(instruction, *record.responses)
    return list(asked.values()), passed


def sorted_out(asked: Sequence[Asked], said: Sequence[Said | None], rules: Rules) -> tuple[list[dict], list[dict]]:
    """Rows of demonstrations in BPO's columns, and rows of what is dropped."""
    kept, dropped = [], []
    for one, answer in zip(asked, said, strict=True):
        text, finished = answer or ("", False)
        proposal, reason = rules.read(text, finished, one.instruction, one.better) if answer else ("", UNASKED)
        row = {"prompt": one.instruction, "optimized_prompt": proposal, "good_res": one.better, "bad_res": one.worse}
        if reason is None:
            kept.append(row)
        else:
            dropped.append({"prompt": one.instruction, "reason": reason, "said": text})
    return kept, dropped


def rewrites(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Ask, sort out and write ``rewrites.jsonl``, ``dropped.jsonl`` and ``rewrites.json`` into the run's folder."""
    from ..evaluation.verdicts.endpoint import EndpointJudge

    parts = build(config, ("trainer", "data", "model", "stages", "rewriting"))
    judge = build(config, ("judge",))["judge"] if config.get("judge") is not None else None
    if judge is not None and not isinstance(judge, EndpointJudge):
        raise ConfigError(f"judge: found {type(judge).__name__}; expected an endpoint, or none, where the run's own "
                          "model proposes; fix: judge=openai judge.model=…, or model=… without judge")
    if judge is not None:
        judge.check()
    store, chosen, number = store_of(parts["stages"]), parts["rewriting"], seed(config)
    source, model = adapter_of(config) if config.adapter is not None else (None, parts["model"])
    data = load(parts["data"], number, folder, Mask(config))
    asked, passed = asked_of(pairs(data.preferences))
    if not asked:
        raise DataError("data: found no comparison of answers to a single instruction in what is trained on; expected "
                        "some to learn from; fix: data=file data.path=… of pairs")
    log.info("%d instructions; passed over: %s", len(asked),
             ", ".join(f"{reason} {count}" for reason, count in passed.items()) or "none")
    if judge is not None:
        written = _writing(judge, chosen.sampling).written([one.text for one in asked], store)
        told = [answer and (answer[0], not answer[1]) for answer in written]
    else:
        told = _sampled(asked, model, source, parts["trainer"].mixed_precision, chosen.sampling, number)
    kept, dropped = sorted_out(asked, told, chosen.rules)
    reasons = Counter(row["reason"] for row in dropped)
    summary = {"asked": len(asked), "kept": len(kept), "passed_over": dict(passed),
               "dropped": {reason: reasons[reason] for reason in (UNASKED, *REASONS)}}
    write_lines(folder / DROPPED, dropped)
    write_json(folder / "rewrites.json", Mask(config).hide({**summary, "data": data.report.to_dict()}))
    print(json.dumps(summary, indent=2))
    if not kept:
        raise DataError(f"task: found no proposal to keep of {len(asked)}; expected some; fix: see why in "
                        f"{folder / DROPPED}; a model that follows instructions, or rewriting.sampling.max_new_tokens")
    write_lines(folder / FILE, kept)
    print(f"\ndemonstrations: {folder / FILE}")


def _writing(judge: EndpointJudge, sampling: Sampling) -> EndpointJudge:
    """The endpoint with room for a proposal, and another temperature where its model takes one."""
    temperature = None if judge.temperature is None else sampling.temperature
    return replace(judge, max_tokens=sampling.max_new_tokens, temperature=temperature)


def _sampled(asked: Sequence[Asked], model: ModelConfig, source: Path | None, mixed_precision: str, sampling: Sampling,
             number: int) -> list[Said | None]:
    """One answer to each question, by the base or the policy that ``source`` names; None where it has no room."""
    from ..models.export import frozen_role
    from ..models.model import Models
    from ..support.memory import released

    with released():
        models = Models(model, mixed_precision)
        frozen_role(models, "policy", source)
        chat = models.template.chat
        prompts = [[{"role": "user", "content": one.text}] if chat else f"{one.text}\n" for one in asked]
        fit = [place for place, prompt in enumerate(prompts) if _fits(models, prompt, sampling.max_new_tokens)]
        found: list[Said | None] = [None] * len(asked)
        for place, (said,) in zip(fit, answers(models, "policy", [prompts[place] for place in fit], sampling, number)):
            found[place] = said
        return found


def _fits(models: Models, prompt: str | Messages, new_tokens: int) -> bool:
    """Whether nothing of a prompt would be cut."""
    return len(models.prompt_ids(prompt, new_tokens)) == len(models.template.prompt_ids(prompt))


def answers(models: Models, role: str, prompts: Sequence[str | Messages], sampling: Sampling, number: int,
            count: int = 1, salt: str = "") -> list[list[Said]]:
    """``count`` answers to each prompt; ``salt`` tells the random streams of two uses apart."""
    from ..models.sampling import sample

    ids = [models.prompt_ids(prompt, sampling.max_new_tokens) for prompt in prompts]
    keys = [f"{salt}{prompt_hash(prompt):016x}" for prompt in prompts]
    drawn = sample(models, role, ids, sampling, number, n=count, keys=keys)
    return [[(models.template.clean_response(prompt, models.template.decode(one.ids)), one.finished) for one in samples]
            for prompt, samples in zip(prompts, drawn)]
