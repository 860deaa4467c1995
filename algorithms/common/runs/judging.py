"""What a judge may use of the runs that it judges: their data and base, loaded when they are asked for."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ..algorithm import Response, RewardSource
from ..evaluation.verdicts import Pair
from ..rewards.sources import Gold, check_independent, retokenized
from ..support.digests import content_hash
from ..support.errors import ConfigError
from ..support.secrets import MASK, Mask
from ..support.store import Store
from . import tasks
from .auditing import Auditor, court_of
from .settings import auditor_half, build, seed
from .streams import row_identity

if TYPE_CHECKING:
    from .stages import Bench

GROUPS = ("model", "data", "trainer", "eval")   # of a run's configuration, that its answers are read with
READ = (*GROUPS, "auditor_half")    # and what an auditor of theirs learned from


def as_run(config: DictConfig, run: Path, overrides: Sequence[str]) -> DictConfig:
    """The config with a finished run's own model, data, trainer, evaluation and half of the auditor's comparisons; what
    the command line speaks of stays as it has it."""
    told = json.loads((run / "result.json").read_text(encoding="utf-8")).get("config") or {}
    given = {one.lstrip("+~").partition("=")[0].partition(".")[0].partition("@")[0] for one in overrides}
    taken = {group: told[group] for group in READ if group in told and group not in given}
    for group, settings in taken.items():
        if MASK in json.dumps(settings):
            raise ConfigError(f"{group}: found settings in {run / 'result.json'} that hold a secret, which no file "
                              f"keeps; expected them on the command line; fix: {group}=…, as for the run")
    config = copy.deepcopy(config)
    config.update(taken)
    return config


@dataclass
class Court:
    """Of one sweep's runs; see ``verdicts.Court``."""

    config: DictConfig          # with the data and the base of the runs
    store: Store
    folder: Path                # for what is written of the data's rows
    seeds: dict[str, int]       # of the runs, by name
    _benches: dict[int, Bench] = field(default_factory=dict, init=False, repr=False)

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
        bench = self.bench(self.seeds[run])
        if source.needs():
            bench = Auditor(bench, source, auditor_half(self.config)).apart
        told = bench.source_description(source)
        return content_hash({**row_identity({"reward": told}), "code": told["code"]})

    def scores(self, source: RewardSource, pairs: Sequence[Pair]) -> list[tuple[float, float]]:
        """See ``verdicts.Court``: with each seed's own data."""
        found: list[tuple[float, float] | None] = [None] * len(pairs)
        for number in dict.fromkeys(self.seeds[pair.left] for pair in pairs):
            places = [place for place, pair in enumerate(pairs) if self.seeds[pair.left] == number]
            scored = scores(self.bench(number), source, [pairs[place] for place in places], auditor_half(self.config))
            for place, both in zip(places, scored):
                found[place] = both
        return found


def check_gold(source: RewardSource, known: bool) -> None:
    """ConfigError for a judge by the gold reward where the runs' data has none."""
    if not known and any(isinstance(part, Gold) for part in source.parts):
        raise ConfigError("judge.source: found gold, and runs on data that has no gold reward; expected a source that "
                          "can score their answers; fix: reward@judge.source=classifier judge.source.name=…, or "
                          "judge=auditor")


def scores(bench: Bench, source: RewardSource, pairs: Sequence[Pair], half: str | None = None
           ) -> list[tuple[float, float]]:
    """Of both answers of each pair. ConfigError where the data does not hold the pairs' prompts.

    A source that must be trained learns what the auditor does, of a half of the comparisons where it did, and is
    refused where it cannot judge.
    """
    check_gold(source, bench.data.gold is not None)
    check_independent(source, None, bench.data, "judge.source")
    records = {record.key: record for name in ("evaluation", "tuning") for record in getattr(bench.data, name)}
    if unknown := [pair.prompt_id for pair in pairs if pair.prompt_id not in records]:
        raise ConfigError(f"data: found no prompt {unknown[0]}, which the runs answered, nor {len(unknown) - 1:,} "
                          "others; expected the data that the runs were evaluated on; fix: data=…, as for the runs")
    bench = court_of(bench, source, half)
    folders = bench.scored(source)
    bench.models.clear_roles()
    scorer = source.load(bench.models, folders, bench.data, bench.eval.batch_size)
    responses = []
    for pair in pairs:
        record = records[pair.prompt_id]
        prompt = bench.models.prompt_ids(record.prompt, bench.eval.sampling.max_new_tokens)
        for text, finished in ((pair.left_response, pair.left_finished), (pair.right_response, pair.right_finished)):
            response = Response(pair.prompt, text, prompt, [], finished, record.key, record.prompt, record.meta)
            responses.append(replace(response, ids=retokenized(bench.models, response).responses[0]))
    values = scorer(responses)
    return list(zip(values[::2], values[1::2]))
