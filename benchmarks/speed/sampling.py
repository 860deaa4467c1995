"""Sampling four responses to each prompt, against ``generate`` of transformers, which TRL samples with."""

from __future__ import annotations

from benchmarks.speed.prepare import load_models, pairs
from benchmarks.speed.request import Answer, Request
from benchmarks.speed.training import adapted

UNIT = "tokens"
SAMPLES, NEW_TOKENS = 4, 48
NEVER = 1535  # a row of the embedding without a token: no response ends early


def prompts(request: Request, encode) -> list[list[int]]:
    return [encode(text["prompt"]) for text in pairs(request, request.steps)]


def ours(request: Request) -> Answer:
    from algorithms.common.models.sampling import Sampling, sample

    models = load_models(request)
    models.add_role("policy", trainable=False, seed=0)
    models.template.stop_ids = [NEVER]
    asked = prompts(request, models.template.prompt_ids)
    n = 1 if request.parity else SAMPLES
    settings = Sampling(NEW_TOKENS, 0.0 if request.parity else 1.0)
    answer = Answer()
    with answer.watched(request.device):
        drawn = sample(models, "policy", asked, settings, seed=0, n=n)
    return _filled(answer, [one.ids for responses in drawn for one in responses])


def generate(request: Request) -> Answer:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = adapted(request, "policy", AutoModelForCausalLM).eval()
    tokenizer = AutoTokenizer.from_pretrained(request.base, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    asked = prompts(request, lambda text: tokenizer(text).input_ids)
    option = dict(request.option)
    size = option.pop("batch_size", 64)
    if request.parity:
        option |= {"do_sample": False}
    else:
        option |= {"do_sample": True, "temperature": 1.0, "top_k": 0, "num_return_sequences": SAMPLES}
        size = max(1, size // SAMPLES)
    answer, drawn = Answer(), []
    bf16 = torch.autocast(request.device, dtype=torch.bfloat16, enabled=request.precision == "bf16")
    with answer.watched(request.device), torch.no_grad(), bf16:
        for start in range(0, len(asked), size):
            batch = tokenizer.pad({"input_ids": asked[start:start + size]}, return_tensors="pt").to(request.device)
            found = model.generate(**batch, max_new_tokens=NEW_TOKENS, eos_token_id=NEVER, disable_compile=True,
                                   pad_token_id=tokenizer.pad_token_id, **option)
            drawn += found[:, batch["input_ids"].shape[1]:].tolist()
    return _filled(answer, drawn)


def _filled(answer: Answer, drawn: list[list[int]]) -> Answer:
    answer.items = sum(map(len, drawn))
    answer.values = [float(token) for ids in drawn for token in ids]
    return answer


SIDES = {"ours": ours, "generate": generate}
OPTIONS = {"generate": [{}, {"cache_implementation": "static"}, {"batch_size": 32}, {"batch_size": 128}]}
