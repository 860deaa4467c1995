"""Questions with options, answered by likelihood: rank classification (Wei et al. 2021, arXiv 2109.01652, §2.3).

The option whose tokens have the largest summed log-probability is the answer: the option alone decides, so a model that
has not learned to stop, or to answer shortly, is measured fairly, where comparing generated text would call it wrong.
Figures ``accuracy/…``. With the end token added to each option, ``accuracy_with_end/…`` asks also whether the model
stops there: what two models differ in may then be learning to stop. It alone can prefer an option to one that it begins
with ("far" is never less likely than "far away"). An option is tokenised as a response is, apart from its prompt.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from ..data.records import Records, prompt_hash
from ..figures import Figure

if TYPE_CHECKING:
    from ..data.batches import Batch
    from ..models.model import Models

MEASURED = ("correct", "margin", "correct_with_end", "margin_with_end")  # of each question


@torch.no_grad()
def rank_options(models: "Models", role: str, records: Records, batch_size: int) -> pd.DataFrame:
    """One row per question, in the records' order.

    correct: 1 if the picked option is right, else 0; options that tie share it. margin: log-probability of the best
    right option less that of the best wrong one, in nats. correct_with_end, margin_with_end: the same, the end token
    counted. groups: the figures it counts in. unit: what it asks about, ``meta["unit"]`` or the prompt; answers to
    questions about one are not independent. prompt_id: the prompt. origin: the part of a mixture it comes from.
    """
    examples = [models.tokenize(record) for record in records]

    def ranked(batch: Batch) -> list[list[float]]:
        """What is measured of B questions."""
        logprobs = models.role(role).token_logprobs(batch)  # (B, K, T)
        found = []
        for counted in (logprobs.masked_fill(batch.ends, 0), logprobs):
            sums = counted.sum(-1).masked_fill(~batch.present, -torch.inf)  # (B, K)
            found += _judged(sums, batch.scores > 0)  # a score of NaN is not right
        return torch.stack(found, 1).tolist()

    rows = models.of_each(examples, batch_size, "options", "questions", ranked)
    metas = [(record.meta, f"{prompt_hash(record.prompt):016x}") for record in records]
    return pd.DataFrame({
        "record": [example.record for example in examples], **pd.DataFrame(rows, columns=MEASURED).to_dict("list"),
        "groups": [list(meta.get("groups", [])) for meta, _ in metas],
        "unit": [str(meta.get("unit", prompt)) for meta, prompt in metas],
        "prompt_id": [prompt for _, prompt in metas],
        "origin": [meta.get("origin") for meta, _ in metas]})


def _judged(logprobs: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of options, and which are right, (B, K) each → correct and margin, (B,) each."""
    best = logprobs == logprobs.max(-1, keepdim=True).values
    correct = (best & right).sum(-1) / best.sum(-1)
    of_right, of_wrong = (logprobs.masked_fill(left_out, -torch.inf).max(-1).values for left_out in (~right, right))
    return correct, of_right - of_wrong


def choice_figures(frame: pd.DataFrame) -> list[Figure]:
    """``accuracy/choices`` of all questions and ``accuracy/<group>`` of every group, a row per unit; then
    ``accuracy_with_end/…`` of the same. Units are prompts, or subjects where several questions are about one."""
    rows: dict[str, list[int]] = defaultdict(list)
    for index, groups in enumerate(frame["groups"]):
        for group in ("choices", *groups):
            rows[group].append(index)
    unit = "prompts" if (frame["unit"] == frame["prompt_id"]).all() else "subjects"
    return [Figure.of(f"accuracy{ending}/{group}", frame["unit"].iloc[members], frame[f"correct{ending}"].iloc[members],
                      kind="share", unit=unit)
            for ending in ("", "_with_end") for group, members in rows.items()]
