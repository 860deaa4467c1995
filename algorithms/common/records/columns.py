"""Raw rows → records, by column names.

A file's columns are matched with our fields, by `data.columns` or by convention (the names of TRL's dataset formats
and of common preference sets), and the fields present decide the layout. A row that cannot be used raises BadRow.
"""

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .readers import data_error, show
from .record import MARKS, Messages, Record, parse_transcript
from .values import BadRow, cell, kind, label_of, last_turn, messages_of, number_of, text_of

FIELDS = ("prompt", "system", "chosen", "rejected", "response", "responses", "scores", "score", "label", "messages")
LAYOUTS = {
    frozenset(layout.split()) for layout in (
        "prompt chosen rejected", "prompt chosen rejected scores", "chosen rejected", "prompt response",
        "prompt response label", "prompt response score", "prompt responses scores", "prompt responses", "messages",
        "messages label", "prompt", "response")
}
CONVENTIONS = {                     # column → the field it is read as
    "prompt": "prompt", "question": "prompt", "instruction": "prompt", "system": "system",
    "chosen": "chosen", "response_chosen": "chosen", "chosen_messages": "chosen",
    "rejected": "rejected", "response_rejected": "rejected", "rejected_messages": "rejected",
    "completion": "response", "response": "response", "answer": "response", "output": "response",
    "text": "response", "responses": "responses", "scores": "scores", "score": "score", "label": "label",
    "messages": "messages", "conversations": "messages", "input": "input",
}
KNOWN_LAYOUTS = (
    "{prompt, chosen, rejected}, {prompt, chosen, rejected, scores}, {chosen, rejected}, "
    "{prompt|question|instruction, completion|response|answer|output}, {prompt, completion, label}, "
    "{prompt, response, score}, {prompt, responses, scores}, {prompt, responses}, "
    "{messages}, {messages, label}, {prompt}, {text}, {question, response_chosen, response_rejected}, "
    "{conversations}, {conversations, chosen, rejected}, {chosen_messages, rejected_messages}; system may be added")


@dataclass(frozen=True)
class Layout:
    """Which of our fields a file has, and the column (or columns) of each.

    textual: all values are text (CSV, TSV): numbers and labels are parsed from it.
    strict: by convention, so that a column with a meaning of its own that turns up later is a bad row.
    template: the prompt as (text, column after it or None) in turn; its columns are then those of the prompt.
    """

    columns: Mapping[str, str | list[str]]
    textual: bool = False
    strict: bool = False
    template: list[tuple[str, str | None]] | None = None

    @property
    def name(self) -> str:
        """What the layout is called in reports: its fields with the columns they come from."""
        parts = [field if field == column else f"{field} ← {column if isinstance(column, str) else ' + '.join(column)}"
                 for field, column in self.columns.items()]
        return "{" + ", ".join(parts) + "}"

    @property
    def used(self) -> set[str]:
        """The names of all columns read."""
        return {name for column in self.columns.values() for name in ([column] if isinstance(column, str) else column)}

    def record(self, row: Any) -> Record:
        """The record of one raw row; raises BadRow."""
        if not isinstance(row, dict):
            raise BadRow("not an object", "row", kind(row), "an object with columns")
        if self.strict and (extra := row.keys() & CONVENTIONS.keys() - self.used):
            name = min(extra)
            raise BadRow("unexpected column", name, "a column that the first rows do not have", self.name)
        record = _Fields(self, row).record()
        check(record, self.columns)
        return record


def recognise(path: str, found: Iterable[str], columns: Mapping[str, str | list[str]], textual: bool,
              template: str | None = None) -> Layout:
    """The layout of a file with the columns `found`: by `columns` (data.columns) or, where empty, by convention.

    template: data.template, the prompt's text with {column} placeholders, beside `columns` for the other fields.
    """
    found = list(dict.fromkeys(found))
    listed = "the columns " + (", ".join(map(show, found)) or "(none)")
    fix = "set data.columns, for example 'data.columns={prompt: question, response: answer}', or data.mapper"
    if columns:
        chosen = {field: name if isinstance(name, str) else list(name) for field, name in columns.items()}
        parts = None if template is None else template_parts(template)
        if parts is not None:
            chosen["prompt"] = [name for _, name in parts if name is not None]
        layout = Layout(chosen, textual, template=parts)
        missing = sorted(layout.used - set(found))
        if missing:
            keys = "data.columns" if template is None else "data.columns and data.template"
            raise data_error(path, 1, "row", listed, f"the columns of {keys}: " + ", ".join(map(show, missing)),
                             f"correct {keys}")
    else:
        layout = Layout(_by_convention(found) or {}, textual, strict=True)
    if frozenset(layout.columns.keys() - {"system"}) not in LAYOUTS:
        raise data_error(path, 1, "row", listed, "one of the layouts " + KNOWN_LAYOUTS, fix)
    return layout


