"""PPO with four responses to a prompt, on rows that share it against a row for each, since the TRL of this environment
has no PPO.

``ppo_dpo`` is for its memory alone: PPO with its reward model and critic beside DPO, with two responses to a prompt as
long as the pairs are on average, in the same micro-batches; nothing that they compute is the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean

from hydra.utils import get_class
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from algorithms.common.algorithm import Recipe, Response, Scorer
from algorithms.common.data.records import Record
from algorithms.common.models.model import Models
from algorithms.common.support.checkout import project
from benchmarks.random_models import make_context, method
from benchmarks.speed import dpo
from benchmarks.speed.prepare import load_models
from benchmarks.speed.request import BATCH, Answer, Kind, Request
from benchmarks.speed.reward import add_head
from benchmarks.speed.sampling import NEVER
from benchmarks.speed.texts import pairs
from benchmarks.speed.training import metrics, recipe

SAMPLES, NEW_TOKENS = 4, 24


def words(models: Models, request: Request) -> Scorer:
    """A reward that costs nothing: different tokens of a response."""
    def score(responses: list[Response]) -> list[float]:
        return [float(len(set(response.ids))) for response in responses]

    return score


def reward_model(models: Models, request: Request) -> Scorer:
    """The prepared reward model, a role on the policy's base."""
    source = get_class(OmegaConf.load(project() / "conf/reward/trained.yaml")["_target_"])
    algorithm = method("reward_model", normalize_on=None)
    models.add_role("reward", trainable=False, seed=0)
    add_head(models, request)
    (Path(request.work) / "state.json").write_text(json.dumps(algorithm.state_dict()), encoding="utf-8")
    return source(algorithm, recipe(request)).open(models, {"reward": Path(request.work)}, None, BATCH)


def train(request: Request, learned: Recipe, scorer: Callable[[Models, Request], Scorer], rows: str = "auto",
          **constants) -> Answer:
    """As many batches of rollouts as the request has steps; no response ends early. ``constants``: of PPO."""
    models = load_models(request, rows)
    models.alias("reference", "base")
    models.template.stop_ids = [NEVER]
    reward, algorithm = scorer(models, request), method("ppo", **constants)
    texts = pairs(request, request.steps * learned.batch_size)
    answer = Answer(items=len(texts))
    with answer.watched(request.device):
        records = [Record(text["prompt"], [], None, {}) for text in texts]
        prompts = [models.tokenize(record) for record in records]
        context = make_context(models, Path(request.work), prompts, learned, micro_batch_size=BATCH,
                               checkpoint_every=10**9, mixed_precision="bf16" if request.precision == "bf16" else "no")
        context.records, context.reward = records, reward
        algorithm.add_roles(models, 0)
        algorithm.fit(context)
    if context.meter.tokens_sampled != (due := len(texts) * algorithm.samples * algorithm.max_new_tokens):
        raise RuntimeError(f"ppo: found {context.meter.tokens_sampled} tokens sampled; expected {due}")
    answer.values = metrics(context, ("loss/policy", "loss/value"))
    return answer


def on_rows(request: Request, rows: str) -> Answer:
    return train(request, recipe(request), words, rows, critic="policy", samples=SAMPLES, max_new_tokens=NEW_TOKENS)


def like_pairs(request: Request) -> Answer:
    """Two responses to a prompt, of the pairs' mean length."""
    tokenizer = AutoTokenizer.from_pretrained(request.base)
    texts = [text[key] for text in pairs(request, request.steps * BATCH) for key in ("chosen", "rejected")]
    length = round(mean(map(len, tokenizer(texts, add_special_tokens=False).input_ids)))
    return train(request, recipe(request), reward_model, critic="reward", samples=2, max_new_tokens=length)


KINDS = {
    # after an update rounding may turn a draw over, and what follows is of other responses: the first batch alone, with
    # all epochs over it
    "ppo": Kind("prompts", {"ours": partial(on_rows, rows="shared"), "plain rows": partial(on_rows, rows="plain")},
                PARITY=1),
    "ppo_dpo": Kind("prompts", {"ours": like_pairs, "our DPO": dpo.ours}, COMPARED=False),
}
