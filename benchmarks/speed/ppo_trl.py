"""Batches of PPO against a release of TRL that has a PPOTrainer, which needs an environment of its own.

Both: the same prompts, a response of 24 tokens to each (none ends early), LoRA on policy and critic, a reward model and
a critic that begins as it, 32 prompts a batch, one step for each of four passes over them. What is drawn differs, and
so does every value. TRL's trainer takes three models, of which policy and critic have an adapter and the reward model
is whole; it clips no gradient. Ours are adapters on one base.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.speed.ppo import NEW_TOKENS, reward_model, train
from benchmarks.speed.prepare import ADAPTER, head_weight
from benchmarks.speed.request import BATCH, RATE, Answer, Request
from benchmarks.speed.training import adapted, in_our_order, plain, recipe, splits

UNIT = "prompts"
COMPARED = False
ELSEWHERE = "TRL 1.12.0"  # the side that runs with the request's python
ENVIRONMENT = ("python -m venv FOLDER && FOLDER/bin/pip install . -c constraints.txt && FOLDER/bin/pip install "
               "--no-deps trl==1.12.0, then trl_ppo=FOLDER/bin/python")
PROMPTS, PASSES = 32, 4  # of a batch


def batches(request: Request) -> Request:
    """Whole batches of no fewer prompts than the request's steps have."""
    return replace(request, steps=-(-request.steps * BATCH // PROMPTS))


def ours(request: Request) -> Answer:
    request = batches(request)
    learned = replace(recipe(request), batch_size=PROMPTS, inner_epochs=PASSES)
    return train(request, learned, reward_model, critic="reward", samples=1, max_new_tokens=NEW_TOKENS,
                 missing_eos_penalty=0.0)


def trl(request: Request) -> Answer:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    texts = in_our_order(batches(request), PROMPTS)
    policy = adapted(request, "policy", AutoModelForCausalLM)
    critic, reward = with_adapter(classifier(request)), classifier(request).requires_grad_(False)
    tokenizer = padding_apart(request, policy.config.vocab_size)
    told = {"per_device_train_batch_size": PROMPTS, "gradient_accumulation_steps": 1, **request.option}
    answer = Answer(items=len(texts))
    with answer.watched(request.device):
        settings = PPOConfig(
            output_dir=request.work, total_episodes=len(texts), num_ppo_epochs=PASSES, num_mini_batches=1,
            response_length=NEW_TOKENS, temperature=1.0, learning_rate=RATE, lr_scheduler_type="constant",
            weight_decay=0.0, logging_strategy="no", save_strategy="no", report_to=[],
            use_cpu=request.device == "cpu", bf16=request.precision == "bf16", gradient_checkpointing=False,
            disable_tqdm=True, seed=0, num_sample_generations=0, **told)
        rows = Dataset.from_list([{"input_ids": tokenizer(text["prompt"]).input_ids} for text in texts])
        PPOTrainer(args=settings, processing_class=tokenizer, model=policy, ref_model=None, reward_model=reward,
                   value_model=critic, train_dataset=rows, eval_dataset=rows).train()
    return answer


def classifier(request: Request):
    """The prepared base and head as a sequence classifier: the reward model, whose adapter is not trained yet."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = plain(request, AutoModelForSequenceClassification, num_labels=1)
    with torch.no_grad():
        model.score.weight.copy_(head_weight(request))
    return model


def with_adapter(model):
    """LoRA layers inside it, trained with the head: the trainer wants a classifier and not one that is wrapped."""
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    model = inject_adapter_in_model(LoraConfig(**ADAPTER), model)
    model.score.requires_grad_(True)
    return model


def padding_apart(request: Request, vocabulary: int):
    """The tokenizer with a padding token beyond the embedding. The trainer tells padding by its number and shows the
    model 0 there; no draw can be taken for it.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(request.base, padding_side="left")
    tokenizer.add_tokens([f"<nothing {index}>" for index in range(len(tokenizer), vocabulary)])
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    return tokenizer


SIDES = {"ours": ours, ELSEWHERE: trl}
ROLLOUT = "local_rollout_forward_batch_size"  # that are answered and scored together, apart from a pass's size
OPTIONS = {ELSEWHERE: [{}, {ROLLOUT: 8}, {**splits(PROMPTS, 2)[0], ROLLOUT: 16},
                       *({**option, ROLLOUT: together} for option in splits(PROMPTS, 4, 8, PROMPTS)
                         for together in (8, PROMPTS))]}
