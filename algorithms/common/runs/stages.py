"""Resolves the stages an algorithm stands on, runs what is missing, keeps each by the content that determines it.

A stage is an algorithm with a recipe; those in ``needs`` come first. Its key holds its own settings, its inputs', the
data's content, the model's, the seed, the code that computes this kind of stage and the libraries' versions
(``provenance.py``). So a sweep run again recomputes only what is missing, and what was edited is computed anew.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Iterator

from ..algorithm import Algorithm, Need, Recipe, RewardSource
from ..data.records import DataSets, ranked, rated, view_sets
from ..data.usability import Reading, usable
from ..evaluation.evaluate import Evaluation, evaluated_prompts, evaluated_texts
from ..evaluation.metrics import BASE, TRAINED, Against
from ..models.model import ModelConfig, Models
from ..models.precision import autocast_dtype, pick_device
from ..rewards.sources import check_truth
from ..support.digests import content_hash
from ..support.errors import ConfigError
from ..support.memory import no_memory_explained
from ..support.plain import plain
from ..support.provenance import code_of, versions, written_in
from ..support.terminal import IN_SWEEPS
from ..training.pace import STEPS, Pace
from . import measuring, streams, training
from .conditions import check_stage
from .material import Material
from .results import device_name

log = logging.getLogger(__name__)
ADDED = ("seconds", "tokens_trained", "tokens_sampled", "reward_queries")  # of a cost: stages add up


@dataclass(frozen=True)
class Start:
    """What training started from."""

    kind: str  # a trained stage's method, or base
    identity: str  # of its settings, which seeds share
    algorithm: Algorithm  # how it answers
    against: Against  # how figures that compare with it are called
    stage: str | None = dataclasses.field(default=None, compare=False)  # the store's entry that holds it; None: base


def place_of(source: str, role: str) -> str:
    """Where a stage of a reward source stands in the config; of a weighted one's parts each has its own."""
    return ".sources.".join([source, *role.split(".")[:-1]])


def _identity(settings: dict) -> str:
    return content_hash(streams.row_identity(settings))


