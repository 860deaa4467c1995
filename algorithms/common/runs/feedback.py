"""AI feedback: a judge labels the comparisons that methods learn from, in place of people (``labels=judge``).

    python run.py algorithm=dpo algorithm.soft_labels=true labels=judge labels.judge.model.name=FOLDER data=file …

Every two responses to a prompt are shown to the judge in both orders; the label is the mean of what the first one has
of its preference, p = (P(left first) + P(left second)) / 2 (Lee et al. 2023, arXiv 2309.00267, §2.1). The data's own
labels are passed over but for those of held-out comparisons and the auditor's: so the table says what people think of a
method that no person taught. The judge's are a kept stage: its seconds are charged to whatever learns from them, and
they are no labels of people's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..data.records import DataSets, Record, Records, preferred, prompt_hash, render_transcript
from ..evaluation.inference.intervals import Matrix, share
from ..evaluation.inference.judging import both_orders
from ..evaluation.verdicts import Judge, Pair
from ..evaluation.verdicts.asking import LABELS, TOLD, Court, ask
from ..evaluation.verdicts.rates import PAIR, quality
from ..models.precision import pick_device
from ..support.digests import content_hash
from ..support.errors import ConfigError, UserError
from ..support.provenance import code_of, versions

if TYPE_CHECKING:
    from .stages import Bench

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelling:
    """What the data's preferences were labelled by."""

    soft: bool  # scores are p and 1 − p
    key: str = ""  # of the kept labels
    cost: dict[str, float] | None = None  # as of a stage; None before they are there
    told: dict[str, Any] | None = None  # for result.json


@dataclass
class AIFeedback:
    """Labels by a judge."""

    judge: Judge
    soft: bool = True  # p and 1 − p; false: 1 and 0, ½ each of a tie

    def __post_init__(self):
        if self.judge.orders == ("both",):
            raise ConfigError(f"labels.judge: found {type(self.judge).__name__}, which scores answers by themselves; "
                              "expected a judge that is shown two of them; fix: judge@labels.judge=local "
                              "labels.judge.model.name=FOLDER")

    def asked(self, data: DataSets) -> DataSets:
        """The data with every two responses to one prompt as a comparison without its label, which is to come: nothing
        of people's is left in what is trained on. ConfigError where there are none."""
        self.judge.check()
        pairs = Records.from_list(self._pairs(data))
        if not len(pairs):
            raise ConfigError("data: found no two responses to one prompt; expected some for labels=judge to compare; "
                              "fix: data=… with pairs or several candidates in a row, or labels=null")
        return replace(_with(data, pairs), unjudged=None, labelling=Labelling(self.soft))

    def _pairs(self, data: DataSets) -> Iterator[Record]:
        for records in (data.preferences, data.unjudged):
            for record in records or ():
                for one in range(len(record.responses)):
                    for other in range(one + 1, len(record.responses)):
                        if record.responses[one] != record.responses[other]:
                            pair, scores = record.taking([one, other], judged=False), record.scores
                            own = None if scores is None else float(np.sign(scores[one] - scores[other]))
                            # an order for now: what would be refused of comparisons is refused before they are judged
                            yield replace(pair, scores=[1.0, 0.0], meta={**pair.meta, "judgements": 0, "own": own})

    def foretell(self, data: DataSets) -> str:
        """What is to be asked, in words."""
        return f"{self.judge.name} compares {len(data.preferences):,} pairs of answers, in both orders"

    def labelled(self, bench: Bench) -> DataSets:
        """The bench's data with the judge's labels, kept or made. UserError where a judge gave up."""
        records = list(bench.data.preferences)
        pairs = [pair_of(index, record) for index, record in enumerate(records)]
        description = bench.hide({
            "judge": self.judge.name, "room": self.judge.room,
            "pairs": content_hash([[one.prompt, one.left_response, one.right_response] for one in pairs]),
            "device": pick_device().type, "code": code_of(type(self.judge), ask), "versions": versions()})

        def build(target: Path, work: Path) -> None:
            with bench.memory("labels"):
                # its own precision alone: in bf16 two orders often cancel to exactly ½
                ask(self.judge, pairs, Court(bench.store, bench.seed, "no"), target, work)

        folder = bench.store.get("labels", description, build, "labels", ("judge",))
        shares = json.loads((folder / LABELS).read_text(encoding="utf-8"))
        told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
        made = [(record, sum(found) / 2) for record, found in zip(records, shares) if None not in found]
        if not made:
            raise UserError(f"labels: found no verdict of {self.judge.name} on any of {len(pairs)} pairs; expected "
                            "some; fix: another labels.judge, or a larger labels.judge.model.max_length")
        found = _told(self.judge.name, records, shares)
        for line in _lines(found):
            log.info("labels: %s", line)
        if found["verdict"]:
            log.warning("labels: %s is %s; methods learn what it says nevertheless", self.judge.name, found["verdict"])
        labels = Records.from_list(replace(record, scores=self.scores(p), meta=_without_own(record.meta))
                                   for record, p in made)
        return replace(_with(bench.data, labels),
                       labelling=Labelling(self.soft, bench.store.key("labels", description), told["cost"], found))

    def scores(self, probability: float) -> list[float]:
        """Of two responses, of which the first is better with that probability."""
        p = probability if self.soft else (np.sign(probability - 0.5) + 1) / 2
        return [float(p), float(1 - p)]


