"""PPO with four responses to a prompt, on rows that share it against a row for each: TRL has no PPO to compare with."""

from __future__ import annotations

from pathlib import Path

from algorithms.common.algorithm import Response
from algorithms.common.data.records import Record
from benchmarks.random_models import make_context, method
from benchmarks.speed.prepare import load_models, pairs
from benchmarks.speed.request import BATCH, Answer, Request
from benchmarks.speed.training import metrics, recipe

UNIT = "prompts"
SAMPLES, NEW_TOKENS = 4, 24


def words(responses: list[Response]) -> list[float]:
    """A reward that costs nothing: different tokens of a response."""
    return [float(len(set(response.ids))) for response in responses]


def on_rows(request: Request, rows: str) -> Answer:
    models = load_models(request, rows)
    models.alias("reference", "base")
    algorithm = method("ppo", critic="policy", samples=SAMPLES, max_new_tokens=NEW_TOKENS)
    texts = pairs(request, request.steps * BATCH)
    answer = Answer(items=len(texts))
    with answer.watched(request.device):
        records = [Record(text["prompt"], [], None, {}) for text in texts]
        prompts = [models.tokenize(record) for record in records]
        context = make_context(models, Path(request.work), prompts, recipe(request), micro_batch_size=BATCH,
                               checkpoint_every=10**9, mixed_precision="bf16" if request.precision == "bf16" else "no")
        context.records, context.reward = records, words
        algorithm.add_roles(models, 0)
        algorithm.fit(context)
    answer.values = metrics(context, ("loss/policy", "loss/value"))
    return answer


def shared(request: Request) -> Answer:
    return on_rows(request, "shared")


def plain(request: Request) -> Answer:
    return on_rows(request, "plain")


SIDES = {"ours": shared, "plain rows": plain}
OPTIONS: dict[str, list[dict]] = {}
