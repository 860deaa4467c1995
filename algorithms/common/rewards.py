"""What scores a response: a trained reward model, the data's gold reward, a function, a classifier, a weighted sum.

A source is configured (``reward=…``); opened over the models of a stage it becomes a scorer, a plain function of
responses. Sources that must be trained first say so in ``needs``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable

import torch

from .algorithm import Algorithm, Need
from .errors import ConfigError, TrainingError
from .optim import Recipe
from .template import Example

if TYPE_CHECKING:
    from .models import Models
    from .records import DataSets


@dataclass(frozen=True)
class Response:
    """One response to score, as text and as token ids."""

    prompt: str  # rendered
    text: str
    prompt_ids: list[int]
    ids: list[int]  # with the end token when finished
    finished: bool
    record: str  # key, for messages


Scorer = Callable[[list[Response]], list[float]]


class RewardSource:
    """Base of the sources."""

    def needs(self) -> dict[str, Need]:
        """Stages to train first, by the name of the frozen role they become."""
        return {}

    def open(self, models: "Models", folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        """A scorer over loaded models; ``folders`` holds the trained stages of ``needs``, their roles are loaded."""
        raise NotImplementedError


def checked(name: str, scorer: Scorer) -> Scorer:
    """The scorer, stopping with the record where it returns anything but one finite number per response."""

    def score(responses: list[Response]) -> list[float]:
        values = scorer(responses)
        if len(values) != len(responses):
            raise TrainingError(f"reward {name}: found {len(values)} scores for {len(responses)} responses; expected one each "
                                f"(first record {responses[0].record if responses else 'none'})")
        for value, response in zip(values, responses):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise TrainingError(f"reward {name}: found {value!r} for a response to record {response.record}; expected a "
                                    "finite number")
        return [float(value) for value in values]

    return score


@dataclass
class Trained(RewardSource):
    """A reward model trained on the run's preferences, as a frozen role on the policy's own base."""

    algorithm: Algorithm
    recipe: Recipe

    def needs(self) -> dict[str, Need]:
        return {"reward": Need(self.algorithm, self.recipe)}

    def open(self, models: "Models", folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        self.algorithm.load_state_dict(json.loads((folders["reward"] / "state.json").read_text(encoding="utf-8")))

        @torch.no_grad()
        def score(responses: list[Response]) -> list[float]:
            values: list[float] = []
            for start in range(0, len(responses), batch_size):
                part = responses[start:start + batch_size]
                batch = models.collate([Example(r.prompt_ids, [r.ids], [r.finished], None, r.record) for r in part])
                values += self.algorithm.score(models, batch)[:, 0].tolist()
            return values

        return checked("trained", score)


@dataclass
class Gold(RewardSource):
    """The data's own true reward, where it has one."""

    def open(self, models: "Models", folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        if data.gold is None:
            raise ConfigError("reward: found gold, but this data has no gold reward; expected data=reviews; fix: reward=trained")
        return checked("gold", lambda rs: data.gold([r.prompt for r in rs], [r.text for r in rs], [r.finished for r in rs]))
