"""Every mapper of the presets with one bad value for each field it reads; what a mapper of one's own may get wrong."""

import copy
import json
import re

import pytest

from algorithms.common.data.records import BadRow, FileData, Record, Skipped
from algorithms.common.data.records import mappers as m
from algorithms.common.support.errors import DataError
from command_line import ROOT
from preset_rows import (
    ARENA,
    GSM,
    MESSAGE,
    NEWS,
    QUESTION,
    RAW_ANSWERS,
    REDDIT,
    SAFE,
    SHP,
    STATIC,
    STEER,
    TLDR,
    TREE,
    VERDICT,
    WEBGPT,
    assistant,
    changed,
    said,
    user,
)

GONE = object()
TEXT = (GONE, None, 3, ["x"])
NUMBER = (GONE, None, "many", True, [1])
OBJECT = (GONE, None, 3, "x", ["x"])
LIST = (GONE, None, 3, "x", {"a": 1})
SIDE = (GONE, None, 2, -1, True, "a", 0.5)
TURNS = (*LIST, [], [user("Hi")], [user("Hi"), {"role": "robot", "content": "x"}], [user("Hi"), {"role": "assistant"}],
         [user("Hi"), assistant(None)], ["Hi"])


def steer(rows):
    return m.rated_responses(rows, "prompt", "response", "helpfulness")


TREE_ROWS = [MESSAGE, said("a", "r", "one", rank=0), said("b", "r", "two", rank=1)]
STEER_ROWS = [STEER, changed(STEER, response="Al.")]
VALUES = {      # mapper: (function, a good row, {place of a value: bad ones}); the place is what the message names
    "hh_static": (m.hh_static, STATIC, {"prompt": (*TEXT, "\n\nHuman: Hi"), "chosen": TEXT, "rejected": TEXT}),
    "summarize": (m.summarize, REDDIT, {
        "info": OBJECT, "info.post": (GONE, 3), "info.subreddit": TEXT, "info.title": TEXT, "choice": SIDE,
        "summaries": (*LIST, [], [{"text": "a"}] * 3), "summaries[0]": (None, 3), "summaries[1].text": TEXT,
        "extra": (3, "x")}),
    "summarize, news": (m.summarize, NEWS, {"info.article": TEXT}),
    "webgpt": (m.webgpt, WEBGPT, {
        "question": OBJECT, "question.full_text": TEXT, "answer_0": TEXT, "answer_1": TEXT,
        "score_0": (*NUMBER, 1.5, float("inf")), "score_1": (*NUMBER, -2)}),
    "shp": (m.shp, SHP, {
        "history": TEXT, "human_ref_A": TEXT, "human_ref_B": TEXT, "labels": (GONE, None, 2, "A", 0),
        "score_A": (*NUMBER, float("nan")), "score_B": NUMBER}),
    "verdicts": (m.verdicts, VERDICT, {
        "outcome": (*TEXT, "both"), "judge": TEXT, "prompt": TEXT, "left_response": TEXT, "right_response": TEXT}),
    "safe_rlhf": (m.safe_rlhf, SAFE,
                  {"prompt": TEXT, "response_0": TEXT, "response_1": TEXT, "better_response_id": SIDE}),
    "arena": (m.arena, ARENA, {
        "winner": (GONE, None, "both", 1, ["tie"]), "conversation_a": TURNS,
        "conversation_b": (*TURNS, [user("Ho"), assistant("x")])}),
    "stack_exchange": (m.stack_exchange, QUESTION, {
        "question": TEXT, "answers": LIST, "answers[1]": (3, "x"), "answers[1].text": (GONE, 3),
        "answers[2].pm_score": NUMBER[1:]}),
    "stack_exchange, votes": (m.stack_exchange, changed(QUESTION, answers=RAW_ANSWERS), {
        "answers[0].upvotes": NUMBER, "answers[1].selected": (GONE, None, 2, "maybe")}),
    "rated_responses": (steer, STEER_ROWS,
                        {"[1].prompt": (*TEXT, "Else"), "[0].response": TEXT, "[1].helpfulness": NUMBER}),
    "oasst_tree": (m.oasst_tree, TREE, {
        "message_tree_id": TEXT, "prompt": OBJECT, "prompt.role": (*TEXT, "robot"), "prompt.text": TEXT,
        "prompt.message_id": TEXT, "prompt.replies": LIST, "prompt.replies[0]": (None, "x"),
        "prompt.replies[0].rank": ("0th", True, -1, 0.5, [1]), "prompt.replies[0].role": (*TEXT, "prompter"),
        "prompt.replies[1].replies[0].text": TEXT, "prompt.replies[1].replies[0].replies[1].rank": ("first", -1),
        "prompt.replies[1].replies[0].role": ("assistant",)}),
    "oasst_messages": (m.oasst_messages, TREE_ROWS, {
        "[0].message_tree_id": TEXT, "[1].message_id": (*TEXT, "r"), "[1].text": TEXT,
        "[2].role": (*TEXT, "bot", "prompter"),
        "[1].rank": ("first", True, -1, 0.5), "[2].parent_id": (GONE, None, 3, ["r"], "gone")}),
    "gsm_solutions": (m.gsm_solutions, GSM, {
        "question": TEXT, "ground_truth": TEXT, "6b_finetuning": OBJECT, "6b_verification.solution": TEXT,
        "175b_verification.is_correct": (GONE, None, 2, -1, 0.5, "wrong", [True])}),
    "imdb": (m.imdb, {"text": "a slow film about bread that rises , in the end"}, {"text": (*TEXT, "Bad")}),
    "tldr": (m.tldr, TLDR, {"query": TEXT, "summary": TEXT}),
}
BAD_VALUES = [(name, place, value) for name, (_, _, places) in VALUES.items() for place in places
              for value in places[place]]


