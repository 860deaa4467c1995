"""The one optimisation loop.

    records → experience → minibatch → micro-batches: Σ coefficient · sum / count over the whole minibatch → one step

Losses are normalised by counts of the whole step, so but for rounding 8 micro-batches of 1 equal 1 of 8. Random streams
and the data's order derive from (seed, step), never from a global state: a run that is killed and started again goes on
to the same losses as if it had not been killed.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from functools import lru_cache
from typing import Iterator

import numpy as np
import torch
from tqdm import tqdm

from . import checkpoints
from .algorithm import SAMPLE, Algorithm, Experience, Loss
from .clock import Clock
from .context import Context
from .errors import TrainingError
from .memory import no_memory_explained, peak_memory_bytes, reset_peak_memory
from .optim import Recipe, build_optimizer, load_optimizer_tensors, optimizer_tensors
from .seeds import derive, permutation
from .template import Example
from .trackers import Trackers

log = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after a checkpoint was written."""


class _NotFinite(FloatingPointError):
    """A micro-batch's loss is NaN or infinite; ``indices`` are its items."""

    def __init__(self, indices: list[int]):
        super().__init__(indices)
        self.indices = indices


@lru_cache(maxsize=2)
def _order(records: int, seed: int, epoch: int) -> np.ndarray:
    """One epoch's order; kept, since every step of the epoch asks for it."""
    return permutation(records, seed, "order", epoch)


def batch_indices(records: int, batch_size: int, limit: int, step: int, seed: int) -> list[int]:
    """Records of a 0-based step: a walk of ``limit`` records through one permutation per epoch, epochs without a gap."""
    start, stop = step * batch_size, min((step + 1) * batch_size, limit)
    chosen: list[int] = []
    while start < stop:
        epoch, offset = divmod(start, records)
        take = min(stop - start, records - offset)
        chosen += _order(records, seed, epoch)[offset:offset + take].tolist()
        start += take
    return chosen


def visited(records: int, recipe: Recipe, seed: int) -> set[int]:
    """Records that training will see at all."""
    limit = recipe.total_records(records)
    return set(batch_indices(records, limit, limit, 0, seed)) if limit < records else set(range(records))


def micro_batches(experience: Experience, indices: list[int], size: int) -> list[list[int]]:
    """Like lengths together, longest first (memory runs out at the start or never)."""
    lengths = experience.lengths()
    ordered = sorted(indices, key=lambda index: (-lengths[index], index))
    return [ordered[i:i + size] for i in range(0, len(ordered), size)]


@contextmanager
def deferred_interrupt() -> Iterator[list[bool]]:
    """Ctrl-C sets a flag that the loop reads between steps; a second one interrupts at once."""
    flag = [False]

    def handler(signum, frame):
        if flag[0]:
            raise KeyboardInterrupt
        flag[0] = True
        print("\nfinishing this step, then writing a checkpoint (Ctrl-C again stops at once)", file=sys.stderr)

    try:
        before = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread: interrupts arrive elsewhere
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


class _Means:
    """Means over items, collected over micro-batches; of a metric named …_max the maximum."""

    def __init__(self):
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._maxima: dict[str, float] = {}

    def add(self, metrics: dict[str, torch.Tensor]) -> None:
        for name, values in metrics.items():
            if name.endswith("_max"):
                self._maxima[name] = max(values.max().item(), self._maxima.get(name, -math.inf))
                continue
            self._sums[name] += values.detach().double().sum().item()
            self._counts[name] += values.numel()

    def means(self) -> dict[str, float]:
        return {name: self._sums[name] / self._counts[name] for name in self._sums if self._counts[name]} | self._maxima


