"""What is said where training cannot go on: no records, no finite number, no memory left."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ..support.errors import TrainingError
from ..support.memory import no_memory_explained
from . import checkpoints

if TYPE_CHECKING:
    from ..algorithm import Algorithm, Context
    from ..data.template import Example


class NotFinite(FloatingPointError):
    """A micro-batch's loss is NaN or infinite; ``indices`` are its items."""

    def __init__(self, indices: list[int]):
        super().__init__(indices)
        self.indices = indices


def not_finite(context: Context, step: int, examples: list[Example], what: str) -> TrainingError:
    last = checkpoints.newest(context.work)
    names = ", ".join(sorted({example.record for example in examples}))[:400]
    return TrainingError(f"{context.name}, step {step}: found {what}; expected a finite number; records {names}; last "
                         f"good checkpoint: {last or 'none yet'}; fix: lower recipe.lr, or look at these records")


def memory_explained(context: Context) -> AbstractContextManager[None]:
    """Running out of memory within a step, as an error that says what to lower."""

    def explain(told: str) -> str:
        config = context.models.config
        fixes = ["trainer.micro_batch_size"] * (context.trainer.micro_batch_size > 1) + ["model.max_length"]
        more = "" if config.gradient_checkpointing else ", or set model.gradient_checkpointing=true"
        return (f"{context.name}, step {context.step + 1}: found no memory left on {context.models.device} ({told}); "
                f"expected room for micro-batches of {context.trainer.micro_batch_size} (trainer.micro_batch_size) "
                f"with up to {config.max_length} tokens (model.max_length); last good checkpoint: "
                f"{checkpoints.newest(context.work) or 'none yet'}; fix: lower {' or '.join(fixes)}{more}")

    return no_memory_explained(explain)


def nothing_held_out(every: int, view: str) -> str:
    """The message where held-out losses are asked for and the data has no records for them."""
    told = f"trainer.evaluate_every: found {every}, but the data holds nothing out for the view {view!r}"
    if view == "prompts":  # what files hold out is for the reported evaluation alone
        return f"{told}; expected tuning prompts; fix: data.tuning=0.1, or trainer.evaluate_every=null"
    return f"{told}; expected held-out records; fix: data.heldout=0.1, or trainer.evaluate_every=null"


def check_records(algorithm: Algorithm, context: Context) -> None:
    if not len(context.examples):
        raise TrainingError(f"{context.name}: found no records in the view {algorithm.view!r}; expected at least one; "
                            "fix: give data that has them (task=inspect shows what was read)")
    if context.trainer.evaluate_every and not context.heldout:
        raise TrainingError(nothing_held_out(context.trainer.evaluate_every, algorithm.view))
