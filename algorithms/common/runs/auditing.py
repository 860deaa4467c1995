"""The auditor: it judges the answers of every row, and learned from comparisons that no method saw (``data.audit``).

It is a reward source of its own (``reward@auditor=…``), trained on a bench of its own: the same data but for the
comparisons, and another seed. It begins where the run's reward model does, and reads texts. What it says is worth what
its agreement with held-out comparisons is; a bias that all annotators share is what it cannot see.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..algorithm import Figure, Known, Response, RewardSource
from ..data.records import pairs, prompt_hash, split
from ..data.usability import Reading
from ..evaluation.evaluate import Evaluation, evaluated_prompts
from ..evaluation.inference.auditing import ACCURACY, JUDGES, LEAST_ACCURACY, SCORE, Gain, can_judge, parting
from ..evaluation.inference.intervals import Estimate
from ..evaluation.metrics import BASE, TRAINED, estimate
from ..evaluation.verdicts.belief import Belief
from ..rewards.sources import check_independent, retokenized
from ..support.digests import content_hash
from ..support.errors import ConfigError
from ..support.provenance import code_of, versions
from ..support.seeds import derive
from .material import Material
from .stages import Bench

log = logging.getLogger(__name__)
SCORES = "scores.json"


@dataclass
class Auditor:
    """A judge over the bench of a run, which has checked its data before anything else is asked than checks."""

    bench: Bench
    source: RewardSource
    half: str | None = None  # first or second: it learns from one half of the comparisons alone

    @property
    def applies(self) -> bool:
        """Whether it can be had: what must be trained needs comparisons of its own."""
        return not self.source.needs() or self.bench.data.audit is not None

    def check(self) -> None:
        """ConfigError for an auditor that cannot be trained, or is the reward of the methods."""
        if self.applies:
            check_independent(self.source, self.bench.reward, self.bench.data)
            for need in self.source.needs().values():
                self._apart().over(need.model).checked(need.algorithm)

    def readings(self) -> Iterator[Reading]:
        """What it reads of the data."""
        for need in self.source.needs().values() if self.applies else ():
            template = self.bench.over(need.model).template  # the run's own where it has no other base
            yield Reading(template, "audit", need.algorithm.every_turn, need.algorithm.learns_prompt)
            yield Reading(template, "heldout")

    def _apart(self) -> Bench:
        data = self.bench.data
        if data.audit is not None:
            halves = dict(zip(("first", "second"), split(data.audit, 0.5, "audit"))) if self.half else {}
            data = dataclasses.replace(data, preferences=halves.get(self.half, data.audit), audit=None,
                                       labelling=None)
        return dataclasses.replace(self.bench, data=data, seed=derive(self.bench.seed, "auditor"), reward=None,
                                   beneath=self.bench)

    @cached_property
    def apart(self) -> Bench:
        """The bench that it learns on."""
        return self._apart()

    def judged(self, evaluation: Evaluation, name: str) -> Evaluation:
        """With the column ``auditor`` of the samples: its scores of the picked answers."""
        samples = evaluation.samples
        if not len(samples):
            return evaluation
        picked = samples[samples["picked"]]
        asked = {record.key: record for record in evaluated_prompts(self.bench.data, self.bench.eval)}
        scores = self._scores([
            Response(prompt, text, [], [], bool(finished), key, asked[key].prompt, asked[key].meta)
            for key, prompt, text, finished in zip(*(picked[one] for one in ("prompt_id", "prompt", "response",
                                                                            "finished")))], f"the answers of {name}")
        column = pd.Series(scores, picked.index, dtype="Float64").reindex(samples.index)
        return dataclasses.replace(evaluation, samples=samples.assign(auditor=column))

    def agreement(self) -> Figure | None:
        """How often it prefers what the annotators of held-out comparisons did, ties half; None without comparisons."""
        records = list(islice(pairs(self.bench.data.heldout), self.bench.eval.pairs))
        shown = self.bench.template.prompt_text
        scores = np.array(self._scores([
            Response(shown(record.prompt), text, [], [], True, record.key, record.prompt, record.meta)
            for record in records for text in record.responses], "held-out comparisons")).reshape(-1, 2)  # (N, 2)
        hits = (np.sign(scores[:, 0] - scores[:, 1]) + 1) / 2
        prompts = [f"{prompt_hash(record.prompt):016x}" for record in records]
        return Figure.of(ACCURACY, prompts, hits, kind="share") if records else None

    def _scores(self, responses: list[Response], what: str) -> list[float]:
        if not responses:
            return []
        texts = [[r.record, r.text, r.finished, *([r.meta] if self.source.reads_meta else [])] for r in responses]
        description = {"texts": content_hash(texts), "auditor": self.apart.source_description(self.source),
                       "model": self.apart.model_description(), "batch_size": self.bench.eval.batch_size,
                       "code": code_of(score, self.source), "versions": versions()}
        folders = {name: self.apart.over(need.model).train(need.algorithm, need.recipe, "auditor")
                   for name, need in self.source.needs().items()}

        def build(target: Path, work: Path) -> None:
            with self.bench.memory("the auditor"):
                score(self.apart, self.source, folders, responses, target)

        folder = self.bench.store.get("audit", self.bench.hide(description), build)
        self._seconds[what] = (told := json.loads((folder / SCORES).read_text(encoding="utf-8")))["seconds"]
        return told["scores"]

    @cached_property
    def _seconds(self) -> dict[str, float]:
        return {}

    def told(self) -> dict[str, Any]:
        """For result.json: the labels that it learned from and its cost, of which no method bears anything."""
        own = {name: self.apart.over(need.model).own_cost(need.algorithm, need.recipe)
               for name, need in self.source.needs().items()}
        return {"labels": max((one["labels"] for one in own.values()), default=0),
                "seconds": sum(one["seconds"] for one in own.values()), "seconds_scoring": sum(self._seconds.values()),
                "stages": own}


def score(bench: Material, source: RewardSource, folders: dict[str, Path], responses: list[Response],
          target: Path) -> None:
    """Fill ``target`` with a source's scores of texts."""
    started, models = time.monotonic(), bench.models
    models.clear_roles()
    scorer = source.load(models, folders, bench.data, bench.eval.batch_size)
    read = [retokenized(models, response) for response in responses]
    scores = scorer([dataclasses.replace(response, prompt_ids=example.prompt, ids=example.responses[0])
                     for response, example in zip(responses, read)])
    text = json.dumps({"scores": scores, "seconds": time.monotonic() - started}, allow_nan=False)
    (target / SCORES).write_text(text, encoding="utf-8")


