"""What stages are made of. Loaded when it is asked for, and once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..algorithm import RewardSource, TrainerConfig
from ..data.records import DataSets, Records, data_view
from ..data.template import Template
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
    _views: dict[str, tuple[Records, Records]] = field(default_factory=dict, init=False, repr=False)

    def view(self, view: str) -> tuple[Records, Records]:
        """A view is made once: keys ask for it again and again."""
        if view not in self._views:
            self._views[view] = data_view(self.data, view)
        return self._views[view]

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
