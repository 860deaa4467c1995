"""A reward model on comparisons, against TRL's RewardTrainer."""

from __future__ import annotations

from pathlib import Path

from algorithms.common.algorithm import Context
from algorithms.common.models.model import Models
from benchmarks.random_models import method
from benchmarks.speed.prepare import LINEAR, head_weight
from benchmarks.speed.request import CENTERING, Answer, Request
from benchmarks.speed.training import LOADER, in_our_order, pair, train_ours, train_trl

UNIT = "pairs"


def ours(request: Request) -> Answer:
    def same_head(models: Models, context: Context) -> None:
        import torch

        models.role("reward").add_scalar_head(seed=1)
        head = models.role("reward").scalar
        head.bias.requires_grad_(False)  # TRL's head has none
        with torch.no_grad():
            head.weight.copy_(head_weight(request))

    return train_ours(request, method("reward_model", centering=CENTERING, normalize_on=None), "reward", pair,
                      ("loss/reward", "loss/centering"), same_head)


def trl(request: Request) -> Answer:
    from trl import RewardConfig, RewardTrainer

    return train_trl(request, RewardTrainer, RewardConfig, lambda: in_our_order(request), lambda: classifier(request),
                     center_rewards_coefficient=CENTERING)


def classifier(request: Request):
    """The prepared base, adapter and head as a sequence classifier."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(request.base, num_labels=1, dtype=torch.float32,
                                                              attn_implementation="sdpa")
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=16, lora_alpha=32, target_modules=LINEAR,
                                            modules_to_save=["score"]))
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


SIDES = {"ours": ours, "TRL": trl}
OPTIONS = {"TRL": LOADER}
