"""Steps of SFT, DPO and PPO: tokens a second, peak memory, and the share of the device's peak that they reach."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from algorithms.common.algorithm import Algorithm, Context, Recipe, Response
from algorithms.common.data.template import Example
from algorithms.common.models.model import Models
from algorithms.common.support.memory import released
from algorithms.common.training.loop import fit
from benchmarks.gpu import flops
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.settings import Lengths, Settings, usable_precision
from benchmarks.random_models import (
    bare_prompts,
    keep_reference,
    make_context,
    method,
    random_examples,
    random_models,
)


def load(settings: Settings, device: torch.device, journal: Journal, max_length: int, max_prompt_length: int) -> Models:
    """The base on the device; noted: the seconds it took, its memory, and the device's rates."""
    precision, why = usable_precision(device)
    peak = flops.named_peak(device)
    rate = flops.measured_rate(device, settings.matrix)
    journal.add("device", peak_tflops_by_name=peak and peak / 1e12, product_tflops=rate / 1e12,
                torch_threads=torch.get_num_threads())
    start = time.monotonic()
    models = random_models(settings.shape, device, precision, max_length, max_prompt_length)
    flops.wait(device)
    allocated = torch.cuda.memory_allocated(device) if device.type == "cuda" else None
    journal.add("base", precision=precision, instead_of_nf4=why, seconds=time.monotonic() - start, bytes=allocated,
                shape=vars(settings.shape), rows=models.layout)
    return models


def optimizer_of(models: Models, settings: Settings) -> str:
    """bitsandbytes's optimiser, where its 4-bit weights work."""
    return settings.optimizer if models.config.precision == "nf4" else "adamw"


def utilisation(work_flops: float, seconds: float, device: torch.device, rate: float | None = None) -> dict[str, float]:
    """Operations the model needs, as TFLOP/s, as a share of the peak, and of the goal within it. Where the device's
    name says no peak, ``rate`` (measured) stands for it, and the goal is all of it.
    """
    named = flops.named_peak(device)
    reached = work_flops / seconds
    found = {"model_tflops": reached / 1e12}
    if named:
        found |= {"mfu": reached / named, "of_goal": reached / (flops.GOAL * named)}
    elif rate:
        found |= {"of_measured_product": reached / rate}
    return found


def trained(algorithm: Algorithm, context: Context, steps: int) -> list[dict]:
    """The metrics of each step so far; called again with more steps, it goes on from its checkpoint."""
    context.recipe.steps = steps
    fit(algorithm, context)
    return [json.loads(line) for line in (context.target / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def recipe(lengths: Lengths, **more) -> Recipe:
    return Recipe(lr=1e-5, batch_size=lengths.batch, steps=lengths.steps, schedule="constant", warmup=0.0, **more)


def measure_train(settings: Settings, device: torch.device, journal: Journal, folder: Path) -> None:
    longest = max(one.prompt + one.response for one in (settings.sft, settings.dpo))
    models = load(settings, device, journal, longest, longest // 2)
    for name, lengths, responses in (("sft", settings.sft, 1), ("dpo", settings.dpo, 2)):
        with released():
            _steps(name.upper(), method(name), lengths, responses, models, settings, journal, folder / name)
        models.clear_roles()


def _steps(name: str, algorithm: Algorithm, lengths: Lengths, responses: int, models: Models, settings: Settings,
           journal: Journal, folder: Path) -> None:
    examples = random_examples(lengths.batch * lengths.steps, lengths.prompt, lengths.response, responses)
    context = make_context(models, folder, examples, recipe(lengths), micro_batch_size=lengths.micro,
                           optimizer=optimizer_of(models, settings))
    models.add_role("reference", trainable=False, seed=1)
    algorithm.add_roles(models, 0)
    reference = keep_reference(context).prepare(context.examples) if algorithm.stores_reference else 0.0
    adapter = sum(parameter.numel() for parameter in models.policy.parameters().values())
    flop = flops.training_flops(settings.shape, flops.work(examples[:lengths.batch]), adapter)
    for steps in dict.fromkeys((2, lengths.steps)):  # the first step finds its kernels, and is not counted
        lines = trained(algorithm, context, steps)
        seconds = [line["timing/update"] for line in lines[1:]]
        mean = sum(seconds) / len(seconds)
        tokens = sum(example.length for example in examples[:lengths.batch])
        journal.add(f"{name} step", lengths=vars(lengths), steps=steps, seconds=seconds,
                    tokens_per_second=tokens / mean, reference_seconds=reference, trainable_parameters=adapter,
                    peak_bytes=max(line["peak_memory_bytes"] for line in lines), layout=models.layout,
                    **utilisation(flop, mean, models.device, _rate(journal)))
        if journal.left() < 2 * mean * lengths.steps:
            break


def _rate(journal: Journal) -> float:
    return 1e12 * next(one["product_tflops"] for one in journal.content["measured"] if one["what"] == "device")


def scorer(models: Models, micro: int):
    """Scores of the reward role, a micro-batch at a time."""

    @torch.no_grad()
    def score(responses: list[Response]) -> list[float]:
        examples = [Example(r.prompt_ids, [r.ids], [r.finished], None, r.record) for r in responses]
        batches = [models.collate(examples[start:start + micro]) for start in range(0, len(examples), micro)]
        return [value for batch in batches for value in models.role("reward").final_outputs(batch)[:, 0, 0].tolist()]

    return score


def measure_ppo(settings: Settings, device: torch.device, journal: Journal, folder: Path) -> None:
    """Iterations of rollout, scoring and update, with four roles on one base; policy and critic are updated."""
    lengths = settings.ppo
    models = load(settings, device, journal, lengths.prompt + lengths.response, lengths.prompt)
    models.template.stop_ids = [settings.shape.vocabulary - 1]  # rollouts of full length, or nearly
    models.add_role("reference", trainable=False, seed=1)
    models.add_role("reward", trainable=False, seed=2)
    models.role("reward").add_scalar_head(seed=3)
    algorithm = method("ppo", max_new_tokens=lengths.response)
    algorithm.add_roles(models, 0)
    prompts, records = bare_prompts(models, random_examples(lengths.batch * lengths.steps, lengths.prompt, 1, 1))
    context = make_context(models, folder, prompts, recipe(lengths, inner_epochs=2, minibatch_size=lengths.batch // 2),
                           micro_batch_size=lengths.micro, optimizer=optimizer_of(models, settings), checkpoint_every=1)
    context.records, context.reward = records, scorer(models, lengths.micro)
    adapter = sum(parameter.numel() for parameter in models.policy.parameters().values())
    for steps in range(1, lengths.steps + 1):
        line = trained(algorithm, context, steps)[-1]
        drawn = round(line["length/mean"] * lengths.batch)
        rolled = random_examples(lengths.batch, lengths.prompt, round(line["length/mean"]), 1)
        done = flops.work(rolled)
        policy, critic = (flops.training_flops(settings.shape, done, adapter, head) for head in (True, False))
        update = 2 * (policy + critic)  # inner epochs
        seconds = {part: line[f"timing/{part}"] for part in ("rollout", "score", "update")}
        journal.add("PPO iteration", lengths=vars(lengths), iteration=steps, seconds=seconds,
                    sampled_per_second=drawn / seconds["rollout"],
                    updated_tokens_per_second=2 * done.tokens / seconds["update"],
                    peak_bytes=line["peak_memory_bytes"], trainable_parameters=2 * adapter,
                    ratio_mean=line["policy/ratio_mean"],
                    **utilisation(update, seconds["update"], device, _rate(journal)))
        if journal.left() < 1.5 * sum(seconds.values()):
            break
