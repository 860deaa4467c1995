"""What data.mapper returned, made sure of; what was raised in a user's function, as a bad row."""

import json
from dataclasses import replace
from numbers import Real
from typing import Any

from ...support.errors import raised_in
from .readers import show
from .record import Record
from .values import BadRow, further_keys, kind


def raised(what: str, error: Exception) -> BadRow:
    """The bad row that a user's function makes of any error: its type, message and place in the function."""
    return BadRow(f"{what} error", "row", raised_in(error), f"a row that data.{what} can read",
                  f"correct the row or the {what}")


def typed(record: Record) -> Record:
    """A mapper's record with every part of its type, as lists, floats and plain turns; raises BadRow.

    That the scores are finite and as many as the responses, Record itself sees to.
    """
    def refuse(part: str, value: Any, expected: str):
        raise BadRow("null" if value is None else "wrong type", part, f"{kind(value)} in the mapper's record", expected,
                     "correct the row or the mapper")

    prompt, scores = record.prompt, record.scores
    if isinstance(prompt, list):
        for turn in prompt:
            if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
                raise BadRow("wrong type", "prompt", f"the turn {show(turn)} in the mapper's record",
                             'turns of the form {"role": text, "content": text}', "correct the row or the mapper")
        prompt = [{"role": turn["role"], "content": turn["content"],
                   **further_keys(turn, ("role", "content"), turn["role"], "prompt")} for turn in prompt]
        prompt = [turn for turn in prompt if turn["role"] != "system" or turn["content"].strip()]
    elif not isinstance(prompt, str):
        refuse("prompt", prompt, "text or a list of turns")
    if not isinstance(record.responses, (list, tuple)):
        refuse("responses", record.responses, "a list of texts")
    for response in record.responses:
        if not isinstance(response, str):
            refuse("responses", response, "texts")
    if scores is not None:
        if not isinstance(scores, (list, tuple)):
            refuse("scores", scores, "a list of numbers")
        for score in scores:
            if not isinstance(score, Real) or isinstance(score, bool):
                refuse("scores", score, "numbers")
        scores = [float(score) for score in scores]
    if not isinstance(record.meta, dict):
        refuse("meta", record.meta, "an object")
    try:
        json.dumps(record.meta)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRow("mapper error", "meta", f"{type(error).__name__}: {error}", "what JSON can hold",
                     "correct the mapper") from None
    return replace(record, prompt=prompt, responses=list(record.responses), scores=scores, extras=_typed_extras(record))


def _typed_extras(record: Record) -> list[dict] | None:
    """The further keys of the responses' turns in a mapper's record; raises BadRow."""
    if record.extras is None:
        return None
    if not isinstance(record.extras, list) or not all(isinstance(extra, dict) for extra in record.extras):
        raise BadRow("wrong type", "extras", f"{show(record.extras)} in the mapper's record",
                     "a list of objects, or None", "correct the mapper")
    extras = [further_keys(extra, (), "assistant", "extras") for extra in record.extras]
    if any("weight" in extra for extra in extras):
        raise BadRow("nothing to learn", "extras", "the weight 0 in the mapper's record", "responses to learn from",
                     "leave the response out in the mapper")
    return extras if any(extras) else None
