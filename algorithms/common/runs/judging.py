"""What a judge may use of the runs that it judges: their data and base, loaded when they are asked for."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from ..algorithm import Response, RewardSource
from ..evaluation.verdicts import Pair
from ..evaluation.verdicts.belief import Belief
from ..rewards.sources import Gold, check_independent, retokenized
from ..support.digests import content_hash
from ..support.errors import ConfigError
from ..support.secrets import MASK, Mask
from ..support.store import Store
from . import tasks
from .auditing import Auditor, CannotJudge, check_able, court_of
from .settings import auditor_half, build, seed
from .streams import row_identity

if TYPE_CHECKING:
    from ..data.records import DataSets, Record
    from .stages import Bench

log = logging.getLogger(__name__)
GROUPS = ("model", "data", "trainer", "eval")   # of a run's configuration, that its answers are read with
READ = (*GROUPS, "auditor_half")    # and what an auditor of theirs learned from


def as_run(config: DictConfig, run: Path, overrides: Sequence[str]) -> DictConfig:
    """The config with a finished run's own model, data, trainer, evaluation and half of the auditor's comparisons; what
    the command line speaks of, a whole group or single keys of one, stays as it has it."""
    told = json.loads((run / "result.json").read_text(encoding="utf-8")).get("config") or {}
    given = [one.lstrip("+~").partition("=")[0].rpartition("@")[2] for one in overrides]
    own, config = config, copy.deepcopy(config)
    taken = [group for group in READ if group in told and group not in given]
    config.update({group: told[group] for group in taken})
    for key in given:
        if key.partition(".")[0] in taken:
            OmegaConf.update(config, key, OmegaConf.select(own, key), merge=False, force_add=True)
    for group in taken:
        if MASK in str(config[group]):
            raise ConfigError(f"{group}: found settings in {run / 'result.json'} that hold a secret, which no file "
                              f"keeps; expected them on the command line; fix: {group}=…, as for the run")
    return config


@dataclass
class Court:
    """Of one sweep's runs; see ``verdicts.Court``."""

    config: DictConfig          # with the data and the base of the runs
    store: Store
    folder: Path                # for what is written of the data's rows
    seeds: dict[str, int]       # of the runs, by name
    _benches: dict[int, Bench] = field(default_factory=dict, init=False, repr=False)
    _told: dict[tuple, Any] = field(default_factory=dict, init=False, repr=False)   # of a source and a seed

    @property
    def seed(self) -> int:
        return seed(self.config)

    @property
    def mixed_precision(self) -> str:
        return self.config.trainer.mixed_precision

    def bench(self, number: int) -> Bench:
        """The data and the base of the runs of a seed."""
        from .stages import Bench

        if number not in self._benches:
            parts, mask = build(self.config, GROUPS), Mask(self.config)
            data = tasks.load(parts["data"], number, self.folder, mask)
            bench = Bench(parts["model"], parts["trainer"], parts["eval"], data, number, self.store,
                          run_folder=self.folder, hide=mask.hide)
            for other in self._benches.values():    # one base in memory
                bench.__dict__["models"] = other.models
            self._benches[number] = bench
        return self._benches[number]

    def identity(self, source: RewardSource, run: str) -> str | None:
        """See ``verdicts.Court``: devices, libraries and seeds decide nothing, the code of the source does."""
        if run not in self.seeds:
            return None
        return self._once(self._identity, source, self.seeds[run])

    def _identity(self, source: RewardSource, number: int) -> str:
        bench = self.bench(number)
        if source.needs():
            bench = Auditor(bench, source, auditor_half(self.config)).apart
        told = bench.source_description(source)
        return content_hash({**row_identity({"reward": told}), "code": told["code"]})

    def belief(self, source: RewardSource, run: str) -> Belief | None:
        """See ``verdicts.Court``."""
        return self._once(self._judges, source, self.seeds[run])[1]

    def _judges(self, source: RewardSource, number: int) -> tuple[Bench, Belief | None]:
        bench = self.bench(number)
        check_gold(source, bench.data.gold is not None)
        check_independent(source, None, bench.data, "judge.source")
        return court_of(bench, source, auditor_half(self.config))

    def _once(self, of: Callable[[RewardSource, int], Any], source: RewardSource, number: int) -> Any:
        """Of a source that stays as it is, and kept with it: another may have its place in memory once it is gone."""
        key = (of.__name__, id(source), number)
        if key not in self._told:
            self._told[key] = source, of(source, number)
        return self._told[key][1]

    def scores(self, source: RewardSource, pairs: Sequence[Pair]) -> list[tuple[float, float] | None]:
        """See ``verdicts.Court``: with each seed's own data, by its own auditor where the source is trained."""
        places: dict[int, list[int]] = {}
        for place, pair in enumerate(pairs):
            places.setdefault(self.seeds[pair.left], []).append(place)
        asked = {number: [pairs[place] for place in own] for number, own in places.items()}
        records = {number: records_of(self.bench(number).data, own) for number, own in asked.items()}
        found: list[tuple[float, float] | None] = [None] * len(pairs)
        unable = []
        for number, own in asked.items():
            try:
                bench, believed = self._once(self._judges, source, number)
                check_able(believed)
            except CannotJudge as error:
                unable.append(error)
                if len(asked) > 1:
                    log.warning("seed %d: %s", number, error)
                continue
            for place, both in zip(places[number], scores(bench, source, own, records[number])):
                found[place] = both
        if unable and len(unable) == len(asked):
            raise unable[0]
        return found


def check_gold(source: RewardSource, known: bool) -> None:
    """ConfigError for a judge by the gold reward where the runs' data has none."""
    if not known and any(isinstance(part, Gold) for part in source.parts):
        raise ConfigError("judge.source: found gold, and runs on data that has no gold reward; expected a source that "
                          "can score their answers; fix: reward@judge.source=classifier judge.source.name=…, or "
                          "judge=auditor")


def records_of(data: DataSets, pairs: Sequence[Pair]) -> dict[str, Record]:
    """The records whose prompts are answered, by key; ConfigError where the data lacks one of the pairs'."""
    records = {record.key: record for name in ("evaluation", "tuning") for record in getattr(data, name)}
    if unknown := [pair.prompt_id for pair in pairs if pair.prompt_id not in records]:
        raise ConfigError(f"data: found no prompt {unknown[0]}, which the runs answered, nor {len(unknown) - 1:,} "
                          "others; expected the data that the runs were evaluated on; fix: data=…, as for the runs")
    return records


def scores(bench: Bench, source: RewardSource, pairs: Sequence[Pair], records: dict[str, Record]
           ) -> list[tuple[float, float]]:
    """Of both answers of each pair. An answer that stands in several pairs is scored once."""
    folders = bench.scored(source)
    bench.models.clear_roles()
    scorer = source.load(bench.models, folders, bench.data, bench.eval.batch_size)
    places: dict[tuple, int] = {}   # of an answer among those that are scored
    responses, both = [], []
    for pair in pairs:
        record = records[pair.prompt_id]
        prompt = bench.models.prompt_ids(record.prompt, bench.eval.sampling.max_new_tokens)
        sides = []
        for text, finished in ((pair.left_response, pair.left_finished), (pair.right_response, pair.right_finished)):
            key = (pair.prompt_id, pair.prompt, text, finished)
            if key not in places:
                places[key] = len(responses)
                one = Response(pair.prompt, text, prompt, [], finished, record.key, record.prompt, record.meta)
                responses.append(replace(one, ids=retokenized(bench.models, one).responses[0]))
            sides.append(places[key])
        both.append(sides)
    values = scorer(responses)
    return [(values[left], values[right]) for left, right in both]
