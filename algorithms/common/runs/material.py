"""What stages are made of. Loaded when it is asked for, and once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..algorithm import Algorithm, Context, RewardSource, TrainerConfig
from ..data.records import DataSets, Record, Records, data_view
from ..data.template import Example, Template
from ..evaluation.evaluate import EvalConfig
from ..models.model import ModelConfig, Models, load_tokenizer, model_digest
from ..support.store import Store


@dataclass
class Material:
    """One model, one set of data, one seed."""

    model: ModelConfig
    trainer: TrainerConfig
    eval: EvalConfig
    data: DataSets
    seed: int
    store: Store
    reward: RewardSource | None = None
    run_folder: Path | None = None
    loop: Callable[[Algorithm, Context], None] | None = field(default=None, kw_only=True)  # instead of the common one
    # key of a trained stage → which of how many it is
    numbers: dict[str, str] = field(default_factory=dict, kw_only=True)
    _views: dict[str, tuple[Records, Records]] = field(default_factory=dict, init=False, repr=False)

    def view(self, view: str) -> tuple[Records, Records]:
        """A view is made once: keys ask for it again and again."""
        if view not in self._views:
            self._views[view] = data_view(self.data, view)
        return self._views[view]

    def relabel(self, data: DataSets) -> None:
        """The same data with other labels."""
        self.data = data
        self._views.clear()

    def number(self, keys: Collection[str]) -> None:
        """Say of the stages of these keys, as each begins, which of how many it is."""
        self.numbers.update({key: f"{number} of {len(keys)}" for number, key in enumerate(keys, 1)})

    def example(self, record: Record, every_turn: bool = False, most: int | None = None) -> Example:
        """A record's tokens, cut as the model's settings say, or to ``most``."""
        limits = (self.model.max_length, self.model.max_prompt_length) if most is None else (most, most // 2)
        return self.template.example(record, *limits, self.model.keep, every_turn)

    @cached_property
    def tokenizer(self):
        return load_tokenizer(self.model)

    @cached_property
    def template(self) -> Template:
        return Template(self.tokenizer, self.model.chat_template, self.model.template_arguments)

    @cached_property
    def models(self) -> Models:
        return Models(self.model, self.trainer.mixed_precision, tokenizer=self.tokenizer)

    @cached_property
    def base_digest(self) -> str:
        return model_digest(self.model)
