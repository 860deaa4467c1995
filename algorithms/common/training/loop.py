"""The one optimisation loop.

    records → experience → minibatch → micro-batches: Σ coefficient · sum / count over the whole minibatch → one step

Losses are normalised by counts of the whole step, so but for rounding 8 micro-batches of 1 equal 1 of 8. Random streams
and the data's order derive from (seed, step), never from a global state: a run that is killed and started again goes on
to the same losses as if it had not been killed.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Iterable, Iterator

import torch

from ..algorithm import SAMPLE, Algorithm, Context, Experience, Loss, Recipe
from ..data.template import Example
from ..data.tokenized import batch_indices
from ..support.clock import Clock
from ..support.errors import TrainingError
from ..support.memory import peak_memory_bytes, reset_peak_memory
from ..support.phases import progress
from ..support.progress import tell
from ..support.seeds import derive, permutation
from ..support.terminal import IN_SWEEPS
from . import checkpoints
from .failures import NotFinite, check_records, memory_explained, not_finite
from .interrupts import Interrupted, deferred_interrupt
from .optim import build_optimizer, load_optimizer_tensors, optimizer_tensors
from .references import window
from .trackers import Trackers
from .written import GrowingMetrics, write_report

log = logging.getLogger(__name__)


def micro_batches(experience: Experience, indices: list[int], divide: Callable[[list[int]], list[list[int]]]
                  ) -> list[list[int]]:
    """Like lengths together, whatever order the indices come in. divide: places of lengths, by pass."""
    lengths, indices = experience.lengths(), sorted(indices)
    return [[indices[place] for place in places] for places in divide([lengths[index] for index in indices])]


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
    groups = micro_batches(experience, indices,
                           partial(context.models.passes, most=context.trainer.micro_batch_size))
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
                raise NotFinite(group)
            if train:
                objective.backward()
            means.add(loss.metrics)
            # backward frees no inputs of gradient checkpoints: they live as long as anything names the graph
            loss = shares = share = objective = None
        if train:
            context.tick(len(group) / (len(experience) * context.recipe.inner_epochs))
    return {**values, **means.means()}


def evaluate_loss(algorithm: Algorithm, context: Context) -> dict[str, float]:
    """The same losses and metrics on held-out records, as eval/…; of rollouts what was sampled for them, too."""
    with torch.no_grad():
        experience = algorithm.experience(context, context.heldout)
        values = {**experience.metrics(),
                  **_losses(algorithm, context, experience, list(range(len(experience))), context.heldout, train=False)}
    return {f"eval/{name}": value for name, value in values.items() if not name.startswith((SAMPLE, "timing/"))}


def fit(algorithm: Algorithm, context: Context) -> None:
    """Train the policy; leave metrics.jsonl and fit.json in ``context.target``."""
    check_records(algorithm, context)
    reset_peak_memory(context.models.device)
    run = Run(algorithm, context)
    resumed = run.step
    run.check_layout()
    context.models.used.clear()
    with deferred_interrupt() as interrupted, display(run) as show:
        while run.step < run.total:
            show(run.advance())
            if interrupted[0] or run.step % context.trainer.checkpoint_every == 0 and run.step < run.total:
                run.check_model()
                path = run.checkpoint()
                if interrupted[0]:
                    raise Interrupted(f"stopped at step {run.step} of {run.total} of {context.name}; checkpoint "
                                      f"{path}; the same command goes on from there")
    run.check_model()
    if run.step > resumed:  # a failure from here on repeats no step
        run.checkpoint()
    run.settle()
    run.charge_reference(context.visited())
    with memory_explained(context):
        algorithm.finish(context)
    write_report(context, run.lines, run.seconds, run.total, run.tokens, sum(p.numel() for p in run.parameters))


@contextmanager
def display(run: "Run") -> Iterator[Callable[[dict], None]]:
    """A function that shows a step's metrics, on the progress bar and in the trackers. Of ``run`` it asks its context,
    total, step (those done) and lines.
    """
    context, trainer = run.context, run.context.trainer
    with (Trackers(trainer.trackers, context.run_folder, context.name) as trackers,
          progress(context.name, run.total, "steps", run.step, digits=1) as advance):
        context.tick = advance
        grown = GrowingMetrics(context.run_folder)

        def show(line: dict) -> None:
            trackers.log(line, line["step"])
            grown.add(line)
            tell(context.name, run.step, run.total)
            loss = sum(value for name, value in line.items() if name.startswith("loss/"))
            advance.note = f"loss {loss:.4f} at step {line['step']:,}, {line['tokens_per_second']:.0f} tok/s"
            advance(line["step"] - advance.done)  # a batch may be left before all of its micro-batches

        for line in run.lines:
            trackers.log(line, line["step"])  # this run's folder is a new one: it gets the whole curve
            grown.add(line)
        try:
            yield show
        finally:
            context.tick = lambda share: None


def walk(context: Context, filled: bool = False) -> list[list[int]]:
    """The batches of a whole training, as indices of examples; filled: a short last one from the next epoch."""
    records, size = len(context.examples), context.recipe.batch_size
    limit = context.recipe.total_records(records)
    steps = -(-limit // size)
    limit = steps * size if filled else limit
    return [batch_indices(records, size, limit, step, context.seed) for step in range(steps)]


class Run:
    """What is trained, and how far it has come; made, it goes on from the last checkpoint where there is one."""

    def __init__(self, algorithm: Algorithm, context: Context):
        self.algorithm, self.context = algorithm, context
        recipe = context.recipe
        self.limit = recipe.total_records(len(context.examples))  # records to walk through
        self.total = -(-self.limit // recipe.batch_size)  # steps
        self._scheduled = recipe.scheduled_steps(len(context.examples))  # of them all, where some are left out
        self._stored = context.models.reference.stored if algorithm.stores_reference else None
        groups = algorithm.parameter_groups(context.models, recipe)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimizer = build_optimizer(context.trainer.optimizer, groups, recipe, context.models.device)
        self.averages = None if recipe.ema is None else [p.detach().clone() for p in self.parameters]  # θ̄, from θ_0
        self._rates = [group["lr"] for group in self.optimizer.param_groups]  # before the schedule
        self.step, self.tokens = 0, 0  # done, trained on
        self.lines: list[dict] = []  # metrics of every step
        self._chosen: list[Example] = []  # the last step's records
        self._began = time.monotonic()  # or as much earlier as it has run before
        self._resume()

    @property
    def seconds(self) -> float:
        """Of all steps, and of what came between them."""
        return time.monotonic() - self._began

    def indices(self, step: int) -> list[int]:
        """Records of a 0-based step."""
        context = self.context
        return batch_indices(len(context.examples), context.recipe.batch_size, self.limit, step, context.seed)

    def advance(self) -> dict[str, float | str]:
        """One step; its line of metrics."""
        context, examples = self.context, self.context.examples
        self._chosen = [examples[index] for index in self.indices(self.step)]
        if self._stored is not None and not self._stored.has(self._chosen):
            steps = window(self.step, context.recipe.batch_size)
            self._prepare_apart(examples[index] for step in steps for index in self.indices(step))
        begin = time.monotonic()
        torch.manual_seed(derive(context.seed, "step", self.step))  # LoRA dropout, where it is on
        lr = self._schedule()
        context.step = self.step
        with memory_explained(context):
            values, tokens = _step(self.algorithm, context, self._chosen, self.parameters, self.optimizer, self.average)
        self.step += 1
        self.tokens += tokens
        line = {"step": self.step, "epoch": self.step * context.recipe.batch_size / len(context.examples), **values,
                **lr, "tokens_per_second": tokens / (time.monotonic() - begin),
                "peak_memory_bytes": max(peak_memory_bytes(context.models.device), context.meter.peak_memory_bytes)}
        every = context.trainer.evaluate_every
        if every and (self.step % every == 0 or self.step == self.total):
            self._prepare_apart(context.heldout)
            with memory_explained(context):
                line.update(evaluate_loss(self.algorithm, context))
        self.lines.append(line)
        return line

    def prepare(self, examples: Iterable[Example]) -> float:
        """Have the reference's log-probabilities of these, where they are kept; returns the seconds that they took
        wherever they were computed. These are charged apart, so what passes here is no time of the steps."""
        began = time.monotonic()
        seconds = 0.0 if self._stored is None else self._stored.prepare(examples)
        self._began += time.monotonic() - began
        return seconds

    def _prepare_apart(self, examples: Iterable[Example]) -> None:
        """``prepare``, whose memory is none of the steps': a run that finds the values tells the same peak."""
        device, meter = self.context.models.device, self.context.meter
        before, computed = peak_memory_bytes(device), self._stored.computed if self._stored else 0
        self.prepare(examples)
        if self._stored is not None and self._stored.computed > computed:
            meter.peak_memory_bytes = max(meter.peak_memory_bytes, before)
            reset_peak_memory(device)

    def charge_reference(self, indices: list[int]) -> None:
        """What the reference's log-probabilities of these records took, in this run or another, is of the cost."""
        if self._stored is not None:
            self.context.meter.seconds += self.prepare(self.context.examples[index] for index in indices)
            log.info("reference log-probabilities: %d used, %d of them computed now", len(indices),
                     self._stored.computed)

    @torch.no_grad()
    def average(self) -> None:
        """θ̄ ← d θ̄ + (1 − d) θ, where means are asked for (in RLHF: DeepSpeed-Chat, arXiv 2308.01320)."""
        for mean, parameter in zip(self.averages or [], self.parameters):
            mean.lerp_(parameter, 1 - self.context.recipe.ema)

    @torch.no_grad()
    def settle(self) -> None:
        """What is kept: θ̄ in θ's place, where means are asked for."""
        for mean, parameter in zip(self.averages or [], self.parameters):
            parameter.copy_(mean)

    def _schedule(self) -> dict[str, float]:
        """Set this step's learning rates; returns the recipe's, and those of named groups."""
        recipe, groups = self.context.recipe, self.optimizer.param_groups
        factor = recipe.factor(self.step, self._scheduled)
        for group, rate in zip(groups, self._rates):
            group["lr"] = rate * factor
        return {"lr": recipe.lr * factor, **{f"lr/{group['name']}": group["lr"] for group in groups if "name" in group}}

    def check_layout(self) -> None:
        """Before the first step, on two of its records."""
        first = [self.context.examples[index] for index in self.indices(0)[:2]]
        self.context.models.check_layout(first, self.algorithm.role)

    def check_model(self) -> None:
        """A step can break the model after its loss and gradient were finite: that is neither kept nor resumed from."""
        models = self.context.models
        (first,) = batch_indices(len(self.context.examples), 1, 1, 0, self.context.seed)  # one that training visits
        prompt = self.context.examples[first].prompt
        probe = models.collate([Example(prompt, [prompt[-1:]], [False], None, "probe")])
        with torch.no_grad():
            states = models.role(self.algorithm.role).hidden_states(probe)
        if not (states.isfinite().all() and all(parameter.isfinite().all() for parameter in self.parameters)):
            raise not_finite(self.context, self.step, self._chosen, "parameters that give no finite numbers")

    def checkpoint(self) -> Path:
        tensors, numbers = optimizer_tensors(self.optimizer)
        state = {"seconds": self.seconds, "tokens": self.tokens, "lines": self.lines, "optimizer": numbers,
                 "algorithm": self.algorithm.state_dict(), "meter": vars(self.context.meter)}
        parameters = {str(index): parameter for index, parameter in enumerate(self.parameters)}
        groups = {"parameters": parameters, "optimizer": tensors}
        if self.averages is not None:
            groups["averages"] = {str(index): mean for index, mean in enumerate(self.averages)}
        return checkpoints.save(self.context.work, self.step, groups, state)

    def _resume(self) -> None:
        context = self.context
        found = checkpoints.load_latest(context.work)
        if found is None:
            return
        self.step, tensors, state = found
        if set(tensors["parameters"]) != {str(index) for index in range(len(self.parameters))}:
            raise TrainingError(f"checkpoint {context.work}: found other parameters than this run trains; fix: delete "
                                "that folder")
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(tensors["parameters"][str(index)])
            for index, mean in enumerate(self.averages or []):
                mean.copy_(tensors["averages"][str(index)])
        load_optimizer_tensors(self.optimizer, tensors["optimizer"], state["optimizer"])
        self.algorithm.load_state_dict(state["algorithm"])
        vars(context.meter).update(state["meter"])
        self.tokens, self.lines = state["tokens"], state["lines"]
        self._began = time.monotonic() - state["seconds"]
        log.info("%s goes on from step %d (%s)", context.name, self.step, context.work, extra=IN_SWEEPS)


