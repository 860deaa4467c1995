"""What an algorithm is given to train with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from .support.errors import ConfigError
from .models.model import Models
from .training.optim import Recipe
from .data.template import Example

if TYPE_CHECKING:  # named here, not run: reading data and keeping stages is no part of what training computes
    from .data.records import DataSets, Messages, Record, Records
    from .rewards.sources import Scorer
    from .support.store import Store


@dataclass
class TrainerConfig:
    """How the loop runs, apart from what is learned how fast."""

    # Records in one forward pass. Losses depend on it by rounding only; but it also says how many rollouts are decoded
    # together, so stages are kept by it too.
    micro_batch_size: int = 8
    mixed_precision: str = "auto"  # auto: bf16 where the hardware has it | bf16 | no
    optimizer: str = "adamw"  # adamw | paged_adamw_8bit (CUDA)
    checkpoint_every: int = 50  # steps
    evaluate_every: int | None = None  # steps; null: no evaluation on held-out records while training
    trackers: list[str] = field(default_factory=list)  # accelerate's: tensorboard, wandb
    progress: bool = True

    def __post_init__(self):
        for key, allowed in {"mixed_precision": ("auto", "bf16", "no"), "optimizer": ("adamw", "paged_adamw_8bit")}.items():
            if getattr(self, key) not in allowed:
                raise ConfigError(f"trainer.{key}: found {getattr(self, key)!r}; expected one of {', '.join(allowed)}")
        for key in ("micro_batch_size", "checkpoint_every", "evaluate_every"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise ConfigError(f"trainer.{key}: found {getattr(self, key)}; expected at least 1")
        unknown = set(self.trackers) - {"tensorboard", "wandb"}
        if unknown:
            raise ConfigError(f"trainer.trackers: found {sorted(unknown)}; expected some of tensorboard, wandb")


@dataclass
class Meter:
    """What a stage used besides training tokens; kept in checkpoints."""

    tokens_sampled: int = 0
    reward_queries: int = 0
    seconds: float = 0.0  # of what came before the loop: candidates, the reference's log-probabilities
    peak_memory_bytes: int = 0  # of candidates


class Tokenized(Sequence[Example]):
    """Records as examples, each made when it is asked for; the last ``KEPT`` asked for, and those that were set, stay.

    So memory does not grow with the data, and what a run never visits is never tokenised; a run that visits more than it
    keeps tokenises them again, which is little beside training on them.
    """

    KEPT: ClassVar[int] = 16_384

    def __init__(self, records: Records, tokenize: Callable[[Record], Example]):
        self._count = len(records)
        self._made = lru_cache(self.KEPT)(lambda index: tokenize(records[index]))
        self._set: dict[int, Example] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._set.get(index) or self._made(index)

    def __setitem__(self, index: int, example: Example) -> None:
        self._set[index] = example


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
    name: str = "training"  # for the progress bar and trackers
    run_folder: Path | None = None  # trackers write here
    data: DataSets | None = None
    records: Records | None = None  # what ``examples`` are the tokens of, in the same order
    heldout_records: Records | None = None  # the same of ``heldout``
    identity: dict = field(default_factory=dict)  # content of what it stands on: model, needs, reward
    reward: Scorer | None = None  # where the algorithm uses one
    meter: Meter = field(default_factory=Meter)
    step: int = 0  # of the loop, 0-based: what random streams derive from

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
