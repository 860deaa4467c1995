"""``python run.py task=refusals``: pairs from the questions that a model itself gets wrong.

Each question with a known answer is answered several times. Where too few of the samples are right the model does not
know: the pair prefers a refusal to one of its own wrong answers. Where it knows, its own right answer is preferred to a
refusal. What a model "knows" is thus measured on itself (after Zhang et al. 2023, arXiv 2311.09677, and Yang et al.
2023, arXiv 2312.07000, who divide questions so for supervised fine-tuning).
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ..data.records import Record, prompt_hash
from ..data.refusals.data import RefusalData
from ..data.refusals.wording import ANSWERABLE, UNANSWERABLE, Question, balanced, is_refusal, is_right, pair, wordings
from ..support.errors import ConfigError, DataError
from ..support.secrets import Mask
from .results import whole, write_json
from .settings import build, seed
from .tasks import adapter_of

if TYPE_CHECKING:
    from ..models.sampling import Sampling

FILE = "refusal_pairs.jsonl"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Answered:
    """A question and a model's samples: texts, and whether each ended by itself."""

    question: Question
    texts: Sequence[str]
    finished: Sequence[bool]


def own_pairs(asked: Sequence[Answered], match: str, threshold: float, random: Random
              ) -> tuple[list[Record], dict[str, int]]:
    """One pair per question that has what it takes, and counts of what the samples showed.

    Known (more than the share `threshold` of the samples is right): the first right sample over a refusal. Otherwise a
    refusal over the first sample that is neither right nor a refusal. Only samples that ended by themselves are used.
    """
    counts = Counter({name: 0 for name in ("known", "not_known", "without_a_usable_sample")})
    pairs = []
    for one, refusal in zip(asked, wordings(len(asked), random)):
        right = [is_right(text, one.question.answers, match) for text in one.texts]
        known = sum(right) / len(right) > threshold
        counts["known" if known else "not_known"] += 1
        usable = [text for text, ok, over in zip(one.texts, right, one.finished)
                  if over and text.strip() and ok == known and not is_refusal(text)]
        if not usable:
            counts["without_a_usable_sample"] += 1
            continue
        of_kind = one.question if known else dataclasses.replace(one.question, answers=())
        pairs.append(pair(of_kind, refusal, usable[0]))
    return pairs, dict(counts)


def refusals(config: DictConfig, name: str, folder: Path, overrides: list[str]) -> None:
    """Sample, sort and write ``refusal_pairs.jsonl`` into the run's folder; held-out questions are not asked."""
    parts = build(config, ("trainer", "eval", "data", "model"))
    data, sampling, number = parts["data"], parts["eval"].sampling, seed(config)
    if not isinstance(data, RefusalData):
        raise ConfigError(f"data: found {type(data).__name__}; expected a file of questions; "
                          "fix: data=refusals data.path=…")
    source, model = adapter_of(config) if config.adapter is not None else (None, parts["model"])
    questions, report = data.questions()
    training, tuning, heldout = data.divided(questions)
    asked = [question for question in training if question.kind == ANSWERABLE]
    log.info("%d questions with a known answer, %d samples each; not asked: %d held out, %d without an answer",
             len(asked), data.samples, len(tuning) + len(heldout), len(training) - len(asked))
    if not asked:
        raise DataError("data.path: found no training question with an answer; "
                        "expected some, or nothing shows what the model knows; fix: give answers")
    found = _sampled(asked, model, source, parts["trainer"].mixed_precision, sampling, data.samples, number)
    pairs, counts = own_pairs(found, data.match, data.threshold, Random(f"refusals/own/{number}"))
    kept = balanced(pairs, Random(f"refusals/balance/{number}")) if data.balance else pairs
    if not kept:
        told = ", ".join(f"{what.replace('_', ' ')} {count}" for what, count in counts.items())
        raise DataError(f"task: found no pairs to write ({told}); expected questions that the model knows and some "
                        "that it does not; fix: more or other questions, data.threshold, or data.balance=false")
    kinds = Counter(record.meta["kind"] for record in kept)
    summary = {"questions": len(asked), **counts, "left_out_for_balance": len(pairs) - len(kept),
               "pairs": {kind: kinds[kind] for kind in (ANSWERABLE, UNANSWERABLE)},
               "by_topic": _by_topic(kept), "data": report.to_dict()}
    with whole(folder / FILE) as path:
        path.write_text("".join(map(_line, kept)), encoding="utf-8", newline="\n")
    write_json(folder / "refusals.json", Mask(config).hide(summary))
    print(json.dumps({key: value for key, value in summary.items() if key != "data"}, indent=2))
    print(f"\npairs: {folder / FILE}")


def _sampled(asked: Sequence[Question], model, source: Path | None, mixed_precision: str, sampling: Sampling,
             count: int,
             number: int) -> list[Answered]:
    """`count` samples to every question, by the base or, where `source` names one, by a trained policy."""
    from ..models.export import frozen_role
    from ..models.model import Models
    from ..models.sampling import sample
    from ..support.memory import released

    with released():
        models = Models(model, mixed_precision)
        frozen_role(models, "policy", source)
        ids = [models.prompt_ids(question.prompt, sampling.max_new_tokens) for question in asked]
        keys = [f"{prompt_hash(question.prompt):016x}" for question in asked]
        drawn = sample(models, "policy", ids, sampling, number, n=count, keys=keys)
        return [Answered(question, [models.template.clean_response(question.prompt, models.template.decode(one.ids))
                                    for one in samples], [one.finished for one in samples])
                for question, samples in zip(asked, drawn)]


def _line(record: Record) -> str:
    chosen, rejected = record.responses
    row = {"prompt": record.prompt, "chosen": chosen, "rejected": rejected, "meta": record.meta}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _by_topic(pairs: Sequence[Record]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for record in pairs:
        kinds = found.setdefault(record.meta["topic"] or "", {ANSWERABLE: 0, UNANSWERABLE: 0})
        kinds[record.meta["kind"]] += 1
    return found
