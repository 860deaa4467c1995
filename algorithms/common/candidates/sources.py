"""Where candidates come from: the latest policy, another model, the data's own responses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Callable, ClassVar, NamedTuple

from ..algorithm import Context
from ..data.records import Record
from ..data.template import Example
from ..models.beam import diverse_beams
from ..models.model import ModelConfig, Models, model_digest
from ..models.roles import BASE
from ..models.sampling import Sample, Sampling, sample
from ..support.checks import Rule, at_least, require
from ..support.errors import ConfigError
from ..support.seeds import derive

_TURN = re.compile(r"\n\n(Human|Assistant):")  # the plain transcript's marks


class Prompt(NamedTuple):
    """One prompt to answer."""

    record: Record
    example: Example
    ids: list[int]  # with room for the answer and for the record's own responses


@dataclass(frozen=True)
class Candidate:
    """One response as this model's token ids (the end token included when ``finished``), and what it cost to sample."""

    ids: list[int]
    finished: bool
    sampled: int = 0  # tokens


Draw = Callable[[list[Prompt]], list[list[Candidate]]]


class Source:
    """Base of the sources."""

    asks_policy: ClassVar[bool] = False  # whether a policy that learned would give others

    def content(self) -> dict:
        """Identity of the files that its settings name, beside their names."""
        return {}

    def open(self, context: Context, new_tokens: int, seed: int, policy: str) -> Draw:
        """What answers prompts with up to ``new_tokens``; loads what it needs, once. policy: the role that samples."""
        raise NotImplementedError


@dataclass
class Sampled(Source):
    """Samples of the latest policy: the one that training starts from, or that an earlier generation left."""

    count: int = 4  # at each temperature
    temperatures: list[float] = field(default_factory=lambda: [1.0])
    top_p: float = 1.0
    batch_size: int = 256  # sequences decoded at the same time

    in_trial: ClassVar[dict[str, int]] = {"count": 4, "temperatures": 2}
    asks_policy: ClassVar[bool] = True

    def __post_init__(self):
        require(self, "source", count=at_least(1), batch_size=at_least(1),
                temperatures=Rule(lambda found: found and all(one > 0 for one in found), "numbers above 0"))

    def open(self, context: Context, new_tokens: int, seed: int, policy: str) -> Draw:
        def draw(prompts: list[Prompt]) -> list[list[Candidate]]:
            found: list[list[Candidate]] = [[] for _ in prompts]
            for number, temperature in enumerate(self.temperatures):
                settings = Sampling(new_tokens, temperature, self.top_p, batch_size=self.batch_size)
                drawn = sample(context.models, policy, [one.ids for one in prompts], settings,
                               derive(seed, number), n=self.count, keys=[one.record.key for one in prompts])
                for of_prompt, prompt, samples in zip(found, prompts, drawn):
                    of_prompt += _own(context.models, prompt, samples)
            return found

        return draw


@dataclass
class DiverseBeams(Source):
    """Diverse beam search of the latest policy, at temperature 1."""

    beams: int = 4  # candidates
    groups: int = 4
    penalty: float = 1.0
    batch_size: int = 256  # sequences decoded at the same time

    asks_policy: ClassVar[bool] = True

    def __post_init__(self):
        require(self, "source", beams=at_least(1), groups=at_least(1), penalty=at_least(0), batch_size=at_least(1))
        if self.beams % self.groups:
            raise ConfigError(f"source.groups: found {self.groups} for {self.beams} beams; expected equal groups")

    def open(self, context: Context, new_tokens: int, seed: int, policy: str) -> Draw:
        def draw(prompts: list[Prompt]) -> list[list[Candidate]]:
            found = diverse_beams(context.models, policy, [one.ids for one in prompts], beams=self.beams,
                                  groups=self.groups, penalty=self.penalty, max_new_tokens=new_tokens,
                                  batch_size=self.batch_size)
            return [_own(context.models, prompt, samples) for prompt, samples in zip(prompts, found)]

        return draw


@dataclass
class OtherModel(Source):
    """Samples of another model, loaded for as long as it answers; it reads and writes text in its own template."""

    model: ModelConfig
    count: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 32  # sequences decoded at the same time

    def __post_init__(self):
        require(self, "source", count=at_least(1), temperature=at_least(0), batch_size=at_least(1))

    def content(self) -> dict:
        return {"base": model_digest(self.model)}

    def open(self, context: Context, new_tokens: int, seed: int, policy: str) -> Draw:
        other = Models(self.model, context.trainer.mixed_precision)
        settings = Sampling(new_tokens, self.temperature, self.top_p, batch_size=self.batch_size)

        def translated(record: Record, one: Sample) -> Candidate:
            text = other.template.decode(one.ids)
            cut = _before_turn(other, record, text)
            text = other.template.clean_response(record.prompt, text if cut is None else cut)
            finished = one.finished or cut is not None
            return _retokenised(context.models, record, text, finished, most=new_tokens, sampled=len(one.ids))

        def draw(prompts: list[Prompt]) -> list[list[Candidate]]:
            ids = [other.prompt_ids(one.record.prompt, new_tokens) for one in prompts]
            drawn = sample(other, BASE, ids, settings, seed, n=self.count, keys=[one.record.key for one in prompts])
            return [[translated(prompt.record, one) for one in samples] for prompt, samples in zip(prompts, drawn)]

        return draw


@dataclass
class FromRecords(Source):
    """The responses that the data has: a view with responses, such as ranked."""

    def open(self, context: Context, new_tokens: int, seed: int, policy: str) -> Draw:
        def draw(prompts: list[Prompt]) -> list[list[Candidate]]:
            return [[Candidate(ids, finished) for ids, finished in zip(one.example.responses, one.example.finished)]
                    for one in prompts]

        return draw


def _own(models: Models, prompt: Prompt, samples: list[Sample]) -> list[Candidate]:
    """This model's samples; one that goes on with a turn of the user's is cut there, and then it has ended."""
    found = []
    for one in samples:
        length = len(one.ids)
        cut = _before_turn(models, prompt.record, models.template.decode(one.ids))
        if cut is None:
            found.append(Candidate(one.ids, one.finished, sampled=length))
        else:
            text = models.template.clean_response(prompt.record.prompt, cut)
            found.append(_retokenised(models, prompt.record, text, finished=True, most=length, sampled=length))
    return found


def _before_turn(models: Models, record: Record, text: str) -> str | None:
    """A generated text up to the next turn of a transcript; None where there is none, or turns are tokens there."""
    transcript = not isinstance(record.prompt, str) and not models.template.chat
    turn = _TURN.search(text) if transcript else None
    return text[:turn.start()] if turn else None


def _retokenised(models: Models, record: Record, text: str, finished: bool, most: int, sampled: int) -> Candidate:
    """A text as this model's tokens, at most so many of them beside the end token."""
    ids = models.template.response_ids(record.prompt, text)
    if len(ids) > most or not finished:
        return Candidate(ids[:most], False, sampled)
    return Candidate([*ids, models.template.turn_end], True, sampled)
