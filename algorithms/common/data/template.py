"""From a record's prompt and responses to token ids: the one place where text becomes tokens.

Prompt and response are tokenised apart and joined as tokens, so that every response of a prompt has the same prefix.
BOS stands once at the front, the end token belongs to the response. Plain text is used as it is; messages go through
the tokenizer's chat template, or, where there is none, the plain transcript form of Anthropic's HH data
(Bai et al. 2022, arXiv 2204.05862): ``\\n\\nHuman: …\\n\\nAssistant:``, the answer after a space. A response is what
the chat template writes after the prompt that the model is given to answer: what stands before the answer there (white
space of Llama 2's, Mistral's, Vicuna's; Qwen 3's empty block of thoughts, or a turn's thoughts) is its beginning,
to be said by the model as well. White space at an answer's own ends stays where no more than white space is before it.

A conversation may be learned in one row with every answer in it (``every_turn``). Each answer is then tokenised apart
from what stands before and after it, as it is when it is given, and its end token is learned where it ends; what the
template writes between two answers is context, and so is an answer of weight 0.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2

from ..support.errors import ConfigError, DataError
from .example import Example
from .middle_turns import without_middle
from .records import BadRow, Messages, Record, further, render_transcript
from .special_tokens import UnusableText, check_turns, marks

_PROBE = "a probe answer"
DATE = "26 Jul 2024"  # Llama 3's templates print today's date where they get none: each day's tokens would be others

log = logging.getLogger(__name__)


class Template:
    """Renders and tokenises; knows the end token. ``chat_template`` is a path to a Jinja file that replaces the
    tokenizer's, ``arguments`` are what it is given besides the messages."""

    def __init__(self, tokenizer, chat_template: str | None = None, arguments: Mapping[str, Any] | None = None):
        self.tokenizer = tokenizer
        self.origin = chat_template or f"the template of the tokenizer {tokenizer.name_or_path}"
        self._seams_told = self._change_told = False
        if chat_template is not None:
            tokenizer.chat_template = _read(chat_template)
        self.chat = tokenizer.chat_template is not None
        self._arguments = {"date_string": DATE, **(arguments or {})}
        self._check_arguments(arguments or {})
        if self.chat and "strftime_now" in tokenizer.chat_template and "date_string" not in tokenizer.chat_template:
            log.warning("chat template: it prints today's date, so a run continued on another day reads other prompts; "
                        "fix: model.chat_template with a copy that does not")
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"model.name: found a tokenizer without an EOS token ({tokenizer.name_or_path}); "
                              "expected one, or the model could never stop; fix: set eos_token in its "
                              "tokenizer_config.json")
        adds_bos = bool(tokenizer.bos_token_id is not None
                        and tokenizer.bos_token_id in tokenizer("a").input_ids[:1])
        self.bos: list[int] = [tokenizer.bos_token_id] if adds_bos else []
        before, self._tail = self._around_an_answer() if self.chat else (" ", "")
        self._apart = before is None  # the template renders a prompt otherwise beside its answer
        self.lead = before or ""  # what stands between a prompt and its answer
        self._said_lead = self.decode(self._ids(self.lead)) if self.lead.strip() else self.lead
        if self._apart:
            log.warning("chat template: it renders a prompt otherwise beside its answer than where the answer is to be "
                        "given; learned is the answer after the prompt as given")
        self.turn_end = self._turn_end(self._tail)
        self.stop_ids = sorted({tokenizer.eos_token_id, self.turn_end})
        ends = [tokenizer.added_tokens_decoder.get(token) for token in self.stop_ids]
        # texts without one of which no text holds an end token; "" where that cannot be told without tokenising
        self.end_texts = ["" if end is None or end.normalized else end.content for end in ends]
        user, probe = [{"role": "user", "content": "x"}], {"role": "assistant", "content": _PROBE}
        written = [self._apply(user, True), self._apply([*user, probe], False)] if self.chat else []
        # the special tokens that end a turn, or that the chat template writes around turns
        self.marks = marks(tokenizer, {*self.stop_ids, *(token for text in written for token in self._ids(text))})
        # SentencePiece tokenizers of Llama's kind set a space before every text. After white space of the template's
        # own it is one too many: inside a conversation "[/INST] yes" has one space, as where it is tokenised as a
        # whole.
        self._sets_space = bool(self.chat and self.lead) and self._ids("a") != self._ids("\na")[len(self._ids("\n")):]

    def _check_arguments(self, arguments: Mapping[str, Any]) -> None:
        own = inspect.signature(self.tokenizer.apply_chat_template).parameters.keys() | {"messages"}
        for key in arguments:
            if not self.chat or key in own - {"tools", "documents"} or not re.search(
                    rf"\b{re.escape(key)}\b", str(self.tokenizer.chat_template)):
                told = "which is set here" if key in own else f"which {self.origin} does not read"
                told = told if self.chat else "and no chat template"
                raise ConfigError(f"model.template_arguments: found {key}, {told}; "
                                  "expected names of variables in the chat template; fix: correct it, or leave it out")

    def _apply(self, messages: Messages, generation_prompt: bool) -> str:
        # weight says what is learned, nothing that a template is to write
        messages = [{key: value for key, value in turn.items() if key != "weight"} if "weight" in turn else turn
                    for turn in messages]
        try:
            return self.tokenizer.apply_chat_template(messages, add_generation_prompt=generation_prompt, tokenize=False,
                                                      **self._arguments)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"model.chat_template: found a syntax error in line {error.lineno} of {self.origin} "
                              f"({error.message}); expected a Jinja template; fix: correct the file, or give one in "
                              "model.chat_template") from error
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            roles = [message["role"] for message in messages]
            raise UnusableText(
                "refused by the chat template", "model.chat_template",
                f"the turns {roles}, which {self.origin} refuses ({error})", "a template that takes them",
                "set model.chat_template to a Jinja file that takes them, or leave out such turns by data.mapper"
            ) from error

    def _around_an_answer(self) -> tuple[str | None, str]:
        """What the chat template writes between a prompt and an answer, None where it renders the prompt otherwise
        beside one, and what it writes after the answer."""
        user = [{"role": "user", "content": "x"}]
        try:
            prompt = self._apply(user, True)
            whole = self._apply([*user, {"role": "assistant", "content": _PROBE}], False)
        except DataError as error:
            raise ConfigError(f"model.chat_template: found {self.origin}, which takes no question and answer "
                              f"({error.__cause__}); expected one that renders them; "
                              "fix: correct the file, or give one in model.chat_template") from error
        if _PROBE not in whole:
            raise ConfigError("model.chat_template: found a template that leaves out the assistant's turn; "
                              "expected one that renders it; fix: set model.chat_template to a Jinja file that does")
        start = whole.rindex(_PROBE)
        return whole[len(prompt):start] if whole.startswith(prompt) else None, whole[start + len(_PROBE):]

    def _turn_end(self, tail: str) -> int:
        """The token that ends an assistant turn: the first special one after an answer; EOS where there is none."""
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        return next((token for token in self._ids(tail) if token in special), self.tokenizer.eos_token_id)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _inner_ids(self, text: str) -> list[int]:
        """Tokens of a text that stands inside a conversation,
        without the space that the tokenizer sets before a text."""
        before = self._ids("\n")
        ids = self._ids("\n" + text) if self._sets_space else []
        return ids[len(before):] if ids[:len(before)] == before else self._ids(text)

    @property
    def form(self) -> str:
        """How a question and its answer are written."""
        return self.prompt_text([{"role": "user", "content": "…"}]) + self.lead + "…"

    def prompt_text(self, prompt: str | list[dict]) -> str:
        if isinstance(prompt, str):
            return prompt
        return self._apply(prompt, True) if self.chat else render_transcript(prompt)

    def response_text(self, prompt: str | Messages, response: str, extra: dict | None = None) -> str:
        """What follows the rendered prompt, without what ends it: what the chat template writes there for an answer
        with these further keys, or in the transcript form a space and the answer."""
        if isinstance(prompt, str):
            return response
        if not self.chat:
            return self.lead + response
        return self._rendered_answer(prompt, {"role": "assistant", "content": response, **(extra or {})})

    def _rendered_answer(self, prompt: Messages, turn: dict) -> str:
        answer, before = turn["content"], self.prompt_text(prompt)
        if self._apart and len(turn) == 2:
            return answer
        whole = self._apply([*prompt, turn], False)
        if not whole.startswith(before):
            raise UnusableText(
                "prompt rendered otherwise beside its answer", "model.chat_template",
                f"that {self.origin} writes the prompt of {answer.strip()[:60]!r} otherwise beside this answer than "
                "where it is to be given", "the same text, or another prompt would be learned than is asked",
                "set model.template_arguments so that both agree, or model.chat_template to a Jinja file that does")
        text = whole[len(before):].removesuffix(self._tail)
        if answer.strip() not in text and not self._change_told:
            self._change_told = True
            log.warning("chat template: it writes the answer %r as %r, and others perhaps, too; what it writes is "
                        "learned", answer.strip()[:60], text.strip()[:60])
        # what the template takes off an answer's ends stays, unless it writes more than white space before answers
        return self.lead + answer if not self.lead.strip() and text.strip() == answer.strip() else text

    def clean_response(self, prompt: str | list[dict], text: str) -> str:
        """The inverse of ``response_text`` for generated text."""
        return text if isinstance(prompt, str) else text.removeprefix(self._said_lead)

    def prompt_ids(self, prompt: str | list[dict]) -> list[int]:
        ids = self._ids(self.prompt_text(prompt))
        starts_with_bos = bool(self.bos) and ids[:1] == self.bos  # a chat template may have written it
        ids = ids if starts_with_bos else self.bos + ids
        # A model predicts from something: with neither BOS nor prompt text, the end token stands for "a new document".
        return ids or [self.tokenizer.eos_token_id]

    def response_ids(self, prompt: str | Messages, response: str, extra: dict | None = None) -> list[int]:
        """Without the end token. DataError where the text itself holds one: the response would end in its middle."""
        text = self.response_text(prompt, response, extra)
        return self._without_end(text, self._ids(text) if isinstance(prompt, str) else self._inner_ids(text))

    def _without_end(self, text: str, ids: list[int], field: str = "responses") -> list[int]:
        inside = set(ids) & set(self.stop_ids)
        if inside:
            token = self.tokenizer.convert_ids_to_tokens(min(inside))
            raise UnusableText(
                "end token in a response", field, f"the end token {token!r} inside the text {text.strip()[:60]!r}",
                "plain text, the end token is added here", "take it out, in the file or by data.mapper")
        return ids

    def check(self, record: Record, every_turn: bool = False) -> BadRow | None:
        """Why the record cannot be made an example, None where it can. Tokenised is only what has to be, to know."""
        index = None
        try:
            if not isinstance(record.prompt, str):
                check_turns(record.prompt, self.marks, "prompt")
            if every_turn and record.responses and not isinstance(record.prompt, str):
                self._earlier_answers(record.prompt)
            elif not isinstance(record.prompt, str):
                self.prompt_text(record.prompt)
            for index, (response, extra) in enumerate(_answers(record)):
                text = self.response_text(record.prompt, response, extra)
                if any(end in text for end in self.end_texts):
                    self.response_ids(record.prompt, response, extra)
                if not isinstance(record.prompt, str):
                    check_turns([{"role": "assistant", "content": response}], self.marks, "responses")
        except UnusableText as error:
            error.bad.row = index
            return error.bad
        return None

    def unread(self, record: Record, keys: set[str]) -> set[str]:
        """Those of the further keys without which all of the record's turns are rendered the same, but for weights."""
        turns = [] if isinstance(record.prompt, str) else record.prompt
        wholes = [[*turns, {"role": "assistant", "content": response, **extra}] for response, extra in _answers(record)]

        def texts(without: str | None = None) -> list[str]:
            return [self._apply([{name: value for name, value in turn.items() if name != without} for turn in whole],
                                False) for whole in wholes or [turns]]

        held = {key for whole in wholes or [turns] for turn in whole for key in further(turn)}
        as_given = texts() if self.chat and held & keys else []
        return {key for key in keys if key != "weight" and not (key in held and self.chat and texts(key) != as_given)}

    def _earlier_answers(self, messages: list[dict]) -> tuple[list[int], list[tuple[int, int]]]:
        """The prompt's tokens, and for each answer in it the place of its first token and the place after its last.

        An answer is a turn of the assistant with text and a turn before it, whose weight is not 0. White space that
        the template takes off its ends is not part of it, nor what it writes before the last answer only. DataError
        where else a later prompt does not hold it as it was given.
        """
        answers = [index for index, turn in enumerate(messages)
                   if index and turn["role"] == "assistant" and turn["content"].strip() and "weight" not in turn]
        if not answers:
            return self.prompt_ids(messages), []
        ids, places = self.prompt_ids(messages[:answers[0]]), []
        for index, following in zip(answers, [*answers[1:], len(messages)]):
            text, between = self._in_later_prompt(messages, index, following)
            start = len(ids)
            ids += self._without_end(text, self._inner_ids(text), "prompt")
            places.append((start, len(ids)))
            ids += between
        if not self._seams_told and ids != self.prompt_ids(messages):
            self._seams_told = True
            log.warning("algorithm.turns=all: the tokenizer merges text across the ends of some earlier answers, "
                        "so a later answer's context is the same text in other tokens than in a prompt")
        return ids, places

    def _in_later_prompt(self, messages: Messages, index: int, following: int) -> tuple[str, list[int]]:
        """An answer's text as the prompt of the turn ``following`` holds it, and the tokens from there to that turn."""
        content = messages[index]["content"]
        before, after = self.prompt_text(messages[:index]), self.prompt_text(messages[:following])
        given = self.response_text(messages[:index], content, further(messages[index]))
        bare = given.removeprefix(self.lead)
        forms = (given, bare, self.lead + bare.strip(), bare.strip()) if content.strip() in given else ()
        for text in forms:
            if after.startswith(before + text):
                if between := self._inner_ids(after[len(before + text):]):
                    return text, between
                break
        raise UnusableText(
            "earlier answer rendered otherwise", "model.chat_template",
            f"a template that writes the earlier answer {content[:60]!r}, or what stands before it, otherwise "
            "in a later prompt than where it was given",
            "the same text, or other tokens would be learned than the model is to say",
            "algorithm.turns=last, or model.chat_template with a Jinja file that keeps earlier turns")

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def shortened(self, prompt: str | Messages, length: int, keep: str) -> str | Messages:
        """A conversation of more than ``length`` tokens without turns of its middle, as many as that takes: its system
        turn and the user's last one stay. As it is where the ``keep`` side is its start, or the chat template refuses
        the shorter one."""
        if isinstance(prompt, str) or keep != "end":
            return prompt
        try:
            return without_middle(prompt, lambda shorter: len(self.prompt_ids(shorter)) <= length)
        except UnusableText:
            return prompt

    def cut(self, prompt: list[int], length: int, keep: str) -> list[int]:
        """The ``keep`` side ("end" or "start") of a prompt; BOS stays."""
        return [prompt[place] for place in self._kept(prompt, length, keep)]

    def _kept(self, prompt: list[int], length: int, keep: str) -> list[int]:
        """Places of the tokens that ``cut`` leaves."""
        places = list(range(len(prompt)))
        if len(prompt) <= length:
            return places
        bos = self._leading_bos(prompt)
        body, room = places[bos:], length - bos
        return places[:bos] + (body[len(body) - room:] if keep == "end" else body[:room])

    def _leading_bos(self, prompt: list[int]) -> int:
        return len(self.bos) if prompt[:1] == self.bos else 0

    def example(self, record: Record, max_length: int, max_prompt_length: int, keep: str = "end",
                every_turn: bool = False) -> Example:
        """Tokenise a record. Over-long: first the prompt is cut to ``max_prompt_length``, a conversation by its middle
        turns before its oldest text (``shortened``), a text so that its ``keep`` side stays; if that is not enough, the
        responses to ``max_length − max_prompt_length``, and a cut response has no end token.
        Every response keeps the same prompt.

        ``every_turn``: the assistant's turns in the prompt are learned too, each with its end token. Truncation is the
        same, so the last answer stays; an answer that lost its beginning is context, one that lost its end has no end
        token. DataError, with the file and line where the record knows them, for text that cannot be a turn.
        """
        try:
            return self._example(record, max_length, max_prompt_length, keep, every_turn)
        except DataError as error:
            if not {"source", "line"} <= record.meta.keys():
                raise
            raise DataError(f"{record.meta['source']}:{record.meta['line']}: {error}") from error

    def _example(self, record: Record, max_length: int, max_prompt_length: int, keep: str, every_turn: bool) -> Example:
        prompt, places, responses = self._tokens(record, every_turn)
        longest = max(map(len, responses), default=0)
        truncated, left_out = len(prompt) + longest > max_length and len(prompt) > max_prompt_length, 0
        if truncated:
            shorter = self.shortened(record.prompt, max_prompt_length, keep)
            left_out = len(record.prompt) - len(shorter)
            prompt, places, responses = self._tokens(replace(record, prompt=shorter), every_turn)
        cut = truncated and len(prompt) > max_prompt_length
        kept = self._kept(prompt, max_prompt_length if cut else len(prompt), keep)
        targets = self._targets(prompt, places, kept)
        prompt, targets = [prompt[place] for place in kept], [targets[place] for place in kept]
        longest = max(map(len, responses), default=0)
        room = longest if len(prompt) + longest <= max_length else max_length - max_prompt_length
        finished = [len(response) <= room for response in responses]
        responses = [response[:room] for response in responses]
        # the prompt ends where learning begins: what follows there is the beginning of every response
        first = next((place for place, token in enumerate(targets) if token is not None), len(prompt))
        between, learned = prompt[first:], targets[first:]
        return Example(
            prompt[:first], [between + response for response in responses], finished, record.scores, record.key,
            truncated=truncated or not all(finished), turns_left_out=left_out, prompt_cut=cut,
            targets=[learned + response for response in responses] if learned else None)

    def _tokens(self, record: Record, every_turn: bool) -> tuple[list[int], list[tuple[int, int]], list[list[int]]]:
        """The prompt's, the places in it of earlier answers that are learned, and each response's with its end."""
        if every_turn and record.responses and not isinstance(record.prompt, str):
            prompt, places = self._earlier_answers(record.prompt)
        else:
            prompt, places = self.prompt_ids(record.prompt), []
        return prompt, places, [self.response_ids(record.prompt, *one) + [self.turn_end] for one in _answers(record)]

    def _targets(self, prompt: list[int], places: list[tuple[int, int]], kept: list[int]) -> list[int | None]:
        """What is learned in each place of a prompt: the answers at these places, each with its end token, unless
        truncation took an answer's beginning; None elsewhere."""
        targets: list[int | None] = [None] * len(prompt)
        context = kept[self._leading_bos(prompt):][:1]  # an answer needs something before it
        for start, end in places:
            if context and start > context[0]:
                targets[start:end + 1] = [*prompt[start:end], self.turn_end]
        return targets


def _answers(record: Record) -> list[tuple[str, dict]]:
    """The responses with their further keys."""
    return list(zip(record.responses, record.extras or [{}] * len(record.responses)))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"model.chat_template: found {path}, which cannot be read ({error}); "
                          "expected a Jinja file in UTF-8; fix: give the path of one") from error
