"""A file's columns → its layout: by `data.columns`, or by convention (the names of TRL's dataset formats and of
common preference sets). What could be read in two ways is refused.

By convention, comparisons are told from demonstrations and bare prompts by the names of the columns that are left over.
That is a list of names: a judgement in a column called otherwise is ignored, and reported among the columns that were.
"""

import re
import string
from collections.abc import Iterable, Mapping

from .columns import Layout
from .fields import CONVENTIONS, is_layout, option
from .judged import NUMBERED, judged_by_convention
from .lines import data_error, show

REPEATED = {frozenset({"prompt", "messages"}), frozenset({"prompt", "response", "messages"})}  # by convention alone
# Names of columns that are further responses or say how good one is, and names of what is only said about one
_WORD = r"(?:^|[\W_]|(?<=[a-z])(?=[A-Z]))"       # where one begins in a name
_JUDGING = re.compile(
    _WORD + "(?i:response|answer|completion|output|generation|chosen|accepted|rejected|winner|prefer|better|safer|rank|"
    r"rating|score|reward|vote|upvote|downvote|label|helpful|correct|quality|human_ref|summary_?[\dab]$|"
    "(?:wins?|won|loser?|lost|positive|negative)(?![a-z]))")
_RATING = re.compile(r"(?i)rating|score|reward|vote|helpful|quality|correct")
_ABOUT = re.compile(
    _WORD + "(?i:id|model|source|type|format|length|len|tokens|language|lang|name|url|path|hash|time)$")
_FIX = "set data.columns, for example 'data.columns={prompt: question, response: answer}', or data.mapper"
KNOWN_LAYOUTS = (
    "{prompt, chosen, rejected}, {prompt, chosen, rejected, scores}, {chosen, rejected}, "
    "{prompt|question|instruction, completion|response|answer|output}, {inputs, targets}, {prompt, completion, label}, "
    "{prompt, response, score}, {prompt, responses, scores}, {prompt, responses}, "
    "{prompt, response_a, response_b, winner|preference|…}, {prompt, responses, ranks}, "
    "{prompt, response, rank} by group, "
    "{messages|conversations|conversation}, {messages, label}, {prompt}, {text}, {conversations, chosen, rejected}, "
    "{question, response_chosen|chosen_response, response_rejected|rejected_response}, "
    "{chosen_messages, rejected_messages}; system or system_prompt may be added")


def recognise(path: str, found: Iterable[str], columns: Mapping[str, str | list[str]],
              template: str | None = None) -> Layout:
    """The layout of a file with the columns `found`: by `columns` (data.columns) or, where empty, by convention.

    template: data.template, the prompt's text with {column} placeholders, beside `columns` for the other fields.
    """
    found = list(dict.fromkeys(found))
    if columns:
        layout, ambiguity, fix = _as_told(path, found, columns, template), "", _FIX
    else:
        readings = _readings(found)
        layout = Layout(judged_by_convention(found, _by_convention(readings)), known=frozenset(found))
        ambiguity, fix = _doubts(found, readings)
    fields = layout.columns.keys()
    if not columns and fields - {"system"} == {"prompt"} and layout.columns["prompt"] != "prompt":
        layout, fields = Layout({}), set()      # a question alone may be anything
    if not is_layout(fields) and (columns or fields - {"system"} not in REPEATED):
        raise data_error(path, 1, "row", _listed(found) + ambiguity, "one of the layouts " + KNOWN_LAYOUTS, fix)
    if not columns and not fields & {"chosen", "scores", "score", "label", "winner", "rank", "ranks"}:
        _check_nothing_judged(path, layout, [name for name in found if name not in layout.used])
    return layout


def _listed(found: list[str]) -> str:
    return "the columns " + (", ".join(map(show, found)) or "(none)")


