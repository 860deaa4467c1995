"""Questions with options, answered by likelihood: rank classification (Wei et al. 2021, arXiv 2109.01652, §2.3).

The option with the largest summed log-probability is the answer. A model that has not learned to stop, or to answer
shortly, is measured fairly so, where comparing generated text would call it wrong.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pandas as pd
import torch

from . import statistics
from .records import Records, prompt_hash

if TYPE_CHECKING:
    from .models import Models


@torch.no_grad()
def rank_options(models: "Models", role: str, records: Records, batch_size: int) -> pd.DataFrame:
    """One row per question, in the records' order.

    correct: 1 if the picked option is right, else 0; options that tie share it. margin: log-probability of the best right
    option less that of the best wrong one, in nats. groups: the figures it counts in. unit: what is resampled as one,
    ``meta["unit"]`` or the prompt. origin: the part of a mixture it comes from.
    """
    examples = [models.tokenize(record) for record in records]
    order = sorted(range(len(examples)), key=lambda i: examples[i].length)  # little padding
    correct, margin = [0.0] * len(examples), [0.0] * len(examples)
    for start in range(0, len(order), batch_size):
        part = order[start:start + batch_size]
        batch = models.collate([examples[i] for i in part])
        logprobs = models.role(role).token_logprobs(batch).sum(-1)  # (B, K)
        logprobs = logprobs.masked_fill(~batch.present, -torch.inf)
        right = batch.scores > 0  # (B, K); NaN is not
        best = logprobs == logprobs.max(-1, keepdim=True).values
        share = (best & right).sum(-1) / best.sum(-1)
        gap = logprobs.masked_fill(~right, -torch.inf).max(-1).values - logprobs.masked_fill(right, -torch.inf).max(-1).values
        for index, one, other in zip(part, share.tolist(), gap.tolist()):
            correct[index], margin[index] = one, other
    metas = [(record.meta, f"{prompt_hash(record.prompt):016x}") for record in records]
    return pd.DataFrame({
        "record": [example.record for example in examples], "correct": correct, "margin": margin,
        "groups": [list(meta.get("groups", [])) for meta, _ in metas],
        "unit": [str(meta.get("unit", prompt)) for meta, prompt in metas],
        "origin": [meta.get("origin") for meta, _ in metas]})


def choice_figures(frame: pd.DataFrame, seed: int = 0) -> dict[str, statistics.Estimate]:
    """``accuracy/choices`` of all questions and ``accuracy/<group>`` of every group, units resampled."""
    rows: dict[str, list[int]] = defaultdict(list)
    for index, groups in enumerate(frame["groups"]):
        for group in ("choices", *groups):
            rows[group].append(index)
    return {f"accuracy/{group}": statistics.cluster_bootstrap(frame["correct"].iloc[members], frame["unit"].iloc[members].tolist(), seed)
            for group, members in rows.items()}