def put(row, place, value):
    """A copy of the row with `value` at a place as messages name it."""
    row = copy.deepcopy(row)
    *path, last = [int(index) if index else key for index, key in re.findall(r"\[(\d+)\]|([^.\[\]]+)", place)]
    inner = row
    for step in path:
        inner = inner[step]
    if value is GONE:
        del inner[last]
    else:
        inner[last] = value
    return row


def test_every_mapper_is_in_the_table():
    public = {name for name, value in vars(m).items()
              if callable(value) and getattr(value, "__module__", "") == m.__name__ and not name.startswith("_")}
    assert {name.split(",")[0] for name in VALUES} == public - {"stack_exchange_score"}


@pytest.mark.parametrize("name", VALUES)
def test_the_rows_of_the_table_are_good_ones(name):
    mapper, row, _ = VALUES[name]
    assert mapper(row)


@pytest.mark.parametrize("name, place, value", BAD_VALUES)
def test_a_bad_value_is_named_by_its_place(name, place, value):
    mapper, row, _ = VALUES[name]
    with pytest.raises(BadRow) as error:
        mapper(put(row, place, value))
    bad = error.value
    at = re.match(r"\[(\d)\]\.(.+)", place)
    assert bad.field == (at[2] if at else place) or bad.field.startswith(place + "."), (bad.field, bad.found)
    assert (bad.row or 0) == (int(at[1]) if at else 0)
    assert bad.found and bad.expected and bad.fix and bad.reason


def test_a_draw_of_the_later_arena_sets_is_a_tie():
    for winner in ("tie", "both_bad"):
        assert m.arena(changed(ARENA, winner=winner)).scores == [0.5, 0.5]


# Mappers and filters of one's own


def write(folder, count=2):
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(count)))
    return str(path)


def refusal(path, **options):
    with pytest.raises(DataError) as error:
        FileData(path=path, **options).records()
    return str(error.value).split("\n")[0]


def divide(row):
    return Record(str(1 / row["n"]), ["x"])


def stop(row):
    return next(iter([]))


def claim(row):
    raise AssertionError("n below\nzero")


@pytest.mark.parametrize("function, found", [
    (divide, "ZeroDivisionError: division by zero"), (stop, "StopIteration"), (claim, "AssertionError: n below zero"),
    (lambda row: row["m"], "KeyError: 'm'"), (lambda row: {}[row["n"]], "KeyError: 0")])
def test_whatever_a_function_raises_makes_a_bad_row(tmp_path, function, found):
    path, line = write(tmp_path), function.__code__.co_firstlineno
    for option, others in (("mapper", {}), ("filter", {"columns": {"prompt": "n"}})):
        said = refusal(path, **{option: function}, **others)
        at = re.fullmatch(re.escape(f"{path}:1: row: found {found}")
                          + r" \(test_mappers.py, line (\d+)\); expected a row "
                          rf"that data.{option} can read; fix: correct the row or the {option}", said)
        assert at and line <= int(at[1]) <= line + 1, said
    first_only = FileData(path=path, mapper=lambda row: divide(row), on_bad_row="drop").records()[1]
    assert first_only.dropped == {"mapper error": 1} and first_only.kept == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("option", ["mapper", "filter"])
def test_what_ends_the_program_passes(tmp_path, option, kind):
    def end(row):
        raise kind

    with pytest.raises(kind):
        FileData(path=write(tmp_path), columns={"prompt": "n"} if option == "filter" else None,
                 **{option: end}).records()