def _step(algorithm: Algorithm, context: Context, chosen: list[Example], parameters: list[torch.nn.Parameter],
          optimizer: torch.optim.Optimizer, stepped: Callable[[], None]) -> tuple[dict[str, float | str], int]:
    """One batch of records: its experience, then every minibatch of every inner epoch. Returns mean values, tokens.
    stepped: called after each optimiser step."""
    recipe = context.recipe
    experience = algorithm.experience(context, chosen)
    lengths, clock = experience.lengths(), Clock()
    means, tokens = _Means(), 0
    for indices in _minibatches(len(experience), recipe, context.seed, context.step):
        values = _losses(algorithm, context, experience, indices, chosen, train=True)
        tokens += sum(lengths[i] for i in indices)
        if algorithm.stop(values):
            optimizer.zero_grad(set_to_none=True)
            means.add({"stopped": torch.ones(1)})
            break
        norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm).item()
        if not math.isfinite(norm):
            raise not_finite(context, context.step + 1, chosen, "a gradient that is not finite")
        optimizer.step()
        stepped()
        optimizer.zero_grad(set_to_none=True)
        means.add({name: torch.tensor([value], dtype=torch.float64)
                   for name, value in {**values, "grad_norm": norm}.items()})
    clock.lap("timing/update")
    return {**experience.metrics(), **means.means(), **clock.laps}, tokens


def _minibatches(items: int, recipe: Recipe, seed: int, step: int) -> Iterator[list[int]]:
    """The items of an experience, shuffled anew in every inner epoch."""
    size = recipe.minibatch_size or items
    for epoch in range(recipe.inner_epochs):
        order = permutation(items, seed, "minibatches", step, epoch).tolist()
        yield from (order[start:start + size] for start in range(0, items, size))


def _losses(algorithm: Algorithm, context: Context, experience: Experience, indices: list[int],
            examples: list[Example], train: bool) -> dict[str, float]:
    """``run_losses``; one that is not finite is told with the records it came from."""
    try:
        return run_losses(algorithm, context, experience, indices, train)
    except NotFinite as error:
        broken = [examples[i] for i in error.indices if i < len(examples)]
        raise not_finite(context, context.step + 1, broken, "a loss that is not finite") from error
