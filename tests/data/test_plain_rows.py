"""Rows of texts alone are read at once, and as any other row is."""

import itertools
import json

import pytest

from algorithms.common.data.records import columns
from algorithms.common.data.records.columns import Layout
from algorithms.common.data.records.record import Record, meta_json
from algorithms.common.data.records.values import BadRow

PAIR = {"prompt": "question", "chosen": "chosen", "rejected": "rejected"}
ANSWER = {"prompt": "prompt", "response": "a.b"}
TURN = {"role": "user", "content": "hello"}
VALUES = ["plain", " spaced \n", "two\n\nparts", "x [1]", "[1, 2]", " [", "", " \t", "{}", json.dumps([TURN]),
          "\n\nHuman: hello\n\nAssistant:", "\n\nHuman: hello\n\nAssistant: yes", "a\n\nAssistant: b", "\n\nAssistant:",
          "Assistant: x", None, 3, 2.5, True, TURN, [TURN], ["a", "b"], {"b": "inner"}]


def read(layout: Layout, row: dict):
    """The records, or all that is said of the row."""
    try:
        return layout.parts(row)
    except BadRow as bad:
        return bad.reason, bad.field, bad.found, bad.expected, bad.fix


def rows():
    for values in itertools.product(VALUES, VALUES, ("plain", "other", "[1, 2]", " ", None)):
        yield dict(zip(("question", "chosen", "rejected"), values))
    for prompt, answer in itertools.product(VALUES, VALUES):
        yield {"prompt": prompt, "a": {"b": answer}}
        yield {"prompt": prompt, "a.b": answer, "a": 1}
        yield {"prompt": prompt, "a.b": answer, "score": 1.0}
        yield {"prompt": prompt, "a.b": answer, "score": None, "note": "x"}
    yield from ({}, {"question": "plain"}, {"prompt": "plain"}, [], "text", None)


@pytest.mark.parametrize("layout", [
    Layout(PAIR), Layout(PAIR, empty=True), Layout(PAIR, known=frozenset(PAIR.values())), Layout(ANSWER),
    Layout(ANSWER, known=frozenset({"prompt", "a.b"})), Layout({**PAIR, "system": "system"}),
    Layout({"prompt": ["prompt", "input"], "response": "a.b"}), Layout(PAIR, listed=True),
    Layout({"prompt": ["question"], "chosen": "chosen", "rejected": "rejected"}, template=[("Q: ", "question")])])
def test_a_row_makes_what_it_makes_part_by_part(layout, monkeypatch):
    tried = list(rows())
    at_once = [read(layout, row) for row in tried]
    monkeypatch.setattr(columns, "plain_texts", lambda row, names: None)
    assert at_once == [read(layout, row) for row in tried]


def test_most_rows_are_read_at_once(monkeypatch):
    monkeypatch.setattr(columns, "_Fields", None)
    row = {"question": "What?", "chosen": " good", "rejected": "bad [1]"}
    assert Layout(PAIR).parts(row) == [Record("What?", [" good", "bad [1]"], [1.0, 0.0])]
    assert Layout(ANSWER).parts({"prompt": "What?", "a.b": "this"}) == [Record("What?", ["this"])]
    with pytest.raises(TypeError):
        Layout({**PAIR, "system": "system"}).parts({**row, "system": "Be brief."})


@pytest.mark.parametrize("meta", [
    {}, {"source": "a/b.jsonl", "line": 12}, {"größe": "naïve \"x\" \\ \n\u2028 😀", "n": -3}, {"a": 1.0}, {"a": True},
    {"a": None, "b": [1, {"c": "d"}]}, {1: "x"}, {"lines": [1, 2], "line": 1}, {"big": 10**30}])
def test_meta_is_written_as_json_does(meta):
    assert meta_json(meta) == json.dumps(meta)
