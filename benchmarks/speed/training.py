"""Training from texts in memory to the last step, by the project's loop and by TRL's trainers: what the kinds share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

from safetensors.torch import load_file

from algorithms.common.algorithm import Algorithm, Context, Recipe
from algorithms.common.data.records import Record
from algorithms.common.data.template import Example
from algorithms.common.data.tokenized import batch_indices
from algorithms.common.models.model import Models
from algorithms.common.training.loop import fit
from benchmarks.random_models import make_context
from benchmarks.speed.prepare import ADAPTER, load_models
from benchmarks.speed.request import BATCH, RATE, Answer, Request
from benchmarks.speed.texts import pairs


def splits(batch: int, *parts: int) -> list[dict]:
    """A step of TRL's in so many passes: on a CPU few records a pass are often the fastest, on a GPU many."""
    return [{"per_device_train_batch_size": batch // count, "gradient_accumulation_steps": count} for count in parts]


# TRL's settings that are tried before its time is taken with the best; a kind adds its own
LOADER = [*splits(BATCH, 1, 2, 4, 8), {**splits(BATCH, BATCH)[0], "dataloader_num_workers": 1}]


def train_ours(request: Request, algorithm: Algorithm, role: str, tokenize: Callable[[Models, dict], Example],
               losses: tuple[str, ...], before: Callable[[Models, Context], None] = lambda models, context: None,
               rows: str = "auto", micro_batch: int = BATCH) -> Answer:
    """Train ``role`` from its prepared adapter. ``before``: what a run does before its first step; ``losses``: the
    metrics whose sum is compared; ``micro_batch``: records of a forward pass.
    """
    models = load_models(request, rows)
    texts = pairs(request, request.steps * BATCH)
    answer = Answer(items=len(texts))
    with answer.watched(request.device):
        models.alias("reference", "base")
        models.add_role(role, trainable=True, seed=0)
        examples = [tokenize(models, text) for text in texts]
        context = make_context(models, Path(request.work), examples, recipe(request), micro_batch_size=micro_batch,
                               checkpoint_every=10**9, mixed_precision="bf16" if request.precision == "bf16" else "no")
        before(models, context)
        fit(algorithm, context)
    answer.values = metrics(context, losses)
    return answer


def metrics(context: Context, names: tuple[str, ...]) -> list[float]:
    """The sum of these metrics at each step."""
    lines = (context.target / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [sum(line[name] for name in names) for line in map(json.loads, lines)]


def recipe(request: Request) -> Recipe:
    return Recipe(lr=RATE, batch_size=BATCH, steps=request.steps, schedule="constant", warmup=0.0, betas=[0.9, 0.999])


def pair(models: Models, text: dict) -> Example:
    return models.tokenize(Record(text["prompt"], [text["chosen"], text["rejected"]], [1.0, 0.0], {}))


def ranked(text: dict, k: int) -> list[str]:
    """k responses, best first: the pair's two, and each again with its words moved on by one, by two, …"""
    words = [text[key].split() for key in ("chosen", "rejected")]
    return [" " + " ".join(words[i % 2][i // 2:] + words[i % 2][:i // 2]) for i in range(k)]


def several(models: Models, text: dict, k: int) -> Example:
    """The ranked responses as one record."""
    return models.tokenize(Record(text["prompt"], ranked(text, k), [float(-place) for place in range(k)], {}))


def in_our_order(request: Request, batch: int = BATCH) -> list[dict[str, str]]:
    """The texts as the project's loop visits them, ``batch`` a step."""
    texts = pairs(request, request.steps * batch)
    return [texts[index] for step in range(request.steps)
            for index in batch_indices(len(texts), batch, len(texts), step, 0)]


def train_trl(request: Request, kind: type, arguments: type, rows: Callable[[], list[dict[str, str]]],
              load: Callable[[], Any], adapter: Path | None = None, **options: Any) -> Answer:
    """Train with one of TRL's trainers. ``rows``: of ``BATCH`` records a step; ``load``: the model, with its adapter or
    without; ``adapter``: what one that the trainer adds begins as; ``options``: of the trainer's config.
    """
    from datasets import Dataset
    from peft import LoraConfig, set_peft_model_state_dict
    from transformers import AutoTokenizer

    parts: list[float] = []

    class Recording(kind):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            parts.append(loss.detach())
            return loss

    model, tokenizer, texts = load(), AutoTokenizer.from_pretrained(request.base), rows()
    told = {"per_device_train_batch_size": BATCH, "gradient_accumulation_steps": 1,
            "train_sampling_strategy": "sequential", **options, **request.option}
    answer = Answer(items=request.steps * BATCH)
    with answer.watched(request.device):
        settings = arguments(
            output_dir=request.work, max_steps=request.steps, learning_rate=RATE, lr_scheduler_type="constant",
            weight_decay=0.0, max_grad_norm=1.0, logging_strategy="no", save_strategy="no", report_to=[],
            use_cpu=request.device == "cpu", bf16=request.precision == "bf16", gradient_checkpointing=False,
            max_length=None, disable_tqdm=True, seed=0, **told)
        dataset = Dataset.from_list(texts)
        added = {} if adapter is None else {"peft_config": LoraConfig(task_type="CAUSAL_LM", **ADAPTER)}
        trainer = Recording(model=model, args=settings, train_dataset=dataset, processing_class=tokenizer, **added)
        if adapter is not None:
            set_peft_model_state_dict(trainer.model, load_file(adapter / "adapter_model.safetensors"))
        trainer.train()
    together = told["gradient_accumulation_steps"]
    answer.values = [sum(part.item() for part in parts[start:start + together])
                     for start in range(0, len(parts), together)]
    return answer


def plain(request: Request, kind: type, **options: Any):
    """The prepared base as a model of ``kind``; ``options``: of its config."""
    import torch

    model = kind.from_pretrained(request.base, dtype=torch.float32, attn_implementation="sdpa", **options)
    return model.to(request.device)


def adapted(request: Request, name: str, kind: type):
    """The same with the prepared adapter, to be trained."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(plain(request, kind), str(Path(request.folder) / name), is_trainable=True)
    return model.to(request.device)
