"""Supervised fine-tuning on the chosen responses, against TRL's SFTTrainer."""

from __future__ import annotations

from algorithms.common.data.records import Record
from algorithms.common.data.template import Example
from algorithms.common.models.model import Models
from benchmarks.random_models import method
from benchmarks.speed.request import BATCH, Answer, Request
from benchmarks.speed.training import (
    LOADER,
    adapted,
    in_our_order,
    splits,
    train_ours,
    train_trl,
)

UNIT = "responses"


def demonstration(models: Models, text: dict) -> Example:
    return models.tokenize(Record(text["prompt"], [text["chosen"]], None, {}))


def ours(request: Request) -> Answer:
    return train_ours(request, method("sft"), "policy", demonstration, ("loss/policy",))


def trl(request: Request) -> Answer:
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    def rows() -> list[dict[str, str]]:
        return [{"prompt": text["prompt"], "completion": text["chosen"]} for text in in_our_order(request)]

    return train_trl(request, SFTTrainer, SFTConfig, rows, lambda: adapted(request, "policy", AutoModelForCausalLM))


SIDES = {"ours": ours, "TRL": trl}
GROUPED = {"train_sampling_strategy": "group_by_length"}
OPTIONS = {"TRL": [*LOADER, *({**option, **GROUPED} for option in splits(BATCH, 1, 2, 4)),
                   {**splits(BATCH, BATCH)[0], "dataloader_num_workers": 1, **GROUPED}, {"padding_free": True}]}
