"""The typed values of a raw row, for layouts, mappers and filters alike; what cannot be used raises BadRow.

In files of every format a list may be given as its JSON text, as it must be in CSV. Where text may stand, text is read
as turns only if it is a JSON list of them with a user's among them, or such a list beside a prompt of turns; all other
text is text, JSON too.
"""

import json
import math
import re
from decimal import Decimal
from typing import Any, NamedTuple

from .readers import show
from .record import Messages

_NAMES = {"system": "system developer", "user": "user human prompter",
          "assistant": "assistant gpt chatgpt bing bard model bot chatbot"}
ROLES = {name: role for role, names in _NAMES.items() for name in names.split()}    # in any case of letters
_WHO, _WHAT = ("role", "from", "speaker"), ("content", "value", "text")     # a turn's keys; the first one with a value
_LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_WEIGHTS = {"weight": "0 or 1", "loss_weight": "0 or 1", "train": "true or false"}    # a turn's key → its values
_LITERAL = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[\w.+-]+)"""
_BEFORE = rf"(?:{_LITERAL}\s*:\s*{_LITERAL}\s*,\s*)*"         # the keys before one, with their values
_PYTHON_TURNS = re.compile(rf"\s*\[\s*\{{\s*(?={_BEFORE}'(?:{'|'.join(_WHAT)})'\s*:)"
                           rf"{_BEFORE}'(?:{'|'.join(_WHO)})'\s*:\s*'(?i:{'|'.join(ROLES)})'\s*[,}}]")


class BadRow(Exception):
    """A row that parses but cannot be used.

    reason: short and stable, the key under which such rows are counted; field: the column. fix: what mends the row;
    that it can be left out, a listing says where something else is left.
    row: which one of the rows a mapper was given as a group; None where that is not known.
    """

    def __init__(self, reason: str, field: str, found: str, expected: str, fix: str = "correct the row",
                 row: int | None = None):
        super().__init__(reason)
        self.reason, self.field, self.row = reason, field, row
        self.found, self.expected, self.fix = found, expected, fix


class Skipped(NamedTuple):
    """A part of a row that a mapper leaves out, given among its records: `what` it is counted under."""

    what: str


def kind(value: Any) -> str:
    """The name of a value's type, in JSON's terms."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list",
             dict: "an object", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")


def cell(row: Any, name: str, whole: str | None = None) -> Any:
    """A column's value in a raw row, or a key's in an object inside it.

    A name with dots that is no column goes into objects: ``question.text``; of a list of objects it is the list of
    their values. whole: the name for messages.
    """
    whole = whole or name
    if not isinstance(row, dict):
        raise BadRow("not an object", whole, f"{kind(row)} in its place", "an object that has it")
    if name in row:
        return row[name]
    outer, _, inner = name.partition(".")
    if outer not in row or not inner:
        raise BadRow("missing column", whole, "no such column in this row", "a value")
    value = _decoded(row[outer])
    return [cell(item, inner, whole) for item in value] if isinstance(value, list) else cell(value, inner, whole)