@dataclass
class Bench(Material):
    """Where stages are built."""

    hide: Callable[[dict], dict] = lambda description: description  # takes secrets out of what the store writes down
    beneath: Bench | None = None  # builds the stages that those of this bench stand on; None: this one

    @cached_property
    def models(self) -> Models:
        shared = self.beneath is not None and self.beneath.model == self.model
        return self.beneath.models if shared else super().models

    def model_description(self) -> dict:
        settings = plain(self.model)
        for key in ("name", "revision", "trust_remote_code", "chat_template"):  # their content is described instead
            settings.pop(key)
        template = Path(self.model.chat_template).read_text(encoding="utf-8") if self.model.chat_template else None
        device = pick_device()
        return {**settings, "base": self.base_digest, "template": template, "device": device.type,
                "autocast": str(autocast_dtype(self.trainer.mixed_precision, device))}

    def check(self, algorithm: Algorithm, besides: Iterable[Reading] = ()) -> DataSets:
        """Before anything is trained: ConfigError for what would be refused once the stages beneath it were; rows that
        a template cannot use are left out of the data, which is returned, or make a DataError (``data.on_bad_row``).

        besides: what else than this algorithm and the stages beneath it will read the data.
        """
        self.checked(algorithm)
        check_truth(self.data, self.reward)
        self.relabel(usable(self.data, [*self._readings(algorithm), *besides]))
        return self.data

    def checked(self, algorithm: Algorithm, key: str = "algorithm") -> None:
        """ConfigError for an algorithm, or a stage beneath it, that cannot be trained here; key: where it stands."""
        check_stage(self, algorithm, key, self._source)
        for _, own, need, under in self.placed_beneath(algorithm, key):
            under.checked(need.algorithm, own)

    def _readings(self, algorithm: Algorithm) -> Iterator[Reading]:
        """What it and the stages beneath it tokenise, the evaluation included."""
        for name in view_sets(algorithm.view)[:2 if self.trainer.evaluate_every else 1]:
            yield Reading(self.template, name, algorithm.every_turn, algorithm.learns_prompt)
        for name in (self.eval.split, "heldout", "choices", *(view_sets(view)[0] for view in algorithm.reads)):
            yield Reading(self.template, name)
        for need in self.beneath_of(algorithm).values():
            yield from self.under(need)._readings(need.algorithm)

    def description(self, algorithm: Algorithm, recipe: Recipe) -> dict:
        """All that determines a trained stage, as JSON."""
        train, heldout = self.view(algorithm.view)
        trainer = plain(self.trainer)
        for key in ("progress", "trackers", "checkpoint_every", "class"):
            trainer.pop(key)
        source = self._source(algorithm)
        reward = source and self.source_description(source)
        if source and source.reads_meta:
            reward["meta"] = [train.meta_fingerprint, self.trainer.evaluate_every and heldout.meta_fingerprint]
        watched = heldout.fingerprint if self.trainer.evaluate_every else None
        read = {view: self.view(view)[0].fingerprint for view in algorithm.reads}
        learned = plain(recipe)
        if recipe.stop_after is None:  # nothing is left out: it names no stage
            learned.pop("stop_after")
        whole = {"algorithm": self._own(algorithm), "recipe": learned, "trainer": trainer, "seed": self.seed,
                 **read, "model": self.model_description(), "data": train.fingerprint, "heldout": watched,
                 "reward": reward,
                 "needs": {role: need and self.under(need).description(need.algorithm, need.recipe)
                           for role, need in algorithm.needs.items()}}
        return self.hide({**whole, "code": self._code(training.train, algorithm), "versions": versions()})

    def _own(self, algorithm: Algorithm) -> dict:
        """An algorithm's settings, and the content of the files that they name."""
        own = plain(algorithm)
        own.pop("needs")
        return {**own, "content": content} if (content := algorithm.content()) else own

    def _source(self, algorithm: Algorithm, always: bool = False) -> RewardSource | None:
        """The reward source, for an algorithm that uses one (or for measuring)."""
        if not (algorithm.uses_reward or always):
            return None
        if self.reward is None:
            raise ConfigError(f"reward: found none; expected a source for {type(algorithm).__name__}; "
                              "fix: reward=trained")
        return self.reward

    def source_description(self, source: RewardSource) -> dict:
        settings = {key: value for key, value in plain(source).items() if key not in ("algorithm", "recipe")}
        functions = source.asks(self.data)
        return {**settings, "content": source.content(), "asks": plain(functions), "code": code_of(source, functions),
                "needs": {name: self.over(need.model).description(need.algorithm, need.recipe)
                          for name, need in source.needs().items()}}

    def over(self, model: ModelConfig | None) -> "Bench":
        """The same data and seed over another base; None: this bench."""
        if model is None:
            return self
        beneath = self.beneath and self.beneath.over(model)
        return dataclasses.replace(self, model=model, reward=None, beneath=beneath)

    def under(self, need: Need) -> Bench:
        """What builds a stage that one of this bench stands on."""
        return (self.beneath or self).over(need.model)

    def scored(self, source: RewardSource | None) -> dict[str, Path]:
        """The stages that a source stands on, by its names for them."""
        return {name: self.over(need.model).train(need.algorithm, need.recipe, name)
                for name, need in (source.needs() if source else {}).items()}

    def _inputs(self, algorithm: Algorithm) -> dict[str, Path | None]:
        """The stages of its roles; None: the base."""
        return {role: self.under(need).train(need.algorithm, need.recipe, role) if need else None
                for role, need in algorithm.needs.items()}

    def train(self, algorithm: Algorithm, recipe: Recipe, name: str = "training") -> Path:
        """The folder of a trained stage: the policy's weights, metrics.jsonl, fit.json."""
        description, build = self._built(training.train, algorithm, recipe, name)
        return self.store.get("trained", description, build, name, ("algorithm.class", "algorithm.generations"))

    def pace(self, algorithm: Algorithm, recipe: Recipe, name: str) -> Pace:
        """What a few steps of it take on this machine, a kept stage too, and so the same whenever it is asked for."""
        recipe = dataclasses.replace(recipe, epochs=1.0, steps=STEPS, stop_after=None)
        description, build = self._built(training.pace, algorithm, recipe, f"pace of {name}")
        description = {**description, "pace": code_of(training.pace), "machine": device_name()}
        return Pace.read(self.store.get("pace", description, build))

    def _built(self, fill: Callable[..., None], algorithm: Algorithm, recipe: Recipe,
               name: str) -> tuple[dict, Callable[..., None]]:
        """All that determines a stage of training, and what builds it by ``fill``, of ``training``, on this bench or
        another, once those it stands on are there."""
        inputs, source = self._inputs(algorithm), self._source(algorithm)
        scored, description = self.scored(source), self.description(algorithm, recipe)
        identity = {key: description[key] for key in ("model", "needs", "reward")}

        def build(target: Path, work: Path, bench: Bench = self) -> None:
            self._say_what_begins(name, algorithm, recipe, description)
            with self.memory(name):
                fill(bench, algorithm, recipe, inputs, source, scored, identity, name, target, work)

        return description, build

    def _say_what_begins(self, name: str, algorithm: Algorithm, recipe: Recipe, description: dict) -> None:
        number, records = self.numbers.get(self.store.key("trained", description)), len(self.view(algorithm.view)[0])
        of = "" if algorithm.works_when_asked else f" on {records:,} records ({algorithm.view}), {recipe.told(records)}"
        log.info("%s%s: %s%s", f"stage {number}, " if number else "", name, type(algorithm).__name__, of,
                 extra=IN_SWEEPS)

    def memory(self, name: str):
        """Running out of memory outside a training step, as an error that says what to lower."""
        return no_memory_explained(lambda told: (
            f"{name}: found no memory left on {pick_device()} ({told}); "
            f"expected room for the model, for {self.eval.batch_size} rows in one scoring pass (eval.batch_size) and "
            f"for {self.eval.sampling.batch_size} sequences decoded together (eval.sampling.batch_size); "
            "fix: lower eval.batch_size or eval.sampling.batch_size"))

    def evaluate(self, algorithm: Algorithm, recipe: Recipe, name: str = "training", proxy: bool = False) -> Evaluation:
        """The common evaluation of a trained stage, itself a kept stage;
        the algorithm knows then what training left it. proxy: as ``eval.proxy``."""
        folder = self._evaluation(algorithm, recipe, name, proxy)
        state = self.train(algorithm, recipe, name) / "state.json"
        algorithm.load_state_dict(json.loads(state.read_text(encoding="utf-8")))
        return measuring.kept(folder)

    def _evaluation(self, algorithm: Algorithm, recipe: Recipe, name: str, proxy: bool = False) -> Path:
        trained = self.train(algorithm, recipe, name)
        source = self._source(algorithm, (proxy or self.eval.proxy) and algorithm.role == "policy")
        scored = self.scored(source)
        stage = self.description(algorithm, recipe)
        seed = streams.answers(self.seed, streams.row_identity(stage), self.eval.sampling)
        description = {"stage": self.store.key("trained", stage), "stream": seed,
                       "eval": self._eval_description(),
                       "heldout": [self.data.heldout.fingerprint, self.data.heldout.meta_fingerprint],
                       "questions": self._questions_description(),
                       "reward": source and self.source_description(source), **self._measured_by(algorithm)}

        def build(target: Path, work: Path, bench: Bench = self) -> None:
            log.info("evaluation of %s", name, extra=IN_SWEEPS)
            with self.memory(f"evaluation of {name}"):
                measuring.measure(bench, algorithm, self._inputs(algorithm), trained, source, scored, seed, target,
                                  work)

        return self.evaluated(self.hide(description), build, f"evaluation of {name}", ("stage",))

    def evaluated(self, description: dict, build: Callable[..., None], name: str, alike: tuple[str, ...]) -> Path:
        """The folder of an evaluation, kept or made."""
        return self.store.get("evaluation", description, build, name, alike)

    def _measured_by(self, algorithm: Algorithm) -> dict:
        """What else an evaluation depends on: the code that answers and measures, the libraries."""
        code = self._code(measuring.measure, algorithm, self.data.gold, self.data.measure)
        return {"code": code, "versions": versions()}

    def _code(self, *objects: Any) -> dict[str, str]:
        """Code that computes over a bench's material, and that which loads this material."""
        return {**code_of(*objects), **written_in(Material)}

    def _eval_description(self) -> dict:
        """Without what is read off the answers afterwards, and the path of what is described by its content."""
        return {key: value for key, value in plain(self.eval).items() if key not in ("overlap", "texts")}

    def _questions_description(self) -> dict:
        """What a policy is asked, and what its answers are judged by."""
        asked = {"prompts": evaluated_prompts(self.data, self.eval), "choices": self.data.choices}
        texts = evaluated_texts(self.data, self.eval)
        named = isinstance(self.data.gold, RewardSource)
        return {**{name: [records.fingerprint, records.meta_fingerprint] for name, records in asked.items()
                   if records is not None},
                "gold": self.source_description(self.data.gold) if named else plain(self.data.gold),
                "texts": content_hash({"texts": texts}) if texts else None,
                "measure": plain(self.data.measure)}

    def evaluate_base(self, algorithm: Algorithm, proxy: bool = False) -> Evaluation:
        """The common evaluation of the base as it came, a kept stage too; proxy: score it by the reward source too."""
        model, source = self.model_description(), self._source(algorithm, proxy)
        seed = streams.answers(self.seed, streams.row_identity({"model": model}), self.eval.sampling)
        description = {"algorithm": self._own(algorithm), "model": model, "eval": self._eval_description(),
                       "questions": self._questions_description(), "stream": seed,
                       "reward": source and self.source_description(source), **self._measured_by(algorithm)}
        scored = self.scored(source)

        def build(target: Path, work: Path, bench: Bench = self) -> None:
            log.info("evaluation of the base", extra=IN_SWEEPS)
            with self.memory("evaluation of the base"):
                measuring.measure_base(bench, algorithm, source, scored, seed, target, work)

        alike = ("algorithm.class", "model.base")
        folder = self.evaluated(self.hide(description), build, "evaluation of the base", alike)
        return measuring.kept(folder)

    def baseline(self, algorithm: Algorithm) -> Evaluation | None:
        """The evaluation of what training started from, a trained stage or the base; scored by the reward source where
        the algorithm's own answers are. Of a stage it is the very one that a row of that stage has, under these
        settings of the evaluation. None beside what is no policy.
        """
        if algorithm.role != "policy":
            return None
        need, proxy = algorithm.needs.get("reference"), self.eval.proxy or algorithm.uses_reward
        return (self.evaluate(need.algorithm, need.recipe, "reference", proxy) if need
                else self.evaluate_base(self.start(algorithm).algorithm, proxy))

    def start(self, algorithm: Algorithm) -> Start:
        """What training starts from."""
        need: Need | None = algorithm.needs.get("reference")
        if not need:
            return Start("base", _identity(self.hide({"model": self.model_description()})), Algorithm(view="prompts"),
                         BASE)
        kind = type(need.algorithm).__module__.rpartition(".")[2]
        under = self.under(need)
        entry = under.store.name("trained", under.description(need.algorithm, need.recipe))
        return Start(kind, self.identity(need.algorithm, need.recipe), need.algorithm, TRAINED, entry)

    def identity(self, algorithm: Algorithm, recipe: Recipe) -> str:
        """Of a stage's settings, which seeds share."""
        return _identity(self.description(algorithm, recipe))

    def cost(self, algorithm: Algorithm, recipe: Recipe) -> dict:
        """What a stage cost, the stages it stands on included (seconds, tokens and queries add up; labels are the same
        ones, and memory is not used twice: there the largest counts); ``stages`` has theirs. What two of them stand on,
        as the policy and the reward model on supervised fine-tuning, is paid once.
        """
        own, *beneath = self._costs(algorithm, recipe).values()
        total = dict(own)
        for stage in beneath:
            for key in ADDED:
                total[key] += stage[key]
            for key in ("labels", "peak_memory_bytes"):
                total[key] = max(total[key], stage[key])
        stages = {role: self.under(need).cost(need.algorithm, need.recipe)
                  for role, need in self.beneath_of(algorithm).items()}
        labels = {"labels": {**cost, "stages": {}} for cost in self._labelling_cost(algorithm).values()}
        return {**total, "stages": {**stages, **labels}}

    def cost_beneath(self, algorithm: Algorithm) -> dict[str, float]:
        """What the stages that it stands on took, each once, of what adds up."""
        stages = self._costs_beneath(algorithm).values()
        return {key: sum(stage[key] for stage in stages) for key in ADDED}

    def beneath_of(self, algorithm: Algorithm) -> dict[str, Need]:
        """The stages it stands on, by role."""
        source = self._source(algorithm)
        return {role: need for role, need in {**algorithm.needs, **(source.needs() if source else {})}.items() if need}

    def placed_beneath(self, algorithm: Algorithm, key: str) -> Iterator[tuple[str, str, Need, Bench]]:
        """(role, where its algorithm stands in the config, the stage, what builds it) of those; key: of the
        algorithm."""
        for role, need in self.beneath_of(algorithm).items():
            own = f"{key}.needs.{role}" if role in algorithm.needs else place_of("reward", role)
            yield role, f"{own}.algorithm" if need.own_settings else key, need, self.under(need)

    def _costs(self, algorithm: Algorithm, recipe: Recipe, name: str = "training") -> dict[str, dict]:
        """What a stage and all those beneath it cost by themselves, the stage first, each under its key."""
        own = {self.store.key("trained", self.description(algorithm, recipe)): self.own_cost(algorithm, recipe, name)}
        return own | self._costs_beneath(algorithm)

    def _labelling_cost(self, algorithm: Algorithm) -> dict[str, dict]:
        """What labelling what it learns from took, where that is a stage, under its key."""
        made, learned = self.data.labelling, set(algorithm.labelled)
        if "demonstrations" in learned and "demonstrations" in self.data.report.fallbacks:
            learned.add("preferred")
        if made is None or made.cost is None or not learned & {"preferred", "pairs", "ranked", "rated"}:
            return {}
        return {made.key: made.cost}

    def _costs_beneath(self, algorithm: Algorithm) -> dict[str, dict]:
        costs = self._labelling_cost(algorithm)
        for role, need in self.beneath_of(algorithm).items():
            costs.update(self.under(need)._costs(need.algorithm, need.recipe, role))
        return costs

    def own_cost(self, algorithm: Algorithm, recipe: Recipe, name: str = "training") -> dict:
        """What a stage cost by itself."""
        folder = self.train(algorithm, recipe, name)
        fit = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
        own = {"seconds": fit["seconds"], "tokens_trained": fit["tokens_trained"],
               "tokens_sampled": fit.get("tokens_sampled", 0),
               "reward_queries": fit.get("reward_queries", 0), "labels": self._labels(algorithm),
               "peak_memory_bytes": fit["peak_memory_bytes"], "resident_models": fit["resident_models"],
               "trainable_parameters": fit["trainable_parameters"]}
        if algorithm.works_when_asked:
            cost = self._evaluation(algorithm, recipe, "training") / "cost.json"
            answers = json.loads(cost.read_text(encoding="utf-8"))["answers"]
            for key in ("seconds", "tokens_sampled", "reward_queries"):
                own[key] += answers[key]
            for key in ("peak_memory_bytes", "resident_models"):
                own[key] = max(own[key], answers[key])
        return own

    def _labels(self, algorithm: Algorithm) -> int:
        """Judgements that its training read, the same ones in all its views: see ``Record.judgements``."""
        return max((self._labels_of(view) for view in algorithm.labelled), default=0)

    def _labels_of(self, view: str) -> int:
        preferences, fallbacks = self.data.preferences, self.data.report.fallbacks
        if view == "demonstrations":  # judged where they were chosen by it
            single = preferences.where(preferences.array("k") == 1)
            chosen = len(rated(single)) if "demonstrations by rating" in fallbacks else 0
            return chosen + (self._labels_of("preferred") if "demonstrations" in fallbacks else 0)
        used = {"rated": rated, "preferred": ranked, "pairs": ranked, "ranked": ranked}.get(view)
        return sum(record.judgements for record in used(preferences)) if used else 0
