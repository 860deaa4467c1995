"""The common evaluation: every algorithm answers the same held-out prompts, as often each.

Answers are sampled, and scored by the gold reward where the data has one; ``metrics.py`` compares them prompt by prompt
with those of the model that training started from, which are other, independent draws (``streams.py``).

KL to the reference is KL(q ‖ r): q the policy as it was sampled, with everything that warps it, r the reference at the
same temperature, untruncated. It is measured twice: k1 (the log-ratio of the sampled response, Schulman 2020) and
exactly over the vocabulary at every sampled state. Greedy decoding has none.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Iterable

import pandas as pd
import torch
from torch import Tensor

from ..algorithm import Algorithm, Response, Scorer
from ..data.batches import Batch
from ..data.cuts import tell_cut_examples, tell_cut_prompts
from ..data.records import Record, pairs, prompt_hash
from ..data.template import Example
from ..data.texts import first_texts, text_digest
from ..logprobs import exact_kl, token_logprobs
from ..models.model import Models
from ..models.sampling import Sample, Sampling, sampled_logprobs, tempered
from ..support.checks import at_least, one_of, require
from ..support.errors import ConfigError, TrainingError
from ..support.memory import peak_memory_bytes
from ..support.pieces import Pieces
from .choices import rank_options

if TYPE_CHECKING:
    from ..data.records import DataSets, Measure, Records

log = logging.getLogger(__name__)
PART = 512  # prompts whose answers are saved together
SCORED = 128  # answers, about, whose scores are saved together
CHUNK = 256  # states whose two rows of logits exist at the same time
DIVERGENCE = ("logprob_policy", "logprob_reference", "kl_k1", "kl_exact")


@dataclass
class EvalConfig:
    """What the reported evaluation does."""

    prompts: int = 256  # held-out prompts, or as many as there are
    samples: int = 2  # answers per prompt, of every row and of the start; 1 where decoding is greedy
    pairs: int = 512  # held-out pairs, or as many as there are
    split: str = "evaluation"  # evaluation: the reported prompts | tuning: those on which settings are chosen
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=56, batch_size=256))
    batch_size: int = 16  # rows in one scoring pass
    # score samples by the reward source too, training it if need be; always where the method uses it
    proxy: bool = False
    overlap: bool = False  # compare answers word by word with the data's, see overlap.py
    texts: str | None = None  # a file of texts that the base should not forget, see data.texts; null: the data's own

    in_trial: ClassVar[dict[str, int]] = {"prompts": 8, "pairs": 16}

    def __post_init__(self):
        require(self, "eval", split=one_of(("evaluation", "tuning")), prompts=at_least(1), samples=at_least(1),
                pairs=at_least(1), batch_size=at_least(1))
        if self.samples > 1 and self.sampling.temperature == 0:
            log.info("eval.samples: %d, but greedy answers to a prompt are all the same; one is made", self.samples)
            self.samples = 1


@dataclass(frozen=True)
class Evaluation:
    """Sampled answers, and what each record of held-out data shows."""

    samples: pd.DataFrame  # one row per candidate, see sample_frame; empty for what is no policy
    # nll: −log π(y|x) of each held-out demonstration in nats, tokens, prompt_id, origin; gold, proxy: its scores
    likelihood: pd.DataFrame
    # chosen, rejected: how held-out pairs are scored; *_length in tokens; logit: log-odds of chosen, where modelled;
    # gold_*, where the data has one; empty where the method cannot rank
    pairs: pd.DataFrame
    choices: pd.DataFrame = field(default_factory=pd.DataFrame)  # questions with options, see choices.rank_options
    # prompt_id, figure, value: what the data's measure found in each answer
    measured: pd.DataFrame = field(default_factory=pd.DataFrame)
    # nll, tokens, prompt_id of each text that the base should not forget, as of ``likelihood``
    texts: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass
class Spent:
    """What answering every prompt once, and scoring these answers, took: the mean over the answers of a prompt."""

    seconds: float = 0.0
    tokens_sampled: int = 0
    reward_queries: int = 0
    resident_models: int = 0


def noted(models: Models) -> dict[str, Any]:
    """What is noted beside each piece of an evaluation: the models that have computed since it began, and the memory.
    """
    roles = sorted(one for one in models.used if isinstance(one, str))
    return {"roles": roles, "others": len(models.used) - len(roles),
            "peak_memory_bytes": peak_memory_bytes(models.device)}


def _resident(notes: list[dict[str, Any]]) -> int:
    """How many models computed, in whichever processes."""
    return len({role for note in notes for role in note["roles"]}) + max(note["others"] for note in notes)


def evaluate(algorithm: Algorithm, models: Models, data: DataSets, config: EvalConfig, seed: int, has_reference: bool,
             scorer: Scorer | None, spent: Spent | None = None, gold: Scorer | None = None,
             pieces: Pieces = Pieces()) -> Evaluation:
    """Answer, score and measure with the trained role and, where there is one, ``reference``. ``spent`` is filled in.

    seed: of the answers alone, the row's own (``streams.py``). gold: scores by the true reward, where it is known.
    pieces: with ``noted`` beside each, where ``spent`` is to be that of all processes.
    """
    frame, likelihood, choices, measured, texts = (pd.DataFrame() for _ in range(5))
    if algorithm.role == "policy":
        prompts = evaluated_prompts(data, config)
        frame = sample_frame(algorithm, models, prompts, config, seed, has_reference, scorer, spent, gold, pieces)
        if data.measure is not None:
            measured = measured_frame(data.measure, prompts, frame)
        if data.choices is not None and len(data.choices):
            choices = rank_options(models, "policy", data.choices, config.batch_size)
        shown = [record for record in prompts if record.responses]
        likelihood = heldout_likelihood(models, shown, config.batch_size)
        texts = text_likelihood(models, evaluated_texts(data, config), config.batch_size)
        answers = [shown_response(models, record, models.tokenize(record.taking([0], judged=False)), 0)
                   for record in shown]
        for column, judge in (("gold", gold), ("proxy", scorer)):
            if judge is not None:
                likelihood[column] = pd.array(judge(answers) if answers else [], dtype="Float64")
    judged = heldout_pairs(algorithm, models, data.heldout, config.batch_size, gold, config.pairs)
    return Evaluation(frame, likelihood, judged, choices, measured, texts)


def measured_frame(measure: Measure, prompts: Records, samples: pd.DataFrame) -> pd.DataFrame:
    """One row per figure that an answer counts in, by its picked candidate."""
    rows, records = [], {record.key: record for record in prompts}
    picked = samples[samples["picked"]]
    for key, response, finished in zip(picked["prompt_id"], picked["response"], picked["finished"]):
        rows += [(key, name, float(value)) for name, value in measure(records[key], response, bool(finished)).items()]
    return pd.DataFrame(rows, columns=["prompt_id", "figure", "value"])


def evaluated_prompts(data: DataSets, config: EvalConfig) -> Records:
    source = {"evaluation": data.evaluation, "tuning": data.tuning}[config.split]
    if not len(source):
        told = f"eval.split: found {config.split}, but the data holds no such prompts"
        if config.split == "tuning":
            raise ConfigError(f"{told}; expected tuning prompts; fix: data.tuning=0.1, or eval.split=evaluation")
        raise ConfigError(f"{told}; expected held-out prompts; fix: data.heldout=0.1, and data with more than one "
                          "prompt")
    return source.select(range(min(config.prompts, len(source))))


def data_answers(data: DataSets, config: EvalConfig) -> dict[str, str]:
    """What the data answers best to the evaluated prompts, by ``prompt_id``, where it answers at all."""
    return {record.key: best for record in evaluated_prompts(data, config) if (best := record.best)}


def evaluated_texts(data: DataSets, config: EvalConfig) -> list[str]:
    """Of eval.texts, else of the data's own: at most as many as prompts."""
    if config.texts is not None:
        return first_texts(config.texts, config.prompts)
    return list(data.texts or ())[:config.prompts]


