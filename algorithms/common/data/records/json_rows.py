"""JSON Lines, a JSON array, or the list within a JSON object → raw rows.

JSON Lines stream. Of the others the text is held: an array's rows are decoded one by one, an object all at once.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from ...support.errors import DataError
from .lines import File, Row, data_error, lines, show, whole_text

LISTED = 8                      # lists of an object that a message names
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\r\n]*")


class _Refused(ValueError):
    """Valid for the JSON parser, refused by us: what was found."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise _Refused(f"the key {show(twice)} twice in one object")
    return value


def _constant(name: str):
    raise _Refused(f"the literal {name}, which is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _decode(path: str, line: int, text: str, start: int = 0, broken: str = "correct or complete the row"
            ) -> tuple[Any, int]:
    """One JSON value from `start`, and where it ends; broken: the fix of what is no JSON."""
    try:
        value, end = _DECODER.raw_decode(text, start)
        if _SURROGATE.search(text, start, end):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value, end
    except _Refused as error:
        found, fix = str(error), "correct the row; missing numbers are null"
    except json.JSONDecodeError as error:
        column = error.pos - start + 1
        found, fix = f"invalid JSON ({error.msg} at character {column})", broken
    except RecursionError:
        found, fix = "values nested too deeply", "flatten the row"
    except UnicodeEncodeError:
        found, fix = "half of a surrogate pair (\\ud800-\\udfff)", "write the character whole"
    except ValueError as error:
        found, fix = f"a number that cannot be read ({str(error)[:60]})", "correct the row"
    raise data_error(path, line, "row", found, "one valid JSON value", fix)


def json_lines(source: File) -> Iterator[Row]:
    """One JSON value on a line; blank lines are counted."""
    first = True
    for number, line in lines(source):
        start = _SPACE.match(line).end()
        if start == len(line):
            source.blank_lines += 1
            continue
        value, end = _decode(source.path, number, line, start, *([_of_several_lines(source, line)] if first else []))
        if first and isinstance(value, list) and any(isinstance(one, dict) for one in value):
            raise data_error(source.path, number, "row", "a JSON array of objects on a line", "one object on a line",
                             f"set {source.option('format', source.kind.replace('jsonl', 'json'))}")
        first = False
        if _SPACE.match(line, end).end() < len(line):
            raise data_error(source.path, number, "row", "more text after the JSON value", "one JSON object on a line",
                             "put every object on a line of its own")
        yield Row(number, value)


def _of_several_lines(source: File, line: str) -> str:
    """What helps where the first line holds no whole value: it may begin one that goes on."""
    if line.lstrip().startswith("["):
        array = source.option("format", source.kind.replace("jsonl", "json"))
        return f"correct or complete the row, or where the file is one array set {array}"
    goes_on = line.rstrip().endswith(("{", ",", ":"))
    return "correct or complete the row" + ("; where an object goes on over several lines: jq -c . FILE writes each on "
                                            "one" if goes_on else "")


def optional_keys(source: File, names: set[str]) -> set[str]:
    """Those of the names that are a key of some row.

    What seems to hold none is not decoded, nor what follows a broken row.
    """
    written = {json.dumps(name, ensure_ascii=ascii) for name in names for ascii in (True, False)}
    key = re.compile(f"({'|'.join(map(re.escape, sorted(written)))})[ \\t]*:")
    found: set[str] = set()
    try:
        for value in (_lines_with if source.kind.startswith("jsonl") else _rows_with)(source, key):
            if isinstance(value, dict):
                found |= names & value.keys()
            if found == names:
                break
    except DataError:       # whoever reads the rows is told
        pass
    return found


def _lines_with(source: File, key: re.Pattern) -> Iterator[Any]:
    for number, line in lines(source):
        if key.search(line):
            yield _decode(source.path, number, line, _SPACE.match(line).end())[0]


def _rows_with(source: File, key: re.Pattern) -> Iterator[Any]:
    if key.search(whole_text(source)[0]):
        yield from (row.value for row in json_file(source))


