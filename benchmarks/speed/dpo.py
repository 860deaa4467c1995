"""DPO: the reference's pass and the steps, against TRL's DPOTrainer.

``dpo_ref`` has TRL compute the reference's log-probabilities beforehand, as the project does; ``dpo_micro1`` and
``dpo_micro8`` set both sides to one pair a pass, or to eight, for the memory that this needs; of eight the project
makes several passes on a CPU, where that saves padding.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from algorithms.common.algorithm import Context
from algorithms.common.models.model import Models
from benchmarks.random_models import keep_reference, method
from benchmarks.speed.request import BATCH, BETA, Answer, Kind, Request
from benchmarks.speed.training import (
    LOADER,
    in_our_order,
    pair,
    plain,
    splits,
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

    # a model that has an adapter would be given a second one as the reference, which takes longer than the bare base
    return train_trl(request, DPOTrainer, DPOConfig, lambda: in_our_order(request),
                     lambda: plain(request, AutoModelForCausalLM), Path(request.folder) / "policy", beta=BETA)


BEFOREHAND = {"precompute_ref_log_probs": True}


def of_one_split(parts: int) -> dict[str, list[dict]]:
    (option,) = splits(BATCH, parts)
    return {"TRL": [option, {**option, **BEFOREHAND}]}


KINDS = {
    "dpo": Kind("pairs", {"ours": ours, "TRL": trl},
                {"TRL": [*LOADER, *({**option, **BEFOREHAND} for option in LOADER)]}),
    "dpo_ref": Kind("pairs", {"ours": ours, "TRL": trl}, {"TRL": [{**option, **BEFOREHAND} for option in LOADER]}),
    "dpo_micro1": Kind("pairs", {"ours": partial(ours, micro_batch=1), "TRL": trl}, of_one_split(BATCH)),
    "dpo_micro8": Kind("pairs", {"ours": ours, "TRL": trl}, of_one_split(1)),
}
