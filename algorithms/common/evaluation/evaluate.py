"""The common evaluation: every algorithm answers the same held-out prompts, and every figure has its interval.

One response per prompt is sampled, scored by the gold reward where the data has one, and compared prompt by prompt with
the responses of the model training started from, which are another, independent draw (``streams.py``).

KL to the reference is KL(q ‖ r): q the policy as it was sampled, with everything that warps it, r the reference at the
same temperature, untruncated. It is measured twice: k1 (the log-ratio of the sampled response, Schulman 2020) and
exactly over the vocabulary at every sampled state. Greedy decoding has none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import statistics
from ..algorithm import Algorithm
from ..data.batches import Batch
from .choices import choice_figures, rank_options
from ..support.errors import ConfigError, TrainingError
from ..logprobs import exact_kl, token_logprobs
from ..models.model import Models
from ..data.records import Record, pairs, prompt_hash
from ..data.records.words import units
from ..rewards.sources import Response, Scorer
from ..models.sampling import Sampling, sampled_logprobs, tempered
from ..data.template import Example

if TYPE_CHECKING:
    from ..data.records import DataSets, Gold, Measure, Records

CHUNK = 256  # states whose two rows of logits exist at the same time
DIVERGENCE = ("logprob_policy", "logprob_reference", "kl_k1", "kl_exact")


@dataclass
class EvalConfig:
    """What the reported evaluation does."""

    prompts: int = 256  # held-out prompts, or as many as there are
    pairs: int = 512  # held-out pairs, or as many as there are
    split: str = "evaluation"  # evaluation: the reported prompts | tuning: those on which settings are chosen
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=56, batch_size=128))
    batch_size: int = 16  # rows in one scoring pass
    proxy: bool = False  # score samples by the reward source too, training it if need be; always where the method uses it

    def __post_init__(self):
        if self.split not in ("evaluation", "tuning"):
            raise ConfigError(f"eval.split: found {self.split!r}; expected evaluation or tuning")
        for key in ("prompts", "pairs", "batch_size"):
            if getattr(self, key) < 1:
                raise ConfigError(f"eval.{key}: found {getattr(self, key)}; expected at least 1")


@dataclass(frozen=True)
class Evaluation:
    """Samples (one row per response) and per-record figures on held-out data."""

    samples: pd.DataFrame  # empty for what is no policy
    likelihood: pd.DataFrame  # nll: −log π(y|x) of each held-out demonstration in nats, tokens
    # chosen, rejected: how held-out pairs are scored; *_length in tokens; logit: log-odds of chosen, where modelled;
    # gold_*, where the data has one; empty where the method cannot rank
    pairs: pd.DataFrame
    choices: pd.DataFrame = field(default_factory=pd.DataFrame)  # questions with options, see choices.rank_options
    measured: pd.DataFrame = field(default_factory=pd.DataFrame)  # prompt_id, figure, value: what the data's measure found


@dataclass
class Spent:
    """What answering the prompts and scoring the answers took."""

    seconds: float = 0.0
    tokens_sampled: int = 0
    reward_queries: int = 0
    resident_models: int = 0


def evaluate(algorithm: Algorithm, models: Models, data: DataSets, config: EvalConfig, seed: int, has_reference: bool,
             scorer: Scorer | None, spent: Spent | None = None) -> Evaluation:
    """Answer, score and measure with the trained role and, where there is one, ``reference``. ``spent`` is filled in.

    seed: of the answers alone, the row's own (``streams.py``).
    """
    frame, likelihood, choices, measured = (pd.DataFrame() for _ in range(4))
    if algorithm.role == "policy":
        prompts = evaluated_prompts(data, config)
        frame = sample_frame(algorithm, models, prompts, config, seed, has_reference, scorer, spent)
        if data.gold is not None:
            frame["gold"] = data.gold(frame["prompt"].tolist(), frame["response"].tolist(), frame["finished"].tolist())
        if data.measure is not None:
            measured = measured_frame(data.measure, prompts, frame)
        if data.choices is not None and len(data.choices):
            choices = rank_options(models, "policy", data.choices, config.batch_size)
        likelihood = heldout_likelihood(models, [record for record in prompts if record.responses], config.batch_size)
    judged = heldout_pairs(algorithm, models, data.heldout, config.batch_size, data.gold, config.pairs)
    return Evaluation(frame, likelihood, judged, choices, measured)


def measured_frame(measure: Measure, prompts: Records, samples: pd.DataFrame) -> pd.DataFrame:
    """One row per figure that a prompt's picked response counts in."""
    rows = []
    picked = samples[samples["picked"]]
    for record, response, finished in zip(prompts, picked["response"], picked["finished"], strict=True):
        rows += [(record.key, name, float(value)) for name, value in measure(record, response, bool(finished)).items()]
    return pd.DataFrame(rows, columns=["prompt_id", "figure", "value"])


