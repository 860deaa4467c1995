"""Resolves the stages an algorithm stands on, runs what is missing, keeps each by the content that determines it.

A stage is an algorithm with a recipe; those in ``needs`` come first. Its key holds its own settings, the keys of its
inputs, the data's content, the model's, and the seed. So a sweep run again recomputes only what is missing.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Iterable

import pandas as pd

from . import references, streams
from .algorithm import Algorithm, Need
from .context import Context, Meter, Tokenized, TrainerConfig
from .errors import ConfigError
from .evaluation import VERSION as MEASURES
from .evaluation import EvalConfig, Evaluation, Spent, evaluate, evaluated_prompts
from .export import frozen_role, role_digest, save_role
from .loop import nothing_held_out, visited
from .masking import MASK, is_secret
from .memory import no_memory_explained, peak_memory_bytes, reset_peak_memory
from .models import ModelConfig, Models, load_tokenizer, model_digest
from .optim import Recipe
from .precision import autocast_dtype, pick_device
from .records import DataSets, Records, data_view, pairs, rated
from .rewards import RewardSource, Scorer
from .roles import BASE
from .seeds import derive
from .store import Store, content_hash
from .template import Example, Template

log = logging.getLogger(__name__)
VERSION = 3  # raised when what a stage computes or reports changes; 3: models beside the run's base are counted


def plain(value: Any) -> Any:
    """Dataclasses, with their class's name, as strict JSON. It is written into the store: values of secrets are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
        if isinstance(value, Algorithm):
            fields["version"] = kind.version
        return {"class": f"{kind.__module__}.{kind.__qualname__}", **fields}
    if isinstance(value, dict):
        return {str(key): MASK if is_secret(str(key)) else plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, functools.partial):
        return {"function": plain(value.func), "arguments": plain(value.args), "keywords": plain(value.keywords)}
    if hasattr(value, "__qualname__"):  # a function or a class
        return f"{value.__module__}.{value.__qualname__}"
    if callable(value):
        raise ConfigError(f"found {value!r}, whose content cannot be told; expected a function, a dataclass, or "
                          "_partial_: true")
    return value


def _keep(evaluation: Evaluation, folder: Path) -> None:
    for field in dataclasses.fields(evaluation):
        getattr(evaluation, field.name).to_parquet(folder / f"{field.name}.parquet", index=False)


def _kept(folder: Path) -> Evaluation:
    return Evaluation(**{field.name: pd.read_parquet(folder / f"{field.name}.parquet")
                         for field in dataclasses.fields(Evaluation)})


