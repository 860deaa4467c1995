"""A reward model that an earlier run has left in its folder, as a frozen role on the policy's own base."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..algorithm import Response, RewardSource, Scorer
from ..data.template import Example
from ..models.export import frozen_role, role_digest, scoring_digest, scoring_folder
from ..models.model import Models
from .sources import checked

if TYPE_CHECKING:
    from ..data.records import DataSets

log = logging.getLogger(__name__)


@dataclass
class Earlier(RewardSource):
    """Scores as that run's evaluation did: what it was normalised by is in its head."""

    run: str  # its folder, over the same base and with the same adapters as this run's

    def check(self, data: "DataSets") -> None:
        scoring_folder(self.run, "reward.run")

    def content(self) -> list[str]:
        return scoring_digest(self.run, "reward.run")

    def open(self, models: Models, folders: dict[str, Path], data: "DataSets", batch_size: int) -> Scorer:
        folder = scoring_folder(self.run, "reward.run")
        log.warning("the reward model is that of %s, whose cost and labels are not charged here", self.run)
        name = f"earlier_{role_digest(folder)[:12]}"
        role = models.role(name) if name in models.roles.names() else frozen_role(models, name, folder)

        @torch.no_grad()
        def score(responses: list[Response]) -> list[float]:
            examples = [Example(one.prompt_ids, [one.ids], [one.finished], None, one.record) for one in responses]
            return models.of_each(examples, batch_size, "scoring", "answers",
                                  lambda batch: role.final_outputs(batch)[:, 0, 0].tolist())  # of (B, 1, 1)

        return checked("earlier", score)