def run_losses(algorithm: Algorithm, context: Context, experience: Experience, indices: list[int], train: bool
               ) -> dict[str, float]:
    """The loss of a minibatch, in micro-batches; with ``train`` its gradients too. Returns loss/… and the metrics."""
    groups = micro_batches(experience, indices, context.trainer.micro_batch_size)
    totals: dict[str, float] = defaultdict(float)
    for group in groups:
        for name, count in experience.counts(group).items():
            totals[name] += count
    means, values = _Means(), defaultdict(float)
    for group in groups:
        losses = algorithm.loss(context.models, experience.select(group))
        losses = iter([losses] if isinstance(losses, Loss) else losses)
        while (loss := next(losses, None)) is not None:
            shares = {name: term.coefficient * term.sum / max(totals[term.per], 1) for name, term in loss.terms.items()}
            objective = sum(shares.values())
            for name, share in shares.items():
                values[f"loss/{name}"] += share.item()
            if not math.isfinite(objective.item()):
                raise _NotFinite(group)
            if train:
                objective.backward()
            means.add(loss.metrics)
            # backward frees no inputs of gradient checkpoints: they live as long as anything names the graph
            loss = shares = share = objective = None
    return {**values, **means.means()}


def evaluate_loss(algorithm: Algorithm, context: Context) -> dict[str, float]:
    """The same losses and metrics on held-out records, as eval/…; of rollouts what was sampled for them, too."""
    with torch.no_grad():
        experience = algorithm.experience(context, context.heldout)
        values = {**experience.metrics(),
                  **_losses(algorithm, context, experience, list(range(len(experience))), context.heldout, train=False)}
    return {f"eval/{name}": value for name, value in values.items() if not name.startswith((SAMPLE, "timing/"))}


def _not_finite(context: Context, step: int, names: list[str], what: str) -> TrainingError:
    last = checkpoints.newest(context.work)
    return TrainingError(
        f"{context.name}, step {step}: found {what}; expected a finite number; records {', '.join(sorted(set(names)))[:400]}; "
        f"last good checkpoint: {last or 'none yet'}; fix: lower recipe.lr, or look at these records")


def _memory(context: Context):
    """Running out of memory within a step, as an error that says what to lower."""

    def explain(told: str) -> str:
        config = context.models.config
        fixes = ["trainer.micro_batch_size"] * (context.trainer.micro_batch_size > 1) + ["model.max_length"]
        more = "" if config.gradient_checkpointing else ", or set model.gradient_checkpointing=true"
        return (f"{context.name}, step {context.step + 1}: found no memory left on {context.models.device} ({told}); expected "
                f"room for micro-batches of {context.trainer.micro_batch_size} (trainer.micro_batch_size) with up to "
                f"{config.max_length} tokens (model.max_length); last good checkpoint: "
                f"{checkpoints.newest(context.work) or 'none yet'}; fix: lower {' or '.join(fixes)}{more}")

    return no_memory_explained(explain)


def nothing_held_out(every: int, view: str) -> str:
    """The message where held-out losses are asked for and the data has no records for them."""
    told = f"trainer.evaluate_every: found {every}, but the data holds nothing out for the view {view!r}"
    if view == "prompts":  # what files hold out is for the reported evaluation alone
        return f"{told}; expected tuning prompts, which files never hold; fix: trainer.evaluate_every=null, or data=reviews"
    return f"{told}; expected held-out records; fix: data.heldout=0.1, or trainer.evaluate_every=null"


