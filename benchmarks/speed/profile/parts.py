"""What is profiled: a DPO step, a PPO iteration, decoding, and the loading of a file."""

from __future__ import annotations

import cProfile
import pstats
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.gpu.flops import wait
from benchmarks.random_models import SHAPES, bare_prompts, method, random_examples
from benchmarks.speed.profile.groups import Work, functions, operators
from benchmarks.speed.request import BATCH, BETA
from benchmarks.speed.sampling import NEVER
from benchmarks.speed.steps import begun, context_of, models_of

PROMPT, RESPONSE, NEW_TOKENS, SAMPLES, SEQUENCES, ROWS = 128, 56, 24, 4, 64, 2000
PLAIN = 3  # times without the profiler, of which the median counts
STEPS = 4  # of DPO in each
MARK = "phase: "


class Phases:
    """Seconds of the phases of some work, which a profiler sees as well."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, defaultdict(float)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        wait(self.device)
        began = time.perf_counter()
        with record_function(MARK + name):
            yield
            wait(self.device)
        self.seconds[name] += time.perf_counter() - began

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as a phase."""
        @wraps(function)
        def phase(*arguments, **options):
            with self.of(name):
                return function(*arguments, **options)

        return phase


def measured(part: str, unit: str, work: Callable[[Phases], None], device: torch.device, count: int) -> dict[str, Any]:
    """A part's phases: seconds without the profiler, and with it the kinds of work. count: units that ``work`` does,
    the same each time."""
    plain = []
    for _ in range(PLAIN):
        plain.append(Phases(device))
        work(plain[-1])
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=kinds, record_shapes=True, with_flops=True) as profiler:
        work(Phases(device))
    found = by_phase(profiler.events(), device.type)
    return {"part": part, "unit": unit, "count": count, "phases": [
        {"phase": name, "seconds": statistics.median(one.seconds[name] for one in plain), **told(found[name])}
        for name in plain[0].seconds]}


def told(work: Work) -> dict[str, Any]:
    return {"groups": dict(work.seconds), "largest": work.largest, "flop": work.flop}


def by_phase(events: Any, device: str) -> dict[str, Work]:
    """Operators by the phase in whose time they begin; of phases within one another by the innermost."""
    marks = [event for event in events if event.name.startswith(MARK) and event.device_type.name == "CPU"]
    marks.sort(key=lambda event: event.time_range.end - event.time_range.start)
    inside: dict[str, list[Any]] = defaultdict(list)
    for event in events:
        if event.name.startswith(MARK):
            continue
        start = event.time_range.start
        around = next((mark for mark in marks if mark.time_range.start <= start <= mark.time_range.end), None)
        if around is not None:
            inside[around.name.removeprefix(MARK)].append(event)
    return defaultdict(Work, {name: operators(members, device) for name, members in inside.items()})


def dpo_step(size: str, device: str, precision: str, folder: Path) -> dict[str, Any]:
    """DPO's step on pairs of one length, the reference's values computed before."""
    models = models_of(SHAPES[size], device, precision, PROMPT + RESPONSE)
    examples = random_examples(BATCH * (1 + STEPS * (PLAIN + 1)), PROMPT, RESPONSE, 2)
    run = begun(method("dpo", beta=BETA), context_of(models, folder, examples, BATCH, precision))

    def work(phases: Phases) -> None:
        with phases.of("DPO step"):
            for _ in range(STEPS):
                run.advance()

    return measured("DPO", "step", work, models.device, STEPS)