def _decoded(value: Any) -> Any:
    """A list or an object that is given as its JSON text; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        found = json.loads(value)
        if "\\u" in value:
            json.dumps(found, ensure_ascii=False).encode("utf-8")        # no half of a surrogate pair
    except (ValueError, RecursionError):
        return value
    return found


def text_of(value: Any, field: str, expected: str = "text") -> str:
    """A value that must be text."""
    if isinstance(value, str):
        return value
    raise BadRow("null" if value is None else "wrong type", field, kind(value), expected)


def given(row: Any, name: str) -> Any:
    """The same of an optional column: None where there is none."""
    try:
        return cell(row, name)
    except BadRow as bad:
        if bad.reason != "missing column":
            raise
        return None


def list_of(value: Any, field: str, expected: str) -> list:
    """A value that must be a list, or the JSON text of one."""
    found = _decoded(value)
    if isinstance(found, list):
        return found
    raise BadRow("null" if value is None else "wrong type", field, kind(value), expected + ", or its JSON text")


def messages_of(value: Any, field: str) -> Messages:
    """A list of turns as messages, see :func:`message_of`; as an object of lists too.
    A system turn without text is none."""
    turns = _rows(_decoded(value), field)
    turns = list_of(value, field, "a list of messages") if turns is None else turns
    turns = [message_of(turn, field) for turn in turns]
    return [turn for turn in turns if turn["role"] != "system" or turn["content"].strip()]


def _rows(value: Any, field: str) -> list[dict] | None:
    """The turns of an object of lists, Arrow's form of a list of objects: {"role": […], "content": […]};
    else None."""
    columns = {name: column for name, column in value.items() if column is not None} if isinstance(value, dict) else {}
    if not _is_turn(columns) or not all(isinstance(columns[_key(columns, keys)], list) for keys in (_WHO, _WHAT)):
        return None
    columns = {name: column for name, column in columns.items() if isinstance(column, list)}
    if len(set(map(len, columns.values()))) > 1:
        lengths = ", ".join(f"{len(column)} of {name}" for name, column in columns.items())
        raise BadRow("unequal lengths", field, lengths, "as many of each")
    return [dict(zip(columns, turn)) for turn in zip(*columns.values())]


def turns_of(value: Any, field: str, answer: bool = False) -> Messages | None:
    """Where text or turns may stand: the turns, as a list, an object of lists, one alone, or the JSON text of a list.

    None for text.
    Text is a list of turns where each item has a turn's keys and one of them the user's role, or, of an answer to a
    prompt of turns (`answer`), any known role. That of a list of Python's objects with a known role, which pandas
    writes to CSV, is refused rather than read as prose.
    """
    if isinstance(value, str):
        if value.lstrip()[:1] != "[":
            return None
        found, known = _decoded(value), ROLES.values() if answer else ("user",)
        are_turns = isinstance(found, list) and found and all(map(_is_turn, found))
        if are_turns and any(_role(turn) in known for turn in found):
            return messages_of(found, field)
        if _PYTHON_TURNS.match(value):
            raise BadRow("turns as Python text", field, show(value), "a list of messages, or its JSON text",
                         "write the column with json.dumps, or keep it a list: JSON Lines, Parquet")
        return None
    turns = _rows(value, field)
    if turns is not None:
        value = turns
    elif _is_turn(value):
        value = [value]
    if not isinstance(value, list):
        text_of(value, field)
    return messages_of(value, field)


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and _key(value, _WHO) is not None and _key(value, _WHAT) is not None


def _key(turn: dict, keys: tuple[str, ...]) -> str | None:
    """The first key with a value, or else that is there: a table gives every turn the keys of all, some null."""
    there = [key for key in keys if key in turn]
    return next((key for key in there if turn[key] is not None), there[0] if there else None)


def _role(turn: dict) -> str | None:
    """What we call a turn's role; None for an unknown one."""
    role = turn[_key(turn, _WHO)]
    return ROLES.get(role) or ROLES.get(role.lower()) if isinstance(role, str) else None


def message_of(turn: Any, field: str) -> dict[str, Any]:
    """One turn as ``{"role", "content"}``, from role, from or speaker and content, value or text, with its
    :func:`further_keys`; a list of text parts is joined."""
    if not isinstance(turn, dict):
        raise BadRow("wrong type", field, kind(turn) + " as a message", "an object with role and content")
    who, what = _key(turn, _WHO), _key(turn, _WHAT)
    if who is None or what is None:
        raise BadRow("missing key", field, f"a message without {'role' if who is None else 'content'}",
                     "role and content, from and value, or speaker and text")
    role = _role(turn)
    if role is None:
        raise BadRow("unknown role", field, f"the role {show(turn[who])}", "one of " + ", ".join(ROLES))
    if turn.get("tool_calls") or turn.get("function_call"):
        raise BadRow("non-text part", field, "a tool call", "text only")
    content = turn[what]
    if isinstance(content, list):
        content = "".join(_part(part, field) for part in content)
    elif content is None and role == "system":
        content = ""  # as an optional column: null is none
    return {"role": role, "content": text_of(content, field), **further_keys(turn, (who, what), role, field)}