def template_parts(template: str) -> list[tuple[str, str | None]]:
    """(text, column after it or None) in turn; doubled braces are braces. ValueError where it is no such template."""
    parts = []
    for text, name, form, conversion in string.Formatter().parse(template):
        if name == "" or form or conversion:
            raise ValueError("placeholders are {column}, without more")
        parts.append((text, name))
    if not any(name for _, name in parts):
        raise ValueError("there is no {column} in it")
    return parts


def _by_convention(found: list[str]) -> dict[str, str] | None:
    """Field → column; None where the columns say nothing or more than one thing."""
    columns: dict[str, str] = {}
    for name in found:
        field = CONVENTIONS.get(name)
        if name == "conversations" and "chosen" in found:
            field = "prompt"
        if field is None:
            continue
        if field == "input" or field in columns:
            return None
        columns[field] = name
    alone = columns.keys() - {"system"}
    if alone == {"prompt"} and columns["prompt"] != "prompt" or alone == {"response"} and columns["response"] != "text":
        return None
    if columns.get("response") == "text" and len(columns) > 1:
        return None
    return columns


def check(record: Record, columns: Mapping[str, str | list[str]] = MappingProxyType({})):
    """What every record read from a file must hold, whoever made it; raises BadRow.

    columns: field → column, to name the column in the message; a mapper's records have none, and may be ties.
    """
    def column(*fields: str) -> str:
        name = next((columns[field] for field in fields if field in columns), fields[-1])
        return name if isinstance(name, str) else " + ".join(name)

    if not isinstance(record.prompt, str):
        for turn in record.prompt:
            if turn["role"] not in MARKS:
                raise BadRow("unknown role", "prompt", f"the role {show(turn['role'])}", "one of " + ", ".join(MARKS))
    texts = [record.prompt] if isinstance(record.prompt, str) else [turn["content"] for turn in record.prompt]
    if "response" not in columns or "prompt" in columns:
        if not any(text.strip() for text in texts):
            name = column("prompt", "chosen", "messages", "prompt")
            raise BadRow("empty prompt", name, "an empty prompt", "some text")
    for index, response in enumerate(record.responses):
        if not response.strip():
            name = column("rejected" if index else "chosen", "response", "messages", "responses")
            raise BadRow("empty response", name, "an empty response", "some text")
    if len(record.responses) == 2 and record.scores is not None:
        if record.responses[0] == record.responses[1]:
            name = column("rejected", "responses")
            raise BadRow("identical pair", name, "the same text twice", "two different responses")
        if columns and record.scores[0] == record.scores[1]:
            raise BadRow("tied pair", column("scores"), "two equal scores", "one response better than the other")


