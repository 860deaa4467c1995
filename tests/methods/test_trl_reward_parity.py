"""From the same adapter and head, on the same pairs in the same order, our reward model's first losses are TRL's.

TRL runs two padded rows a pair through a sequence classifier, which looks for the last token that is no padding; we run
one shared row and read it by index. Losses and gradient norms of twenty steps in fp32 agree to a relative 3e-5 (found:
2e-6 and less).
Kept out of the comparison: our head's bias, which no difference of rewards depends on and TRL's head has not.
"""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from algorithms.common.data.template import Example
from algorithms.common.models.model import Lora
from algorithms.common.models.roles import state
from algorithms.common.training.loop import fit
from algorithms.reward_model import RewardModel
from training_setup import lines, make_context
from trl_setup import (  # noqa: F401
    BASE,
    BATCH,
    SEED,
    STEPS,
    arguments,
    data,
    ordered,
    our_models,
    pairs_of,
    recipe,
    train_theirs,
)

pytestmark = pytest.mark.slow
TOLERANCE = 3e-5


def their_classifier(models, lora: Lora | None):
    """The same weights as our reward role's, as a sequence classifier."""
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=1, dtype=torch.float32,
                                                              attn_implementation="eager")
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = base if lora is None else get_peft_model(base, LoraConfig(
        task_type="SEQ_CLS", r=lora.r, lora_alpha=lora.alpha, target_modules=names, modules_to_save=["score"]))
    start = {name: value.detach() for name, value in state(models.roles, "reward").items()}
    placed = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "score" in name:
                parameter.copy_(models.role("reward").scalar.weight)
            elif parameter.requires_grad:
                own = name.removeprefix("base_model.model.").replace(".default.", ".")
                parameter.copy_(start[own])
                placed += 1
    assert placed == len(start), "every weight of the role is a weight of theirs"
    return model


@pytest.mark.parametrize("lora, schedule, weight_decay, accumulation, centering, margin", [
    (Lora(r=8, alpha=16), "linear", 0.1, 1, 0.0, 0.0), (Lora(r=8, alpha=16), "constant", 0.0, 4, 0.01, 0.0),
    (Lora(r=8, alpha=16), "linear", 0.0, 1, 0.0, 0.5), (None, "cosine", 0.0, 1, 0.01, 0.0)],
    ids=["lora", "centred-accumulated", "margin", "full"])
def test_reward_model(data, tmp_path, lora, schedule, weight_decay, accumulation, centering, margin):  # noqa: F811
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    algorithm = RewardModel(centering=centering, margin=margin, normalize_on=None)
    models = our_models(lora)
    algorithm.add_roles(models, seed=5)
    models.role("reward").scalar.bias.requires_grad_(False)
    records = list(data.preferences)
    pairs = pairs_of(records)
    gaps = [float(1 + index % 3) for index in range(len(pairs))]  # significantly, better, slightly
    examples: list[Example] = [models.tokenize(type(records[0])(x, [good, bad], [gap, 0.0]))
                               for (x, good, bad), gap in zip(pairs, gaps)]
    settings = recipe(schedule, weight_decay, 1e-3)
    theirs = their_classifier(models, lora)
    context = make_context(models, tmp_path / "ours", examples, settings, SEED, micro_batch_size=BATCH)
    fit(algorithm, context)

    order = ordered(examples, len(examples))
    rows = Dataset.from_list([{"chosen_ids": examples[i].prompt + examples[i].responses[0],
                               "rejected_ids": examples[i].prompt + examples[i].responses[1],
                               **({"margin": margin * gaps[i]} if margin else {})} for i in order])
    losses, norms, _ = train_theirs(
        RewardTrainer, accumulation, model=theirs, train_dataset=rows, processing_class=models.template.tokenizer,
        args=arguments(RewardConfig, tmp_path / "theirs", settings, accumulation,
                       center_rewards_coefficient=centering or None))

    ours = lines(context.target)
    assert len(ours) == len(losses) == len(norms) == STEPS
    total = [line["loss/reward"] + line["loss/centering"] for line in ours]
    relative = [abs(one - other) / abs(other) for one, other in zip(total, losses)]
    norm = [abs(line["grad_norm"] - other) / other for line, other in zip(ours, norms)]
    print(f"\nlargest relative difference of losses {max(relative):.1e}, of gradient norms {max(norm):.1e}; "
          f"losses {losses[0]:.6f} … {losses[-1]:.6f}")
    assert losses[0] != losses[-1], "it trains"
    assert max(relative) < TOLERANCE and max(norm) < TOLERANCE
