"""Columns → records: every layout, and every kind of row that cannot be used."""

import json

import pytest

from algorithms.common.data.records import FileData, Record
from algorithms.common.data.records.columns import BadRow
from algorithms.common.support.errors import DataError
from column_setup import CHAT_PAIR, FORM, assistant, only, system, user, write


def turn(who, text):
    return {"from": who, "value": text}


def parts(role, *texts, key="text"):
    return {"role": role, "content": [{"type": "text", key: text} for text in texts], "loss_weight": 1.0}


PAIR = Record("p", ["c", "r"], [1.0, 0.0])
LAYOUTS = [
    ({"prompt": "p", "chosen": "c", "rejected": "r"}, PAIR),
    ({"prompt": "p", "chosen": "c", "rejected": "r", "id": 7, "source": "web"}, PAIR),
    ({"prompt": [user("p")], "chosen": [assistant("c")], "rejected": [assistant("r")]}, CHAT_PAIR),
    ({"prompt": "p", "chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]}, CHAT_PAIR),
    ({"prompt": "p", "chosen": [assistant("c")], "rejected": "r"}, CHAT_PAIR),
    ({"prompt": user("p"), "chosen": assistant("c"), "rejected": assistant("r")}, CHAT_PAIR),
    ({"prompt": "p", "chosen": "c", "rejected": "r", "messages": [user("p"), assistant("c")]}, PAIR),
    ({"instruction": "p", "chosen_response": "c", "rejected_response": "r"}, PAIR),
    ({"question": "p", "response_chosen": "c", "response_rejected": "r"}, PAIR),
    ({"prompt": "p", "chosen": "c", "rejected": "r", "scores": [5, 4.5]}, Record("p", ["c", "r"], [5.0, 4.5])),
    ({"chosen": "\n\nHuman: p\n\nAssistant: c", "rejected": "\n\nHuman: p\n\nAssistant: r"}, CHAT_PAIR),
    ({"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]}, CHAT_PAIR),
    ({"chosen_messages": [parts("user", "p", key="value"), parts("assistant", "c", key="value")],
      "rejected_messages": [parts("user", "p"), parts("assistant", "r")]}, CHAT_PAIR),
    ({"conversations": [turn("human", "p")], "chosen": turn("gpt", "c"), "rejected": turn("gpt", "r")}, CHAT_PAIR),
    ({"conversations": [turn("human", "p")], "chosen": [turn("gpt", "c")], "rejected": "r"}, CHAT_PAIR),
    ({"conversations": [turn("system", "s"), turn("human", "p")], "chosen": "c", "rejected": "r"},
     Record([system("s"), user("p")], ["c", "r"], [1.0, 0.0])),
    ({"system": "s", "prompt": "p", "chosen": "c", "rejected": "r"},
     Record([system("s"), user("p")], ["c", "r"], [1.0, 0.0])),
    ({"system": None, "prompt": "p", "chosen": "c", "rejected": "r"}, CHAT_PAIR),
    ({"system_prompt": "s", "question": "p", "response": "c"}, Record([system("s"), user("p")], ["c"])),
    ({"system_prompt": "", "question": "p", "response": "c"}, Record([user("p")], ["c"])),
    ({"system": "s", "prompt": "p", "chosen": [user("p"), assistant("c")],
      "rejected": [system("s"), user("p"), assistant("r")]},
     Record([system("s"), user("p")], ["c", "r"], [1.0, 0.0])),
    ({"system": "s", "messages": [system("s"), user("p"), assistant("c")]}, Record([system("s"), user("p")], ["c"])),
    ({"system": "s", "prompt": "p"}, Record([system("s"), user("p")], [])),
    ({"prompt": "p", "completion": "c"}, Record("p", ["c"])),
    ({"prompt": [user("p")], "completion": [assistant("c")]}, Record([user("p")], ["c"])),
    ({"question": "p", "answer": "c"}, Record("p", ["c"])),
    ({"instruction": "p", "output": "c"}, Record("p", ["c"])),
    ({"prompt": "p", "response": "c"}, Record("p", ["c"])),
    ({"inputs": "p", "targets": "c"}, Record("p", ["c"])),
    ({"prompt": "p", "completion": "c", "label": True}, Record("p", ["c"], [1.0])),
    ({"prompt": "p", "completion": "c", "label": 0}, Record("p", ["c"], [0.0])),
    ({"prompt": "p", "response": "c", "score": -2}, Record("p", ["c"], [-2.0])),
    ({"messages": [user("p"), assistant("c")]}, Record([user("p")], ["c"])),
    ({"messages": [user("p"), assistant("x"), user("q"), parts("assistant", "c", "d")]},
     Record([user("p"), assistant("x"), user("q")], ["cd"])),
    ({"messages": [user("p"), assistant("c")], "label": False}, Record([user("p")], ["c"], [0.0])),
    ({"conversations": [turn("human", "p"), turn("gpt", "c")]}, Record([user("p")], ["c"])),
    ({"conversation": [user("p"), assistant("c")]}, Record([user("p")], ["c"])),
    ({"prompt": "p", "messages": [user("p"), assistant("c")]}, Record([user("p")], ["c"])),
    ({"prompt": "q", "messages": [user("p"), assistant("x"), user("q"), assistant("c")]},
     Record([user("p"), assistant("x"), user("q")], ["c"])),
    ({"instruction": "p", "response": "c", "conversations": [turn("human", "p"), turn("gpt", "c ")]},
     Record([user("p")], ["c "])),
    ({"messages": [{"speaker": "Human", "text": "p"}, {"role": "model", "text": "c"}]}, Record([user("p")], ["c"])),
    ({"messages": [{"role": "developer", "content": "s"}, turn("human", "p"), turn("chatgpt", "c")]},
     Record([system("s"), user("p")], ["c"])),
    ({"conversations": [turn("human", "p"), turn("gpt", "c")], "system": "s"}, Record([system("s"), user("p")], ["c"])),
    ({"prompt": "p"}, Record("p", [])),
    ({"prompt": [user("p")], "id": 1}, Record([user("p")], [])),
    ({"text": "c"}, Record("", ["c"])),
    ({"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 1, 1]}, Record("p", ["a", "b", "c"], [1.0, 1.0, 1.0])),
    ({"prompt": "p", "responses": ["a", "b"], "scores": [0, 0.5]}, Record("p", ["a", "b"], [0.0, 0.5])),
    ({"prompt": "p", "responses": ["a", "a"]}, Record("p", ["a", "a"])),
    ({"prompt": "p", "responses": [[assistant("a")], "b"]}, Record([user("p")], ["a", "b"])),
]


@pytest.mark.parametrize("row, record", LAYOUTS, ids=[", ".join(row) for row, _ in LAYOUTS])
def test_layouts(tmp_path, row, record):
    assert only(tmp_path, row) == record


@pytest.mark.parametrize("row, columns, record", [
    ({"ask": "p", "good": "c", "bad": "r"}, {"prompt": "ask", "chosen": "good", "rejected": "bad"}, PAIR),
    ({"instruction": "i", "input": "j", "output": "c"}, {"prompt": ["instruction", "input"], "response": "output"},
     Record("i\nj", ["c"])),
    ({"instruction": "i", "input": "", "output": "c"}, {"prompt": ["instruction", "input"], "response": "output"},
     Record("i", ["c"])),
    ({"q": "p", "a": "x", "b": "y", "sa": 1, "sb": 2}, {"prompt": "q", "responses": ["a", "b"], "scores": ["sa", "sb"]},
     Record("p", ["x", "y"], [1.0, 2.0])),
    ({"prompt": "p", "chosen": "c", "rejected": "r", "messages": []},
     {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}, PAIR),
    ({"question": "p", "level": 3}, {"prompt": "question"}, Record("p", [])),
    ({"q": "p", "a": "c", "s": "s"}, {"prompt": "q", "response": "a", "system": "s"},
     Record([system("s"), user("p")], ["c"])),
    ({"q": {"text": "p"}, "done": [{"r": {"text": "a"}, "s": 1}, {"r": {"text": "b"}, "s": 0.5}]},
     {"prompt": "q.text", "responses": "done.r.text", "scores": "done.s"}, Record("p", ["a", "b"], [1.0, 0.5])),
    ({"input": {"messages": [user("p")]}, "yes": [assistant("c")], "no": [assistant("r")]},
     {"prompt": "input.messages", "chosen": "yes", "rejected": "no"}, CHAT_PAIR),
    ({"q.text": "p", "q": {"text": "x"}, "r": "c"}, {"prompt": "q.text", "response": "r"}, Record("p", ["c"])),
    ({"q": "p", "done": '[{"r": "a"}]'}, {"prompt": "q", "responses": "done.r"}, Record("p", ["a"])),
])
def test_columns_by_name(tmp_path, row, columns, record):
    assert only(tmp_path, row, columns=columns) == record


@pytest.mark.parametrize("text, options, record", [
    ("prompt,completion,label\np,c,True\n", {}, Record("p", ["c"], [1.0])),
    ("prompt,completion,label\np,c,0\n", {}, Record("p", ["c"], [0.0])),
    ("prompt,response,score\np,c,-1.5\n", {}, Record("p", ["c"], [-1.5])),
    (",prompt,chosen,rejected\n0,p,c,r\n", {}, PAIR),
    ("prompt,completion,label\np,c,1.0\n", {}, Record("p", ["c"], [1.0])),
    ("prompt,completion,label\np,c,0.0\n", {}, Record("p", ["c"], [0.0])),
    ("p,c\n", {"header": False, "columns": {"prompt": "c0", "response": "c1"}}, Record("p", ["c"])),
])
def test_csv_values_are_parsed(tmp_path, text, options, record):
    records, _ = FileData(path=write(tmp_path, text, "a.csv"), **options).records()
    assert [(r.prompt, r.responses, r.scores) for r in records] == [(record.prompt, record.responses, record.scores)]


def test_parquet_with_nested_columns(tmp_path):
    row = {"prompt": [user("p")], "chosen": [assistant("c")], "rejected": [assistant("r")]}
    records, _ = FileData(path=write(tmp_path, [row], "a.parquet")).records()
    assert (records[0].prompt, records[0].responses) == ([user("p")], ["c", "r"])


@pytest.mark.parametrize("row", [
    {"a": 1}, {"question": "q", "ground_truth": "g"}, {"chosen": "c"}, {"prompt": "p", "chosen": "c"},
    {"prompt": "p", "response": "r", "completion": "c"}, {"text": "t", "label": 1}, {"question": "q", "system": "s"},
    {"chosen": "c", "rejected": "r", "messages": []}, {"prompt": "p", "response": "c", "chosen": "c", "rejected": "r"},
    {"system": "s", "text": "t"}, {"system": "s", "system_prompt": "s", "prompt": "p"},
    {"instruction": "i", "input": "j", "output": "o"},
    {"prompt": "p", "text": "t"}, {"answer": "a"}, {"prompt": "p", "scores": [1]}, {"system": "s"}, {},
])
def test_unknown_or_ambiguous_columns(tmp_path, row):
    path = write(tmp_path, [row])
    with pytest.raises(DataError) as error:
        FileData(path=path, on_bad_row="drop").records()
    message = str(error.value)
    assert FORM.fullmatch(message)["path"] == path and FORM.fullmatch(message)["line"] == "1"
    assert all(repr(name) in message for name in row)
    assert "{prompt, chosen, rejected}" in message and "data.columns" in message


def test_columns_that_are_not_there(tmp_path):
    path = write(tmp_path, [{"ask": "p"}])
    with pytest.raises(DataError, match=r"found the columns 'ask'; expected the columns of data.columns: 'q'"):
        FileData(path=path, columns={"prompt": "q"}).records()
    for columns in ({"chosen": "ask"}, {"prompt": "ask", "messages": "ask"}, {"response": "ask", "system": "ask"}):
        with pytest.raises(DataError, match="expected one of the layouts"):
            FileData(path=path, columns=columns).records()


GOOD_PAIR = {"prompt": "p", "chosen": "c", "rejected": "r"}
GOOD_SCORED = {**GOOD_PAIR, "scores": [5, 4]}
GOOD_CHAT = {"messages": [user("p"), assistant("c")]}
GOOD_RANK = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 2]}
GOOD_LISTS = {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]}
GOOD_HH = {"chosen": "\n\nHuman: p\n\nAssistant: c", "rejected": "\n\nHuman: p\n\nAssistant: r"}
GOOD_THUMB = {"prompt": "p", "completion": "c", "label": True}
BAD_ROWS = [        # a good row, what is changed in it (None: the column goes), the reason, the column named
    (GOOD_PAIR, {"rejected": None}, "missing column", "rejected"),
    (GOOD_PAIR, {"rejected": [None]}, "null", "rejected"),
    (GOOD_PAIR, {"chosen": [3]}, "wrong type", "chosen"),
    (GOOD_PAIR, {"chosen": [""]}, "empty response", "chosen"),
    (GOOD_PAIR, {"rejected": [" \n"]}, "empty response", "rejected"),
    (GOOD_PAIR, {"prompt": [""]}, "empty prompt", "prompt"),
    (GOOD_PAIR, {"prompt": [{"a": 1}]}, "wrong type", "prompt"),
    (GOOD_PAIR, {"prompt": [["p"]]}, "wrong type", "prompt"),
    (GOOD_PAIR, {"chosen": [str([user("p"), assistant("c")])]}, "turns as Python text", "chosen"),
    (GOOD_PAIR, {"chosen": [str([{"content": "it's", "n": 1, "role": "User"}])]}, "turns as Python text", "chosen"),
    (GOOD_PAIR, {"prompt": ["[{'from': 'human', 'id': None, 'value': \"it's\"}\n {'from': …"]}, "turns as Python text",
     "prompt"),
    (GOOD_LISTS, {"chosen": [json.dumps([assistant("c")])]}, "not a transcript", "chosen"),
    (GOOD_PAIR, {"chosen": [json.dumps([user("p"), {"role": "tool", "content": "c"}])]}, "unknown role", "chosen"),
    (GOOD_PAIR, {"chosen": ["\n\nHuman: q\n\nAssistant: c"]}, "prompt not shared", "chosen"),
    (GOOD_PAIR, {"chosen": ["\n\nHuman: p\n\nAssistant: c\n\nHuman: d"]}, "not an assistant turn", "chosen"),
    ({"system": "s", **GOOD_PAIR}, {"prompt": [""]}, "empty prompt", "prompt"),
    ({"prompt": "p", "messages": [user("p"), assistant("c")]}, {"prompt": ["q"]}, "not in the messages", "prompt"),
    ({"prompt": "p", "messages": [user("p"), assistant("a"), user("q"), assistant("c")]}, {"prompt": ["a"]},
     "not in the messages", "prompt"),
    ({"prompt": "p", "response": "c", "messages": [user("p"), assistant("c")]}, {"response": ["p"]},
     "not in the messages", "response"),
    ({"prompt": "p", "response": "c", "messages": [user("p"), assistant("b"), user("q"), assistant("c")]},
     {"response": ["b"]}, "not in the messages", "response"),
    (GOOD_PAIR, {"chosen": ["r"]}, "identical pair", "rejected"),
    (GOOD_PAIR, {"messages": [[]]}, "unexpected column", "messages"),
    (GOOD_PAIR, {"chosen": [[user("other"), assistant("c")]]}, "prompt not shared", "chosen"),
    (GOOD_PAIR, {"chosen": [[user("p")]]}, "not an assistant turn", "chosen"),
    (GOOD_LISTS, {"chosen": [[user("q"), assistant("c")]]}, "prompt not shared", "rejected"),
    (GOOD_LISTS, {"chosen": [[]]}, "empty prompt", "chosen"),
    (GOOD_LISTS, {"chosen": [[assistant("c")]], "rejected": [[assistant("r")]]}, "empty prompt", "chosen"),
    (GOOD_HH, {"chosen": ["hello"]}, "not a transcript", "chosen"),
    (GOOD_HH, {"chosen": ["\n\nHuman: q\n\nAssistant: c"]}, "prompt not shared", "rejected"),
    (GOOD_HH, {"rejected": ["\n\nHuman: p\n\nAssistant: r\n\nHuman: more"]}, "not an assistant turn", "rejected"),
    (GOOD_HH, {"rejected": ["\n\nHuman: p\n\nAssistant:"]}, "empty response", "rejected"),
    (GOOD_SCORED, {"scores": [[4, 5]]}, "scores against choice", "scores"),
    (GOOD_SCORED, {"scores": [[4]]}, "unequal lengths", "scores"),
    (GOOD_CHAT, {"messages": [[user("p"), {"role": "tool", "content": "c"}]]}, "unknown role", "messages"),
    (GOOD_CHAT, {"messages": [[user("p"), {"role": ["x"], "content": "c"}]]}, "unknown role", "messages"),
    (GOOD_CHAT, {"messages": [[user("p"), {"content": "c"}]]}, "missing key", "messages"),
    (GOOD_CHAT, {"messages": [[user("p"), {"role": "assistant"}]]}, "missing key", "messages"),
    (GOOD_CHAT, {"messages": [[user("p"), assistant(None)]]}, "null", "messages"),
    (GOOD_CHAT, {"messages": [["p"]]}, "wrong type", "messages"),
    (GOOD_CHAT, {"messages": ["p"]}, "wrong type", "messages"),
    (GOOD_CHAT, {"messages": [[]]}, "empty prompt", "messages"),
    (GOOD_CHAT, {"messages": [[user("p"), assistant([{"type": "image", "url": "u"}])]]}, "non-text part", "messages"),
    (GOOD_CHAT, {"messages": [[user("p"), assistant(["c"])]]}, "non-text part", "messages"),
    (GOOD_CHAT, {"messages": [[user("p"), {**assistant("c"), "tool_calls": [{}]}]]}, "non-text part", "messages"),
    (GOOD_CHAT, {"messages": [[user("p"), {**assistant("c"), "function_call": {"name": "f"}}]]}, "non-text part",
     "messages"),
    (GOOD_CHAT, {"messages": ['["p"']}, "wrong type", "messages"),
    (GOOD_CHAT, {"messages": ["[" * 100_000]}, "wrong type", "messages"),
    (GOOD_CHAT, {"messages": [[system("s"), user(" "), assistant("c")]]}, "empty prompt", "messages"),
    (GOOD_CHAT, {"messages": [[user("p"), assistant("c"), user("q")]]}, "not an assistant turn", "messages"),
    (GOOD_RANK, {"scores": [[1]]}, "unequal lengths", "scores"),
    (GOOD_RANK, {"scores": [[1, None]]}, "null", "scores"),
    (GOOD_RANK, {"scores": [[1, True]]}, "wrong type", "scores"),
    (GOOD_RANK, {"scores": [[1, "2nd"]]}, "wrong type", "scores"),
    (GOOD_RANK, {"scores": [None]}, "null", "scores"),
    (GOOD_RANK, {"scores": [[1, 10 ** 400]]}, "score not finite", "scores"),
    (GOOD_RANK, {"responses": [["a", "a"]]}, "identical pair", "responses"),
    ({"prompt": "p", "responses": ["a", "b", "c"], "scores": [1, 2, 3]}, {"responses": [["a", "a", "a"]]},
     "identical pair",
     "responses"),
    (GOOD_RANK, {"responses": [["a", ""]]}, "empty response", "responses"),
    (GOOD_RANK, {"responses": [["a", None]]}, "null", "responses"),
    (GOOD_RANK, {"responses": [[]], "scores": [[]]}, "no responses", "responses"),
    (GOOD_RANK, {"responses": ["ab"]}, "wrong type", "responses"),
    (GOOD_THUMB, {"label": [2]}, "wrong type", "label"),
    (GOOD_THUMB, {"label": ["yes"]}, "wrong type", "label"),
    (GOOD_THUMB, {"label": [None]}, "null", "label"),
    ({"system": "s", "messages": [user("p"), assistant("c")]},
     {"messages": [[system("t"), user("p"), assistant("c")]]}, "two system messages", "system"),
]


@pytest.mark.parametrize("good, change, reason, column", BAD_ROWS, ids=[f"{case[2]} in {case[3]}" for case in BAD_ROWS])
def test_rows_that_cannot_be_used(tmp_path, good, change, reason, column):
    bad = {**good, **{name: value[0] for name, value in change.items() if value is not None}}
    bad = {name: value for name, value in bad.items() if change.get(name, 0) is not None}
    path = write(tmp_path, [good] * 100 + [bad, good, bad])
    with pytest.raises(DataError) as error:
        FileData(path=path).records()
    first, total, listed, hint = str(error.value).split("\n")
    match = FORM.fullmatch(first)
    assert (match["path"], match["line"], match["field"]) == (path, "101", column)
    assert total == "2 of 103 rows cannot be used:" and listed == f"  {reason}: 2 (lines 101, 103)"
    assert hint.startswith("data.on_bad_row=drop would leave 101 records; ")
    records, report = FileData(path=path, on_bad_row="drop").records()
    assert (len(records), report.read, report.kept, report.dropped) == (101, 103, 101, {reason: 2})
    assert report.lines == {reason: [f"{path}:101", f"{path}:103"]}


def test_rows_that_are_no_objects(tmp_path):
    path = write(tmp_path, [GOOD_PAIR, [1], None, "x"])
    with pytest.raises(DataError, match="a.jsonl:2: row: found a list; expected an object with columns"):
        FileData(path=path).records()
    assert FileData(path=path, on_bad_row="drop").records()[1].dropped == {"not an object": 3}
    with pytest.raises(DataError, match="a.jsonl:1: row: found a number; expected an object"):
        FileData(path=write(tmp_path, [1, 2]), on_bad_row="drop").records()


@pytest.mark.parametrize("value, reason", [("nan", "score not finite"), ("inf", "score not finite"), ("", "wrong type"),
                                           ("x", "wrong type"), ("1_0", "wrong type")])
def test_scores_in_csv_that_are_no_numbers(tmp_path, value, reason):
    path = write(tmp_path, f"prompt,response,score\np,r,1\np,r,{value}\n", "a.csv")
    assert FileData(path=path, on_bad_row="drop").records()[1].dropped == {reason: 1}
    with pytest.raises(DataError, match="a.csv:3: score: found"):
        FileData(path=path).records()


def test_nan_in_parquet(tmp_path):
    rows = [{**GOOD_RANK, "scores": scores} for scores in ([1.0, 2.0], [1.0, float("nan")])]
    path = write(tmp_path, rows, "a.parquet")
    with pytest.raises(DataError, match="a.parquet:2: scores: found nan; expected a finite number"):
        FileData(path=path).records()


def test_many_bad_rows_are_listed_by_reason_with_the_first_lines(tmp_path):
    empty, null = {**GOOD_PAIR, "chosen": ""}, {**GOOD_PAIR, "chosen": None}
    path = write(tmp_path, [GOOD_PAIR, null, *[empty] * 7])
    with pytest.raises(DataError) as error:
        FileData(path=path).records()
    assert str(error.value).split("\n")[1:] == [
        "8 of 9 rows cannot be used:", "  empty response: 7 (lines 3, 4, 5, 6, 7, …)",
        f"    {path}:3: chosen: found an empty response; expected some text; fix: correct the row",
        "  null: 1 (lines 2)",
        "data.on_bad_row=drop would leave 1 record; the tokenizer and chat template of a run may refuse more"]
    assert str(error.value).startswith(f"{path}:2: chosen: found null; expected text; fix: ")


def test_the_first_bad_row_is_told_where_groups_are_read_ahead(tmp_path):
    path = write(tmp_path, [{"g": 1}, {"g": None}, {"g": 2, "n": 1}])
    with pytest.raises(DataError, match="a.jsonl:1: row: found KeyError"):
        FileData(path=path, group="g", mapper=lambda rows: Record(str(rows[0]["n"]), [])).records()


def test_nothing_usable_is_an_error_even_with_drop(tmp_path):
    path = write(tmp_path, [{**GOOD_PAIR, "chosen": ""}])
    with pytest.raises(DataError, match="no row can be used"):
        FileData(path=path, on_bad_row="drop").records()


# ---- mappers


def test_a_mapper_may_make_several_records_or_none(tmp_path):
    path = write(tmp_path, [{"n": 2}, {"n": 0}, {"n": 1}])

    def mapper(row):
        return [Record(f"p{i}", ["x"]) for i in range(row["n"])]

    records, report = FileData(path=path, mapper=mapper).records()
    assert [record.prompt for record in records] == ["p0", "p1", "p0"]
    assert (report.read, report.kept, report.rows_without_records) == (3, 3, 1)


def test_a_tie_that_a_mapper_makes_is_kept(tmp_path):
    tie = Record("p", ["x", "y"], [0.5, 0.5])
    records, report = FileData(path=write(tmp_path, [{"n": 2}]), mapper=lambda row: tie).records()
    assert list(records)[0].scores == [0.5, 0.5] and report.kinds == {"tied pair": 1} and report.strict_pairs == 0


def refuse(row):
    raise BadRow("too short", "n", "1", "2 or more")


@pytest.mark.parametrize("mapper, reason", [
    (refuse, "too short"), (lambda row: row["missing"], "mapper error"), (lambda row: None, "mapper error"),
    (lambda row: [Record("p", ["x"]), 3], "mapper error"), (lambda row: Record("p", [""]), "empty response"),
    (lambda row: Record("p", ["x"], [float("nan")]), "mapper error"), (lambda row: Record(None, ["x"]), "null"),
    (lambda row: Record([{"role": "bot", "content": "p"}], ["x"]), "unknown role"),
    (lambda row: Record("p", [1]), "wrong type"), (lambda row: Record("p", ["x"], None, {"a": {1}}), "mapper error"),
])
def test_rows_a_mapper_cannot_use(tmp_path, mapper, reason):
    path = write(tmp_path, [{"n": 0}, {"n": 1}])

    def mapped(row):
        return mapper(row) if row["n"] else Record("p", ["x"])

    assert FileData(path=path, mapper=mapped, on_bad_row="drop").records()[1].dropped == {reason: 1}
    with pytest.raises(DataError, match=r"a.jsonl:2: \w+: found .*; expected .*; fix: .*"):
        FileData(path=path, mapper=mapped).records()
