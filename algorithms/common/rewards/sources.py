"""What scores a response: a trained reward model, the data's gold reward, a function, a weighted sum; see also
``classifier.py``.

A source is configured (``reward=…``); opened over the models of a stage it becomes a scorer, a plain function of
responses. Sources that must be trained first say so in ``needs``; what their settings only name is told by ``content``.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import torch

from ..algorithm import Algorithm, Need, Recipe, Response, RewardSource, Scorer
from ..data.records import Record
from ..data.template import Example
from ..models.model import ModelConfig, Models
from ..support.errors import ConfigError, TrainingError, UserError, raised_in

if TYPE_CHECKING:
    from ..data.records import DataSets

log = logging.getLogger(__name__)
LARGEST = torch.finfo(torch.float32).max  # training computes in float32, where anything above is infinite


def checked(name: str, scorer: Callable[[list[Response]], Any]) -> Scorer:
    """The scorer, stopping with the record where it returns anything but one finite number per response.

    It may return a list, a NumPy array or a tensor.
    """

    def score(responses: list[Response]) -> list[float]:
        values = scorer(responses)
        values = values.tolist() if hasattr(values, "tolist") else values
        first = responses[0].record if responses else "none"
        if not isinstance(values, (list, tuple)):
            raise TrainingError(f"reward {name}: found {type(values).__name__}; expected a list of one number per "
                                f"response (first record {first})")
        if len(values) != len(responses):
            raise TrainingError(f"reward {name}: found {len(values)} scores for {len(responses)} responses; expected "
                                f"one each (first record {first})")
        return [_number(name, value, response) for value, response in zip(values, responses)]

    return score


def _number(name: str, value: Any, response: Response) -> float:
    number = value.item() if getattr(value, "ndim", None) == 0 else value  # a tensor's or an array's element
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) <= LARGEST:
        raise TrainingError(f"reward {name}: found {number!r} for a response to record {response.record}; expected a "
                            f"finite number, at most {LARGEST:.3g} in size")
    return float(number)


def counted(models: Models, scorer: Scorer) -> Scorer:
    """The scorer of a model of its own, which counts beside the roles of ``models`` once it has answered."""
    model = object()

    def score(responses: list[Response]) -> list[float]:
        models.used.add(model)
        return scorer(responses)

    return score


@dataclass
class Trained(RewardSource):
    """A reward model trained on the run's preferences, as a frozen role on the policy's own base."""

    algorithm: Algorithm
    recipe: Recipe

    def needs(self) -> dict[str, Need]:
        return {"reward": Need(self.algorithm, self.recipe)}

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        self.algorithm.load_state_dict(json.loads((folders["reward"] / "state.json").read_text(encoding="utf-8")))

        def examples(responses: list[Response]) -> list[Example]:
            return [Example(r.prompt_ids, [r.ids], [r.finished], None, r.record) for r in responses]

        return checked("trained", lambda responses: _scores(self.algorithm, models, examples(responses), batch_size))


@torch.no_grad()
def _scores(algorithm: Algorithm, models: Models, examples: list[Example], batch_size: int) -> list[float]:
    """The algorithm's score of single responses."""
    return models.of_each(examples, batch_size, "scoring", "answers",
                          lambda batch: algorithm.score(models, batch)[:, 0].tolist())


@dataclass
class NeedOver(Need):
    """A stage over a base of its own."""

    model: ModelConfig


@dataclass
class TrainedOwn(RewardSource):
    """A reward model trained on the run's preferences over a base of its own, of any size and family."""

    algorithm: Algorithm
    recipe: Recipe
    model: ModelConfig

    def needs(self) -> dict[str, Need]:
        return {"reward": NeedOver(self.algorithm, self.recipe, self.model)}

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        from ..models.export import frozen_role

        own = Models(self.model, "bf16" if models.autocast_dtype is not None else "no", device=models.device)
        self.algorithm.load_state_dict(json.loads((folders["reward"] / "state.json").read_text(encoding="utf-8")))
        frozen_role(own, self.algorithm.role, folders["reward"])

        def score(responses: list[Response]) -> list[float]:
            return _scores(self.algorithm, own, [retokenized(own, response) for response in responses], batch_size)

        return counted(models, checked("trained on its own base", score))


def retokenized(models: Models, response: Response) -> Example:
    """A response's text as a model's tokens; an unfinished one has no end token there either."""
    example = replace(models.tokenize(Record(response.turns, [response.text])), record=response.record)
    if response.finished or not example.finished[0]:
        return example
    return replace(example, responses=[example.responses[0][:-1]], finished=[False], key="")