def _without_own(meta: dict) -> dict:
    """What the data's own label said is not for what is trained on the judge's."""
    return {key: value for key, value in meta.items() if key != "own"}


def _with(data: DataSets, preferences: Records) -> DataSets:
    """With other comparisons, and what is made of them."""
    shown = preferred(preferences) if "demonstrations" in data.report.fallbacks else data.demonstrations
    return replace(data, preferences=preferences, demonstrations=shown)


def pair_of(index: int, record: Record) -> Pair:
    """What a judge is shown of a comparison, the index-th of them."""
    prompt = record.prompt if isinstance(record.prompt, str) else render_transcript(record.prompt)
    return Pair(record.key, prompt, "first", record.responses[0], "second", record.responses[1], index)


def _told(judge: str, records: list[Record], shares: list[list[float | None]]) -> dict[str, Any]:
    """What the labels say of the judge: the figures of ``rates.Quality``, and how often it agrees with the data's own
    labels, where there are such, ties of either half."""
    rows = []
    for index, (record, found) in enumerate(zip(records, shares)):
        row = [judge, "first", "second", f"{prompt_hash(record.prompt):016x}", index]
        if None in found:
            rows.append([*row, *[np.nan] * 4])
            continue
        wins = [(np.sign(one - 0.5) + 1) / 2 for one in found]
        joined = both_orders(*wins)
        rows.append([*row, float(joined.wins), float(1 - joined.inconsistent), float(joined.first_place),
                     float(wins != [0.5, 0.5])])
    frame = pd.DataFrame(rows, columns=[*PAIR, "win", "consistent", "first", "chosen"])
    own = np.array([record.meta["own"] or 0 for record in records])
    label = np.array([np.nan if None in found else np.sign(sum(found) / 2 - 0.5) for found in shares])
    both = (own != 0) & ~np.isnan(label)
    agrees = None
    if both.any():
        hits = pd.Series((label[both] * own[both] + 1) / 2).groupby(frame["prompt_id"][both].to_numpy())
        agrees = share(Matrix(hits.sum().to_numpy()[None], hits.count().to_numpy(float)[None]))
    known = quality(frame)
    figures = {"consistent": known.consistent, "first": known.first, "agrees": agrees}
    return {"judge": judge, "pairs": len(records), "questions": 2 * len(records),
            "unlabelled": int(frame["win"].isna().sum()), "tied": int((label == 0).sum()), "verdict": known.verdict,
            **{name: one and {"mean": one.mean, "low": one.low, "high": one.high} for name, one in figures.items()}}


def _lines(told: dict[str, Any]) -> Iterator[str]:
    """The same in words."""
    words = {"consistent": "the orders agree on", "first": "what is shown first wins",
             "agrees": "agrees with the data's own labels on"}
    for name, text in words.items():
        if one := told[name]:
            yield f"{text} {one['mean']:.1%} [{one['low']:.1%}, {one['high']:.1%}] of the pairs"
    if told["tied"]:
        yield f"{told['tied']} of {told['pairs']} pairs are a tie, from which comparisons teach nothing"
    if told["unlabelled"]:
        yield f"{told['unlabelled']} of {told['pairs']} pairs have no label, and are left out"
