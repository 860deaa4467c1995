"""A verifiable reward: 1 for a response whose final answer is the known one, else 0. Nothing is learned.

What counts as an answer stands in ``data/final_answers.py``. With GRPO: DeepSeek-AI 2025, DeepSeek-R1, arXiv
2501.12948, §2.2.2, whose reward for the form of a response is not here: an answer that cannot be found is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..algorithm import Response, RewardSource, Scorer
from ..data.final_answers import REFERENCE, is_right, reference_of
from ..support.errors import ConfigError, DataError
from .sources import checked

if TYPE_CHECKING:
    from ..data.records import DataSets
    from ..models.model import Models


def exact_answer(responses: Sequence[str], meta: Sequence[dict[str, Any]], reference: str = REFERENCE) -> list[float]:
    """1.0 or 0.0 for each of N responses; reference: the key of meta with the known answer. Also for reward=function.

    DataError for a record without one.
    """
    answers = [reference_of(one, reference) for one in meta]
    if None in answers:
        raise DataError(_without(reference, meta[answers.index(None)]))
    return [float(is_right(response, answer)) for response, answer in zip(responses, answers, strict=True)]


@dataclass
class ExactAnswer(RewardSource):
    """The reward as a source, which finds out before anything is trained whether every prompt, of training and of
    evaluation, has a known answer."""

    reference: str = REFERENCE  # the key of a record's meta that holds it, or a solution that ends in it

    @property
    def reads_meta(self) -> bool:
        return True

    def check(self, data: "DataSets") -> None:
        for record in chain(data.prompts, data.evaluation, data.tuning):
            if reference_of(record.meta, self.reference) is None:
                raise ConfigError(_without(self.reference, record.meta, "reward.reference: "))

    def open(self, models: "Models", folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        def score(responses: list[Response]) -> list[float]:
            return exact_answer([one.text for one in responses], [one.meta for one in responses], self.reference)

        return checked("exact", score)


def _without(reference: str, meta: dict[str, Any], key: str = "reward: ") -> str:
    there = ", ".join(sorted(meta)) or "nothing"
    return (f"{key}found a prompt without {reference!r} in its record's meta (which has {there}); expected the known "
            f"answer of every prompt; fix: reward.reference=KEY, or a data.mapper that puts it into meta")