@dataclass
class Gold(RewardSource):
    """The data's own true reward, where it has one."""

    def asks(self, data: "DataSets") -> list[Callable]:
        return [data.gold]

    def check(self, data: "DataSets") -> None:
        if isinstance(data.gold, RewardSource):
            raise ConfigError("reward: found gold, which is the source that data.gold names; expected a reward that is "
                              "not the truth its methods are judged by; fix: reward=trained, or data.gold=null")
        if data.gold is None:
            raise ConfigError("reward: found gold, but this data has no gold reward; expected data=reviews; fix: "
                              "reward=trained")

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        def score(responses: list[Response]) -> list[float]:
            prompts, texts = [r.prompt for r in responses], [r.text for r in responses]
            return data.gold(prompts, texts, [r.finished for r in responses])

        return checked("gold", score)


def truth(data: "DataSets") -> RewardSource | None:
    """What scores responses by the data's true reward, where it has one."""
    if data.gold is None or isinstance(data.gold, RewardSource):
        return data.gold
    return Gold()


def _same(one: RewardSource, other: RewardSource) -> bool:
    """Whether two sources have the same class and settings."""
    def settings(source: RewardSource) -> dict[str, Any]:
        return {key: (value.func, value.args, value.keywords) if isinstance(value, functools.partial) else value
                for key, value in vars(source).items() if not key.startswith("_")}

    return type(one) is type(other) and settings(one) == settings(other)


def check_truth(data: "DataSets", reward: RewardSource | None) -> None:
    """ConfigError where the source that ``data.gold`` names cannot score this data, is trained or is the reward."""
    gold = data.gold
    if not isinstance(gold, RewardSource):
        return
    if gold.needs() or any(isinstance(part, Gold) for part in gold.parts):
        raise ConfigError(f"data.gold: found {type(gold).__name__}; expected a function or a classifier, which is "
                          "known and not learned from the data; fix: +reward@data.gold=function or "
                          "+reward@data.gold=classifier")
    check_independent(gold, reward, data, "data.gold")


def check_independent(
    source: RewardSource, reward: RewardSource | None, data: "DataSets", key: str = "auditor"
) -> None:
    """ConfigError where a judge, which stands at ``key``, cannot score this data, or is what methods are rewarded by.

    What is trained is another model than the reward's, since it learns from other comparisons.
    """
    known = [part for part in source.parts if not part.needs()]
    if reward is not None and any(_same(part, own) for part in reward.parts for own in known):
        raise ConfigError(f"{key}: found the reward that methods are trained on; expected another, or it would call "
                          f"good what they were rewarded for; fix: another reward=… or +reward@{key}=…")
    try:
        source.check(data)
    except ConfigError as error:
        told = re.sub(r"\breward(?==)", f"reward@{key}", str(error))
        raise ConfigError(re.sub(r"\breward(?=[.:])", key, told)) from error


# What a function may ask for by name: a list with one of these for each response.
ARGUMENTS: dict[str, Callable[[Response], Any]] = {
    "prompts": lambda response: response.prompt,  # as the policy sees them, its chat template applied
    "responses": lambda response: response.text,
    "finished": lambda response: response.finished,  # False: cut at the limit of new tokens
    "meta": lambda response: response.meta,  # the record's, a dict
    "prompt_ids": lambda response: response.prompt_ids,  # token ids of the policy's tokenizer
    "response_ids": lambda response: response.ids,  # with the end token where it is finished
}


