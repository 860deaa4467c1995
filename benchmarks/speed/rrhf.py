"""RRHF's steps on ranked responses to a prompt, on rows that share it against a row for each: TRL has no RRHF."""

from __future__ import annotations

from functools import partial

from benchmarks.random_models import method
from benchmarks.speed.request import Answer, Kind, Request
from benchmarks.speed.training import several, train_ours


def train(request: Request, k: int, rows: str) -> Answer:
    """On k responses to a prompt. ``rows``: shared | plain."""
    return train_ours(request, method("rrhf"), "policy", partial(several, k=k), ("loss/rank", "loss/policy"), rows=rows)


KINDS = {f"rrhf_{k}": Kind("prompts", {"ours": partial(train, k=k, rows="shared"),
                                       "plain rows": partial(train, k=k, rows="plain")}) for k in (4, 8)}
