"""The stages that a run stands on, in the order of their making, and what is told of them before weights load."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING

from ..algorithm import Algorithm, Need, Recipe
from ..data.template import Example
from ..data.tokenized import visited
from ..models.model import no_room
from ..support.errors import ConfigError
from ..support.terminal import IN_SWEEPS
from .stages import place_of

if TYPE_CHECKING:
    from .auditing import Auditor
    from .stages import Bench

log = logging.getLogger(__name__)
LOOKED_AT = 64  # records of a stage, to know whether its limits cut all of them
ANY = 10**9  # a limit that cuts nothing


@dataclass(frozen=True)
class Stage:
    """One stage of training, where it stands in the config, and what builds it."""

    name: str
    key: str  # of its recipe
    bench: Bench
    algorithm: Algorithm
    recipe: Recipe

    @cached_property
    def kept(self) -> bool:
        """Whether it is in the store."""
        return self.bench.store.has("trained", self.bench.description(self.algorithm, self.recipe))

    @property
    def records(self) -> int:
        """That it may learn from."""
        return len(self.bench.view(self.algorithm.view)[0])

    def visited(self) -> list[int]:
        """Indices of the records that it trains on."""
        if self.algorithm.works_when_asked:
            return []
        return sorted(visited(self.records, self.recipe.total_records(self.records), self.bench.seed))

    def examples(self, limit: int | None = None, most: int | None = None) -> Iterator[Example]:
        """The tokens of the first ``limit`` of those; most: a limit on a record's tokens in place of the model's."""
        records = self.bench.view(self.algorithm.view)[0]
        for index in islice(self.visited(), limit):
            yield self.bench.example(records[index], self.algorithm.every_turn, most)

    def remarks(self) -> Iterator[str]:
        """What is odd about it."""
        if self.algorithm.works_when_asked or not self.records:
            return
        size, walked = self.recipe.batch_size, self.recipe.total_records(self.records)
        of = f"{self.records:,} records of the view {self.algorithm.view}"
        if size > self.records:
            yield (f"{self.key}.batch_size: found {size:,}, more than the {of} that {self.name} learns from; "
                   f"expected fewer, or a step is all of them; fix: {self.key}.batch_size={max(1, self.records // 8)}")
        elif self.recipe.steps is not None and self.recipe.steps > (once := -(-self.records // size)):
            yield (f"{self.key}.steps: found {self.recipe.steps:,} steps, {size:,} records each, which go through the "
                   f"{of} {walked / self.records:.3g} times; {self.key}.steps={once} is once")
        if (stop := self.recipe.stop_after) and stop >= (steps := self.recipe.scheduled_steps(self.records)):
            yield (f"{self.key}.stop_after: found {stop:,}, and {steps:,} steps in all; expected fewer, or nothing is "
                   f"left out; fix: {self.key}.stop_after=null")
        if not self.kept and all(example.truncated for example in self.examples(LOOKED_AT)):
            yield self._all_cut()

    def _all_cut(self) -> str:
        model = self.bench.model
        wholes = [len(one.prompt) + max(map(len, one.responses), default=0) for one in self.examples(LOOKED_AT, ANY)]
        found = f"{model.max_length} (model.max_prompt_length {model.max_prompt_length})"
        return (f"model.max_length: found {found}, which cuts all of the first {len(wholes)} records of {self.name}; "
                f"their prompts with the longest response have "
                f"{median(wholes):,.0f} tokens (median), at most {max(wholes):,}; expected room for most; fix: "
                f"model.max_length={max(wholes)} model.max_prompt_length={max(wholes) // 2}")


def stages_of(bench: Bench, algorithm: Algorithm, recipe: Recipe, name: str,
              auditor: Auditor | None = None) -> dict[str, Stage]:
    """A method's stage and all that it, its evaluation and the auditor stand on, by their keys in the store, those
    beneath first; what two of them stand on is there once."""
    found: dict[str, Stage] = {}
    _add(found, Stage(name, "recipe", bench, algorithm, recipe), "algorithm")
    proxy = bench.eval.proxy and algorithm.role == "policy" and bench.reward is not None
    for role, need in (bench.reward.needs() if proxy else {}).items():
        _add_need(found, bench.over(need.model), role, need, f"{place_of('reward', role)}.algorithm")
    for role, need in (auditor.source.needs() if auditor is not None and auditor.applies else {}).items():
        _add_need(found, auditor.apart.over(need.model), "auditor", need, f"{place_of('auditor', role)}.algorithm")
    return found


def _add(found: dict[str, Stage], stage: Stage, key: str) -> None:
    bench, algorithm = stage.bench, stage.algorithm
    for role, own, need, under in bench.placed_beneath(algorithm, key):
        _add_need(found, under, role, need, own)
    found.setdefault(bench.store.key("trained", bench.description(algorithm, stage.recipe)), stage)


def _add_need(found: dict[str, Stage], bench: Bench, name: str, need: Need, key: str) -> None:
    recipe = f"{key.removesuffix('algorithm')}recipe"  # the two stand side by side
    _add(found, Stage(name, recipe, bench, need.algorithm, need.recipe), key)


def foretell(stages: dict[str, Stage]) -> None:
    """Say what is odd, and how much is to be done. ConfigError where answers have no room, or a recipe is refused."""
    told: set[str] = set()  # keys of recipes: of stages by the same settings the first is enough
    for stage in stages.values():
        model, longest = stage.bench.model, stage.bench.eval.sampling.max_new_tokens
        if stage.algorithm.role == "policy" and longest >= model.max_length:
            raise ConfigError(no_room(longest, model.max_length, "eval.sampling.max_new_tokens"))
        stage.algorithm.check_recipe(stage.recipe, stage.bench.trainer, stage.records, stage.key)
        for remark in stage.remarks() if stage.key not in told else ():
            log.warning("%s", remark)
        told.add(stage.key)
    names = [f"{stage.name} (kept)" if stage.kept else stage.name for stage in stages.values()]
    kept = sum(stage.kept for stage in stages.values())
    log.info("stages: %s (%d in all, %d kept)", ", ".join(names), len(stages), kept, extra=IN_SWEEPS)
