"""DPO's step on texts of growing length, by both ways of attention."""

from __future__ import annotations

from pathlib import Path

from benchmarks.random_models import SHAPES, method, random_examples
from benchmarks.speed.request import BETA, Answer
from benchmarks.speed.scaling.point import MEMORY, Point, Spread, per
from benchmarks.speed.steps import begun, context_of, models_of

SHAPE = SHAPES["5m"]
PAIRS, STEPS = 4, 2  # of a step; steps that are timed
TITLE = "Length of the texts"
WORDS = (f"DPO's step on {PAIRS} pairs whose prompt is half of the length and whose responses are the other half, a "
         "random Llama of 5M parameters with LoRA, fp32, the reference's values computed before. A token of a prompt "
         "counts once for both responses, which share its row.")
X = "tokens of a prompt and a response"
FIGURES = (per("cpu_seconds", "CPU seconds a thousand tokens", factor=1000.0), MEMORY)


def points(most: int) -> list[Point]:
    return [Point("length", line, x) for x in (64, 128, 256, 512, 1024) for line in ("sdpa", "eager")]


def measure(point: Point, work: str) -> dict[str, float]:
    models = models_of(SHAPE, "cpu", "fp32", point.x, attention=point.line)
    examples = random_examples(PAIRS * (1 + STEPS), point.x // 2, point.x // 2, 2)
    run = begun(method("dpo", beta=BETA), context_of(models, Path(work), examples, PAIRS, "fp32"))
    before, answer = run.tokens, Answer()
    with answer.watched("cpu"):
        for _ in range(STEPS):
            run.advance()
    return {"seconds": answer.seconds, "cpu_seconds": answer.cpu_seconds, "items": run.tokens - before}


def sentence(found: dict[tuple[str, int], dict[str, Spread]]) -> str:
    said = []
    for line in dict.fromkeys(line for line, _ in found):
        xs = sorted(x for other, x in found if other == line)
        if len(xs) < 2:
            continue
        dearer, more = (found[line, xs[-1]][figure.title].median / found[line, xs[0]][figure.title].median
                        for figure in FIGURES)
        said.append(f"With {line}, a token of {xs[-1]} costs {dearer:.2f} times one of {xs[0]}, in {more:.1f} times "
                    "the memory.")
    return " ".join(said)
