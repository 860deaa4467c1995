"""What a stage must fulfil before anything is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ..algorithm import Algorithm, Need, RewardSource
from ..evaluation.evaluate import evaluated_prompts, evaluated_texts
from ..support.errors import ConfigError
from ..training.failures import nothing_held_out
from .material import Material


def check_stage(bench: Material, algorithm: Algorithm, key: str, source_of: Callable[..., RewardSource | None]) -> None:
    """ConfigError for an algorithm that cannot be trained of this, whatever stands beneath it; key: where it stands;
    source_of: the reward source of an algorithm that uses one, or of any, for measuring."""
    evaluated_prompts(bench.data, bench.eval)
    evaluated_texts(bench.data, bench.eval)
    for role, need in algorithm.needs.items():
        if need is not None and not isinstance(need, Need):
            raise ConfigError(f"algorithm.needs.{role}: found {type(need).__name__}; "
                              "expected a stage (an algorithm and a recipe) or null; "
                              "fix: leave algorithm.needs as this algorithm has it")
    train, heldout = bench.view(algorithm.view)
    for records in (train, heldout)[:2 if bench.trainer.evaluate_every else 1]:
        algorithm.check_records(records, key)
    trains = not algorithm.works_when_asked  # best-of-n has no steps to evaluate after
    if bench.trainer.evaluate_every and trains and not len(heldout):
        raise ConfigError(nothing_held_out(bench.trainer.evaluate_every, algorithm.view))
    _check_soft(bench, algorithm, key)
    for view in algorithm.reads:
        if not len(bench.view(view)[0]):
            raise ConfigError(f"data: found no {view}; expected some, which {type(algorithm).__name__} with these "
                              "options learns from too")
    if source := source_of(algorithm, bench.eval.proxy and algorithm.role == "policy"):
        source.check(bench.data)
    if algorithm.compares_logprobs and bench.model.lora is not None and bench.model.lora.dropout:
        raise ConfigError(f"model.lora.dropout: found {bench.model.lora.dropout}; "
                          f"expected 0 for {type(algorithm).__name__}, which compares log-probabilities that "
                          "dropout would blur; fix: model.lora.dropout=0")
    algorithm.check(source_of(algorithm), bench.model)
    if trains and bench.model.lora is None and bench.model.precision == "nf4":
        raise ConfigError("model.lora: found null with precision nf4; expected LoRA, 4-bit weights cannot be "
                          "trained; fix: model.precision=fp32, or keep model.lora")
    if trains and bench.model.lora is None and bench.model.precision == "bf16":
        raise ConfigError("model.precision: found bf16 with model.lora null; "
                          "expected fp32 where all weights learn: bf16 keeps 8 bits of a weight and loses most "
                          "steps of a small learning rate; fix: model.precision=fp32 (bf16 arithmetic stays, "
                          "by trainer.mixed_precision), or keep model.lora")


def _check_soft(bench: Material, algorithm: Algorithm, key: str) -> None:
    """ConfigError where labels are probabilities and the method would take them for something else."""
    if bench.data.labelling is None or not bench.data.labelling.soft or algorithm.soft_labels:
        return
    if learned := [view for view in algorithm.labelled if view in ("pairs", "ranked", "rated")]:
        own = any(field.name == "soft_labels" for field in dataclasses.fields(algorithm))
        fix = f"{key}.soft_labels=true" if own else "labels.soft=false"
        raise ConfigError(f"labels.soft: found labels that are probabilities, which {type(algorithm).__name__} "
                          f"does not learn from {learned[0]} as such; expected a method with soft_labels, or "
                          f"labels that say which is better; fix: {fix}")
