"""DPO: the reference's pass and the steps, against TRL's DPOTrainer."""

from __future__ import annotations

from algorithms.common.algorithm import Context
from algorithms.common.models.model import Models
from algorithms.common.training.references import StoredLogprobs
from benchmarks.random_models import method
from benchmarks.speed.request import BATCH, BETA, Answer, Request
from benchmarks.speed.training import (
    LOADER,
    adapted,
    in_our_order,
    pair,
    train_ours,
    train_trl,
)

UNIT = "pairs"


def ours(request: Request) -> Answer:
    def reference(models: Models, context: Context) -> None:
        models.reference.stored = StoredLogprobs(models.reference, {"weights": "random"}, context.store, BATCH)

    return train_ours(request, method("dpo", beta=BETA), "policy", pair, ("loss/policy",), reference)


def trl(request: Request) -> Answer:
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    return train_trl(request, DPOTrainer, DPOConfig, lambda: in_our_order(request),
                     lambda: adapted(request, "policy", AutoModelForCausalLM), beta=BETA)


SIDES = {"ours": ours, "TRL": trl}
OPTIONS = {"TRL": [*LOADER, *({**option, "precompute_ref_log_probs": True} for option in (LOADER[0], LOADER[-1]))]}