class _Fields:
    """One row under a layout: its fields, typed."""

    def __init__(self, layout: Layout, row: dict[str, Any]):
        self.layout, self.columns, self.row = layout, layout.columns, row

    def record(self) -> Record:
        if "chosen" in self.columns:
            return self._pair()
        if "messages" in self.columns:
            messages = messages_of(self._value("messages"), self._column("messages"))
            prompt, response = last_turn(messages, self._column("messages"))
            return Record(self._with_system(prompt), [response], self._scores(1))
        prompt = self._prompt() if "prompt" in self.columns else ""
        if "responses" in self.columns:
            responses = self._responses()
            return Record(prompt, responses, self._scores(len(responses)))
        if "response" in self.columns:
            name = self._column("response")
            value = self._value("response")
            return Record(prompt, [_response(value, prompt, name)], self._scores(1))
        return Record(prompt, [])

    def _pair(self) -> Record:
        names = [self._column("chosen"), self._column("rejected")]
        values = [self._value("chosen"), self._value("rejected")]
        if "prompt" in self.columns:
            prompt = self._prompt()
            responses = [_response(value, prompt, name) for value, name in zip(values, names)]
        else:
            (prompt, first), (other, second) = (_implicit(value, name) for value, name in zip(values, names))
            if prompt != other:
                raise BadRow("prompt not shared", names[1], f"another prompt than in {names[0]}", "the same in both")
            responses = [first, second]
        scores = self._scores(2) or [1.0, 0.0]
        if scores[0] < scores[1]:
            raise BadRow("scores against choice", self._column("scores"), f"{scores[0]:g} for the chosen, {scores[1]:g} for "
                         "the rejected response", "a chosen response that scores no lower")
        return Record(self._with_system(prompt) if "prompt" not in self.columns else prompt, responses, scores)

    def _column(self, field: str) -> str:
        name = self.columns[field]
        return name if isinstance(name, str) else " + ".join(name)

    def _value(self, field: str) -> Any:
        """The value of a field's column; texts of several columns are joined by line breaks, empty ones left out."""
        names = self.columns[field]
        if isinstance(names, str):
            return self._cell(names)
        texts = [text_of(self._cell(name), name) for name in names]
        return "\n".join(text for text in texts if text)

    def _cell(self, name: str) -> Any:
        return cell(self.row, name)

    def _prompt(self) -> str | Messages:
        if self.layout.template is not None:
            parts = [text + ("" if name is None else text_of(self._cell(name), name)) for text, name in self.layout.template]
            return self._with_system("".join(parts))
        value, name = self._value("prompt"), self._column("prompt")
        prompt = messages_of(value, name) if isinstance(value, list) else text_of(value, name)
        return self._with_system(prompt)

    def _with_system(self, prompt: str | Messages) -> str | Messages:
        if "system" not in self.columns:
            return prompt
        value = self._value("system")
        system = "" if value is None else text_of(value, self._column("system"))
        if not system:
            return prompt
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if turns and turns[0]["role"] == "system":
            raise BadRow("two system messages", self._column("system"), "a system column and a system message", "one")
        return [{"role": "system", "content": system}, *turns]

    def _responses(self) -> list[str]:
        names = self.columns["responses"]
        if not isinstance(names, str):
            return [text_of(self._cell(name), name) for name in names]
        value = self._cell(names)
        if not isinstance(value, list):
            raise BadRow("null" if value is None else "wrong type", names, kind(value), "a list of texts")
        if not value:
            raise BadRow("no responses", names, "an empty list", "at least one response")
        return [text_of(item, names) for item in value]

    def _scores(self, count: int) -> list[float] | None:
        textual = self.layout.textual
        if "label" in self.columns:
            return [label_of(self._value("label"), self._column("label"), textual)]
        if "score" in self.columns:
            return [number_of(self._value("score"), self._column("score"), textual)]
        if "scores" not in self.columns:
            return None
        names = self.columns["scores"]
        values = self._cell(names) if isinstance(names, str) else [self._cell(name) for name in names]
        name = self._column("scores")
        if not isinstance(values, list):
            raise BadRow("null" if values is None else "wrong type", name, kind(values), "a list of numbers")
        if len(values) != count:
            raise BadRow("unequal lengths", name, f"{len(values)} scores for {count} responses", "as many as responses")
        return [number_of(value, name, textual) for value in values]


def _response(value: Any, prompt: str | Messages, field: str) -> str:
    """A response beside its prompt: text, a turn, or a list of turns that may repeat the prompt."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return text_of(value, field)
    before, response = last_turn(messages_of(value, field), field)
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if before and before != turns:
        raise BadRow("prompt not shared", field, "turns before the response that are not the prompt's",
                     "the prompt, or the response alone")
    return response


def _implicit(value: Any, field: str) -> tuple[Messages, str]:
    """Prompt and response of a whole conversation: an HH transcript or messages."""
    if not isinstance(value, str):
        return last_turn(messages_of(value, field), field)
    parsed = parse_transcript(value)
    if parsed is None:
        raise BadRow("not a transcript", field, show(value), "turns marked \\n\\nHuman: and \\n\\nAssistant:",
                     "give the prompt in a column of its own")
    messages, response, _ = parsed
    if "\n\nHuman:" in response:
        raise BadRow("not an assistant turn", field, "a human's turn last", "an assistant's turn last")
    return messages, response