def fit(algorithm: Algorithm, context: Context) -> None:
    """Train the policy; leave metrics.jsonl and fit.json in ``context.target``."""
    models, recipe, trainer, examples = context.models, context.recipe, context.trainer, context.examples
    if not len(examples):
        raise TrainingError(f"{context.name}: found no records in the view {algorithm.view!r}; expected at least one; "
                            "fix: give data that has them (task=inspect shows what was read)")
    if trainer.evaluate_every and not context.heldout:
        raise TrainingError(nothing_held_out(trainer.evaluate_every, algorithm.view))
    reset_peak_memory(models.device)
    limit = recipe.total_records(len(examples))
    total = -(-limit // recipe.batch_size)
    groups = algorithm.parameter_groups(models, recipe)
    trainable = [parameter for group in groups for parameter in group["params"]]
    optimizer = build_optimizer(trainer.optimizer, groups, recipe, models.device)
    base_lrs = [group["lr"] for group in optimizer.param_groups]

    chosen: list[Example] = []
    step, clock, tokens, lines = _resume(algorithm, context, trainable, optimizer)
    first = batch_indices(len(examples), recipe.batch_size, limit, 0, context.seed)[:4]
    models.check_layout([examples[index] for index in first], algorithm.role)
    models.used.clear()
    started, resumed = time.monotonic() - clock, step
    with (deferred_interrupt() as interrupted, Trackers(trainer.trackers, context.run_folder, context.name) as trackers,
          tqdm(total=total, initial=step, desc=context.name, unit="step", disable=not trainer.progress, mininterval=1.0,
               file=sys.stderr) as bar):
        for line in lines:
            trackers.log(line, line["step"])  # this run's folder is a new one: it gets the whole curve
        while step < total:
            begin = time.monotonic()
            torch.manual_seed(derive(context.seed, "step", step))  # LoRA dropout, where it is on
            chosen = [examples[i] for i in batch_indices(len(examples), recipe.batch_size, limit, step, context.seed)]
            factor = recipe.factor(step, total)
            for group, lr in zip(optimizer.param_groups, base_lrs):
                group["lr"] = lr * factor
            context.step = step
            with _memory(context):
                values, step_tokens = _step(algorithm, context, chosen, trainable, optimizer)
            step += 1
            tokens += step_tokens
            line = {"step": step, "epoch": step * recipe.batch_size / len(examples), **values,
                    "lr": recipe.lr * factor,
                    **{f"lr/{group['name']}": group["lr"] for group in optimizer.param_groups if "name" in group},
                    "tokens_per_second": step_tokens / (time.monotonic() - begin), "peak_memory_bytes": peak_memory_bytes(models.device)}
            if trainer.evaluate_every and (step % trainer.evaluate_every == 0 or step == total):
                with _memory(context):
                    line.update(evaluate_loss(algorithm, context))
            lines.append(line)
            trackers.log(line, step)
            bar.update()
            bar.set_postfix({"loss": f"{sum(v for k, v in values.items() if k.startswith('loss/')):.4f}",
                             "tok/s": f"{line['tokens_per_second']:.0f}"}, refresh=False)
            if interrupted[0] or step % trainer.checkpoint_every == 0 and step < total:
                _check_model(algorithm, context, step, chosen, trainable)
                path = _checkpoint(algorithm, context, step, trainable, optimizer, time.monotonic() - started, tokens, lines)
                if interrupted[0]:
                    raise Interrupted(f"stopped at step {step} of {total} of {context.name}; checkpoint {path}; "
                                      "the same command goes on from there")
    _check_model(algorithm, context, step, chosen, trainable)
    if step > resumed:  # a failure from here on repeats no step
        _checkpoint(algorithm, context, step, trainable, optimizer, time.monotonic() - started, tokens, lines)
    with _memory(context):
        algorithm.finish(context)
    write_report(context, lines, time.monotonic() - started, total, tokens, sum(parameter.numel() for parameter in trainable))


def write_report(context: Context, lines: list[dict], seconds: float, steps: int, tokens: int, trainable: int) -> None:
    """What training leaves besides weights: metrics.jsonl, a line per step, and fit.json, what it took; where it sampled,
    also rollouts.jsonl, one of each step.
    """
    numbers = [{name: value for name, value in line.items() if not name.startswith(SAMPLE)} for line in lines]
    shown = [{"step": line["step"]} | {name.removeprefix(SAMPLE): value for name, value in line.items() if name.startswith(SAMPLE)}
             for line in lines]
    tables = {"metrics.jsonl": numbers} | ({"rollouts.jsonl": shown} if any(len(line) > 1 for line in shown) else {})
    for name, table in tables.items():
        with open(context.target / name, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in table)
    models, meter, records = context.models, context.meter, len(context.examples) if steps else 0
    seen = visited(records, context.recipe, context.seed) if steps else ()
    report = {"seconds": seconds + meter.seconds, "steps": steps, "tokens_trained": tokens,
              "tokens_sampled": meter.tokens_sampled, "reward_queries": meter.reward_queries, "trainable_parameters": trainable,
              "peak_memory_bytes": max(peak_memory_bytes(models.device), meter.peak_memory_bytes),
              "resident_models": len(models.used), "records": records,
              "truncated": sum(context.examples[index].truncated for index in seen)}
    (context.target / "fit.json").write_text(json.dumps(report, allow_nan=False), encoding="utf-8")


def _step(algorithm: Algorithm, context: Context, chosen: list[Example], trainable, optimizer) -> tuple[dict[str, float], int]:
    """One batch of records: its experience, then every minibatch of every inner epoch. Returns mean values and tokens."""
    recipe, step = context.recipe, context.step
    experience = algorithm.experience(context, chosen)
    lengths, clock = experience.lengths(), Clock()
    means, tokens = _Means(), 0
    for indices in _minibatches(len(experience), recipe, context.seed, step):
        values = _losses(algorithm, context, experience, indices, chosen, train=True)
        tokens += sum(lengths[i] for i in indices)
        if algorithm.stop(values):
            optimizer.zero_grad(set_to_none=True)
            means.add({"stopped": torch.ones(1)})
            break
        norm = torch.nn.utils.clip_grad_norm_(trainable, recipe.max_grad_norm).item()
        if not math.isfinite(norm):
            raise _not_finite(context, step + 1, [example.record for example in chosen], "a gradient that is not finite")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        means.add({name: torch.tensor([value], dtype=torch.float64) for name, value in {**values, "grad_norm": norm}.items()})
    clock.lap("timing/update")
    return {**experience.metrics(), **means.means(), **clock.laps}, tokens


def _minibatches(items: int, recipe: Recipe, seed: int, step: int) -> Iterator[list[int]]:
    """The items of an experience, shuffled anew in every inner epoch."""
    size = recipe.minibatch_size or items
    for epoch in range(recipe.inner_epochs):
        order = permutation(items, seed, "minibatches", step, epoch).tolist()
        yield from (order[start:start + size] for start in range(0, items, size))


def _losses(algorithm: Algorithm, context: Context, experience: Experience, indices: list[int], examples: list[Example],
            train: bool) -> dict[str, float]:
    try:
        return run_losses(algorithm, context, experience, indices, train)
    except _NotFinite as error:
        names = [examples[i].record for i in error.indices if i < len(examples)]
        raise _not_finite(context, context.step + 1, names, "a loss that is not finite") from error


def _check_model(algorithm: Algorithm, context: Context, step: int, chosen: list[Example], trainable) -> None:
    """A step can break the model after its loss and gradient were finite; that must be neither kept nor resumed from."""
    (first,) = batch_indices(len(context.examples), 1, 1, 0, context.seed)  # one that training visits
    prompt = context.examples[first].prompt
    probe = context.models.collate([Example(prompt, [prompt[-1:]], [False], None, "probe")])
    with torch.no_grad():
        states = context.models.role(algorithm.role).hidden_states(probe)
    if not (states.isfinite().all() and all(parameter.isfinite().all() for parameter in trainable)):
        raise _not_finite(context, step, [example.record for example in chosen], "parameters that give no finite numbers")


def _checkpoint(algorithm: Algorithm, context: Context, step: int, trainable, optimizer, seconds: float, tokens: int,
                lines: list[dict]):
    tensors, numbers = optimizer_tensors(optimizer)
    parameters = {str(index): parameter for index, parameter in enumerate(trainable)}
    state = {"seconds": seconds, "tokens": tokens, "lines": lines, "optimizer": numbers,
             "algorithm": algorithm.state_dict(), "meter": vars(context.meter)}
    return checkpoints.save(context.work, step, {"parameters": parameters, "optimizer": tensors}, state)


def _resume(algorithm: Algorithm, context: Context, trainable, optimizer) -> tuple[int, float, int, list[dict]]:
    """(steps done, seconds spent, tokens trained, metrics so far)."""
    found = checkpoints.load_latest(context.work)
    if found is None:
        return 0, 0.0, 0, []
    step, tensors, state = found
    if set(tensors["parameters"]) != {str(index) for index in range(len(trainable))}:
        raise TrainingError(f"checkpoint {context.work}: found other parameters than this run trains; fix: delete that folder")
    with torch.no_grad():
        for index, parameter in enumerate(trainable):
            parameter.copy_(tensors["parameters"][str(index)])
    load_optimizer_tensors(optimizer, tensors["optimizer"], state["optimizer"])
    algorithm.load_state_dict(state["algorithm"])
    vars(context.meter).update(state["meter"])
    log.info("%s goes on from step %d (%s)", context.name, step, context.work)
    return step, state["seconds"], state["tokens"], state["lines"]
