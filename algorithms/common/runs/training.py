"""How a stage is trained: its roles, its examples, its files. This code is part of the key, see ``stages.py``."""

from __future__ import annotations

import copy
import functools
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..algorithm import Algorithm, Context, Recipe, RewardSource
from ..data.cuts import tell_cut_examples
from ..data.tokenized import Tokenized
from ..models.export import frozen_role, role_digest, save_role
from ..support.errors import ConfigError
from ..support.memory import reset_peak_memory
from ..support.phases import progress
from ..support.seeds import derive
from ..training import loop, references
from ..training.pace import FILE, measure
from ..training.written import write_report

if TYPE_CHECKING:  # named here, not run: what a bench is made of stands in the key itself
    from .material import Material

log = logging.getLogger(__name__)


def train(bench: Material, algorithm: Algorithm, recipe: Recipe, inputs: dict[str, Path | None],
          source: RewardSource | None, scored: dict[str, Path], identity: dict, name: str, target: Path,
          work: Path) -> None:
    """Fill ``target`` with a trained stage: the role's weights, state.json, and what the algorithm writes.

    inputs: the stages of its roles; scored: those that the reward source stands on; identity: what the stage stands on.
    """
    context = _context(bench, algorithm, recipe, inputs, source, scored, identity, name, target, work)
    reset_peak_memory(context.models.device)
    algorithm.fit(context)
    if not (target / "fit.json").exists():  # it takes no steps
        write_report(context, [], seconds=0.0, steps=0, tokens=0, trainable=0)
    save_role(context.models, algorithm.role, target)
    (target / "state.json").write_text(json.dumps(algorithm.state_dict(), allow_nan=False), encoding="utf-8")


def pace(
    bench: Material, algorithm: Algorithm, recipe: Recipe, inputs: dict[str, Path | None], source: RewardSource | None,
    scored: dict[str, Path], identity: dict, name: str, target: Path, work: Path
) -> None:
    """Fill ``target`` with the pace of a stage's first steps, which are not kept; see ``train``."""
    context = _context(bench, algorithm, recipe, inputs, source, scored, identity, name, target, work)
    context.loop = functools.partial(measure, asked=len(context.visited()))
    copy.deepcopy(algorithm).fit(context)
    if not (target / FILE).is_file():
        raise ConfigError(f"budget.equal: found tokens or seconds, but {type(algorithm).__name__} takes its steps by "
                          "itself; expected a method that the common loop trains; fix: budget.equal=labels, or null")


def _context(bench: Material, algorithm: Algorithm, recipe: Recipe, inputs: dict[str, Path | None],
             source: RewardSource | None, scored: dict[str, Path], identity: dict, name: str, target: Path,
             work: Path) -> Context:
    train, heldout = bench.view(algorithm.view)
    models, batch_size = bench.models, bench.eval.batch_size
    models.clear_roles()
    for role, folder in inputs.items():
        frozen_role(models, role, folder)
    scorer = source and source.load(models, scored, bench.data, batch_size)
    algorithm.add_roles(models, derive(bench.seed, "roles"))
    tokenize = functools.partial(models.tokenize, every_turn=algorithm.every_turn)
    examples = Tokenized(train, tokenize)
    watched = [tokenize(record) for record in heldout] if bench.trainer.evaluate_every else []
    context = Context(models, recipe, bench.trainer, examples, watched, bench.seed, work, target, bench.store,
                      bench.loop or loop.fit,
                      name, bench.run_folder, inputs, bench.data, train, heldout, identity, scorer)
    seen = [] if algorithm.works_when_asked else context.visited()
    with progress(f"{name}, tokenising", len(seen), "records") as advance:
        for index in seen:  # what cannot be tokenised is told before the first step, not when training comes to it
            examples[index]
            advance()
    limits = models.config.max_length, models.config.max_prompt_length
    tell_cut_examples(name, (examples[index] for index in seen), *limits)
    if algorithm.stores_reference:
        folder = inputs["reference"]
        known = references.identity(models, bench.base_digest, role_digest(folder) if folder else None)
        models.reference.stored = references.StoredLogprobs(models.reference, known, bench.store, batch_size)
    return context