MADE = [
    (lambda: Record("p", "good"), "responses", "text in the mapper's record; expected a list of texts"),
    (lambda: Record("p", "ab", [1, 0]), "responses", "text in the mapper's record; expected a list of texts"),
    (lambda: Record("p", ["a", 3]), "responses", "a number in the mapper's record; expected texts"),
    (lambda: Record("p", None), "responses", "null in the mapper's record; expected a list of texts"),
    (lambda: Record("p", ["a", "b"], [True, False]), "scores", "a boolean in the mapper's record; expected numbers"),
    (lambda: Record("p", ["a"], {1.0: "a"}), "scores", "an object in the mapper's record; expected a list of numbers"),
    (lambda: Record("p", ["a", "b"], ["1", "0"]), "row", "ValueError: scores must be numbers: ['1', '0']"),
    (lambda: Record("p", ["a", "b"], [1.0]), "row", "ValueError: 1 scores for 2 responses"),
    (lambda: Record("p", ["a"], [float("inf")]), "row", "ValueError: scores must be finite: [inf]"),
    (lambda: Record(7, ["a"]), "prompt", "a number in the mapper's record; expected text or a list of turns"),
    (lambda: Record([{"from": "human", "value": "q"}], ["a"]), "prompt", "the turn {'from': 'human', 'value': 'q'} in"),
    (lambda: Record(["q"], ["a"]), "prompt", "the turn 'q' in"),
    (lambda: Record([{"role": "bot", "content": "q"}], ["a"]), "prompt",
     "the role 'bot'; expected one of user, assistant, system"),
    (lambda: Record([], ["a"]), "prompt", "an empty prompt"),
    (lambda: Record("p", ["a"], None, "note"), "meta", "text in the mapper's record; expected an object"),
    (lambda: Record("p", ["a"], None, {"a": {1}}), "meta", "TypeError: Object of type set is not JSON serializable"),
    (lambda: None, "row", "that data.mapper returned None; expected a Record or a list of them, empty for none"),
    (lambda: (Record("p", ["x"]) for _ in "a"), "row", "that data.mapper returned <generator"),
]


@pytest.mark.parametrize("make, field, found", MADE, ids=[found for *_, found in MADE])
def test_what_a_mapper_returns_is_checked(tmp_path, make, field, found):
    path = write(tmp_path)
    said = refusal(path, mapper=lambda row: make() if row["n"] else Record("p", ["x"]))
    assert said.startswith(f"{path}:2: {field}: found {found}") and "; expected " in said and "; fix: " in said


def test_records_of_a_mapper_are_kept_as_lists_floats_and_plain_turns(tmp_path):
    import numpy as np
    turn = {"role": "user", "content": "q", "weight": 1}
    made = Record([turn], ("a", "b"), (np.float32(1), 0))
    records, _ = FileData(path=write(tmp_path, 1), mapper=lambda row: made).records()
    assert (records[0].prompt, records[0].responses, records[0].scores) == ([user("q")], ["a", "b"], [1.0, 0.0])


def test_a_bad_row_of_a_function_of_ones_own(tmp_path):
    def to_record(row):
        if row["n"] == 1:
            raise BadRow("odd", "n", "1", "an even\nnumber", "leave it out", row=5)
        return [Skipped("half"), Record("p", ["x"])]

    path = write(tmp_path, 4)
    assert refusal(path, mapper=to_record) == f"{path}:2: n: found 1; expected an even number; fix: leave it out"
    report = FileData(path=path, mapper=to_record, on_bad_row="drop").records()[1]
    assert (report.dropped, report.skipped, report.kept) == ({"odd": 1}, {"half": 3}, 3)


def test_the_mapper_of_the_readme(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/data.md").read_text(encoding="utf-8"), re.S)
    (code,) = [block for block in blocks if "def to_record" in block]
    space = {}
    exec(code, space)
    path = tmp_path / "a.jsonl"
    rows = [{"question": "q", "a": "x", "b": "y", "votes": votes} for votes in ([3, 1], None)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    records, report = FileData(path=str(path), mapper=space["to_record"], on_bad_row="drop").records()
    assert [(one.prompt, one.responses, one.scores) for one in records] == [([user("q")], ["x", "y"], [3.0, 1.0])]
    assert report.dropped == {"null": 1}


def test_a_filter_on_a_column_that_is_not_there_says_how_to_do_without(tmp_path):
    from functools import partial

    from algorithms.common.data.records.filters import equals
    said = refusal(write(tmp_path), filter=partial(equals, column="turn", value=1), columns={"prompt": "n"})
    assert said.endswith("; fix: name a column of the rows in data.filter, or set data.filter=null")
    said = refusal(write(tmp_path), filter=lambda row: 1, columns={"prompt": "n"})
    assert ": row: found that data.filter returned 1; expected true or false; fix: correct the filter" in said