def json_file(source: File) -> Iterator[Row]:
    """The rows of an array, or of the list `source.rows` of an object, numbered from 1."""
    text, broken = whole_text(source)
    number = 0
    try:
        for number, value in enumerate((_array if source.rows is None else _within)(source, text), 1):
            yield Row(number, value)
    except DataError:
        if broken is None:
            raise
    if broken is not None:
        raise broken(number + 1)


def _array(source: File, text: str) -> Iterator[Any]:
    row = 1

    def refuse(found: str):
        raise data_error(source.path, row, "file", found, "a JSON array of objects",
                         f"correct the file; JSON Lines need {source.option('format', 'jsonl')}")

    at = _SPACE.match(text).end()
    if at == len(text):
        return
    if text[at] == "{":
        raise _no_array(source, text, at)
    if text[at] != "[":
        refuse(f"text that begins with {show(text[at:at + 12])}")
    at = _SPACE.match(text, at + 1).end()
    closed = text[at:at + 1] == "]"
    while not closed:
        value, at = _decode(source.path, row, text, at)
        at = _SPACE.match(text, at).end()
        if text[at:at + 1] not in (",", "]"):
            refuse("the end of the file inside the array" if at == len(text) else "no comma after a row")
        source.part = at / len(text)
        yield value
        row += 1
        closed = text[at] == "]"
        at = _SPACE.match(text, at + 1).end() if not closed else at
    if _SPACE.match(text, at + 1).end() < len(text):
        refuse("more text after the array")


def _no_array(source: File, text: str, at: int) -> DataError:
    """Of an object where an array was expected: which of its lists may be meant."""
    value, end = _decode(source.path, 1, text, at)
    lists = _lists(value)
    found, fix = f"an object with {_named(source, lists)}", "put the object in brackets if it is one row"
    if _SPACE.match(text, end).end() < len(text):
        found, fix = "an object and more after it", f"JSON Lines need {source.option('format', 'jsonl')}"
    elif lists and not any(isinstance(one, dict) for rows in lists.values() for one in rows):
        fix = "write a list of objects, one for each row (pandas: to_json(FILE, orient='records'))"
    elif lists:
        longest = max(lists, key=lambda name: len(lists[name]))
        fix = f"name the list of rows: {source.option('rows', longest)}"
    return data_error(source.path, 1, "file", found, "a JSON array of objects", fix)


def _within(source: File, text: str) -> Iterator[Any]:
    at = _SPACE.match(text).end()
    if at == len(text):
        return
    top, end = _decode(source.path, 1, text, at)
    if _SPACE.match(text, end).end() < len(text):
        raise data_error(source.path, 1, "file", "more text after the first JSON value", "one JSON object",
                         "correct the file")
    value = top
    for name in source.rows.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, list):
        found = f"an object with {_named(source, _lists(top))}" if isinstance(top, dict) else "no object"
        raise data_error(source.path, 1, "file", found, f"an object with a list at {show(source.rows)}",
                         f"correct {source.key('rows')}")
    yield from value


def _lists(top: dict[str, Any]) -> dict[str, list]:
    """The lists in an object and in the objects within it, by dotted name: those of objects,
    or all where there are none."""
    found, stack = {}, [("", top)]
    while stack:
        before, value = stack.pop()
        if isinstance(value, list):
            found[before.removesuffix(".")] = value
        elif isinstance(value, dict):
            stack += [(f"{before}{name}.", inner) for name, inner in reversed(value.items())
                      if name and "." not in name]
    return {name: value for name, value in found.items() if any(isinstance(one, dict) for one in value)} or found


def _named(source: File, lists: dict[str, list]) -> str:
    named = [f"{show(name)} ({len(value)})" for name, value in lists.items()]
    more = ", …" if len(named) > LISTED else ""
    return "lists at " + ", ".join(named[:LISTED]) + more if named else f"no list that {source.key('rows')} can name"
