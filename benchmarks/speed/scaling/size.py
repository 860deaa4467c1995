"""DPO's step by Llamas of growing size, all of whose weights are trained."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.gpu.flops import measured_rate
from benchmarks.random_models import SHAPES, Shape, method, random_examples
from benchmarks.speed.request import BETA, Answer
from benchmarks.speed.scaling.point import MEMORY, Figure, Point, Spread, per
from benchmarks.speed.steps import begun, context_of, models_of

SIZES = {1: Shape(2048, 128, 3, 4, 2, 344, 1024), 5: SHAPES["5m"], 20: Shape(4096, 512, 6, 8, 4, 1376, 1024),
         100: SHAPES["100m"]}  # millions of parameters, about
PAIRS, PROMPT, RESPONSE, STEPS = 4, 96, 48, 2
MATRIX = 1024  # width of the matrices whose product gives the machine's rate
TITLE = "Size of the model"
WORDS = (f"DPO's step on the same {PAIRS} pairs, prompts of {PROMPT} tokens and responses of {RESPONSE}, fp32, by "
         "Llamas of random weights, the reference's values computed before. All weights are trained, so that a step "
         "needs about 6·N·tokens FLOP; N are all parameters, the embedding's too. The last column is the rate of a "
         f"product of two {MATRIX} × {MATRIX} matrices in the same process.")
X = "parameters"
RATE = Figure("GFLOP/s of 6·N·tokens", lambda run: run["flop"] / run["seconds"] / 1e9)
PRODUCT = Figure("GFLOP/s of a large product", lambda run: run["product_rate"] / 1e9, drawn=False)
FIGURES = (per("seconds", "seconds a thousand tokens", factor=1000.0), RATE, MEMORY, PRODUCT)


def parameters(shape: Shape) -> int:
    """Of the whole model, its norms included."""
    embeddings = 1 if shape.tied else 2
    return (embeddings * shape.vocabulary * shape.hidden + shape.layers * (shape.layer_weights + 2 * shape.hidden)
            + shape.hidden)


def points(most: int) -> list[Point]:
    return [Point("size", "DPO", parameters(shape)) for shape in SIZES.values()]


def measure(point: Point, work: str) -> dict[str, float]:
    shape = next(one for one in SIZES.values() if parameters(one) == point.x)
    models = models_of(shape, "cpu", "fp32", PROMPT + RESPONSE, lora=None)
    examples = random_examples(PAIRS * (1 + STEPS), PROMPT, RESPONSE, 2)
    run = begun(method("dpo", beta=BETA), context_of(models, Path(work), examples, PAIRS, "fp32"))
    before, answer = run.tokens, Answer()
    with answer.watched("cpu"):
        for _ in range(STEPS):
            run.advance()
    tokens = run.tokens - before
    return {"seconds": answer.seconds, "cpu_seconds": answer.cpu_seconds, "items": tokens,
            "flop": 6.0 * point.x * tokens,
            "product_rate": measured_rate(torch.device("cpu"), MATRIX, dtype=torch.float32)}


def sentence(found: dict[tuple[str, int], dict[str, Spread]]) -> str:
    (line, first), (_, last) = min(found, key=lambda at: at[1]), max(found, key=lambda at: at[1])
    if first == last:
        return ""
    dearer = found[line, last][FIGURES[0].title].median / found[line, first][FIGURES[0].title].median
    share = found[line, last][RATE.title].median / found[line, last][PRODUCT.title].median
    return (f"{last / first:.0f} times the parameters take {dearer:.0f} times the time; the largest model reaches "
            f"{100 * share:.0f} % of a large product's rate.")
