"""Methods trained in generations: each learns from fresh answers of the policy that the one before it left.

    generation i:  its share of the prompts → candidates of policy i − 1, scored → what is learned of them → policy i

A generation is a stage like any other: it stands on the one before it, is kept under all that determines it and charged
what it took. So four generations after three train the fourth alone, and ``-m algorithm.generations=1,2,3`` shows each
of them in a row. What figures compare with stays the first generation's start, the role ``reference``.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Sequence

import numpy as np

from .algorithm import Algorithm, Apart, Context, Loss, Need, Recipe, RewardSource, likelihood_loss
from .candidates import Candidates, Sampled
from .data.batches import Batch
from .data.template import Example
from .data.tokenized import batch_indices
from .models.model import ModelConfig, Models
from .support.checks import at_least, require
from .support.errors import ConfigError, TrainingError
from .support.memory import release

log = logging.getLogger(__name__)
POOL = "pool.jsonl"  # answers that a generation leaves to the next


def own_samples(count: int) -> Any:
    """A dataclass field whose default are so many samples of the latest policy."""
    return field(default_factory=lambda: Candidates({"own": Sampled(count=count)}))


def best(example: Example) -> int:
    """Place of the best response by score, the first of equals."""
    return int(np.argmax(example.scores))


def worst(example: Example) -> int:
    """Place of the worst response by score, the first of equals."""
    return int(np.argmin(example.scores))


def taken(example: Example, places: Sequence[int]) -> Example:
    """A prompt with those of its responses, and their scores, in that order."""
    return replace(example, responses=[example.responses[k] for k in places],
                   finished=[example.finished[k] for k in places], scores=[example.scores[k] for k in places], key="")


def best_of_each(examples: list[Example]) -> list[Example]:
    """Every prompt with its best response."""
    return [taken(example, [best(example)]) for example in examples]


def share(records: int, size: int, number: int, seed: int) -> list[int]:
    """Indices, ascending, of the records of the share with that 1-based ``number``.

    Shares of ``size`` records each walk on where the last one stopped, through one order an epoch, so none has a record
    again before all were there. Where ``size`` is all of them, or more, each has all.
    """
    if size >= records:
        return list(range(records))
    return sorted(set(batch_indices(records, size, size * number, number - 1, seed)))


def write_pool(folder: Path, examples: list[Example]) -> None:
    """Leave prompts and scored responses for the next generation."""
    keys = ("prompt", "responses", "finished", "scores", "record", "truncated")
    with open(folder / POOL, "w", encoding="utf-8") as file:
        for one in examples:
            file.write(json.dumps({key: getattr(one, key) for key in keys}, allow_nan=False) + "\n")


def read_pool(folder: Path) -> list[Example]:
    """The inverse of ``write_pool``."""
    with open(folder / POOL, encoding="utf-8") as file:
        return [Example(**json.loads(line)) for line in file]


class Earlier(Need):
    """The generation before, trained by the same settings as the one that stands on it."""

    own_settings: ClassVar[bool] = False


@dataclass
class Generations(Algorithm):
    """A method says what it learns of prompts with their scored candidates (``lessons``), and its loss."""

    view: str = "prompts"
    generations: int = 3  # how many times answers are sampled and learned from
    prompts: int | None = None  # that a generation answers; None: as many as its recipe goes through
    candidates: Candidates = field(default_factory=Candidates)

    in_trial: ClassVar[dict[str, int]] = {"generations": 2}

    def __post_init__(self):
        require(self, "algorithm", generations=at_least(1), prompts=at_least(1).or_null())
        self.needs.setdefault("reference", None)  # without a supervised stage the base answers first
        self._rewards: dict[str, list[float]] = {}  # of what was learned from, one number for each prompt

    @property
    def latest(self) -> str:
        """The role that answers: what the generation before left, the reference in the first."""
        return f"generation_{self.generations - 1}" if self.generations > 1 else "reference"

    @property
    def start(self) -> str:
        """The role that training starts from; default: the one that answers."""
        return self.latest

    @property
    def drawings(self) -> int:
        """How often answers were drawn, with this generation's; default: once in each."""
        return self.generations

    def trained_by(self, recipe: Recipe) -> None:
        if self.generations > 1:
            first = {role: need for role, need in self.needs.items() if not isinstance(need, Earlier)}
            earlier = replace(self, generations=self.generations - 1, needs=first)
            # a checkpoint is one of the last generation's training: those before it are whole
            self.needs = {**first, self.latest: Earlier(earlier, replace(recipe, stop_after=None))}

    @property
    def uses_reward(self) -> bool:
        return self.candidates.scores == "reward"

    @property
    def labelled(self) -> tuple[str, ...]:
        """A reward source judges anew: of the data's labels none are left but those that chose what it judges."""
        chosen = self.view in ("demonstrations", "preferred") and self.candidates.takes_responses
        return (self.view,) if chosen or self.candidates.scores == "records" else ()

    def check(self, source: RewardSource | None, model: ModelConfig) -> None:
        self.candidates.check(self.view)
        if self.generations > 1 and not self.candidates.asks_policy:
            raise ConfigError(f"algorithm.generations: found {self.generations} with candidates.sources that the "
                              "policy does not answer, so each generation would learn the same again; expected 1, or "
                              "one such as own; fix: algorithm.generations=1")

    def content(self) -> dict[str, Any]:
        return self.candidates.content()

    def add_roles(self, models: Models, seed: int) -> None:
        models.add_role(self.role, trainable=True, like=models.role(self.start).name, seed=seed)

    def lessons(self, examples: list[Example]) -> list[Example]:
        """What is learned of prompts with their candidates and scores; default: all of it."""
        return examples

    def gather(self, context: Context) -> list[Example]:
        """What this generation is trained on; default: the lessons of the candidates drawn for it."""
        return self.lessons(self.draw(context))

    def draw(self, context: Context) -> list[Example]:
        """The prompts of this generation's share with fresh scored candidates of the latest policy; charged."""
        count = len(context.examples)
        whole = replace(context.recipe, stop_after=None)  # what is stopped had the candidates of all
        seen = share(count, self.prompts or whole.total_records(count), self.drawings, context.seed)
        records, examples = [context.records[i] for i in seen], [context.examples[i] for i in seen]
        made = self.candidates.make(context, records, examples, self.latest, self.generations)
        for key, value in made.cost.items():
            setattr(context.meter, key, value)
        self.note(made.examples)
        return made.examples

    def earlier(self, context: Context) -> list[Example]:
        """What the generation before left by ``write_pool``; nothing in the first."""
        return read_pool(context.inputs[self.latest]) if self.generations > 1 else []

    def fit(self, context: Context) -> None:
        """Make the candidates, then train on what is learned of them."""
        recipe, examples = context.recipe, self.gather(context)
        if not examples:
            raise TrainingError(f"{context.name}: found no answer to learn from among the candidates; expected some; "
                                "fix: more candidates (algorithm.candidates.sources.own.count), or selecting less "
                                "strictly")
        if self.prompts is None and recipe.steps is None and recipe.epochs < 1:
            context.recipe = replace(recipe, epochs=1.0)  # a part of the prompts was answered, all of it is learned
        context.examples = examples
        answers = sum(len(one.responses) for one in examples)
        log.info("%s: generation %d learns %d answers to %d prompts, %s", context.name, self.generations, answers,
                 len(examples), context.recipe.told(len(examples)))
        if context.heldout:  # watched, not learned from: free of charge
            watched = self.candidates.make(context, list(context.heldout_records), context.heldout, self.latest,
                                           self.generations)
            context.heldout = self.lessons(watched.examples)
        context.reward = None  # a reward model of its own goes before training begins
        release()
        super().fit(context)

    def note(self, examples: list[Example]) -> None:
        """Keep the rewards of the candidates, the mean and the best of each prompt, for the figures."""
        self._rewards = {"candidates/mean": [float(np.mean(one.scores)) for one in examples],
                         "candidates/best": [float(np.max(one.scores)) for one in examples]}

    def figures(self, samples, picked) -> list[Apart]:
        """The rewards of what it learned from, over its training prompts."""
        return [Apart(name, values, "training prompts") for name, values in self._rewards.items()]

    def state_dict(self) -> dict[str, Any]:
        return self._rewards

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rewards = state


@dataclass
class Imitation(Generations):
    """Supervised fine-tuning on those of its own answers that a method selects."""

    def loss(self, models: Models, batch: Batch) -> Loss:
        return likelihood_loss(models, batch)
