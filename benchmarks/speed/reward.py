"""A reward model on comparisons, against TRL's RewardTrainer.

``reward_k4`` learns from four ranked responses to a prompt, for the project one record, for TRL the six pairs that they
make: a step has the same prompts, and so the same comparisons. Loss and centring are means over these on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path

from algorithms.common.algorithm import Context
from algorithms.common.data.template import Example
from algorithms.common.models.model import Models
from benchmarks.random_models import method
from benchmarks.speed.prepare import ADAPTER, head_weight
from benchmarks.speed.request import BATCH, CENTERING, Answer, Kind, Request
from benchmarks.speed.training import (
    LOADER,
    in_our_order,
    pair,
    plain,
    ranked,
    several,
    splits,
    train_ours,
    train_trl,
)

RANKED = 4  # responses
PAIRS = RANKED * (RANKED - 1) // 2


def ours(request: Request, view: str, tokenize: Callable[[Models, dict], Example]) -> Answer:
    def same_head(models: Models, context: Context) -> None:
        add_head(models, request)

    return train_ours(request, method("reward_model", view=view, centering=CENTERING, normalize_on=None), "reward",
                      tokenize, ("loss/reward", "loss/centering"), same_head)


def add_head(models: Models, request: Request) -> None:
    """The prepared head, on the role ``reward``."""
    import torch

    role = models.role("reward")
    role.add_scalar_head(seed=1)
    role.scalar.bias.requires_grad_(False)  # TRL's head has none
    with torch.no_grad():
        role.scalar.weight.copy_(head_weight(request))


def trl(request: Request, rows: Callable[[Request], list[dict[str, str]]] = in_our_order, **options: int) -> Answer:
    from trl import RewardConfig, RewardTrainer

    return train_trl(request, RewardTrainer, RewardConfig, lambda: rows(request), lambda: classifier(request),
                     center_rewards_coefficient=CENTERING, **options)


def all_pairs(request: Request) -> list[dict[str, str]]:
    """Those of a prompt's ranked responses one after the other."""
    return [{"prompt": text["prompt"], "chosen": chosen, "rejected": rejected} for text in in_our_order(request)
            for chosen, rejected in combinations(ranked(text, RANKED), 2)]


def classifier(request: Request):
    """The prepared base, adapter and head as a sequence classifier."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification

    base = plain(request, AutoModelForSequenceClassification, num_labels=1)
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", modules_to_save=["score"], **ADAPTER))
    start = load_file(Path(request.folder) / "reward/adapter_model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.copy_(head_weight(request))
            elif parameter.requires_grad:
                parameter.copy_(start.pop(name.replace(".default.", ".")))
    if start:
        raise KeyError(f"reward: found no place for {sorted(start)[:3]}")
    return model.to(request.device)


KINDS = {
    "reward": Kind("pairs", {"ours": partial(ours, view="pairs", tokenize=pair), "TRL": trl}, {"TRL": LOADER}),
    "reward_k4": Kind(
        "prompts", {"ours": partial(ours, view="ranked", tokenize=partial(several, k=RANKED)),
                    "TRL": partial(trl, rows=all_pairs, per_device_train_batch_size=PAIRS * BATCH)},
        {"TRL": [*splits(PAIRS * BATCH, 1, 4, 6, 12, 24, PAIRS * BATCH),
                 {**splits(PAIRS * BATCH, 12)[0], "dataloader_num_workers": 1}]}),
}
