"""From a record's prompt and responses to token ids: the one place where text becomes tokens.

Prompt and response are tokenised apart and joined as tokens, so that every response of a prompt has the same prefix.
BOS stands once at the front, the end token belongs to the response. Plain text is used as it is; messages go through
the tokenizer's chat template, or, where there is none, the plain transcript form of Anthropic's HH data
(Bai et al. 2022, arXiv 2204.05862): ``\\n\\nHuman: …\\n\\nAssistant:``, the answer after a space.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from .errors import ConfigError, DataError
from .records import Record, render_transcript

_PROBE = "a probe answer"
DATE = "26 Jul 2024"  # Llama 3's templates print today's date where they get none: each day's tokens would be others

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One record as token ids. ``prompt`` is never empty; ``finished[k]`` says that response k ends with the end token."""

    prompt: list[int]
    responses: list[list[int]]  # K lists, each with its end token unless it was cut
    finished: list[bool]  # K
    scores: list[float] | None  # K
    record: str  # the record's key, for messages
    truncated: bool = False  # something was cut to fit
    key: str = field(default="")  # content hash of all token ids

    def __post_init__(self):
        if not self.key:
            digest = hashlib.blake2b(digest_size=16)
            for ids in (self.prompt, *self.responses):
                digest.update(len(ids).to_bytes(4, "little"))
                digest.update(b"".join(token.to_bytes(4, "little") for token in ids))
            object.__setattr__(self, "key", digest.hexdigest())

    @property
    def length(self) -> int:
        """Tokens of the shared-prefix row: prompt + all responses."""
        return len(self.prompt) + sum(len(response) for response in self.responses)


class Template:
    """Renders and tokenises; knows the end token. ``chat_template`` is a path to a Jinja file that replaces the tokenizer's."""

    def __init__(self, tokenizer, chat_template: str | None = None):
        self.tokenizer = tokenizer
        if chat_template is not None:
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
        self.chat = tokenizer.chat_template is not None
        if self.chat and "strftime_now" in tokenizer.chat_template and "date_string" not in tokenizer.chat_template:
            log.warning("chat template: it prints today's date, so a run continued on another day reads other prompts; "
                        "fix: model.chat_template with a copy that does not")
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"model.name: found a tokenizer without an EOS token ({tokenizer.name_or_path}); expected one, "
                              "or the model could never stop; fix: set eos_token in its tokenizer_config.json")
        adds_bos = bool(tokenizer.bos_token_id is not None
                        and tokenizer.bos_token_id in tokenizer("a").input_ids[:1])
        self.bos: list[int] = [tokenizer.bos_token_id] if adds_bos else []
        self.turn_end = self._turn_end() if self.chat else tokenizer.eos_token_id
        self.stop_ids = sorted({tokenizer.eos_token_id, self.turn_end})

    def _apply(self, messages: list[dict], generation_prompt: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(messages, add_generation_prompt=generation_prompt, tokenize=False,
                                                      date_string=DATE)
        except jinja2.TemplateError as error:
            roles = [message["role"] for message in messages]
            raise DataError(f"chat template: found the turns {roles}, which the model's template refuses ({error}); "
                            "fix: drop such records, or set model.chat_template to a Jinja file that takes them") from error

    def _turn_end(self) -> int:
        """The token that ends an assistant turn in the chat template; EOS where the template writes none."""
        user = [{"role": "user", "content": "x"}]
        whole = self._apply([*user, {"role": "assistant", "content": _PROBE}], False)
        if _PROBE not in whole:
            raise ConfigError("model.chat_template: found a template that leaves out the assistant's turn; expected one that "
                              "renders it; fix: set model.chat_template to a Jinja file that does")
        tail = whole[whole.rindex(_PROBE) + len(_PROBE):]
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        for token in self._ids(tail):
            if token in special:
                return token
        return self.tokenizer.eos_token_id

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def prompt_text(self, prompt: str | list[dict]) -> str:
        if isinstance(prompt, str):
            return prompt
        return self._apply(prompt, True) if self.chat else render_transcript(prompt)

    def response_text(self, prompt: str | list[dict], response: str) -> str:
        """What follows the rendered prompt. The transcript form sets a space before an answer."""
        return response if isinstance(prompt, str) or self.chat else " " + response

    def clean_response(self, prompt: str | list[dict], text: str) -> str:
        """The inverse of ``response_text`` for generated text."""
        return text if isinstance(prompt, str) or self.chat else text.removeprefix(" ")

    def prompt_ids(self, prompt: str | list[dict]) -> list[int]:
        ids = self._ids(self.prompt_text(prompt))
        starts_with_bos = bool(self.bos) and ids[:1] == self.bos  # a chat template may have written it
        ids = ids if starts_with_bos else self.bos + ids
        # A model predicts from something: with neither BOS nor prompt text, the end token stands for "a new document".
        return ids or [self.tokenizer.eos_token_id]

    def response_ids(self, prompt: str | list[dict], response: str) -> list[int]:
        """Without the end token. DataError where the text itself holds one: the response would end in its middle."""
        ids = self._ids(self.response_text(prompt, response))
        inside = set(ids) & set(self.stop_ids)
        if inside:
            token = self.tokenizer.convert_ids_to_tokens(min(inside))
            raise DataError(f"responses: found the end token {token!r} inside the text {response[:60]!r}; expected plain text, "
                            "the end token is added here; fix: take it out of the data")
        return ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def cut(self, prompt: list[int], length: int, keep: str) -> list[int]:
        """The ``keep`` side ("end" or "start") of a prompt; BOS stays."""
        if len(prompt) <= length:
            return prompt
        bos = self.bos if prompt[:1] == self.bos else []
        body, room = prompt[len(bos):], length - len(bos)
        return bos + (body[len(body) - room:] if keep == "end" else body[:room])

    def example(self, record: Record, max_length: int, max_prompt_length: int, keep: str = "end") -> Example:
        """Tokenise a record. Over-long: first the prompt is cut to ``max_prompt_length`` (its ``keep`` side stays); if that
        is not enough, the responses to ``max_length − max_prompt_length``, and a cut response has no end token.
        Every response keeps the same prompt.
        """
        prompt = self.prompt_ids(record.prompt)
        responses = [self.response_ids(record.prompt, response) + [self.turn_end] for response in record.responses]
        longest = max((len(response) for response in responses), default=0)
        truncated = False
        if len(prompt) + longest > max_length and len(prompt) > max_prompt_length:
            truncated = True
            prompt = self.cut(prompt, max_prompt_length, keep)
        room = longest if len(prompt) + longest <= max_length else max_length - max_prompt_length
        finished = [len(response) <= room for response in responses]
        responses = [response[:room] for response in responses]
        return Example(prompt, responses, finished, record.scores, record.key, truncated or not all(finished))
