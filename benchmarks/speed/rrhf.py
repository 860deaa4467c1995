"""RRHF's steps on four ranked responses to a prompt, on rows that share it against a row for each: TRL has no RRHF."""

from __future__ import annotations

from algorithms.common.data.records import Record
from algorithms.common.data.template import Example
from algorithms.common.models.model import Models
from benchmarks.random_models import method
from benchmarks.speed.request import Answer, Request
from benchmarks.speed.training import train_ours

UNIT = "prompts"


def ranked(models: Models, text: dict) -> Example:
    """The pair's responses and each of them the other way round, best first."""
    turned = [" " + " ".join(reversed(text[key].split())) for key in ("chosen", "rejected")]
    responses = [text["chosen"], text["rejected"], *turned]
    return models.tokenize(Record(text["prompt"], responses, [4.0, 3.0, 2.0, 1.0], {}))


def shared(request: Request) -> Answer:
    return train_ours(request, method("rrhf"), "policy", ranked, ("loss/rank", "loss/policy"), rows="shared")


def plain(request: Request) -> Answer:
    return train_ours(request, method("rrhf"), "policy", ranked, ("loss/rank", "loss/policy"), rows="plain")


SIDES = {"ours": shared, "plain rows": plain}
OPTIONS: dict[str, list[dict]] = {}
