"""Who answers in a conversation: the base, or what a run trained, each with the conversation that it has had so far."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from ..models.adapters import SavedLora, settings_of
from ..models.export import frozen_role
from ..models.model import ModelConfig, Models
from ..models.roles import BASE
from ..models.sampling import Sampling, sample


@dataclass
class Speaker:
    """One side of a conversation. A model without a chat template continues each text; one with it answers them all."""

    name: str
    models: Models
    role: str
    messages: list[dict] = field(default_factory=list)

    def reply(self, text: str, sampling: Sampling, seed: int, turn: int) -> str:
        """The answer to the user's next text, as the model wrote it."""
        models, template = self.models, self.models.template
        prompt = [*self.messages, {"role": "user", "content": text}] if template.chat else text
        ids = models.prompt_ids(prompt, sampling.max_new_tokens)
        ((answer,),) = sample(models, self.role, [ids], sampling, seed, keys=[f"chat/{turn}"])
        reply = template.clean_response(prompt, template.decode(answer.ids))
        if template.chat:
            self.messages = [*prompt, {"role": "assistant", "content": reply}]
        return reply


def speakers(asked: list[tuple[Path | None, ModelConfig]], mixed_precision: str) -> list[Speaker]:
    """Of weights (None: the base's own) and the models that they belong to; roles of one base share it in memory."""
    loaded: dict[str, Models] = {}
    for _, model in asked:
        if (key := _base(model)) not in loaded:
            loaded[key] = Models(model, mixed_precision)
    made = []
    for place, (folder, model) in enumerate(asked):
        models, role = loaded[_base(model)], BASE if folder is None else f"speaker{place}"
        if folder is not None:
            frozen_role(models, role, folder)
        made.append(Speaker("base" if folder is None else str(folder), models, role))
    return made


def _base(model: ModelConfig) -> str:
    """Alike for models that are roles of one base: read alike, and with adapters of the same settings."""
    settings = dataclasses.asdict(model)
    settings["chat_template"] = model.chat_template and Path(model.chat_template).read_text(encoding="utf-8")
    if isinstance(model.lora, SavedLora):
        settings["lora"] = settings_of(Path(model.lora.folder))
    return json.dumps(settings, sort_keys=True)