def sample_frame(algorithm: Algorithm, models: Models, prompts: Records, config: EvalConfig, seed: int,
                 has_reference: bool, scorer: Scorer | None, spent: Spent | None = None,
                 gold: Scorer | None = None, pieces: Pieces = Pieces()) -> pd.DataFrame:
    """Every prompt's answers, one row per candidate: most methods give an answer one, else the best by proxy is picked.

    sample: the number of the answer, candidate: that within it, picked: whether it is the answer. For log-probabilities
    and KL see ``divergence``. They are of the picked candidates alone; the KL is None where there was a choice: the
    log-ratio of a response that was picked is no sample of a KL. pieces: keeps answers and scores as they come.
    """
    records, template = list(prompts), models.template
    models.used.clear()
    started = time.monotonic()
    whole = [template.prompt_ids(record.prompt) for record in records]
    ids = [models.prompt_ids(record.prompt, config.sampling.max_new_tokens) for record in records]
    tell_cut_prompts("evaluation", whole, ids, models.config.max_length, config.sampling.max_new_tokens, models.said)
    answers = _answers(algorithm, models, ids, [record.key for record in records], config, seed, pieces)
    drawn = [(index, number, candidate, one) for index, of_prompt in enumerate(answers)
             for number, candidates in enumerate(of_prompt) for candidate, one in enumerate(candidates)]
    shown = [template.prompt_text(record.prompt) for record in records]
    responses = []
    for index, _, _, one in drawn:
        record, text = records[index], template.clean_response(records[index].prompt, template.decode(one.ids))
        responses.append(Response(shown[index], text, ids[index], one.ids, one.finished, record.key, record.prompt,
                                  record.meta))
    size = max(1, SCORED // config.batch_size) * config.batch_size
    scores = pieces.asked("scores", responses, scorer, size, Response.length) if scorer is not None else None
    if spent is not None:
        seconds = time.monotonic() - started + pieces.seconds
        spent.seconds, spent.resident_models = seconds / config.samples, _resident([noted(models), *pieces.noted])
        spent.tokens_sampled = round(sum(len(r.ids) for r in responses) / config.samples)
        spent.reward_queries = len(scores or []) // config.samples
    true = gold and pieces.asked("gold", responses, gold, size, Response.length)
    frame = pd.DataFrame({
        "prompt_id": [r.record for r in responses], "sample": [number for _, number, _, _ in drawn],
        "candidate": [candidate for _, _, candidate, _ in drawn], "prompt": [r.prompt for r in responses],
        "response": [r.text for r in responses],
        "gold": pd.array(true if gold is not None else [None] * len(responses), dtype="Float64"),
        "proxy": pd.array(scores if scores is not None else [None] * len(responses), dtype="Float64"),
        "length": [len(r.ids) for r in responses], "finished": [r.finished for r in responses]})
    frame["picked"] = True
    frame["origin"] = [r.meta.get("origin") for r in responses]
    if frame["candidate"].any():
        best = frame.groupby(["prompt_id", "sample"], sort=False)["proxy"].idxmax()  # ties: the first drawn
        frame["picked"] = frame.index.isin(best)
    _add_divergence(frame, models, responses, config, has_reference)
    return frame


def _answers(algorithm: Algorithm, models: Models, ids: list[list[int]], keys: list[str], config: EvalConfig, seed: int,
             pieces: Pieces) -> list[list[list[Sample]]]:
    """(P, answers, candidates), of ``PART`` prompts at once."""
    found = []
    for start in range(0, len(ids), PART):
        part = slice(start, start + PART)
        told = pieces.kept(f"answers-{start}", lambda part=part: [
            [[[one.ids, one.finished] for one in candidates] for candidates in of_prompt] for of_prompt in
            algorithm.respond(models, ids[part], config.sampling, seed, keys[part], config.samples)])
        found += [[[Sample(*one) for one in candidates] for candidates in of_prompt] for of_prompt in told]
    return found


def _add_divergence(frame: pd.DataFrame, models: Models, responses: list[Response], config: EvalConfig,
                    has_reference: bool) -> None:
    """Columns of log-probabilities and KL, for the picked responses: reading all candidates would double the cost."""
    picked = [index for index, flag in enumerate(frame["picked"]) if flag]
    sampling = config.sampling if len(picked) == len(frame) else None
    examples = [Example(r.prompt_ids, [r.ids], [r.finished], None, r.record) for r in (responses[i] for i in picked)]
    rows = models.of_each(examples, config.batch_size, "log-probabilities of answers", "answers",
                          lambda batch: zip(*divergence(models, batch, sampling, has_reference).values()))
    columns = {name: [None] * len(frame) for name in DIVERGENCE}
    for index, row in zip(picked, rows):
        for name, value in zip(DIVERGENCE, row):
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
    examples = [models.tokenize(record.taking([0], judged=False)) for record in records]
    tell_cut_examples("held-out demonstrations", examples, models.config.max_length, models.config.max_prompt_length,
                      models.said)
    frame = _likelihood(models, examples, batch_size, "likelihood of demonstrations", "records")
    frame.insert(0, "prompt_id", [record.key for record in records])
    frame["origin"] = [record.meta.get("origin") for record in records]
    return frame


def _likelihood(models: Models, examples: list[Example], batch_size: int, what: str, unit: str) -> pd.DataFrame:
    """nll and tokens of each example under the policy."""
    def read(batch: Batch) -> Iterable[tuple[float, int]]:
        nll = -models.policy.token_logprobs(batch).sum((-1, -2))  # (B,)
        return zip(nll.tolist(), batch.mask.sum((-1, -2)).tolist())

    return pd.DataFrame(models.of_each(examples, batch_size, what, unit, read), columns=["nll", "tokens"])


@torch.no_grad()
def text_likelihood(models: Models, texts: Sequence[str], batch_size: int) -> pd.DataFrame:
    """nll and tokens of each text under the policy, as of ``heldout_likelihood``: every token but the first, which
    nothing is before unless the tokenizer sets BOS there; a long text in pieces of ``model.max_length``."""
    examples = []
    for text in texts:
        ids, key = models.template.prompt_ids(text), text_digest(text)
        pieces = [ids[start:start + models.config.max_length] for start in range(0, len(ids), models.config.max_length)]
        examples += [Example(piece[:1], [piece[1:]], [False], None, key) for piece in pieces if len(piece) > 1]
    frame = _likelihood(models, examples, batch_size, "likelihood of texts", "texts")
    frame.insert(0, "prompt_id", [example.record for example in examples])
    return frame


@torch.no_grad()
def heldout_pairs(algorithm: Algorithm, models: Models, heldout: Records, batch_size: int, gold: Scorer | None = None,
                  limit: int | None = None) -> pd.DataFrame:
    """How each held-out pair is scored, with the response its annotator preferred in ``chosen``; at most ``limit``."""
    records = list(islice(pairs(heldout), limit))
    examples = [models.tokenize(record) for record in records]

    def ranked(batch: Batch) -> list[list[float]]:
        scores = algorithm.score(models, batch)  # (B, 2)
        logits = algorithm.preference_logits(scores)  # (B,)
        read = [scores, batch.mask.sum(-1), *([] if logits is None else [logits.unsqueeze(-1)])]
        return torch.cat(read, 1).tolist()  # (B, 4 or 5)

    columns = ["chosen", "rejected", "chosen_length", "rejected_length", "logit"]
    if not examples or algorithm.score(models, models.collate(examples[:1])) is None:
        return pd.DataFrame(columns=columns[:4])
    rows = models.of_each(examples, batch_size, "ranking held-out pairs", "pairs", ranked)
    frame = pd.DataFrame(rows, columns=columns[:len(rows[0])])
    tell_cut_examples("held-out pairs", examples, models.config.max_length, models.config.max_prompt_length,
                      models.said)
    frame["prompt_id"] = [f"{prompt_hash(record.prompt):016x}" for record in records]
    frame["origin"] = [record.meta.get("origin") for record in records]
    if gold is not None:
        for k, name in enumerate(("gold_chosen", "gold_rejected")):
            frame[name] = gold([shown_response(models, record, example, k)
                                for record, example in zip(records, examples)])
    return frame


def shown_response(models: Models, record: Record, example: Example, k: int) -> Response:
    """The k-th response of a record, with its tokens, as a scorer is given it."""
    return Response(models.template.prompt_text(record.prompt), record.responses[k], example.prompt,
                    example.responses[k], example.finished[k], record.key, record.prompt, record.meta)
