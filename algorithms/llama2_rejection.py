"""Rejection sampling fine-tuning as in Llama 2: Touvron et al. 2023, arXiv 2307.09288, §3.2.3.

Keeps    in each iteration K answers to every prompt from the most recent model, scored, the best of each prompt kept;
         fine-tuning on the best answers of this iteration and of all before it (their versions up to RLHF V3 forgot
         what only earlier iterations had learned; ``pool: latest`` is what they did then).
Changes  K is 8 by default (the paper shows 1 to 100); answers are drawn at temperature 1 in every iteration, where the
         paper looks for the best temperature again each time; training goes on from the policy that was sampled from,
         on which the paper says nothing; a prompt's best answers of several iterations share a row, and those of the
         same text count once.
Drops    a new reward model for each iteration; distillation into smaller models; PPO on top of it (``algorithm=ppo``
         may start from this one: ``algorithm.needs.reference``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .common.algorithm import Context
from .common.data.template import Example
from .common.generations import Candidates, Imitation, best_of_each, own_samples, write_pool
from .common.support.checks import one_of, require


def merged(earlier: list[Example], fresh: list[Example]) -> list[Example]:
    """The answers of both, those to one prompt in one row, an answer that is there already once; prompts in the order
    of their first appearance."""
    found: dict[tuple, Example] = {}
    for example in [*earlier, *fresh]:
        prompt = (example.record, *example.prompt)
        before = found.get(prompt)
        if before is None:
            found[prompt] = example
            continue
        new = [k for k, ids in enumerate(example.responses) if ids not in before.responses]
        found[prompt] = replace(before, responses=before.responses + [example.responses[k] for k in new],
                                finished=before.finished + [example.finished[k] for k in new],
                                scores=before.scores + [example.scores[k] for k in new], key="")
    return list(found.values())


@dataclass
class RejectionSampling(Imitation):
    candidates: Candidates = own_samples(8)
    pool: str = "all"  # all: the best answers of every generation so far | latest: of this one

    def __post_init__(self):
        super().__post_init__()
        require(self, "algorithm", pool=one_of(("all", "latest")))

    def lessons(self, examples: list[Example]) -> list[Example]:
        return best_of_each(examples)

    def gather(self, context: Context) -> list[Example]:
        best = super().gather(context)
        if self.pool == "latest":
            return best
        pool = merged(self.earlier(context), best)
        write_pool(context.target, pool)
        return pool
