"""The interface of an algorithm. Most define ``loss`` and one or two of the others.

An algorithm is a dataclass of its method's constants; its fields are the keys of its YAML. Learning rate, batch and
steps are not the method's: they live in a recipe, chosen by the model's scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from .batches import Batch, counts
from .optim import Recipe
from .template import Example

if TYPE_CHECKING:  # the loop runs algorithms; algorithms only name its types
    from .context import Context
    from .models import Models


class Term(NamedTuple):
    """One term of a loss: its sum over this micro-batch, and the count by which it is normalised over the whole step."""

    sum: Tensor  # scalar
    per: str = "rows"  # a key of Experience.counts: "rows", "responses", "tokens", …
    coefficient: float = 1.0


class Loss(NamedTuple):
    """What a micro-batch gives: named terms; metrics as tensors of one value per item, averaged over the minibatch."""

    terms: dict[str, Term]
    metrics: dict[str, Tensor]


class Experience(Protocol):
    """What the gradient steps of one batch of records work on."""

    def __len__(self) -> int: ...

    def lengths(self) -> list[int]:
        """Tokens of each item: like lengths share a micro-batch."""

    def counts(self, indices: list[int]) -> dict[str, int]:
        """What the loss terms of these items are normalised by; known before the forward pass."""

    def select(self, indices: list[int]) -> Any:
        """The micro-batch that ``loss`` receives."""


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


@dataclass
class Need:
    """A stage an algorithm stands on: another algorithm, trained by a recipe."""

    algorithm: "Algorithm"
    recipe: Recipe


@dataclass
class Algorithm:
    """Base of all algorithms."""

    view: str  # which named set of the data, in which view: demonstrations, preferred, pairs, ranked, prompts
    needs: dict[str, Need | None] = field(default_factory=dict)  # role → the stage that makes it; null: the base

    version: ClassVar[int] = 1  # raised when the meaning of the method's numbers changes: kept stages are then made anew
    stores_reference: ClassVar[bool] = False  # the reference's log-probabilities of the data are computed once and kept

    def fit(self, context: "Context") -> None:
        """Train; default: the common loop."""
        from .loop import fit

        fit(self, context)

    def experience(self, context: "Context", examples: list[Example]) -> Experience:
        """What happens before gradients; default: nothing, the records themselves."""
        return Examples(context.models, examples)

    def loss(self, models: "Models", batch: Any) -> Loss:
        raise NotImplementedError(f"{type(self).__name__} trains, so it needs a loss")

    def parameter_groups(self, models: "Models", recipe: Recipe) -> list[dict]:
        """Optimiser groups; default: the policy at the recipe's learning rate."""
        return [{"params": list(models.policy.parameters().values()), "lr": recipe.lr}]

    def score(self, models: "Models", batch: Batch) -> Tensor | None:
        """(B, K): how this method ranks responses, for those that can; None for those that cannot."""
        return None
