"""The typed values of a raw row, for layouts, mappers and filters alike; what cannot be used raises BadRow."""

import math
from typing import Any, NamedTuple

from .readers import show
from .record import Messages

ROLES = {"system": "system", "user": "user", "human": "user", "prompter": "user", "assistant": "assistant",
         "gpt": "assistant"}


class BadRow(Exception):
    """A row that parses but cannot be used.

    reason: short and stable, the key under which such rows are counted; field: the column.
    row: which one of the rows a mapper was given as a group.
    """

    def __init__(self, reason: str, field: str, found: str, expected: str, fix: str = "correct the row", row: int = 0):
        super().__init__(reason)
        self.reason, self.field, self.found, self.expected, self.fix, self.row = reason, field, found, expected, fix, row


class Skipped(NamedTuple):
    """A part of a row that a mapper leaves out, given among its records: `what` it is counted under."""

    what: str


def kind(value: Any) -> str:
    """The name of a value's type, in JSON's terms."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list",
             dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def cell(row: Any, name: str) -> Any:
    """A column's value in a raw row, or a key's in an object inside it."""
    if not isinstance(row, dict):
        raise BadRow("not an object", name, f"{kind(row)} in its place", "an object that has it")
    if name not in row:
        raise BadRow("missing column", name, "no such column in this row", "a value")
    return row[name]


def text_of(value: Any, field: str, expected: str = "text") -> str:
    """A value that must be text."""
    if isinstance(value, str):
        return value
    raise BadRow("null" if value is None else "wrong type", field, kind(value), expected)


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


def last_turn(messages: Messages, field: str) -> tuple[Messages, str]:
    """A conversation as prompt and response; it must end with the assistant's turn."""
    if not messages:
        raise BadRow("empty prompt", field, "an empty list", "messages")
    if messages[-1]["role"] != "assistant":
        raise BadRow("not an assistant turn", field, f"a {messages[-1]['role']} turn last", "an assistant's turn last")
    return messages[:-1], messages[-1]["content"]
