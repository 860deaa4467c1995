"""Raw rows → records, by column names.

A file's columns are matched with our fields, by `data.columns` or by convention (the names of TRL's dataset formats
and of common preference sets), and the fields present decide the layout. A row that cannot be used raises BadRow.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from algorithms.common.readers import data_error, show
from algorithms.common.record import MARKS, Messages, Record, parse_transcript

FIELDS = ("prompt", "system", "chosen", "rejected", "response", "responses", "scores", "score", "label", "messages")
LAYOUTS = {
    frozenset(layout.split()) for layout in (
        "prompt chosen rejected", "chosen rejected", "prompt response", "prompt response label",
        "prompt response score", "prompt responses scores", "prompt responses", "messages", "messages label",
        "prompt", "response")
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
    "{prompt, chosen, rejected}, {chosen, rejected}, {prompt|question|instruction, completion|response|answer|output}, "
    "{prompt, completion, label}, {prompt, response, score}, {prompt, responses, scores}, {prompt, responses}, "
    "{messages}, {messages, label}, {prompt}, {text}, {question, response_chosen, response_rejected}, "
    "{conversations}, {conversations, chosen, rejected}, {chosen_messages, rejected_messages}; system may be added")
ROLES = {"system": "system", "user": "user", "human": "user", "prompter": "user", "assistant": "assistant",
         "gpt": "assistant"}


class BadRow(Exception):
    """A row that parses but cannot be used.

    reason: short and stable, the key under which such rows are counted; field: the column.
    """

    def __init__(self, reason: str, field: str, found: str, expected: str, fix: str = "correct the row"):
        super().__init__(reason)
        self.reason, self.field, self.found, self.expected, self.fix = reason, field, found, expected, fix


@dataclass(frozen=True)
class Layout:
    """Which of our fields a file has, and the column (or columns) of each.

    textual: all values are text (CSV, TSV): numbers and labels are parsed from it.
    strict: by convention, so that a column with a meaning of its own that turns up later is a bad row.
    """

    columns: Mapping[str, str | list[str]]
    textual: bool = False
    strict: bool = False

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


def recognise(path: str, found: Iterable[str], columns: Mapping[str, str | list[str]], textual: bool) -> Layout:
    """The layout of a file with the columns `found`: by `columns` (data.columns) or, where empty, by convention."""
    found = list(dict.fromkeys(found))
    listed = "the columns " + (", ".join(map(show, found)) or "(none)")
    fix = "set data.columns, for example data.columns={prompt: question, response: answer}, or data.mapper"
    if columns:
        chosen = {field: name if isinstance(name, str) else list(name) for field, name in columns.items()}
        layout = Layout(chosen, textual)
        missing = sorted(layout.used - set(found))
        if missing:
            raise data_error(path, 1, "row", listed, "the columns of data.columns: " + ", ".join(map(show, missing)),
                             "correct data.columns")
    else:
        layout = Layout(_by_convention(found) or {}, textual, strict=True)
    if frozenset(layout.columns.keys() - {"system"}) not in LAYOUTS:
        raise data_error(path, 1, "row", listed, "one of the layouts " + KNOWN_LAYOUTS, fix)
    return layout


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

    columns: field → column, to name the column in the message; a mapper's records have none.
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
        if record.scores[0] == record.scores[1]:
            raise BadRow("tied pair", column("scores"), "two equal scores", "one response better than the other")


# ---- the values of one row


def kind(value: Any) -> str:
    """The name of a value's type, in JSON's terms."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list",
             dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def text_of(value: Any, field: str) -> str:
    """A value that must be text."""
    if isinstance(value, str):
        return value
    raise BadRow("null" if value is None else "wrong type", field, kind(value), "text")


def messages_of(value: Any, field: str) -> Messages:
    """A list of turns, in role/content or from/value form, as messages."""
    if not isinstance(value, list):
        raise BadRow("null" if value is None else "wrong type", field, kind(value), "a list of messages")
    return [message_of(turn, field) for turn in value]


