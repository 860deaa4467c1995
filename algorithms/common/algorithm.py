"""The contract: what an algorithm is, what it is given, and what it gives. Most define ``loss`` and one or two others.

An algorithm is a dataclass of its method's constants; its fields are the keys of its YAML. Learning rate, batch and
steps are not the method's: they live in a recipe, chosen by the model's scale. What scores responses is known here by
its base alone, and the loop as a function that the context carries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Iterator, NamedTuple, Protocol

from torch import Tensor

from .data.batches import Batch, counts
from .data.template import Example
from .data.tokenized import Tokenized, visited
from .figures import Apart, Figure, Known
from .models.model import ModelConfig, Models
from .recipe import Recipe, TrainerConfig

# named here, not run: reading data, sampling and keeping stages are no part of what training computes
if TYPE_CHECKING:
    import pandas as pd

    from .data.records import DataSets, Messages, Record, Records
    from .models.sampling import Sample, Sampling
    from .support.store import Store


class Term(NamedTuple):
    """One term of a loss: its sum over this micro-batch, and the count that it is divided by, of the whole step."""

    sum: Tensor  # scalar
    per: str = "rows"  # a key of Experience.counts: "rows", "responses", "tokens", …
    coefficient: float = 1.0


class Loss(NamedTuple):
    """What a micro-batch gives: named terms; metrics as tensors of one value per item, averaged over the minibatch."""

    terms: dict[str, Term]
    metrics: dict[str, Tensor]


def likelihood_loss(models: Models, batch: Batch) -> Loss:
    """Next-token cross-entropy of the policy on every response, a mean over the step's tokens: what supervised
    fine-tuning learns, of whichever answers."""
    logprobs = models.policy.token_logprobs(batch)  # (B, K, T)
    likelihood = -logprobs.sum()  # −Σ_t log π(y_t | x, y_<t), divided by the step's tokens
    per_token: Tensor = logprobs.detach()[batch.mask]
    return Loss({"policy": Term(likelihood, per="tokens")}, {"logps/token": per_token})


SAMPLE = "sample/"  # metrics that show what was sampled begin so


class Experience(Protocol):
    """What the gradient steps of one batch of records work on."""

    def __len__(self) -> int: ...

    def lengths(self) -> list[int]:
        """Tokens of each item: like lengths share a micro-batch."""

    def counts(self, indices: list[int]) -> dict[str, int]:
        """What the loss terms of these items are normalised by; known before the forward pass."""

    def select(self, indices: list[int]) -> Any:
        """The micro-batch that ``loss`` receives."""

    def metrics(self) -> dict[str, float | str]:
        """What is known before gradients: rewards and KL of a rollout; under ``SAMPLE`` one of the rollouts as text."""


@dataclass(frozen=True)
class Examples:
    """The experience of every method that learns from records as they are."""

    models: Models
    examples: list[Example]
    pack: bool = False  # several records in a row

    def __len__(self) -> int:
        return len(self.examples)

    def lengths(self) -> list[int]:
        return [example.length for example in self.examples]

    def counts(self, indices: list[int]) -> dict[str, int]:
        return counts([self.examples[index] for index in indices])

    def select(self, indices: list[int]) -> Batch:
        return self.models.collate([self.examples[index] for index in indices], pack=self.pack)

    def metrics(self) -> dict[str, float]:
        return {}


@dataclass(frozen=True)
class Response:
    """One response to score, as text and as token ids."""

    prompt: str  # rendered
    text: str
    prompt_ids: list[int]
    ids: list[int]  # with the end token when finished
    finished: bool
    record: str  # key, for messages
    source: str | list[dict] | None = None  # the record's prompt before rendering; None: the same text
    meta: dict = field(default_factory=dict)  # the record's

    @property
    def turns(self) -> str | list[dict]:
        """The prompt for whoever renders it anew: plain text or messages."""
        return self.prompt if self.source is None else self.source

    def length(self) -> int:
        """Tokens of the prompt and the response."""
        return len(self.prompt_ids) + len(self.ids)


Scorer = Callable[[list[Response]], list[float]]  # one finite number each


@dataclass
class Need:
    """A stage an algorithm or a reward source stands on: another algorithm, trained by a recipe."""

    algorithm: Algorithm
    recipe: Recipe

    model: ClassVar[Any] = None  # a ModelConfig, for a base of its own; None: the run's
    own_settings: ClassVar[bool] = True  # they stand in the config; False: they are those of what stands on it

    def __post_init__(self):
        self.algorithm.trained_by(self.recipe)


class RewardSource:
    """What responses are scored by, as it is configured; opened over the models of a stage it becomes a scorer."""

    @property
    def reads_meta(self) -> bool:
        """Whether its scores depend on the records' meta, which is no part of their keys."""
        return False

    def needs(self) -> dict[str, Need]:
        """Stages to train first, by name. Over the run's base each becomes its algorithm's frozen role."""
        return {}

    def content(self) -> Any:
        """Identity, as JSON, of what the settings only name: a kept stage depends on what files hold."""
        return {}

    def asks(self, data: DataSets) -> list[Callable]:
        """Functions of the data that score in its place: a kept stage depends on their code too."""
        return []

    @property
    def parts(self) -> list[RewardSource]:
        """What it scores by; default: itself."""
        return [self]

    def check(self, data: DataSets) -> None:
        """ConfigError where it cannot score this data; asked before anything is trained. Default: nothing is."""

    def load(self, models: Models, folders: dict[str, Path], data: DataSets, batch_size: int) -> Scorer:
        """Its scorer; what it needs over the run's base is loaded as frozen roles, beside those that are there."""
        from .models.export import frozen_role

        for name, need in self.needs().items():
            role = need.algorithm.role
            if need.model is None and role not in models.roles.names():
                frozen_role(models, role, folders[name])
        return self.open(models, folders, data, batch_size)

    def open(self, models: Models, folders: dict[str, Path], data: DataSets, batch_size: int) -> Scorer:
        """A scorer over loaded models; ``folders`` holds the trained stages of ``needs``."""
        raise NotImplementedError


