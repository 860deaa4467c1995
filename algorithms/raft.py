"""RAFT, reward-ranked fine-tuning: Dong et al. 2023, arXiv 2304.06767.

Keeps    each generation samples K responses to every prompt of its batch from the latest policy, scores them, keeps the
         one of highest reward (algorithm 1: y = arg max_j r(x, y_j)), fine-tunes that policy on what was kept by the
         likelihood of its tokens, and the next begins with the result; ``ranking: batch`` is the paper's global
         ranking, the best 1/K of all responses of the batch, whichever prompts they answer.
Changes  K is 8 by default (the paper: 32 and others), drawn at temperature 1; of equals the first drawn is kept;
         responses of the same text count once; the responses of a prompt that global ranking keeps share a row.
Drops    the penalty −β log π/π_ref in the reward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .common.data.template import Example
from .common.generations import Candidates, Imitation, best_of_each, own_samples, taken
from .common.support.checks import one_of, require


def top_share(examples: list[Example], count: int) -> list[Example]:
    """The ``count`` responses of highest score among those to all prompts; of equals those that stand first. Prompts
    without one are left out."""
    scores = np.concatenate([one.scores for one in examples])
    prompts = np.repeat(np.arange(len(examples)), [len(one.scores) for one in examples])
    places = np.concatenate([np.arange(len(one.scores)) for one in examples])
    kept = np.sort(np.argsort(-scores, kind="stable")[:count])
    return [taken(examples[prompt], places[kept[prompts[kept] == prompt]].tolist())
            for prompt in np.unique(prompts[kept])]


@dataclass
class RAFT(Imitation):
    candidates: Candidates = own_samples(8)
    ranking: str = "prompt"  # prompt: the best response to each | batch: as many, the best of all responses

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", ranking=one_of(("prompt", "batch")))

    def lessons(self, examples: list[Example]) -> list[Example]:
        if self.ranking == "prompt":
            return best_of_each(examples)
        return top_share(examples, len(examples))  # b prompts: 1/K of b · K responses