def evaluated_prompts(data: DataSets, config: EvalConfig) -> Records:
    source = {"evaluation": data.evaluation, "tuning": data.tuning}[config.split]
    if not len(source):
        told = f"eval.split: found {config.split}, but the data holds no such prompts"
        if config.split == "tuning":
            raise ConfigError(f"{told}; expected tuning prompts, which files never hold; fix: eval.split=evaluation, or "
                              "data=reviews")
        raise ConfigError(f"{told}; expected held-out prompts; fix: data.heldout=0.1, and data with more than one prompt")
    return source.select(range(min(config.prompts, len(source))))


def sample_frame(algorithm: Algorithm, models: Models, prompts: Records, config: EvalConfig, seed: int, has_reference: bool,
                 scorer: Scorer | None, spent: Spent | None = None) -> pd.DataFrame:
    """Every prompt's candidates (most methods have one), the picked one marked, with log-probabilities and KL.

    See ``divergence`` for those columns. They are of the picked responses alone; the KL is None where there was a
    choice: the log-ratio of a response that was picked is no sample of a KL.
    """
    records, template = list(prompts), models.template
    models.used.clear()
    started = time.monotonic()
    ids = [models.prompt_ids(record.prompt, config.sampling.max_new_tokens) for record in records]
    candidates = algorithm.respond(models, ids, config.sampling, seed, [record.key for record in records])
    responses = [Response(template.prompt_text(record.prompt), template.clean_response(record.prompt, template.decode(one.ids)),
                          prompt, one.ids, one.finished, record.key, record.prompt, record.meta)
                 for record, prompt, drawn in zip(records, ids, candidates) for one in drawn]
    scores = scorer(responses) if scorer is not None else None
    if spent is not None:
        spent.seconds, spent.resident_models = time.monotonic() - started, len(models.used)
        spent.tokens_sampled, spent.reward_queries = sum(len(r.ids) for r in responses), len(scores or [])
    number = [index for drawn in candidates for index in range(len(drawn))]
    frame = pd.DataFrame({
        "prompt_id": [r.record for r in responses], "sample": number, "prompt": [r.prompt for r in responses],
        "response": [r.text for r in responses], "gold": pd.array([None] * len(responses), dtype="Float64"),
        "proxy": pd.array(scores if scores is not None else [None] * len(responses), dtype="Float64"),
        "length": [len(r.ids) for r in responses], "finished": [r.finished for r in responses]})
    frame["picked"] = True
    frame["origin"] = [record.meta.get("origin") for record, drawn in zip(records, candidates) for _ in drawn]
    if any(len(drawn) > 1 for drawn in candidates):
        best = frame.groupby("prompt_id", sort=False)["proxy"].idxmax()  # ties: the first drawn
        frame["picked"] = frame.index.isin(best)
    _add_divergence(frame, models, responses, config, has_reference)
    return frame