def _as_told(path: str, found: list[str], columns: Mapping[str, str | list[str]],
             template: str | None) -> Layout:
    """The layout of `columns`, of which all must be there."""
    chosen = {field: name if isinstance(name, str) else list(name) for field, name in columns.items()}
    parts = None if template is None else template_parts(template)
    if parts is not None:
        chosen["prompt"] = [name for _, name in parts if name is not None]
    layout = Layout(chosen, template=parts)
    if missing := layout.missing(found):
        keys = "data.columns" if template is None else "data.columns and data.template"
        expected = f"the columns of {keys}: " + ", ".join(map(show, missing))
        raise data_error(path, 1, "row", _listed(found), expected, f"correct {keys}")
    return layout


def _doubts(found: list[str], readings: Mapping[str, list[str]]) -> tuple[str, str]:
    """Where columns are refused: which of them mean the same, if any do; and what would say how they are read."""
    several = [names for names in readings.values() if len(names) > 1]
    alike = " and ".join(" and ".join(map(show, names)) + " mean the same" for names in several)
    told = f", of which {alike}" if several else ""
    first = {field: names[0] for field, names in readings.items()}
    if {"instruction", "input", "output"} <= set(found):  # Alpaca's: its input is a part of the prompt
        first = {**first, "prompt": ["instruction", "input"], "response": "output"}
        del first["input"]
        say = "say where input belongs"
    elif several:
        say = "name the one to read"
    else:
        return told, _FIX
    return told, f"{say}: {option(first)}, or data.mapper" if is_layout(first) else _FIX


def _check_nothing_judged(path: str, layout: Layout, left: list[str]):
    """Nothing unjudged is made of comparisons: raises DataError where columns left over, by their names, are further
    responses or say how good one is. The names are a list, so others pass."""
    if telling := [name for name in left if _JUDGING.search(name) and not _ABOUT.search(name)]:
        raise data_error(
            path, 1, "row", f"beside {layout.name} the columns {', '.join(map(show, telling))}",
            "no further responses or judgements",
            f"say what is read: {_reading(layout, telling)}; a preset of conf/data "
            f"or data.mapper; or these alone, {layout.by_name}")


def _reading(layout: Layout, telling: list[str]) -> str:
    """What data.columns may say: responses in columns of their own, or one column that rates the response."""
    several = [name for name in telling if NUMBERED.fullmatch(name)]
    if "prompt" in layout.columns and len(several) > 1:
        return (f"data.columns with responses: [{', '.join(several)}] and the column of the winner, or those of ranks "
                "or scores")
    if layout.columns.keys() >= {"prompt", "response"} and len(telling) == 1 and _RATING.search(telling[0]):
        return f"data.columns with score: {telling[0]} beside these"
    return "data.columns with chosen and rejected, or responses and scores"


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


def _readings(found: list[str]) -> dict[str, list[str]]:
    """Field → the columns that may be read as it.

    Beside chosen and rejected a conversation is not read where there is a prompt, and the prompt where it is
    LLaMA-Factory's `conversations`. A prompt and a response beside a conversation are taken for parts of it, which
    every row must confirm.
    """
    readings: dict[str, list[str]] = {}
    for name in found:
        if field := CONVENTIONS.get(name):
            readings.setdefault(field, []).append(name)
    if {"chosen", "rejected", "messages"} <= readings.keys():
        if "prompt" in readings:
            del readings["messages"]
        elif readings["messages"] == ["conversations"]:
            readings["prompt"] = readings.pop("messages")
    return readings


def _by_convention(readings: Mapping[str, list[str]]) -> dict[str, str]:
    """Field → column; nothing where the columns say nothing or more than one thing."""
    if "input" in readings or any(len(names) > 1 for names in readings.values()):
        return {}
    columns = {field: names[0] for field, names in readings.items()}
    alone = columns.keys() - {"system"}
    if alone == {"response"} and columns["response"] != "text":
        return {}
    if len(columns) > 1 and columns.get("response") == "text":
        return {}
    return columns
