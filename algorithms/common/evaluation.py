"""The common evaluation: every algorithm answers the same held-out prompts, and every figure has its interval.

One response per prompt is sampled, scored by the gold reward where the data has one, and compared prompt by prompt with
the responses of the model training started from. KL to the reference is measured twice: k1 (the log-ratio of the
sampled response, Schulman 2020) and exactly over the vocabulary at every sampled state.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import statistics
from .algorithm import Algorithm
from .batches import Batch
from .errors import ConfigError
from .logprobs import exact_kl, token_logprobs
from .models import Models
from .records import DataSets, Record, Records, pairs
from .sampling import Sampling, sample
from .seeds import derive
from .template import Example

CHUNK = 256  # states whose two rows of logits exist at the same time


@dataclass
class EvalConfig:
    """What the reported evaluation does."""

    prompts: int = 256  # held-out prompts, or as many as there are
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 16  # rows in one scoring pass

    def __post_init__(self):
        for key in ("prompts", "batch_size"):
            if getattr(self, key) < 1:
                raise ConfigError(f"eval.{key}: found {getattr(self, key)}; expected at least 1")


@dataclass(frozen=True)
class Evaluation:
    """Samples (one row per response) and per-record figures on held-out data."""

    samples: pd.DataFrame
    heldout_nll: list[float]  # −log π(y|x) of each held-out demonstration, nats
    heldout_tokens: list[int]
    accuracy: list[float]  # 1 where a held-out pair is ranked as labelled, ½ where tied; empty where it cannot rank


def evaluate(algorithm: Algorithm, models: Models, data: DataSets, config: EvalConfig, seed: int, has_reference: bool
             ) -> Evaluation:
    """Answer, score and measure with the roles ``policy`` and, where there is one, ``reference``."""
    prompts = data.evaluation.select(range(min(config.prompts, len(data.evaluation))))
    frame = sample_frame(models, prompts, config, seed, has_reference)
    if data.gold is not None:
        frame["gold"] = data.gold(frame["prompt"].tolist(), frame["response"].tolist(), frame["finished"].tolist())
    nll, tokens = heldout_likelihood(models, [record for record in prompts if record.responses], config.batch_size)
    return Evaluation(frame, nll, tokens, heldout_accuracy(algorithm, models, data.heldout, config.batch_size))


def sample_frame(models: Models, prompts: Records, config: EvalConfig, seed: int, has_reference: bool) -> pd.DataFrame:
    """One sampled response per prompt with its log-probabilities and KL."""
    records = list(prompts)
    texts = [record.prompt for record in records]
    ids = [models.prompt_ids(text, config.sampling.max_new_tokens) for text in texts]
    keys = [record.key for record in records]
    drawn = sample(models, "policy", ids, config.sampling, derive(seed, "evaluation"), keys=keys)
    examples = [Example(prompt, [one.ids], [one.finished], None, key)
                for prompt, (one,), key in zip(ids, drawn, keys)]
    rows = []
    for start in range(0, len(examples), config.batch_size):
        batch = models.collate(examples[start:start + config.batch_size])
        logp, ref_logp, kl = divergence(models, batch, has_reference)
        for offset in range(len(batch)):
            rows.append((logp[offset], ref_logp[offset], kl[offset]))
    template = models.template
    responses = [template.clean_response(text, template.decode(one.ids)) for text, (one,) in zip(texts, drawn)]
    return pd.DataFrame({
        "prompt_id": keys, "sample": 0, "prompt": [template.prompt_text(text) for text in texts], "response": responses,
        "gold": pd.array([None] * len(rows), dtype="Float64"), "proxy": pd.array([None] * len(rows), dtype="Float64"),
        "logprob_policy": [row[0] for row in rows], "logprob_reference": [row[1] for row in rows],
        "kl_exact": [row[2] for row in rows],
        "length": [len(one.ids) for (one,) in drawn], "finished": [one.finished for (one,) in drawn]})


@torch.no_grad()
def divergence(models: Models, batch: Batch, has_reference: bool) -> tuple[list, list, list]:
    """Per response (B,): log π(y|x), log π_ref(y|x), and Σ_t KL(π(·|s_t) ‖ π_ref(·|s_t)); None without a reference."""
    where = batch.mask[:, 0]  # (B, T)
    flat = batch.source[:, 0][where]  # (N,)
    states = models.policy.hidden_states(batch).flatten(0, 1)[flat]  # (N, H)
    ref_states = models.reference.hidden_states(batch).flatten(0, 1)[flat] if has_reference else None
    labels = batch.labels[:, 0][where]
    columns: list[list[Tensor]] = [[], [], []]
    for start in range(0, len(flat), CHUNK):
        part = slice(start, start + CHUNK)
        logits = models.policy.head(states[part])
        columns[0].append(token_logprobs(logits, labels[part]))
        if ref_states is not None:
            ref_logits = models.reference.head(ref_states[part])
            columns[1].append(token_logprobs(ref_logits, labels[part]))
            columns[2].append(exact_kl(logits, ref_logits))
    sums = []
    for column in columns:
        if not column:
            sums.append([None] * len(batch))
            continue
        values = torch.zeros(where.shape, device=where.device).masked_scatter(where, torch.cat(column))
        sums.append(values.sum(-1).tolist())
    return sums[0], sums[1], sums[2]


@torch.no_grad()
def heldout_likelihood(models: Models, records: list[Record], batch_size: int) -> tuple[list[float], list[int]]:
    """(−log π(y|x), tokens) of each held-out demonstration under the policy."""
    nll, tokens = [], []
    for start in range(0, len(records), batch_size):
        batch = models.collate([models.tokenize(Record(r.prompt, r.responses[:1], None, {})) for r in records[start:start + batch_size]])
        nll += (-models.policy.token_logprobs(batch).sum((-1, -2))).tolist()
        tokens += batch.mask.sum((-1, -2)).tolist()
    return nll, tokens


@torch.no_grad()
def heldout_accuracy(algorithm: Algorithm, models: Models, heldout: Records, batch_size: int) -> list[float]:
    """Whether each held-out pair is ranked as its annotator did."""
    examples = [models.tokenize(record) for record in pairs(heldout)]
    hits: list[float] = []
    for start in range(0, len(examples), batch_size):
        batch = models.collate(examples[start:start + batch_size])
        scores = algorithm.score(models, batch)  # (B, 2)
        if scores is None:
            return []
        margin = scores[:, 0] - scores[:, 1]
        hits += (0.5 * (margin.sign() + 1)).tolist()
    return hits


def metrics(result: Evaluation, baseline: Evaluation | None, seed: int = 0) -> dict[str, statistics.Estimate]:
    """Figures by name, each with its interval. What cannot be measured is absent, not zero.

    ``baseline``: the same evaluation of the model training started from, when that was a trained stage.
    """
    frame = result.samples
    found: dict[str, statistics.Estimate] = {}
    if frame["gold"].notna().all() and len(frame):
        gold = frame["gold"].to_numpy(float)
        found["reward/gold"] = statistics.bootstrap(gold, seed)
        if baseline is not None:
            start = frame[["prompt_id"]].merge(baseline.samples, on="prompt_id", validate="one_to_one")["gold"].to_numpy(float)
            found["reward/gold_minus_sft"] = statistics.paired(gold, start, seed)
            found["win_rate/sft"] = statistics.win_rate(gold, start, seed)
    if len(frame) and frame["logprob_reference"].notna().all():
        found["kl/k1"] = statistics.bootstrap((frame["logprob_policy"] - frame["logprob_reference"]).to_numpy(float), seed)
        found["kl/exact"] = statistics.bootstrap(frame["kl_exact"].to_numpy(float), seed)
    if len(frame):
        found["length/mean"] = statistics.bootstrap(frame["length"].to_numpy(float), seed)
        found["eos_rate"] = statistics.bootstrap(frame["finished"].to_numpy(float), seed)
        distinct = [value for value in map(distinct_2, frame["response"]) if value is not None]
        if distinct:
            found["distinct_2"] = statistics.bootstrap(np.array(distinct), seed)
    if result.heldout_tokens:
        found["perplexity/heldout"] = statistics.exp_mean(result.heldout_nll, result.heldout_tokens, seed)
    if result.accuracy:
        found["accuracy/heldout"] = statistics.bootstrap(result.accuracy, seed)
    return found


def distinct_2(text: str) -> float | None:
    """Share of distinct word pairs in a response; None where it has no pair. 1: no pair of words stands twice."""
    words = text.split()
    bigrams = list(zip(words, words[1:]))
    return len(set(bigrams)) / len(bigrams) if bigrams else None