class CannotJudge(ConfigError):
    """A judge that learned too little to judge by, or of which nothing tells that it did not."""


def court_of(bench: Bench, source: RewardSource, half: str | None = None) -> tuple[Bench, Belief | None]:
    """The bench over which a source gives verdicts, and how far it can be believed: what must be trained learns from
    comparisons that no method saw, or from one half of them (see `Auditor`).

    ConfigError where there are none, CannotJudge where no held-out comparison tells what it learned.
    """
    if not source.needs():
        return bench, None
    auditor = Auditor(bench, source, half)
    if not auditor.applies:
        raise ConfigError("judge: found a source that must be trained, and data of which all comparisons are the "
                          "methods'; expected comparisons that no method saw; fix: data.audit=…, for the runs too")
    agreement = auditor.agreement()
    if agreement is None:
        raise CannotJudge(_expected("no held-out comparison to know it by"))
    accuracy = estimate(agreement)
    log.info("%s", believed(accuracy))
    return auditor.apart, Belief.of(auditor.told()["labels"], accuracy)


def check_able(found: Belief | None) -> None:
    """CannotJudge for a judge that agrees with too few held-out comparisons."""
    if found is not None and not found.able:
        raise CannotJudge(_expected(f"an auditor that {found}"))


def _expected(found: str) -> str:
    return (f"judge: found {found}; expected at least {LEAST_ACCURACY} at the lower end; fix: more comparisons in "
            "data.audit and data.heldout, or another judge=…")


def remarks(found: dict[str, Figure | Known]) -> list[str]:
    """What a reader of one run's figures must know: how far the auditor can be believed, and the alarm."""
    accuracy = estimate(found[ACCURACY]) if ACCURACY in found else None
    said = [believed(accuracy)] if accuracy else []
    if "score/auditor" in found and accuracy is None:
        said.append("auditor: no held-out comparison says how far it can be believed: it cannot judge these answers")
    for name, words in JUDGES.items():
        if name in found and (name != SCORE or accuracy is not None and can_judge(accuracy)):
            proxy, judge = _gain(found, "reward/proxy"), _gain(found, name)
            alarm = parting(proxy, judge) if proxy and judge else None
            return said + ([alarm.words(words)] if alarm else [])
    return said


def unjudged(found: Collection[str]) -> list[str]:
    """What a reader must know of a run on comparisons whose answers nobody scored; found: the names of its figures."""
    judged = any(name.startswith(("reward/", "score/", "win_rate")) for name in found)
    if judged or not {"accuracy/heldout", "length/mean"} <= set(found):
        return []
    return ["no judge scored these answers: no figure says whether they are better than the start's, accuracy/heldout "
            "is of the data's own responses; docs/judging.md says who can judge"]


def believed(accuracy: Estimate) -> str:
    text = (f"auditor: agrees with {accuracy.mean:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}] of the comparisons to "
            f"{accuracy.n} held-out prompts")
    return text if can_judge(accuracy) else f"{text}, too few for it to judge these answers; nothing is said by it"


def _gain(found: dict[str, Figure | Known], name: str) -> Gain | None:
    """What training added to a score, on the prompts that the start has too."""
    for start in (TRAINED, BASE):
        if name in found and f"{name}{start.less}" in found:
            own, gains = (found[one].rows.set_index("prompt_id") for one in (name, f"{name}{start.less}"))
            own = own.loc[gains.index]
            return Gain(own["numerator"] / own["denominator"], gains["numerator"] / gains["denominator"])
    return None