@dataclass
class Function(RewardSource):
    """A Python function to one number for each response. Its signature says what it is given: any of ``ARGUMENTS`` by
    name, or prompts and responses as its first two arguments, whatever they are called.
    """

    function: Callable[..., Any]

    @property
    def reads_meta(self) -> bool:
        return "meta" in self._asked()[1]

    def check(self, data: "DataSets") -> None:
        by_place, named, unknown = self._asked()
        judges = [name for name in (*by_place, *named) if name in ARGUMENTS]
        name = getattr(self.function, "__qualname__", None) or getattr(_inner(self.function), "__qualname__", "it")
        if unknown:
            values = " ".join(f"+reward.function.{one}=VALUE" for one in unknown if one not in by_place)
            fix = "name its arguments so" + (f", or give a value: {values}" if judges and values else "")
            raise ConfigError(f"reward.function: found {name}, which asks for {', '.join(unknown)}; expected only "
                              f"{', '.join(ARGUMENTS)}; fix: {fix}")
        if not judges:
            raise ConfigError(f"reward.function: found {name}, which asks for nothing that it could judge; expected "
                              f"arguments among {', '.join(ARGUMENTS)}; fix: let it take responses")

    def _asked(self) -> tuple[list[str], list[str], list[str]]:
        """Names of what is given by place and by name, and of what it asks for and cannot be given."""
        by_place = ["prompts", "responses"]
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
        except (TypeError, ValueError):  # written in C
            return by_place, [], []
        bound = self.function.keywords if isinstance(self.function, functools.partial) else {}
        free = [one for one in parameters if one.name not in bound and one.kind is not one.VAR_KEYWORD]
        placed = [one for one in free if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        first = [one.name for one in placed[:2] if one.default is one.empty]
        if any(one.kind is one.VAR_POSITIONAL for one in free) and not placed:
            return by_place, [], []
        if len(first) == 2 and all(name == own or name not in ARGUMENTS for name, own in zip(first, by_place)):
            free = [one for one in free if one not in placed[:2]]
        else:
            by_place = [one.name for one in free if one.kind is one.POSITIONAL_ONLY]
            free = [one for one in free if one.kind is not one.POSITIONAL_ONLY]
        named = [one.name for one in free if one.name in ARGUMENTS]
        needed = [one.name for one in free if one.default is one.empty and one.kind is not one.VAR_POSITIONAL]
        return by_place, named, [name for name in [*by_place, *needed] if name not in ARGUMENTS]

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        by_place, named, _ = self._asked()

        def score(responses: list[Response]) -> Any:
            given = {name: [ARGUMENTS[name](response) for response in responses] for name in (*by_place, *named)}
            try:
                return self.function(*(given[name] for name in by_place), **{name: given[name] for name in named})
            except (UserError, MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                raise TrainingError(f"reward.function: found {raised_in(error)}; expected a number for "
                                    f"each of {len(responses)} responses (first record {responses[0].record}); fix: "
                                    "correct the function, or what it reads of the data") from error

        return checked("function", score)


def _inner(function: Callable) -> Callable:
    """What is called in the end, without bound arguments and decorators."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(function)


@dataclass
class Combined(RewardSource):
    """Base of what makes one score of several named sources."""

    sources: dict[str, RewardSource] = field(default_factory=dict)

    def __post_init__(self):
        shared = [need.algorithm.role for need in self.needs().values() if need.model is None]
        if len(shared) > len(set(shared)):
            raise ConfigError(f"reward.sources: found {len(shared)} trained sources on the run's base, where there is "
                              "one role for such; expected one; fix: trained_own or earlier for the others")

    def needs(self) -> dict[str, Need]:
        return {f"{name}.{role}": need for name, source in self.sources.items()
                for role, need in source.needs().items()}

    @property
    def parts(self) -> list[RewardSource]:
        return [part for source in self.sources.values() for part in source.parts]

    @property
    def reads_meta(self) -> bool:
        return any(source.reads_meta for source in self.sources.values())

    def content(self) -> dict[str, Any]:
        return {name: source.content() for name, source in self.sources.items()}

    def asks(self, data: "DataSets") -> list[Callable]:
        return [function for source in self.sources.values() for function in source.asks(data)]

    def check(self, data: "DataSets") -> None:
        for source in self.sources.values():
            source.check(data)

    def opened(
        self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int
    ) -> dict[str, Scorer]:
        """The sources' scorers."""
        own = {name: {role: folders[f"{name}.{role}"] for role in source.needs()}
               for name, source in self.sources.items()}
        return {name: source.open(models, own[name], data, batch_size) for name, source in self.sources.items()}


@dataclass
class Weighted(Combined):
    """A weighted sum of named sources."""

    weights: dict[str, float] = field(default_factory=dict)  # one for each source

    def __post_init__(self):
        if not self.sources or set(self.sources) != set(self.weights):
            raise ConfigError(f"reward.weights: found {sorted(self.weights)} for the sources {sorted(self.sources)}; "
                              "expected one weight for each of at least one source")
        for name, weight in self.weights.items():
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
                raise ConfigError(f"reward.weights.{name}: found {weight!r}; expected a finite number")
        super().__post_init__()

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        scorers = self.opened(models, folders, data, batch_size)

        def score(responses: list[Response]) -> list[float]:
            parts = [[self.weights[name] * value for value in scorer(responses)] for name, scorer in scorers.items()]
            return [sum(values) for values in zip(*parts)]

        return checked("weighted", score)