def message_of(turn: Any, field: str) -> dict[str, str]:
    """One turn as ``{"role", "content"}``; content may be text or a list of text parts."""
    if not isinstance(turn, dict):
        raise BadRow("wrong type", field, kind(turn) + " as a message", "an object with role and content")
    role_key, content_key = ("from", "value") if "from" in turn else ("role", "content")
    for key in (role_key, content_key):
        if key not in turn:
            raise BadRow("missing key", field, f"a message without {key}", f"{role_key} and {content_key}")
    role = turn[role_key]
    if not isinstance(role, str) or role not in ROLES:
        raise BadRow("unknown role", field, f"the role {show(role)}", "one of " + ", ".join(ROLES))
    if turn.get("tool_calls"):
        raise BadRow("non-text part", field, "a tool call", "text only")
    content = turn[content_key]
    if isinstance(content, list):
        content = "".join(_part(part, field) for part in content)
    return {"role": ROLES[role], "content": text_of(content, field)}


def _part(part: Any, field: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        found = f"a part of type {show(part.get('type'))}" if isinstance(part, dict) else kind(part) + " as a part"
        raise BadRow("non-text part", field, found, 'parts of the form {"type": "text", "text": …}')
    return text_of(part.get("text") if part.get("text") is not None else part.get("value"), field)


def number_of(value: Any, field: str, textual: bool) -> float:
    """A finite number."""
    if textual and isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise BadRow("wrong type", field, show(value), "a number") from None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise BadRow("null" if value is None else "wrong type", field, kind(value), "a number")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise BadRow("score not finite", field, str(value), "a finite number")
    return value


def label_of(value: Any, field: str, textual: bool) -> float:
    """A thumb: true/1 → 1.0, false/0 → 0.0."""
    if textual and isinstance(value, str):
        value = {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower(), value)
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return float(value)
    raise BadRow("null" if value is None else "wrong type", field, show(value), "true, false, 1 or 0")


class _Fields:
    """One row under a layout: its fields, typed."""

    def __init__(self, layout: Layout, row: dict[str, Any]):
        self.layout, self.columns, self.row = layout, layout.columns, row

    def record(self) -> Record:
        if "chosen" in self.columns:
            return self._pair()
        if "messages" in self.columns:
            messages = messages_of(self._value("messages"), self._column("messages"))
            prompt, response = _last_turn(messages, self._column("messages"))
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
        return Record(self._with_system(prompt) if "prompt" not in self.columns else prompt, responses, [1.0, 0.0])

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
        if name not in self.row:
            raise BadRow("missing column", name, "no such column in this row", "a value")
        return self.row[name]

    def _prompt(self) -> str | Messages:
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


def _last_turn(messages: Messages, field: str) -> tuple[Messages, str]:
    if not messages:
        raise BadRow("empty prompt", field, "an empty list", "messages")
    if messages[-1]["role"] != "assistant":
        raise BadRow("not an assistant turn", field, f"a {messages[-1]['role']} turn last", "an assistant's turn last")
    return messages[:-1], messages[-1]["content"]


def _response(value: Any, prompt: str | Messages, field: str) -> str:
    """A response beside its prompt: text, a turn, or a list of turns that may repeat the prompt."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return text_of(value, field)
    before, response = _last_turn(messages_of(value, field), field)
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if before and before != turns:
        raise BadRow("prompt not shared", field, "turns before the response that are not the prompt's",
                     "the prompt, or the response alone")
    return response


def _implicit(value: Any, field: str) -> tuple[Messages, str]:
    """Prompt and response of a whole conversation: an HH transcript or messages."""
    if not isinstance(value, str):
        return _last_turn(messages_of(value, field), field)
    parsed = parse_transcript(value)
    if parsed is None:
        raise BadRow("not a transcript", field, show(value), "turns marked \\n\\nHuman: and \\n\\nAssistant:",
                     "give the prompt in a column of its own")
    messages, response, _ = parsed
    if "\n\nHuman:" in response:
        raise BadRow("not an assistant turn", field, "a human's turn last", "an assistant's turn last")
    return messages, response