def _add_divergence(frame: pd.DataFrame, models: Models, responses: list[Response], config: EvalConfig,
                    has_reference: bool) -> None:
    """Columns of log-probabilities and KL, for the picked responses: reading n candidates again would double their cost."""
    picked = [index for index, flag in enumerate(frame["picked"]) if flag]
    sampling = config.sampling if len(picked) == len(frame) else None
    columns = {name: [None] * len(frame) for name in DIVERGENCE}
    for start in range(0, len(picked), config.batch_size):
        part = picked[start:start + config.batch_size]
        batch = models.collate([Example(r.prompt_ids, [r.ids], [r.finished], None, r.record)
                                for r in (responses[i] for i in part)])
        for name, values in divergence(models, batch, sampling, has_reference).items():
            for index, value in zip(part, values):
                columns[name][index] = value
    broken = sum(not math.isfinite(columns["logprob_policy"][index]) for index in picked)
    if broken:
        raise TrainingError(f"evaluation: found log-probabilities that are not finite for {broken} of {len(picked)} "
                            "responses; expected finite ones: training broke the policy; fix: lower recipe.lr")
    for name, values in columns.items():
        frame[name] = values


@torch.no_grad()
def divergence(models: Models, batch: Batch, sampling: Sampling | None, has_reference: bool) -> dict[str, list]:
    """Columns of B responses, in nats, each summed over the tokens; None for what there is not.

    logprob_policy, logprob_reference: log π(y|x) and log π_ref(y|x) of the models themselves, at temperature 1 and
    untruncated. kl_k1: Σ_t log q(y_t|s_t) − log r(y_t|s_t). kl_exact: Σ_t KL(q(·|s_t) ‖ r(·|s_t)), over what q draws.
    q: the policy as ``sampling`` draws from it; r: the reference at its temperature, untruncated. None: no KL is asked.
    """
    where = batch.mask[:, 0]  # (B, T)
    flat = batch.source[:, 0][where]  # (N,)
    states = models.policy.hidden_states(batch).flatten(0, 1)[flat]  # (N, H)
    ref_states = models.reference.hidden_states(batch).flatten(0, 1)[flat] if has_reference else None
    labels, steps = batch.labels[:, 0][where], where.nonzero()[:, 1]  # (N,) each
    columns: dict[str, list[Tensor]] = {name: [] for name in DIVERGENCE}
    for start in range(0, len(flat), CHUNK):
        part = slice(start, start + CHUNK)
        logits, drawn = models.policy.head(states[part]), labels[part]
        columns["logprob_policy"].append(token_logprobs(logits, drawn))
        if ref_states is None:
            continue
        ref_logits = models.reference.head(ref_states[part])
        columns["logprob_reference"].append(token_logprobs(ref_logits, drawn))
        if sampling is None or sampling.temperature == 0:
            continue
        q = sampled_logprobs(logits, drawn, steps[part], models.template.stop_ids, sampling)  # (N, V)
        ref_logits = tempered(ref_logits, sampling.temperature)
        columns["kl_k1"].append(q.gather(-1, drawn.unsqueeze(-1)).squeeze(-1) - token_logprobs(ref_logits, drawn))
        columns["kl_exact"].append(exact_kl(q, ref_logits))
    sums = {}
    for name, column in columns.items():
        sums[name] = [None] * len(batch)
        if column:
            values = torch.zeros(where.shape, device=where.device).masked_scatter(where, torch.cat(column))
            sums[name] = values.sum(-1).tolist()
    return sums


@torch.no_grad()
def heldout_likelihood(models: Models, records: list[Record], batch_size: int) -> pd.DataFrame:
    """nll = −log π(y|x) in nats and tokens of each held-out demonstration under the policy."""
    nll, tokens = [], []
    origins = [record.meta.get("origin") for record in records]
    for start in range(0, len(records), batch_size):
        part = [record.taking([0], judged=False) for record in records[start:start + batch_size]]
        batch = models.collate([models.tokenize(record) for record in part])
        nll += (-models.policy.token_logprobs(batch).sum((-1, -2))).tolist()
        tokens += batch.mask.sum((-1, -2)).tolist()
    return pd.DataFrame({"nll": nll, "tokens": tokens, "origin": origins})