@dataclass
class Meter:
    """What a stage used besides training tokens; kept in checkpoints."""

    tokens_sampled: int = 0
    reward_queries: int = 0
    seconds: float = 0.0  # of what is no step: candidates, the reference's log-probabilities
    peak_memory_bytes: int = 0  # of candidates


class Steps(Protocol):
    """What takes steps in place of the common loop's."""

    def __call__(self, batches: list[list[int]], told: Callable[[int], None]) -> None:
        """One on each batch, indices of examples; ``told`` is given, after each, the tokens that it trained on."""


@dataclass
class Context:
    """Models, data, settings and folders of one stage."""

    models: Models
    recipe: Recipe
    trainer: TrainerConfig
    examples: Sequence[Example]  # the algorithm's view of the training data, as tokens
    heldout: Sequence[Example]  # the same view of held-out data
    seed: int
    work: Path  # checkpoints; survives kills
    target: Path  # what the stage leaves behind
    store: Store
    # takes all steps: what ``Algorithm.fit`` calls. A method whose steps another trainer takes asks the common loop for
    # nothing, and gives any other what takes steps in its place: of a plan, or to find a pace
    loop: Callable[..., None]
    name: str = "training"  # for the progress bar and trackers
    run_folder: Path | None = None  # trackers write here
    inputs: dict[str, Path | None] = field(default_factory=dict)  # stages of the frozen roles; None: the base
    data: DataSets | None = None
    records: Records | None = None  # what ``examples`` are the tokens of, in the same order
    heldout_records: Records | None = None  # the same of ``heldout``
    identity: dict = field(default_factory=dict)  # content of what it stands on: model, needs, reward
    reward: Scorer | None = None  # where the algorithm uses one
    meter: Meter = field(default_factory=Meter)
    step: int = 0  # of the loop, 0-based: what random streams derive from
    tick: Callable[[float], Any] = lambda share: None  # told what share of a step each micro-batch was
    said: set[str] = field(default_factory=set)  # of what is said once a stage

    def visited(self) -> list[int]:
        """Indices of the examples that training will see at all."""
        count = len(self.examples)
        return sorted(visited(count, self.recipe.total_records(count), self.seed))

    @property
    def at_once(self) -> int:
        """Sequences to decode together so that their cache stays below the activations of an update.

        A token's cache is 2 · layers · kv_width numbers. Checkpointed, its activations are layers · width and one layer
        whole; else every layer keeps some ten times its width.
        """
        return self.trainer.micro_batch_size * (2 if self.models.config.gradient_checkpointing else 8)

    @cached_property
    def demonstrations(self) -> Tokenized:
        """Those of the data, for what learns from them beside its view."""
        return Tokenized(self.data.demonstrations, self.models.tokenize)

    @cached_property
    def _places(self) -> dict[str, tuple[Records, int]]:
        sets = [records for records in (self.records, self.heldout_records) if records is not None]
        return {record.key: (records, index) for records in sets for index, record in enumerate(records)}

    def record(self, key: str) -> Record:
        """The record with that key."""
        records, index = self._places[key]
        return records[index]

    def prompt(self, record: str) -> str | Messages:
        """The prompt, as text or messages, of the record with that key."""
        return self.record(record).prompt

    def to_answer(self, example: Example, new_tokens: int) -> list[int]:
        """The tokens of its prompt, cut where they are too many to be answered with up to ``new_tokens``."""
        fitting = self.models.fit_prompt(example.prompt, new_tokens)
        return fitting if len(fitting) == len(example.prompt) else self.models.prompt_ids(
            self.prompt(example.record), new_tokens)


