"""DPO: the reference's pass and the steps, against TRL's DPOTrainer.

``dpo_ref`` has TRL compute the reference's log-probabilities beforehand, as the project does; ``dpo_micro1`` takes
steps in forward passes of one pair on both sides, for what remains of the memory.
"""

from __future__ import annotations

from functools import partial

from algorithms.common.algorithm import Context
from algorithms.common.models.model import Models
from benchmarks.random_models import keep_reference, method
from benchmarks.speed.request import BATCH, BETA, Answer, Kind, Request
from benchmarks.speed.training import (
    LOADER,
    adapted,
    in_our_order,
    pair,
    train_ours,
    train_trl,
)


def ours(request: Request, micro_batch: int = BATCH) -> Answer:
    def reference(models: Models, context: Context) -> None:
        keep_reference(context)

    return train_ours(request, method("dpo", beta=BETA), "policy", pair, ("loss/policy",), reference,
                      micro_batch=micro_batch)


def trl(request: Request) -> Answer:
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    return train_trl(request, DPOTrainer, DPOConfig, lambda: in_our_order(request),
                     lambda: adapted(request, "policy", AutoModelForCausalLM), beta=BETA)


BEFOREHAND = {"precompute_ref_log_probs": True}
ONE_BY_ONE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": BATCH}
KINDS = {
    "dpo": Kind("pairs", {"ours": ours, "TRL": trl},
                {"TRL": [*LOADER, *({**option, **BEFOREHAND} for option in (LOADER[0], LOADER[-1]))]}),
    "dpo_ref": Kind("pairs", {"ours": ours, "TRL": trl}, {"TRL": [{**option, **BEFOREHAND} for option in LOADER]}),
    "dpo_micro1": Kind("pairs", {"ours": partial(ours, micro_batch=1), "TRL": trl},
                       {"TRL": [ONE_BY_ONE, {**ONE_BY_ONE, **BEFOREHAND}]}),
}