@torch.no_grad()
def heldout_pairs(algorithm: Algorithm, models: Models, heldout: Records, batch_size: int, gold: Gold | None = None,
                  limit: int | None = None) -> pd.DataFrame:
    """How each held-out pair is scored, the response its annotator preferred in ``chosen``; the first ``limit``, or all."""
    records = list(islice(pairs(heldout), limit))
    examples = [models.tokenize(record) for record in records]
    rows: list[list[float]] = []
    logits: list[float] = []
    for start in range(0, len(examples), batch_size):
        batch = models.collate(examples[start:start + batch_size])
        scores = algorithm.score(models, batch)  # (B, 2)
        if scores is None:
            break
        rows += torch.cat([scores, batch.mask.sum(-1)], 1).tolist()  # (B, 4)
        certain = algorithm.preference_logits(scores)  # (B,)
        logits += certain.tolist() if certain is not None else []
    frame = pd.DataFrame(rows, columns=["chosen", "rejected", "chosen_length", "rejected_length"])
    if not len(frame):
        return frame
    frame["prompt_id"] = [f"{prompt_hash(record.prompt):016x}" for record in records]
    frame["origin"] = [record.meta.get("origin") for record in records]
    if logits:
        frame["logit"] = logits
    if gold is not None:
        prompts = [models.template.prompt_text(record.prompt) for record in records]
        for k, name in enumerate(("gold_chosen", "gold_rejected")):
            frame[name] = gold(prompts, [r.responses[k] for r in records], [e.finished[k] for e in examples])
    return frame


def metrics(algorithm: Algorithm, result: Evaluation, baseline: Evaluation | None, seed: int = 0
            ) -> dict[str, statistics.Estimate]:
    """Figures by name, each with its interval. What cannot be measured is absent, not zero.

    ``baseline``: the same evaluation of the model training started from, when that was a trained stage.
    """
    found: dict[str, statistics.Estimate] = {}
    if len(result.samples):
        frame = result.samples[result.samples["picked"]].reset_index(drop=True)
        found.update(_sample_figures(frame, baseline, seed))
        found.update(algorithm.figures(result.samples, frame))
    if len(result.measured):
        found.update(_measured_figures(result.measured, baseline, seed))
    if len(result.choices):
        found.update(choice_figures(result.choices, seed))
    if len(result.likelihood):
        found.update(_by_origin("perplexity/heldout", result.likelihood,
                                lambda part: statistics.exp_mean(part["nll"], part["tokens"], seed)))
    if len(result.pairs):
        found.update(_pair_figures(result.pairs, seed))
    return found


def _by_origin(name: str, frame: pd.DataFrame, figure: Callable[[pd.DataFrame], statistics.Estimate]
               ) -> dict[str, statistics.Estimate]:
    """The figure, and where the data is a mixture also ``name/<origin>`` of each of its parts."""
    parts = dict(list(frame.groupby("origin"))) if "origin" in frame else {}
    return {name: figure(frame), **({f"{name}/{origin}": figure(part) for origin, part in parts.items()} if len(parts) > 1 else {})}


def _measured_figures(frame: pd.DataFrame, baseline: Evaluation | None, seed: int) -> dict[str, statistics.Estimate]:
    """Means by name; where training started from a trained stage, ``<name>_minus_sft`` on the prompts that both have."""
    found = {}
    for name, part in frame.groupby("figure", sort=False):
        found[name] = statistics.bootstrap(part["value"].to_numpy(float), seed)
        if baseline is not None and len(baseline.measured):
            before = baseline.measured[baseline.measured["figure"] == name]
            both = part.merge(before, on="prompt_id", suffixes=("", "_before"), validate="one_to_one")
            if len(both):
                found[f"{name}_minus_sft"] = statistics.paired(both["value"], both["value_before"], seed)
    return found


