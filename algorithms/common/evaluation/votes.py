"""Pairwise votes on the responses to a prompt become one record that scores each of them (``data.votes``).

    python run.py algorithm=rating_model data=file data.path=votes.jsonl +votes@data.votes=bradley_terry \\
        data.votes.scores=ratings

Whatever orders two responses is a vote: a row with a winner, a verdict, a pair. Those on one prompt are brought
together, wherever they stand in a file, and every response gets a strength: what rankings and ratings are learned from.
Published reward models learn from the comparisons themselves, as ``view: pairs`` does without any of this; strengths
are for many comparisons of each response, and for methods that want scores.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.records import Record, Records, prompt_hash
from ..support.checks import POSITIVE, at_least, one_of, require
from ..support.errors import ConfigError
from ..support.seeds import permutation
from .inference.ratings import LOG_ODDS, centred, elo, log_strengths, ratings, z_scores

log = logging.getLogger(__name__)

SCALES = {"z": lambda strengths, bins: z_scores(strengths), "log_odds": lambda strengths, bins: centred(strengths),
          "ratings": ratings}


@dataclass
class Strengths:
    """Base: what is done to the strengths of a prompt's responses."""

    # z: mean 0 and standard deviation 1 within a prompt | log_odds: mean 0 | ratings: whole numbers from 1 to bins
    scores: str = "z"
    bins: int = 5

    def __post_init__(self):
        require(self, "data.votes", scores=one_of(SCALES), bins=at_least(2))

    def log_odds(self, pairs: NDArray, won: NDArray, items: int, name: str) -> NDArray:
        """(V, 2), (V,) → (M,): strengths whose differences are log-odds of winning. name: of the prompt."""
        raise NotImplementedError

    def scored(self, records: Records) -> Iterator[Record]:
        """The records, those with several judged responses to one prompt as one, where the first of them stood.

        ConfigError for single responses with scores: a scale of their own.
        """
        hashes = records.prompt_hashes
        order = np.argsort(hashes, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(hashes[order]) != 0]) if len(order) else order
        groups = sorted(np.split(order, starts[1:]), key=lambda group: group[0]) if len(order) else []
        votes = prompts = 0
        for group in groups:
            found = [records[index] for index in group.tolist()]
            judged = [record for record in found if record.scores is not None and record.responses]
            if any(len(record.responses) == 1 for record in judged):
                raise ConfigError("data.votes: found single responses with scores; expected comparisons of two or more "
                                  "responses, which strengths are made of; fix: data.votes=null, or data.filter for "
                                  "the rows without a comparison")
            if (made := self.record(judged)) is not None:
                prompts, votes = prompts + 1, votes + made.meta["judgements"]
                yield made
            yield from (record for record in found if record.scores is None or not record.responses)
        log.info("data.votes: %d votes on the responses to %d prompts became scores (%s, %s)", votes, prompts,
                 type(self).__name__, self.scores)

    def record(self, judged: list[Record]) -> Record | None:
        """All responses of a prompt's records, each text once, with their scores; None of no comparison."""
        places: dict[str, int] = {}
        extras, pairs, won = [], [], []
        for record in judged:
            for index, response in enumerate(record.responses):
                if response not in places:
                    places[response] = len(places)
                    extras.append((record.extras or [{}] * len(record.responses))[index])
            for one, (response, score) in enumerate(zip(record.responses, record.scores)):
                for other, against in zip(record.responses[one + 1:], record.scores[one + 1:]):
                    if response != other:
                        pairs.append((places[response], places[other]))
                        won.append(0.5 if score == against else float(score > against))
        if not pairs:
            return None
        prompt = judged[0].prompt
        strengths = self.log_odds(np.array(pairs), np.array(won), len(places), str(prompt_hash(prompt)))
        scores = SCALES[self.scores](strengths, self.bins)
        return Record(prompt, list(places), [float(f"{score:.9g}") for score in scores],
                      {**_meta(judged), "judgements": len(pairs)}, extras if any(extras) else None)


def _meta(judged: list[Record]) -> dict[str, Any]:
    """The first record's, with the lines of all votes of its file."""
    meta = {key: value for key, value in judged[0].meta.items() if key != "response_lines"}
    if "line" in meta:
        of_file = [record.meta for record in judged if record.meta.get("source") == meta.get("source")]
        meta["lines"] = [line for one in of_file for line in one.get("lines", [one["line"]])]
    return meta


@dataclass
class BradleyTerry(Strengths):
    """Davidson's Bradley-Terry model with ties, by maximum likelihood: the order of the votes does not matter."""

    prior: float = 0.3  # comparisons of every two responses that are added, a third each way: all stays finite

    def __post_init__(self):
        super().__post_init__()
        require(self, "data.votes", prior=POSITIVE)

    def log_odds(self, pairs: NDArray, won: NDArray, items: int, name: str) -> NDArray:
        return log_strengths(pairs, won, items, self.prior)


@dataclass
class Elo(Strengths):
    """Elo ratings, as tournaments keep them; the last votes weigh most, so it is the mean over shuffled orders."""

    k: float = 32.0  # points that a vote moves at most; 4 for many votes
    shuffles: int = 100  # orders that are averaged; 0: the order of the file alone

    def __post_init__(self):
        super().__post_init__()
        require(self, "data.votes", k=POSITIVE, shuffles=at_least(0))

    def log_odds(self, pairs: NDArray, won: NDArray, items: int, name: str) -> NDArray:
        orders = [permutation(len(won), number, "votes", name) for number in range(self.shuffles)]
        return LOG_ODDS * elo(pairs, won, items, self.k, orders=np.array(orders) if orders else None)
