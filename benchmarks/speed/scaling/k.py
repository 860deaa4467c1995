"""RRHF over K responses to a prompt, on rows that share the prompt and on a row for each response."""

from __future__ import annotations

from pathlib import Path

from algorithms.common.data.template import Example
from benchmarks.random_models import SHAPES, method, random_examples
from benchmarks.speed.request import BATCH, Answer
from benchmarks.speed.scaling.point import MEMORY, Point, Spread, per
from benchmarks.speed.steps import begun, context_of, models_of

SHAPE = SHAPES["5m"]
PROMPT, RESPONSE, STEPS = 128, 48, 4  # tokens; steps that are timed
TITLE = "Responses to a prompt"
WORDS = (f"RRHF's step on batches of {BATCH} prompts of {PROMPT} tokens with K responses of {RESPONSE}, a random Llama "
         "of 5M parameters with LoRA, fp32: on rows that share the prompt, and on a row for each response.")
X = "K, responses to a prompt"
FIGURES = (per("cpu_seconds", "CPU seconds a prompt"), MEMORY)


def points(most: int) -> list[Point]:
    return [Point("k", line, x) for x in (1, 2, 4, 8, 16) for line in ("shared", "plain")]


def ranked(count: int, k: int) -> list[Example]:
    """Prompts with K responses, the first of which is the best."""
    drawn = random_examples(count, PROMPT, RESPONSE, k)
    return [Example(one.prompt, one.responses, one.finished, [float(-place) for place in range(k)], one.record)
            for one in drawn]


def measure(point: Point, work: str) -> dict[str, float]:
    models = models_of(SHAPE, "cpu", "fp32", PROMPT + RESPONSE, rows=point.line)
    context = context_of(models, Path(work), ranked(BATCH * (1 + STEPS), point.x), BATCH, "fp32")
    run = begun(method("rrhf"), context)
    answer = Answer(items=BATCH * STEPS)
    with answer.watched("cpu"):
        for _ in range(STEPS):
            run.advance()
    return {"seconds": answer.seconds, "cpu_seconds": answer.cpu_seconds, "items": answer.items}


def sentence(found: dict[tuple[str, int], dict[str, Spread]]) -> str:
    most = max((x for line, x in found if line == "shared" and ("plain", x) in found), default=None)
    if most is None:
        return ""
    time, held = (found["shared", most][figure.title].median / found["plain", most][figure.title].median
                  for figure in FIGURES)
    return f"At K = {most} shared rows take {time:.2f} of the CPU time and {held:.2f} of the memory of plain ones."
