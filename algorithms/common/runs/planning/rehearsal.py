"""A bench on which a stage is made of a few steps and an evaluation of a part of its prompts, in a store that goes.

What the user's store has is used as it is. Stages stand on those that were rehearsed, so that every room is entered.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...algorithm import Algorithm, Recipe
from ...data.records import Records, pairs
from ...evaluation.evaluate import evaluated_prompts
from ...support.digests import bytes_below
from ...support.memory import peak_memory_bytes, reset_peak_memory
from ...support.store import Store
from .. import training
from ..agenda import Stage
from ..stages import Bench
from .rows import Rows, spread
from .steps import Steps, Took, take

FILE = "part.json"


@dataclass(frozen=True)
class Part:
    """One part of a run and what it is predicted to take."""

    name: str
    kind: str
    took: Took = Took()
    memory: int = 0  # bytes at its peak
    disk: int = 0  # bytes that stay
    records: int | None = None
    tokens: int | None = None
    steps: int | None = None
    truncated: int | None = None
    kept: bool = False  # in the store already
    micro: int | None = None  # micro-batch as configured
    fits: int | None = None  # the largest that does, where that one does not


@dataclass
class Ledger:
    """What was rehearsed in this process: parts by key, and the time that rehearsing them took."""

    parts: dict[str, Part] = field(default_factory=dict)
    spent: Took = Took()


def _never(target: Path, work: Path) -> None:
    raise RuntimeError("a kept stage was lost while it was looked at")


@dataclass
class Rehearsal(Bench):
    """Where a run is rehearsed."""

    kept: Store | None = None  # the user's
    ledger: Ledger = field(default_factory=Ledger)

    def train(self, algorithm: Algorithm, recipe: Recipe, name: str = "training") -> Path:
        description, build = self._built(training.train, algorithm, recipe, name)
        return self._part("trained", description, name, functools.partial(self._trained, algorithm, recipe, build))

    def evaluated(self, description: dict, build: Callable[..., None], name: str, alike: tuple[str, ...]) -> Path:
        return self._part("evaluation", description, name, functools.partial(self._evaluated, build))

    def _part(self, kind: str, description: dict, name: str, rehearse: Callable[[str, Path, Path], Part]) -> Path:
        key = self.store.key(kind, description)
        if self.kept.has(kind, description):
            self.ledger.parts.setdefault(key, Part(name, kind, kept=True))
            return self.kept.get(kind, description, _never)

        def build(target: Path, work: Path) -> None:
            self.models  # what loading takes is no part of a stage
            began = Took.now()
            reset_peak_memory(self.models.device)
            part = rehearse(name, target, work)
            text = json.dumps(dataclasses.asdict(part))
            (target / FILE).write_text(text, encoding="utf-8")
            self.ledger.parts[key] = part
            self.ledger.spent += Took.now() - began

        folder = self.store.get(kind, description, build)
        # of another job of the sweep: it is made once
        self.ledger.parts.setdefault(key, dataclasses.replace(_read(folder), took=Took(), disk=0, kept=True))
        return folder

    def _trained(self, algorithm: Algorithm, recipe: Recipe, build: Callable[..., None], name: str, target: Path,
                 work: Path) -> Part:
        stage = Stage(name, "recipe", self, algorithm, recipe)
        lengths, truncated = {}, 0
        for index, example in zip(stage.visited(), stage.examples()):
            lengths[index] = example.length
            truncated += example.truncated
        counted, micro, began = Took.now(), self.trainer.micro_batch_size, Took.now()
        if not lengths:
            build(target, work, self)
            whole = Took.now() - began
            return Part(name, "trained", whole, peak_memory_bytes(self.models.device), bytes_below(target))
        rows = Rows.of(lengths, truncated, stage.records, recipe.batch_size, micro, recipe.total_records(stage.records),
                       self.seed)
        train, heldout = self.view(algorithm.view)
        few = dataclasses.replace(self, beneath=self, loop=functools.partial(take, rows=rows))
        few._views[algorithm.view] = train.select(rows.indices), heldout
        build(target, work, few)
        steps, whole = Steps.read(target), Took.now() - began
        if steps is None:  # it takes none
            return Part(name, "trained", whole, peak_memory_bytes(self.models.device), bytes_below(target))
        before = steps.begun - counted
        fit = json.loads((target / "fit.json").read_text(encoding="utf-8"))
        share = min(1.0, max(0.0, (fit["seconds"] - steps.whole.seconds) / max(before.seconds, 1e-9)))
        took = self._predicted(rows, steps, before, share, whole - before - steps.whole)
        return Part(name, "trained", took, steps.memory, bytes_below(target), rows.records, rows.tokens, rows.steps,
                    rows.truncated, micro=micro, fits=steps.fits)

    def _predicted(self, rows: Rows, steps: Steps, before: Took, share: float, after: Took) -> Took:
        """share: of what came before the steps, the part that grows with the records."""
        trainer = self.trainer
        checkpoints = (rows.steps - 1) // trainer.checkpoint_every + 1
        watched = 0 if trainer.evaluate_every is None else -(-rows.steps // trainer.evaluate_every)
        return (before * (1 - share) + before * (share * rows.records / len(rows.indices)) + steps.step * rows.steps
                + steps.checkpoint * checkpoints + steps.watching * watched + steps.once + after)

    def _evaluated(self, build: Callable[..., None], name: str, target: Path, work: Path) -> Part:
        prompts = evaluated_prompts(self.data, self.eval)
        count = min(len(prompts), max(1, math.ceil(self.eval.sampling.batch_size / self.eval.samples)))
        began = Took.now()
        build(target, work, self._with_prompts(prompts, count))
        took, times = Took.now() - began, len(prompts) / count
        return Part(name, "evaluation", took * times, peak_memory_bytes(self.models.device),
                    int(bytes_below(target) * times), records=len(prompts))

    def _with_prompts(self, prompts: Records, count: int) -> Bench:
        """This bench with so many of the evaluated prompts, and as small a share of all else that is evaluated."""
        share = count / len(prompts)
        lengths = [len(self.template.prompt_ids(record.prompt)) for record in prompts]
        few, choices = prompts.select(spread(lengths, count)), self.data.choices
        asked = sum(1 for _ in zip(pairs(self.data.heldout), range(self.eval.pairs)))
        if choices is not None and len(choices):
            choices = choices.select(range(max(1, round(len(choices) * share))))
        data = dataclasses.replace(self.data, **{self.eval.split: few}, choices=choices)
        config = dataclasses.replace(self.eval, prompts=count, pairs=max(1, round(asked * share)))
        return dataclasses.replace(self, data=data, eval=config, beneath=self)


def _read(folder: Path) -> Part:
    told = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return Part(**{**told, "took": Took(**told["took"])})
