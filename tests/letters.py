"""A reward that anyone can recompute: the number of letters."""

import dataclasses

from algorithms.common.algorithm import RewardSource
from algorithms.common.rewards.sources import checked


@dataclasses.dataclass
class Letters(RewardSource):
    """More letters are better."""

    def open(self, models, folders, data, batch_size):
        return checked("letters", lambda responses: [float(len(r.text)) for r in responses])