@dataclass
class Bench:
    """One model, one set of data, one seed: where stages are built."""

    model: ModelConfig
    trainer: TrainerConfig
    eval: EvalConfig
    data: DataSets
    seed: int
    store: Store
    reward: RewardSource | None = None
    run_folder: Path | None = None
    hide: Callable[[dict], dict] = lambda description: description  # takes secrets out of what the store writes down
    _views: dict[str, tuple[Records, Records]] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def _view(self, view: str) -> tuple[Records, Records]:
        """A view is made once: keys ask for it again and again."""
        if view not in self._views:
            self._views[view] = data_view(self.data, view)
        return self._views[view]

    @cached_property
    def tokenizer(self):
        return load_tokenizer(self.model)

    @cached_property
    def models(self) -> Models:
        return Models(self.model, self.trainer.mixed_precision, tokenizer=self.tokenizer)

    @cached_property
    def base_digest(self) -> str:
        return model_digest(self.model)

    def _model_description(self) -> dict:
        settings = plain(self.model)
        for key in ("name", "revision", "trust_remote_code", "chat_template"):  # their content is described instead
            settings.pop(key)
        template = Path(self.model.chat_template).read_text(encoding="utf-8") if self.model.chat_template else None
        device = pick_device()
        return {**settings, "base": self.base_digest, "template": template, "device": device.type,
                "autocast": str(autocast_dtype(self.trainer.mixed_precision, device))}

    def check(self, algorithm: Algorithm) -> None:
        """ConfigError, before anything is trained, for what would be refused once the stages beneath it were."""
        evaluated_prompts(self.data, self.eval)
        for role, need in algorithm.needs.items():
            if need is not None and not isinstance(need, Need):
                raise ConfigError(f"algorithm.needs.{role}: found {type(need).__name__}; expected a stage (an algorithm and a "
                                  "recipe) or null; fix: leave algorithm.needs as this algorithm has it")
        _, heldout = self._view(algorithm.view)
        trains = not algorithm.works_when_asked  # best-of-n has no steps to evaluate after
        if self.trainer.evaluate_every and trains and not len(heldout):
            raise ConfigError(nothing_held_out(self.trainer.evaluate_every, algorithm.view))
        for view in algorithm.reads:
            if not len(self._view(view)[0]):
                raise ConfigError(f"data: found no {view}; expected some, which {type(algorithm).__name__} with these options "
                                  "learns from too")
        if source := self._source(algorithm, self.eval.proxy and algorithm.role == "policy"):
            source.check(self.data)
        if algorithm.compares_logprobs and self.model.lora is not None and self.model.lora.dropout:
            raise ConfigError(f"model.lora.dropout: found {self.model.lora.dropout}; expected 0 for {type(algorithm).__name__}, which "
                              "compares log-probabilities that dropout would blur; fix: model.lora.dropout=0")
        algorithm.check(self._source(algorithm), self.model)
        if trains and self.model.lora is None and self.model.precision == "bf16":
            raise ConfigError("model.precision: found bf16 with model.lora null; expected fp32 where all weights learn: bf16 "
                              "keeps 8 bits of a weight and loses most steps of a small learning rate; fix: "
                              "model.precision=fp32 (bf16 arithmetic stays, by trainer.mixed_precision), or keep model.lora")
        self._check_template(algorithm)
        for need in self._beneath(algorithm).values():
            self.over(need.model).check(need.algorithm)

    def _check_template(self, algorithm: Algorithm) -> None:
        """Tokenise one record of every sequence of roles: what a chat template refuses is told before weights load."""
        template, model = Template(self.tokenizer, self.model.chat_template), self.model
        sets = [(self._view(algorithm.view)[0], algorithm.every_turn), (evaluated_prompts(self.data, self.eval), False),
                *((self._view(view)[0], False) for view in algorithm.reads)]
        for records, every_turn in sets if template.chat else ():
            seen = set()
            for index, turns in enumerate(records.column("messages")):
                roles = None if turns is None else tuple(turn["role"] for turn in turns)
                if roles not in seen:
                    seen.add(roles)
                    template.example(records[index], model.max_length, model.max_prompt_length, model.keep, every_turn)

    def description(self, algorithm: Algorithm, recipe: Recipe) -> dict:
        """All that determines a trained stage, as JSON."""
        train, heldout = self._view(algorithm.view)
        trainer = plain(self.trainer)
        for key in ("progress", "trackers", "checkpoint_every", "class"):
            trainer.pop(key)
        own = plain(algorithm)
        own.pop("needs")
        if content := algorithm.content():
            own["content"] = content
        source = self._source(algorithm)
        reward = source and self._source_description(source)
        if source and source.reads_meta:
            reward["meta"] = [train.meta_fingerprint, self.trainer.evaluate_every and heldout.meta_fingerprint]
        watched = heldout.fingerprint if self.trainer.evaluate_every else None
        read = {view: self._view(view)[0].fingerprint for view in algorithm.reads}
        whole = {"version": VERSION, "algorithm": own, "recipe": plain(recipe), "trainer": trainer, "seed": self.seed, **read,
                "model": self._model_description(), "data": train.fingerprint, "heldout": watched,
                "reward": reward,
                "needs": {role: need and self.description(need.algorithm, need.recipe)
                          for role, need in algorithm.needs.items()}}
        return self.hide(whole)

    def _source(self, algorithm: Algorithm, always: bool = False) -> RewardSource | None:
        """The reward source, for an algorithm that uses one (or for measuring)."""
        if not (algorithm.uses_reward or always):
            return None
        if self.reward is None:
            raise ConfigError(f"reward: found none; expected a source for {type(algorithm).__name__}; fix: reward=trained")
        return self.reward

    def _source_description(self, source: RewardSource) -> dict:
        settings = {key: value for key, value in plain(source).items() if key not in ("algorithm", "recipe")}
        return {**settings, "content": source.content(), "needs": {
            name: self.over(need.model).description(need.algorithm, need.recipe) for name, need in source.needs().items()}}

    def over(self, model: ModelConfig | None) -> "Bench":
        """The same data and seed over another base; None: this bench."""
        return self if model is None else dataclasses.replace(self, model=model, reward=None)

    def _train_for(self, source: RewardSource | None) -> None:
        """Train what a source needs, before the roles of the stage that uses it are loaded."""
        for role, need in (source.needs() if source else {}).items():
            self.over(need.model).train(need.algorithm, need.recipe, role)

    def _scorer(self, source: RewardSource | None) -> Scorer | None:
        """Load what the source needs as frozen roles, beside those that are there, and open it."""
        if source is None:
            return None
        folders = {}
        for name, need in source.needs().items():
            folders[name] = self.over(need.model).train(need.algorithm, need.recipe, name)
            role = need.algorithm.role
            if need.model is None and role not in self.models.roles.names():
                frozen_role(self.models, role, folders[name])
        return source.open(self.models, folders, self.data, self.eval.batch_size)

    def train(self, algorithm: Algorithm, recipe: Recipe, name: str = "training") -> Path:
        """The folder of a trained stage: the policy's weights, metrics.jsonl, fit.json."""
        inputs = {role: self.train(need.algorithm, need.recipe, role) if need else None
                  for role, need in algorithm.needs.items()}
        self._train_for(self._source(algorithm))

        def build(target: Path, work: Path) -> None:
            with self._memory(name):
                context = self._context(algorithm, recipe, inputs, name, target, work)
                algorithm.fit(context)
            save_role(context.models, algorithm.role, target)
            (target / "state.json").write_text(json.dumps(algorithm.state_dict(), allow_nan=False), encoding="utf-8")

        return self.store.get("trained", self.description(algorithm, recipe), build)

    def _context(self, algorithm: Algorithm, recipe: Recipe, inputs: dict[str, Path | None], name: str, target: Path,
                 work: Path) -> Context:
        train, heldout = self._view(algorithm.view)
        log.info("%s: %s on %d records (%s)", name, type(algorithm).__name__, len(train), algorithm.view)
        models = self.models
        models.clear_roles()
        for role, folder in inputs.items():
            frozen_role(models, role, folder)
        scorer = self._scorer(self._source(algorithm))
        algorithm.add_roles(models, derive(self.seed, "roles"))
        tokenize = functools.partial(models.tokenize, every_turn=algorithm.every_turn)
        examples = Tokenized(train, tokenize)
        watched = [tokenize(record) for record in heldout] if self.trainer.evaluate_every else []
        seen = [] if algorithm.works_when_asked else sorted(visited(len(examples), recipe, self.seed))
        for index in seen:  # what cannot be tokenised is told before the first step, not when training comes to it
            examples[index]
        meter = Meter()
        if algorithm.stores_reference:
            meter.seconds = self._store_reference(models, inputs["reference"], (examples[index] for index in seen), watched)
        whole = self.description(algorithm, recipe)
        return Context(models, recipe, self.trainer, examples, watched, self.seed, work, target, self.store, name,
                       self.run_folder, self.data, train, heldout, {key: whole[key] for key in ("model", "needs", "reward")}, scorer, meter)

    def _store_reference(self, models: Models, folder: Path | None, examples: Iterable[Example], watched: list[Example]) -> float:
        """Prepare the reference's log-probabilities; returns the seconds that those to learn from took."""
        identity = references.identity(models, self.base_digest, role_digest(folder) if folder else None)
        stored = references.StoredLogprobs(models.reference, identity)
        stored.prepare(examples, self.store, self.eval.batch_size)
        seconds = stored.seconds
        if watched:  # not learned from: free of charge
            stored.prepare(watched, self.store, self.eval.batch_size)
        models.reference.stored = stored
        return seconds

    def _memory(self, name: str):
        """Running out of memory outside a training step, as an error that says what to lower."""
        return no_memory_explained(lambda told: (
            f"{name}: found no memory left on {pick_device()} ({told}); expected room for the model, for {self.eval.batch_size} "
            f"rows in one scoring pass (eval.batch_size) and for {self.eval.sampling.batch_size} sequences decoded together "
            "(eval.sampling.batch_size); fix: lower eval.batch_size or eval.sampling.batch_size"))

    def evaluate(self, algorithm: Algorithm, recipe: Recipe, name: str = "training") -> Evaluation:
        """The common evaluation of a trained stage, itself a kept stage; the algorithm knows then what training left it."""
        folder = self._evaluation(algorithm, recipe, name)
        state = self.train(algorithm, recipe, name) / "state.json"
        algorithm.load_state_dict(json.loads(state.read_text(encoding="utf-8")))
        return _kept(folder)

    def _evaluation(self, algorithm: Algorithm, recipe: Recipe, name: str) -> Path:
        trained = self.train(algorithm, recipe, name)
        has_reference = "reference" in algorithm.needs
        source = self._source(algorithm, self.eval.proxy and algorithm.role == "policy")
        self._train_for(source)
        stage = self.description(algorithm, recipe)
        seed = streams.answers(self.seed, streams.row_identity(stage), self.eval.sampling)
        description = {"version": [VERSION, MEASURES], "stage": self.store.key("trained", stage),
                       "eval": plain(self.eval),
                       "heldout": [self.data.heldout.fingerprint, self.data.heldout.meta_fingerprint],
                       "questions": self._questions_description(),
                       "reward": source and self._source_description(source)}
        description = self.hide(description)

        def build(target: Path, work: Path) -> None:
            with self._memory(f"evaluation of {name}"):
                measure(target)

        def measure(target: Path) -> None:
            started = time.monotonic()
            models = self.models
            reset_peak_memory(models.device)
            models.clear_roles()
            for role, need in algorithm.needs.items():
                frozen_role(models, role, self.train(need.algorithm, need.recipe, role) if need else None)
            frozen_role(models, algorithm.role, trained)
            algorithm.load_state_dict(json.loads((trained / "state.json").read_text(encoding="utf-8")))
            spent = Spent()
            result = evaluate(algorithm, models, self.data, self.eval, seed, has_reference, self._scorer(source), spent)
            _keep(result, target)
            cost = {"seconds": time.monotonic() - started,
                    "answers": {**vars(spent), "peak_memory_bytes": peak_memory_bytes(models.device)}}
            (target / "cost.json").write_text(json.dumps(cost), encoding="utf-8")

        return self.store.get("evaluation", description, build)

    def _questions_description(self) -> dict:
        """What a policy is asked, and what its answers are judged by."""
        asked = {"prompts": evaluated_prompts(self.data, self.eval), "choices": self.data.choices}
        return {**{name: [records.fingerprint, records.meta_fingerprint] for name, records in asked.items() if records is not None},
                "gold": plain(self.data.gold), "measure": plain(self.data.measure)}

    def evaluate_base(self, algorithm: Algorithm) -> Evaluation:
        """The common evaluation of the base as it came, a kept stage too."""
        description = self.hide({"version": [VERSION, MEASURES], "model": self._model_description(), "eval": plain(self.eval),
                                 "questions": self._questions_description(), "seed": self.seed})
        seed = streams.answers(self.seed, streams.row_identity({"model": description["model"]}), self.eval.sampling)

        def build(target: Path, work: Path) -> None:
            with self._memory("evaluation of the base"):
                self.models.clear_roles()
                self.models.alias("policy", BASE)
                _keep(evaluate(algorithm, self.models, self.data, self.eval, seed, False, None), target)

        return _kept(self.store.get("evaluation", description, build))

    def baseline(self, algorithm: Algorithm) -> Evaluation | None:
        """The evaluation of the trained stage that training started from, where there is one: the very one that a row
        of that stage has, under these settings of the evaluation."""
        need: Need | None = algorithm.needs.get("reference")
        return self.evaluate(need.algorithm, need.recipe, "reference") if need else None

    def start(self, algorithm: Algorithm) -> dict:
        """Where training started. kind: that stage's method or ``base``; None for a method that has no reference.
        identity: of its settings, which seeds share."""
        if "reference" not in algorithm.needs:
            return {"kind": None, "identity": None}
        need = algorithm.needs["reference"]
        settings = self.description(need.algorithm, need.recipe) if need else {"model": self._model_description()}
        kind = type(need.algorithm).__module__.rpartition(".")[2] if need else "base"
        return {"kind": kind, "identity": content_hash(streams.row_identity(self.hide(settings)))}

    def cost(self, algorithm: Algorithm, recipe: Recipe) -> dict:
        """What a stage cost, the stages it stands on included (seconds, tokens and queries add up; labels are the same
        ones, and memory is not used twice: there the largest counts); ``stages`` has theirs. What two of them stand on, as
        the policy and the reward model on supervised fine-tuning, is paid once.
        """
        own, *beneath = self._costs(algorithm, recipe).values()
        total = dict(own)
        for stage in beneath:
            for key in ("seconds", "tokens_trained", "tokens_sampled", "reward_queries"):
                total[key] += stage[key]
            for key in ("labels", "peak_memory_bytes"):
                total[key] = max(total[key], stage[key])
        return {**total, "stages": {role: self.over(need.model).cost(need.algorithm, need.recipe)
                                     for role, need in self._beneath(algorithm).items()}}

    def _beneath(self, algorithm: Algorithm) -> dict[str, Need]:
        """The stages it stands on, by role."""
        source = self._source(algorithm)
        return {role: need for role, need in {**algorithm.needs, **(source.needs() if source else {})}.items() if need}

    def _costs(self, algorithm: Algorithm, recipe: Recipe) -> dict[str, dict]:
        """What a stage and all those beneath it cost by themselves, the stage first, each under its key."""
        costs = {self.store.key("trained", self.description(algorithm, recipe)): self._own_cost(algorithm, recipe)}
        for need in self._beneath(algorithm).values():
            costs.update(self.over(need.model)._costs(need.algorithm, need.recipe))
        return costs

    def _own_cost(self, algorithm: Algorithm, recipe: Recipe) -> dict:
        folder = self.train(algorithm, recipe)
        fit = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
        own = {"seconds": fit["seconds"], "tokens_trained": fit["tokens_trained"], "tokens_sampled": fit.get("tokens_sampled", 0),
               "reward_queries": fit.get("reward_queries", 0), "labels": self._labels(algorithm),
               "peak_memory_bytes": fit["peak_memory_bytes"], "resident_models": fit["resident_models"],
               "trainable_parameters": fit["trainable_parameters"]}
        if algorithm.works_when_asked:
            answers = json.loads((self._evaluation(algorithm, recipe, "training") / "cost.json").read_text(encoding="utf-8"))["answers"]
            for key in ("seconds", "tokens_sampled", "reward_queries"):
                own[key] += answers[key]
            for key in ("peak_memory_bytes", "resident_models"):
                own[key] = max(own[key], answers[key])
        return own

    def _labels(self, algorithm: Algorithm) -> int:
        """Judgements that its training read: one per rating or per comparison, the same ones in all its views."""
        return max((self._labels_of(view) for view in algorithm.labelled), default=0)

    def _labels_of(self, view: str) -> int:
        if view == "rated":
            return sum(rated(self.data.preferences).column("k"))
        uses = view in ("preferred", "pairs", "ranked") or (
            view == "demonstrations" and "demonstrations" in self.data.report.fallbacks)
        return len(pairs(self.data.preferences)) if uses else 0
