"""Many single responses at once, those to the same prompt in one row: it is read once for eight answers to it, as the
candidates of best-of-n, RRHF or a group of rollouts are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from ..data.batches import Batch
from ..data.template import Example
from ..models.model import Models

# Responses to a row. A token costs 26 H² in a layer's products and 4 H for each that it attends to: K responses of R
# tokens to a prompt of P cost least at K = √(P (6.5 H + P)) / R: 8 on the lab, 11 for 200 tokens each and H = 4,096.
TOGETHER = 8


def of_responses(models: Models, examples: list[Example], most: int, answer: Callable[[Batch], Tensor]) -> list[float]:
    """``answer``, a function of a batch to (B, K) scores, for examples of one response each, in their order; at most
    ``most`` responses go to a pass."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for place, example in enumerate(examples):
        by_prompt.setdefault(tuple(example.prompt), []).append(place)
    size = 1 if models.layout == "plain" else min(TOGETHER, most)
    rows = [places[start:start + size] for places in by_prompt.values() for start in range(0, len(places), size)]
    joined = [replace(examples[places[0]], responses=[examples[place].responses[0] for place in places],
                      finished=[examples[place].finished[0] for place in places], key="") for places in rows]
    widest = max(map(len, rows), default=1)
    scores = models.of_each(joined, most // widest, "scoring", "prompts", lambda batch: answer(batch).tolist())
    found = {place: score for places, row in zip(rows, scores) for place, score in zip(places, row)}
    return [found[place] for place in range(len(examples))]