def _sample_figures(frame: pd.DataFrame, baseline: Evaluation | None, seed: int) -> dict[str, statistics.Estimate]:
    """Of one response per prompt. reward/gold, reward/proxy: mean scores; ``_minus_sft``: less the baseline's of the
    same prompts, so the difference of two rows as printed. win_rate/sft: how often gold is above the baseline's, ties
    half; the two responses are independent draws. kl/k1, kl/exact: means of the columns of ``divergence``, nats.
    length/mean: tokens. eos_rate: share of responses that end by themselves. distinct_2: see there.
    """
    found = {}
    if frame["gold"].notna().all():
        gold = frame["gold"].to_numpy(float)
        found.update(_by_origin("reward/gold", frame, lambda part: statistics.bootstrap(part["gold"].to_numpy(float), seed)))
        if baseline is not None:
            start = _joined(frame, baseline, "gold")
            found["reward/gold_minus_sft"] = statistics.paired(gold, start, seed)
            found["win_rate/sft"] = statistics.win_rate(gold, start, seed)
    if frame["proxy"].notna().all():
        proxy = frame["proxy"].to_numpy(float)
        found.update(_by_origin("reward/proxy", frame, lambda part: statistics.bootstrap(part["proxy"].to_numpy(float), seed)))
        if baseline is not None and baseline.samples["proxy"].notna().all():
            found["reward/proxy_minus_sft"] = statistics.paired(proxy, _joined(frame, baseline, "proxy"), seed)
    for name in ("k1", "exact"):
        if frame[f"kl_{name}"].notna().all():
            found[f"kl/{name}"] = statistics.bootstrap(frame[f"kl_{name}"].to_numpy(float), seed)
    found["length/mean"] = statistics.bootstrap(frame["length"].to_numpy(float), seed)
    found["eos_rate"] = statistics.bootstrap(frame["finished"].to_numpy(float), seed)
    distinct = [value for value in map(distinct_2, frame["response"]) if value is not None]
    if distinct:
        found["distinct_2"] = statistics.bootstrap(np.array(distinct), seed)
    return found


def _joined(frame: pd.DataFrame, baseline: Evaluation, column: str) -> np.ndarray:
    """The baseline's figures in the order of the frame's prompts."""
    return frame[["prompt_id"]].merge(baseline.samples, on="prompt_id", validate="one_to_one")[column].to_numpy(float)


def _pair_figures(frame: pd.DataFrame, seed: int) -> dict[str, statistics.Estimate]:
    """On held-out pairs, resampled by prompt: how often the scores agree with the labels, and with gold; ties half.

    Accuracy apart by which response is longer, since a scorer may only like length. Calibration: whether the method's
    own probability that the chosen response is preferred, σ(logit), is how often it is.
    """
    prompts = frame["prompt_id"]
    sign = np.sign(frame["chosen"] - frame["rejected"])  # 1: chosen above rejected
    hits = (sign + 1) / 2
    found = _by_origin("accuracy/heldout", frame.assign(hits=hits),
                       lambda part: statistics.cluster_bootstrap(part["hits"], part["prompt_id"].tolist(), seed))
    longer = frame["chosen_length"] - frame["rejected_length"]
    parts = {"accuracy/chosen_longer": (hits, longer > 0), "accuracy/chosen_shorter": (hits, longer < 0)}
    if "gold_chosen" in frame:
        truth = np.sign(frame["gold_chosen"] - frame["gold_rejected"])
        parts["accuracy/gold"] = ((sign * truth + 1) / 2, truth != 0)
    for name, (values, rows) in parts.items():
        if rows.any():
            found[name] = statistics.cluster_bootstrap(values[rows], prompts[rows].tolist(), seed)
    if "logit" in frame:
        found["calibration/error"] = statistics.calibration_error(frame["logit"], prompts, seed=seed)
    return found


def distinct_2(text: str) -> float | None:
    """Share of distinct pairs of neighbouring units in a response; None where it has no pair. 1: no pair stands twice.

    A unit is a word between spaces, or a character of a script that is written without them (``records.words.units``).
    """
    found = units(text)
    pairs = list(zip(found, found[1:]))
    return len(set(pairs)) / len(pairs) if pairs else None
