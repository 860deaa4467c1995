"""Labels that are probabilities: of two responses, scored p and 1 − p, the first is better with probability p."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..support.errors import ConfigError

if TYPE_CHECKING:
    from .records import Records

CLOSE = 1e-6


def check_probabilities(records: Records, key: str) -> None:
    """ConfigError for pairs whose scores are not two probabilities with the sum 1; key: where ``soft_labels`` is."""
    for scores in records.column("scores"):
        if scores and not (min(scores) >= 0 and abs(sum(scores) - 1) < CLOSE):
            told = " and ".join(f"{score:g}" for score in scores)
            raise ConfigError(f"{key}.soft_labels: found a pair with the scores {told}; expected probabilities that "
                              f"each is better, with the sum 1; fix: {key}.soft_labels=false")