@dataclass
class Algorithm:
    """Base of all algorithms."""

    view: str  # which named set of the data, in which view; ``records.sets.data_view`` lists them
    needs: dict[str, Need | None] = field(default_factory=dict)  # role → the stage that makes it; null: the base

    role: ClassVar[str] = "policy"  # what training makes; only a policy is sampled from in the evaluation
    uses_reward: ClassVar[bool] = False  # asks the configured reward source for scores
    stores_reference: ClassVar[bool] = False  # the reference's log-probabilities of the data are computed once and kept
    compares_logprobs: ClassVar[bool] = False  # with one another or the reference's: they bear no dropout
    soft_labels: ClassVar[bool] = False  # scores of a pair are the probabilities that each is better; a field of those
    works_when_asked: ClassVar[bool] = False  # what its answers take (samples, reward queries, time) is of its cost
    declines: ClassVar[tuple[str, ...]] = ()  # what it cannot claim: micro_batches (8 × 1 ≡ 1 × 8), resume (bit-equal)

    @property
    def reads(self) -> tuple[str, ...]:
        """Views of the data that training depends on besides its own."""
        return ()

    @property
    def learns_prompt(self) -> bool:
        """Whether the prompt's tokens are learned too."""
        return False

    @property
    def labelled(self) -> tuple[str, ...]:
        """Views whose labels, where they have some, it learns from; default: all that it reads."""
        return (self.view, *self.reads)

    @property
    def every_turn(self) -> bool:
        """Whether the assistant's turns in a prompt are learned as responses are."""
        return False

    def trained_by(self, recipe: Recipe) -> None:
        """Told its recipe before anything asks for ``needs``, for what stands on stages of its own kind. Default:
        nothing."""

    def check(self, source: RewardSource | None, model: ModelConfig) -> None:
        """ConfigError where it cannot be trained with this reward source (None where it uses none) and model; asked
        before anything is trained. Default: nothing is refused."""

    def check_records(self, records: Records, key: str) -> None:
        """ConfigError where its settings do not fit what it learns from; asked before anything is trained. key: where
        the config has these settings. Default: nothing is refused."""

    def check_recipe(self, recipe: Recipe, trainer: TrainerConfig, records: int, key: str) -> None:
        """ConfigError where it cannot be trained by them on so many records; asked before anything is trained. key:
        where the config has the recipe. Default: nothing is refused."""

    def add_roles(self, models: Models, seed: int) -> None:
        """Roles to train, beside the frozen ones of ``needs``; default: ``role``, a copy of the reference if any."""
        start = models.reference.name if "reference" in self.needs else None
        models.add_role(self.role, trainable=True, like=start, seed=seed)

    def fit(self, context: Context) -> None:
        """Train; default: the common loop."""
        context.loop(self, context)

    def experience(self, context: Context, examples: list[Example]) -> Experience:
        """What happens before gradients; default: nothing, the records themselves."""
        return Examples(context.models, examples)

    def loss(self, models: Models, batch: Any) -> Loss | Iterator[Loss]:
        """The terms of a micro-batch. An iterator's losses are differentiated one by one: one graph lives at a time."""
        raise NotImplementedError(f"{type(self).__name__} trains, so it needs a loss")

    def stop(self, values: dict[str, float]) -> bool:
        """Whether to leave this experience, decided on a whole minibatch's losses and metrics before its step."""
        return False

    def finish(self, context: Context) -> None:
        """After the last step: what is measured on the trained model and kept in ``state_dict``."""

    def parameter_groups(self, models: Models, recipe: Recipe) -> list[dict]:
        """Optimiser groups; default: the trained role at the recipe's learning rate."""
        return [{"params": list(models.role(self.role).parameters().values()), "lr": recipe.lr}]

    def respond(self, models: Models, prompts: list[list[int]], sampling: Sampling, seed: int, keys: list[str],
                answers: int = 1) -> list[list[list[Sample]]]:
        """(P, ``answers``, candidates): every prompt, token ids, is answered several times, independently.

        Of an answer's candidates the evaluation picks the best by the reward source. The first answers are the same,
        however many are asked for. keys: (P,), name the prompts' random streams. Default: one candidate.
        """
        from .models.sampling import sample

        drawn = sample(models, self.role, prompts, sampling, seed, n=answers, keys=keys)
        return [[[one] for one in of_prompt] for of_prompt in drawn]

    def score(self, models: Models, batch: Batch) -> Tensor | None:
        """(B, K): how this method ranks responses, for those that can; None for those that cannot."""
        return None

    def preference_logits(self, scores: Tensor) -> Tensor | None:
        """(B, 2) scores → (B,) log-odds that the first response is preferred, where the method models them."""
        return None

    def figures(self, samples: pd.DataFrame, picked: pd.DataFrame) -> list[Figure | Known | Apart]:
        """Figures of its own, from all evaluated candidates and from the picked ones, a row an answer (see
        ``evaluation.sample_frame``); common ones of that name give way."""
        return []

    def content(self) -> dict[str, Any]:
        """Identity of the files that its settings name: a kept stage depends on what they hold, not on names alone."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What it has learned or adapted besides weights, as JSON; kept with the checkpoint and the stage."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
