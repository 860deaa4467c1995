"""A response beside its prompt, and a whole conversation: lists of turns, plain text, or HH transcripts."""

from typing import Any

from .lines import show
from .record import MARKS, Messages, parse_transcript
from .values import BadRow, last_turn, turns_of


def plain_texts(row: dict[str, Any], names: list[str]) -> list[str] | None:
    """The texts of these columns, where each has some, and none could be a list of turns or a transcript; else None."""
    found = []
    for name in names:
        text = row.get(name)
        if type(text) is not str or MARKS["assistant"] in text or not (bare := text.strip()) or bare[0] == "[":
            return None
        found.append(text)
    return found


def answer_of(value: Any, field: str, to_turns: bool) -> tuple[Messages | None, dict]:
    """A response beside its prompt, of turns or text: the turns before it, None where it is plain text, and its own."""
    turns = turns_of(value, field, answer=to_turns)
    if turns is not None:
        return last_turn(turns, field)
    return _transcript(value, field) or (None, {"role": "assistant", "content": value})


def conversation_of(value: Any, field: str) -> tuple[Messages, dict]:
    """Prompt and response of a whole conversation: turns or an HH transcript."""
    turns = turns_of(value, field)
    if turns is not None:
        return last_turn(turns, field)
    if found := _transcript(value, field):
        return found
    begun = value.lstrip().startswith(("Human:", "Assistant:"))
    raise BadRow("not a transcript", field, show(value), "turns marked \\n\\nHuman: and \\n\\nAssistant:",
                 "begin the text with two line feeds and the mark of a human's turn" if begun else
                 "give the prompt in a column of its own")


def _transcript(text: str, field: str) -> tuple[Messages, dict] | None:
    parsed = parse_transcript(text)
    if parsed is None:
        return None
    messages, response, _ = parsed
    if "\n\nHuman:" in response:
        raise BadRow("not an assistant turn", field, "a human's turn last", "an assistant's turn last")
    return messages, {"role": "assistant", "content": response}
