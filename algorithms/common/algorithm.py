"""The interface of an algorithm. Most define ``loss`` and one or two of the others.

An algorithm is a dataclass of its method's constants; its fields are the keys of its YAML. Learning rate, batch and
steps are not the method's: they live in a recipe, chosen by the model's scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Iterator, NamedTuple, Protocol

from torch import Tensor

from .data.batches import Batch, counts
from .training.optim import Recipe
from .data.template import Example

if TYPE_CHECKING:  # the loop runs algorithms; algorithms only name its types
    import pandas as pd

    from .context import Context
    from .models.model import ModelConfig, Models
    from .rewards.sources import RewardSource
    from .models.sampling import Sample, Sampling
    from .evaluation.statistics import Estimate


class Term(NamedTuple):
    """One term of a loss: its sum over this micro-batch, and the count that it is divided by, of the whole step."""

    sum: Tensor  # scalar
    per: str = "rows"  # a key of Experience.counts: "rows", "responses", "tokens", …
    coefficient: float = 1.0


class Loss(NamedTuple):
    """What a micro-batch gives: named terms; metrics as tensors of one value per item, averaged over the minibatch."""

    terms: dict[str, Term]
    metrics: dict[str, Tensor]


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

    models: "Models"
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


@dataclass
class Need:
    """A stage an algorithm or a reward source stands on: another algorithm, trained by a recipe."""

    algorithm: "Algorithm"
    recipe: Recipe

    model: ClassVar[Any] = None  # a ModelConfig, for a base of its own; None: the run's


@dataclass
class Algorithm:
    """Base of all algorithms."""

    view: str  # which named set of the data, in which view; ``records.sets.data_view`` lists them
    needs: dict[str, Need | None] = field(default_factory=dict)  # role → the stage that makes it; null: the base

    role: ClassVar[str] = "policy"  # what training makes; only a policy is sampled from in the evaluation
    uses_reward: ClassVar[bool] = False  # asks the configured reward source for scores
    stores_reference: ClassVar[bool] = False  # the reference's log-probabilities of the data are computed once and kept
    compares_logprobs: ClassVar[bool] = False  # with one another or the reference's: they bear no dropout
    works_when_asked: ClassVar[bool] = False  # what its answers take (samples, reward queries, time) is of its cost

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

    def check(self, source: "RewardSource | None", model: "ModelConfig") -> None:
        """ConfigError where it cannot be trained with this reward source (None where it uses none) and model; asked
        before anything is trained. Default: nothing is refused."""

    def add_roles(self, models: "Models", seed: int) -> None:
        """Roles to train, beside the frozen ones of ``needs``; default: ``role``, a copy of the reference if any."""
        start = models.reference.name if "reference" in self.needs else None
        models.add_role(self.role, trainable=True, like=start, seed=seed)

    def fit(self, context: "Context") -> None:
        """Train; default: the common loop."""
        from .training.loop import fit

        fit(self, context)

    def experience(self, context: "Context", examples: list[Example]) -> Experience:
        """What happens before gradients; default: nothing, the records themselves."""
        return Examples(context.models, examples)

    def loss(self, models: "Models", batch: Any) -> "Loss | Iterator[Loss]":
        """The terms of a micro-batch. An iterator's losses are differentiated one by one: one graph lives at a time."""
        raise NotImplementedError(f"{type(self).__name__} trains, so it needs a loss")

    def stop(self, values: dict[str, float]) -> bool:
        """Whether to leave this experience, decided on a whole minibatch's losses and metrics before its step."""
        return False

    def finish(self, context: "Context") -> None:
        """After the last step: what is measured on the trained model and kept in ``state_dict``."""

    def parameter_groups(self, models: "Models", recipe: Recipe) -> list[dict]:
        """Optimiser groups; default: the trained role at the recipe's learning rate."""
        return [{"params": list(models.role(self.role).parameters().values()), "lr": recipe.lr}]

    def respond(self, models: "Models", prompts: list[list[int]], sampling: "Sampling", seed: int, keys: list[str]
                ) -> "list[list[Sample]]":
        """Candidates for each prompt (token ids); the evaluation picks the best by the reward source. Default: one."""
        from .models.sampling import sample

        return sample(models, self.role, prompts, sampling, seed, keys=keys)

    def score(self, models: "Models", batch: Batch) -> Tensor | None:
        """(B, K): how this method ranks responses, for those that can; None for those that cannot."""
        return None

    def preference_logits(self, scores: Tensor) -> Tensor | None:
        """(B, 2) scores → (B,) log-odds that the first response is preferred, where the method models them."""
        return None

    def figures(self, samples: "pd.DataFrame", picked: "pd.DataFrame") -> "dict[str, Estimate]":
        """Figures of its own, from all evaluated candidates and the picked ones; common ones of that name give way."""
        return {}

    def content(self) -> dict[str, Any]:
        """Identity of the files that its settings name: a kept stage depends on what they hold, not on names alone."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What it has learned or adapted besides weights, as JSON; kept with the checkpoint and the stage."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
