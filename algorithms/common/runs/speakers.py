"""Who answers in a conversation: the base, or what a run trained, each with the conversation that it has had so far."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..data.cuts import tell_cut_prompts
from ..models.adapters import SavedLora, settings_of
from ..models.export import frozen_role
from ..models.model import ModelConfig, Models
from ..models.roles import BASE
from ..models.sampling import Sampling, sample
from ..support.terminal import printable


@dataclass
class Speaker:
    """One side of a conversation. A model without a chat template continues each text; one with it answers them all."""

    name: str
    models: Models
    role: str
    messages: list[dict] = field(default_factory=list)

    @property
    def reads(self) -> str:
        """How it reads what is written to it, in words."""
        template = self.models.template
        return (f"messages, by {template.origin}: {template.form!r}" if template.chat
                else "text to continue: no chat template")

    def reply(self, text: str, sampling: Sampling, seed: int, turn: int, show: Callable[[str], None]) -> int:
        """Answer the user's next text; ``show`` is given each further piece of the answer. Returns its tokens."""
        models, template = self.models, self.models.template
        prompt = [*self.messages, {"role": "user", "content": text}] if template.chat else text
        ids, written, shown = models.prompt_ids(prompt, sampling.max_new_tokens), [], Shown(show)
        tell_cut_prompts(self.name, [template.prompt_ids(prompt)], [ids], models.config.max_length,
                         sampling.max_new_tokens, models.said)

        def said() -> str:
            return template.clean_response(prompt, template.decode(written))

        def watch(tokens: list[int]) -> None:
            written.extend(tokens)
            shown.so_far(said())

        ((answer,),) = sample(models, self.role, [ids], sampling, seed, keys=[f"chat/{turn}"], watch=watch)
        shown.whole(said())
        if template.chat:
            self.messages = [*prompt, {"role": "assistant", "content": said()}]
        return len(answer.ids)


@dataclass
class Shown:
    """What of a growing answer has been shown; white space at its ends is not."""

    show: Callable[[str], None]
    text: str = ""

    def so_far(self, said: str) -> None:
        """Show what is new of it, but for an end that the next token may change."""
        self._further(said.strip().rstrip("\ufffd"))  # the beginning of a character

    def whole(self, said: str) -> None:
        said = said.strip()
        if not said.startswith(self.text):  # a decoder that changes what it has written
            self.show("\n")
            self.text = ""
        self._further(said)

    def _further(self, said: str) -> None:
        if said.startswith(self.text):
            self.show(said[len(self.text):])
            self.text = said


RESET = "/reset"


def converse(talking: list[Speaker], sampling: Sampling, seed: int) -> None:
    """A conversation in the terminal, until an empty line or the end of input."""
    for one in talking:
        print(printable(f"{one.name} reads {one.reads}"))
    chats = [one.models.template.chat for one in talking]
    anew = f"; {RESET} begins anew" if any(chats) else ""
    print(f"Write a {'message' if all(chats) else 'prompt'}; an empty line ends the conversation{anew}.")
    turn = 0
    while True:
        try:
            text = input("> ")
        except EOFError:
            break
        if not text:
            break
        if text.strip() == RESET:
            for one in talking:
                one.messages = []
            continue
        for one in talking:
            print(printable(f"[{one.name}] ") if len(talking) > 1 else "", end="")
            began = time.monotonic()
            tokens = one.reply(text, sampling, seed, turn, lambda piece: print(printable(piece), end="", flush=True))
            print()
            print(f"({tokens} tokens, {tokens / (time.monotonic() - began):.0f} a second)", file=sys.stderr)
        turn += 1


def speakers(asked: list[tuple[Path | None, ModelConfig]], mixed_precision: str) -> list[Speaker]:
    """Of weights (None: the base's own) and the models that they belong to; roles of one base share it in memory."""
    loaded: dict[str, Models] = {}
    for _, model in asked:
        if (key := base_of(model)) not in loaded:
            loaded[key] = Models(model, mixed_precision)
    made = []
    for place, (folder, model) in enumerate(asked):
        models, role = loaded[base_of(model)], BASE if folder is None else f"speaker{place}"
        if folder is not None:
            frozen_role(models, role, folder)
        made.append(Speaker("base" if folder is None else str(folder), models, role))
    return made


def base_of(model: ModelConfig) -> str:
    """Alike for models that are roles of one base: read alike, and with adapters of the same settings."""
    settings = dataclasses.asdict(model)
    settings["chat_template"] = model.chat_template and Path(model.chat_template).read_text(encoding="utf-8")
    if isinstance(model.lora, SavedLora):
        settings["lora"] = settings_of(Path(model.lora.folder))
    return json.dumps(settings, sort_keys=True)