def ppo_iteration(size: str, device: str, precision: str, folder: Path) -> dict[str, Any]:
    """PPO's iteration with a reward model on the same base: its phases one by one."""
    from benchmarks.gpu.train import scorer

    models = models_of(SHAPES[size], device, precision, PROMPT + NEW_TOKENS)
    models.template.stop_ids = [NEVER]
    models.add_role("reward", trainable=False, seed=2)
    models.role("reward").add_scalar_head(seed=3)
    prompts, records = bare_prompts(models, random_examples(BATCH * (2 + PLAIN), PROMPT, 1, 1))
    context = context_of(models, folder, prompts, BATCH, precision)
    reward = scorer(models, BATCH)
    context.records, context.reward = records, reward
    algorithm = method("ppo", critic="policy", samples=SAMPLES, max_new_tokens=NEW_TOKENS)
    run = begun(algorithm, context)
    steps = {"PPO, sampling": "sample", "PPO, log-probabilities": "penalise", "PPO, values and advantages": "estimate"}
    own = {name: getattr(algorithm, name) for name in steps.values()}
    experience = algorithm.experience

    def work(phases: Phases) -> None:
        context.reward = phases.around("PPO, scores", reward)
        for name, step in steps.items():
            setattr(algorithm, step, phases.around(name, own[step]))
        with ExitStack() as rest:
            def before_the_updates(*arguments):
                found = experience(*arguments)
                rest.enter_context(phases.of("PPO, updates"))
                return found

            algorithm.experience = before_the_updates
            run.advance()

    return measured("PPO", "iteration", work, models.device, 1)


def decoding(size: str, device: str, precision: str, folder: Path) -> dict[str, Any]:
    """A token of each of as many sequences as are decoded together, from the first that was drawn on."""
    from algorithms.common.models.sampling import Sampling, sample

    models = models_of(SHAPES[size], device, precision, PROMPT + NEW_TOKENS)
    models.template.stop_ids = [NEVER]
    models.add_role("policy", trainable=False, seed=0)
    prompts = [example.prompt for example in random_examples(SEQUENCES, PROMPT, 1, 1)]
    settings = Sampling(NEW_TOKENS, 1.0, batch_size=SEQUENCES)

    def work(phases: Phases) -> None:
        with ExitStack() as later:
            def begin(tokens: list[int]) -> None:  # the prompts have been read
                if not phases.seconds["begun"]:
                    phases.seconds["begun"] = 1.0
                    later.enter_context(phases.of("decoding step"))

            sample(models, "policy", prompts, settings, seed=0, watch=begin)
        del phases.seconds["begun"]

    work(Phases(models.device))  # finds its kernels
    return measured("decoding", "step", work, models.device, NEW_TOKENS - 1)


def loading(size: str, device: str, precision: str, folder: Path) -> dict[str, Any]:
    """A JSON Lines file of comparisons from disk to tokens. The profiler's shares, of the time without it."""
    from algorithms.common.data.records import FileData, set_cache_folder
    from benchmarks.speed.request import Lengths
    from benchmarks.speed.texts import random_pairs, write

    models, path = models_of(SHAPES["tiny"], "cpu", "fp32", Lengths().longest), folder / "pairs.jsonl"
    write(random_pairs(Lengths(), ROWS), path)

    def work() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            set_cache_folder(Path(cache))
            began = time.perf_counter()
            for record in FileData(path=str(path), heldout=0.0, audit=0.0).load(0).preferences:
                models.tokenize(record)
            return time.perf_counter() - began

    work()
    seconds, profiler = statistics.median(work() for _ in range(PLAIN)), cProfile.Profile()
    profiler.runcall(work)
    found = functions(pstats.Stats(profiler).stats)
    return {"part": "loading", "unit": "record", "count": ROWS, "phases": [
        {"phase": "loading", "seconds": seconds, **told(scaled(found, seconds))}]}


def scaled(found: Work, seconds: float) -> Work:
    """The same shares of other seconds."""
    factor = seconds / sum(found.seconds.values())
    return Work({name: factor * value for name, value in found.seconds.items()},
                {name: factor * value for name, value in found.unnamed.items()})


PARTS: Mapping[str, Callable[[str, str, str, Path], dict[str, Any]]] = {
    "dpo": dpo_step, "ppo": ppo_iteration, "decoding": decoding, "loading": loading}