def further_keys(turn: dict, read: tuple[str, ...], role: str, field: str) -> dict:
    """A turn's keys besides those `read`, nulls left out. What says whether an answer is learned (``_WEIGHTS``)
    becomes ``weight: 0`` where it is not, and nothing where it is, as by default; of other turns nothing ever is."""
    if len(turn) == len(read):
        return {}
    more = {key: value for key, value in turn.items() if key not in read and value is not None}
    counts = True
    for key, expected in _WEIGHTS.items():
        value = more.pop(key, 1)
        if not isinstance(value, (bool, int, float, Decimal)) or value not in (0, 1):
            raise BadRow("turn weight", f"{field}.{key}", show(value), expected,
                         "write 0 or false for an answer that is not to be learned, leave out those to learn less")
        counts = counts and bool(value)
    try:
        json.dumps(more)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow("wrong type", field, f"a message with other values ({error})", "what JSON can hold") from None
    return more if counts or role != "assistant" else {**more, "weight": 0}


def _part(part: Any, field: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        found = f"a part of type {show(part.get('type'))}" if isinstance(part, dict) else kind(part) + " as a part"
        raise BadRow("non-text part", field, found, 'parts of the form {"type": "text", "text": …}')
    return text_of(part.get("text") if part.get("text") is not None else part.get("value"), field)


def number_of(value: Any, field: str) -> float:
    """A finite number, or the text of one."""
    if isinstance(value, str):
        try:
            value = float(value.replace("_", "no digit"))       # 1_0 is 10 to Python alone
        except ValueError:
            raise BadRow("wrong type", field, show(value), "a number") from None
    if not isinstance(value, (int, float, Decimal)) or isinstance(value, bool):
        raise BadRow("null" if value is None else "wrong type", field, kind(value), "a number")
    try:
        value = float(value)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise BadRow("score not finite", field, str(value), "a finite number")
    return value


def label_of(value: Any, field: str) -> float:
    """A thumb: true/1 → 1.0, false/0 → 0.0, or the text of one."""
    if isinstance(value, str):
        value = _LABELS.get(value.strip().lower(), value)
    if isinstance(value, (bool, int, float, Decimal)) and value in (0, 1):
        return float(value)
    raise BadRow("null" if value is None else "wrong type", field, show(value), "true, false, 1 or 0",
                 "correct the row, or where it is another number read it as one: score in place of label in "
                 "data.columns" if isinstance(value, (int, float, Decimal)) else "correct the row")


def learned_part(messages: Messages) -> Messages:
    """A conversation up to its last answer that is to be learned; whole where none is, or another turn is last."""
    learned = [place for place, turn in enumerate(messages) if turn["role"] == "assistant" and "weight" not in turn]
    return messages[:learned[-1] + 1] if learned and messages[-1]["role"] == "assistant" else messages


def last_turn(messages: Messages, field: str) -> tuple[Messages, dict]:
    """A conversation as prompt and the turn that answers it; it must end with the assistant's turn."""
    if not messages:
        raise BadRow("empty prompt", field, "an empty list", "messages")
    if messages[-1]["role"] != "assistant":
        raise BadRow("not an assistant turn", field, f"a {messages[-1]['role']} turn last", "an assistant's turn last")
    if "weight" in messages[-1]:
        raise BadRow("nothing to learn", f"{field}.weight", "0 (or train: false) for the answer", "1, or no weight",
                     "correct the weight, or take the row out of the file")
    return messages[:-1], messages[-1]
