"""Two reward models and a rule: safety where it is at stake, helpfulness elsewhere (Llama 2: Touvron et al. 2023, arXiv
2307.09288, §3.2.3).

    R_c = R_s   where the prompt is tagged, or R_s < 0.15          R_h   elsewhere
    R̃_c = whiten(logit(R_c))

R_s and R_h are probabilities there, outputs of a sigmoid. Here most sources give its input, so R = σ(score), and the
reward is logit(R_c), that is the chosen score itself. Whitening is over a batch, and so the method's to do:
``algorithm.score_scaling=normalize`` of PPO.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..algorithm import Response, Scorer
from ..models.model import Models
from ..support.checks import Rule, require, within
from ..support.errors import ConfigError
from .sources import Combined, checked

if TYPE_CHECKING:
    from ..data.records import DataSets

SAFETY, HELPFULNESS = "safety", "helpfulness"
SMALLEST = 1e-6  # a probability is at least this far from 0 and 1, or its logit would be infinite


def logit(probability: float) -> float:
    probability = min(max(probability, SMALLEST), 1 - SMALLEST)
    return math.log(probability / (1 - probability))


def gated(safety: float, helpfulness: float, tagged: bool, threshold: float = 0.15) -> float:
    """Logits of R_s and R_h → logit of R_c; threshold: a probability."""
    return safety if tagged or safety < logit(threshold) else helpfulness


@dataclass
class Gated(Combined):
    """The gate over a source called safety and one called helpfulness."""

    threshold: float = 0.15  # a probability: below it only safety counts
    tagged: str | None = None  # the key of a record's meta that is true where the prompt is a matter of safety
    probabilities: list[str] = field(default_factory=list)  # sources whose scores are R itself, no logits

    def __post_init__(self):
        if set(self.sources) != {SAFETY, HELPFULNESS}:
            raise ConfigError(f"reward.sources: found {', '.join(sorted(self.sources)) or 'none'}; expected {SAFETY} "
                              f"and {HELPFULNESS}; fix: reward=gated, and reward@reward.sources.{SAFETY}=… of another")
        require(self, "reward", threshold=within("(0, 1)"), probabilities=Rule(
            lambda names: set(names) <= set(self.sources), f"names among {SAFETY} and {HELPFULNESS}"))
        super().__post_init__()

    @property
    def reads_meta(self) -> bool:
        return self.tagged is not None or super().reads_meta

    def check(self, data: "DataSets") -> None:
        super().check(data)
        if self.tagged is not None and not any(self.tagged in record.meta for record in data.prompts):
            raise ConfigError(f"reward.tagged: found {self.tagged!r}, which no prompt's meta has; expected what "
                              "data.mapper puts there; fix: reward.tagged=null, or another name")

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        scorers = self.opened(models, folders, data, batch_size)

        def logits(name: str, responses: list[Response]) -> list[float]:
            values = scorers[name](responses)
            if name not in self.probabilities:
                return values
            if not all(0 <= value <= 1 for value in values):
                raise ConfigError(f"reward.probabilities: found {name}, which scores {min(values):.3g} to "
                                  f"{max(values):.3g}; expected probabilities; fix: leave {name} out")
            return [logit(value) for value in values]

        def score(responses: list[Response]) -> list[float]:
            both = zip(responses, logits(SAFETY, responses), logits(HELPFULNESS, responses))
            return [gated(safety, helpfulness, bool(self.tagged and response.meta.get(self.tagged)), self.threshold)
                    for response, safety, helpfulness in both]

        return checked("gated", score)
