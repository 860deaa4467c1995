"""Columns → records: lists and turns as JSON text, HH transcripts, names with dots, what is refused, not guessed."""

import csv
import io
import json
import re
from decimal import Decimal

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from algorithms.common.data.records import FileData, Record, pairs, render_transcript
from algorithms.common.support.errors import DataError
from column_setup import CHAT_PAIR, FORM, assistant, only, system, user, write

TURNS = json.dumps([user("p"), assistant("c")])
OTHERS = json.dumps([user("p"), assistant("r")])


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("row, record", [
    ({"messages": TURNS}, Record([user("p")], ["c"])),
    ({"prompt": "p", "responses": '["a", "b"]', "scores": "[1, 0.5]"}, Record("p", ["a", "b"], [1.0, 0.5])),
    ({"chosen": TURNS, "rejected": OTHERS}, CHAT_PAIR),
    ({"prompt": "p", "chosen": TURNS, "rejected": OTHERS}, CHAT_PAIR),
    ({"prompt": json.dumps([user("p")]), "response": "c"}, Record([user("p")], ["c"])),
    ({"prompt": json.dumps([user("p")]), "response": json.dumps([assistant("c")])}, Record([user("p")], ["c"])),
    # JSON that is no list of turns is text, and so is one without a user's turn, but beside a prompt of turns
    ({"prompt": "p", "response": json.dumps([assistant("c")])}, Record("p", [json.dumps([assistant("c")])])),
    ({"prompt": '[{"speaker": "bot", "text": "p"}]', "response": "c"},
     Record('[{"speaker": "bot", "text": "p"}]', ["c"])),
    ({"prompt": "[{'value': 3}, {'value': 5}] What is the sum?", "response": "[{'text': 'a', 'role': 'dog', 'n': 1}]"},
     Record("[{'value': 3}, {'value': 5}] What is the sum?", ["[{'text': 'a', 'role': 'dog', 'n': 1}]"])),
    ({"prompt": "[{'role': 'user'}]", "response": "[{'from': 1, 'text': 'a'}]"},
     Record("[{'role': 'user'}]", ["[{'from': 1, 'text': 'a'}]"])),
    ({"prompt": "p", "response": '{"role": "user", "content": "x"}'},
     Record("p", ['{"role": "user", "content": "x"}'])),
    ({"prompt": "p", "response": '[{"from": "a", "value": 1}]'}, Record("p", ['[{"from": "a", "value": 1}]'])),
    ({"prompt": '["p", "q"]', "response": "[1, 2"}, Record('["p", "q"]', ["[1, 2"])),
    ({"prompt": "[]", "response": r'[{"role": "user", "content": "\ud800"}]'},
     Record("[]", [r'[{"role": "user", "content": "\ud800"}]'])),
])
def test_lists_and_turns_as_json_text(tmp_path, name, row, record):
    file = io.StringIO()
    csv.writer(file).writerows([row.keys(), row.values()])
    path = write(tmp_path, file.getvalue() if name == "a.csv" else [row], name)
    assert [(r.prompt, r.responses, r.scores) for r in FileData(path=path).records()[0]] == [
        (record.prompt, record.responses, record.scores)]


HUMAN = "\n\nHuman: p\n\nAssistant:"


@pytest.mark.parametrize("row, record", [
    ({"prompt": HUMAN, "chosen": " c", "rejected": "  r"}, Record([user("p")], ["c", " r"], [1.0, 0.0])),
    ({"prompt": HUMAN + " ", "chosen": "c", "rejected": " r"}, Record([user("p")], ["c", " r"], [1.0, 0.0])),
    ({"prompt": HUMAN, "chosen": HUMAN + " c", "rejected": HUMAN + " r"}, CHAT_PAIR),
    ({"prompt": "p", "chosen": HUMAN + " c", "rejected": [assistant(" r")]},
     Record([user("p")], ["c", " r"], [1.0, 0.0])),
    ({"prompt": HUMAN + " a" + HUMAN}, Record([user("p"), assistant("a"), user("p")], [])),
    ({"prompt": HUMAN + " Sure", "response": " c"}, Record(HUMAN + " Sure", [" c"])),
    ({"prompt": "Say " + HUMAN, "response": " c"}, Record("Say " + HUMAN, [" c"])),
    ({"text": HUMAN + " c"}, Record("", [HUMAN + " c"])),
    ({"system": "s", "prompt": HUMAN, "response": " c"}, Record([system("s"), user("p")], ["c"])),
])
def test_transcripts_in_columns(tmp_path, row, record):
    assert only(tmp_path, row) == record
    if "system" not in row and isinstance(record.prompt, list):
        shown = render_transcript(record.prompt)
        prompt = row["prompt"] if row["prompt"].startswith("\n\n") else HUMAN
        assert shown == prompt.removesuffix(" ")
        for field, response in zip(("chosen", "rejected"), record.responses):
            value = row[field] if isinstance(row[field], str) else ""
            assert not value or f"{shown} {response}" == (value if value.startswith(HUMAN) else prompt + value)


def test_conversations_in_a_prompt_column_are_on_one_side(tmp_path):
    rows = []
    for i in range(40):
        first = f"\n\nHuman: question {i}?\n\nAssistant:"
        rows += [{"prompt": first, "chosen": " a", "rejected": " b"},
                 {"prompt": first + " a\n\nHuman: and?\n\nAssistant:", "chosen": " c", "rejected": " d"}]
    data = FileData(path=write(tmp_path, rows), heldout=0.25, chat=True).load(0)
    train, held = ({record.prompt[0]["content"] for record in part} for part in (data.preferences, data.heldout))
    assert (len(train), len(held)) == (30, 10) and not train & held


@pytest.mark.parametrize("row, left", [
    ({"prompt": "p", "answers": [{"answer": "a", "rank": 1.0}], "turns": 1}, "answers"),
    ({"prompt": "p", "response_0": "a", "response_1": "b", "response_0_source": "x", "safer_response_id": 0},
     "response_0"),
    ({"prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": 1}, "preference_strength"),
    ({"prompt": "p", "response": "a", "helpfulness": 3, "verbosity": 2}, "helpfulness"),
    ({"prompt": "p", "Winner": 1}, "Winner"), ({"question": "p", "answer": "a", "is_correct": True}, "is_correct"),
    ({"prompt": "p", "rating": 3}, "rating"), ({"prompt": "p", "ranks": [1]}, "ranks"),
    ({"prompt": "p", "modelResponse": "x"}, "modelResponse"), ({"prompt": "p", "isCorrect": True}, "isCorrect"),
    ({"question": "q", "answer": "a", "upvotes": 3}, "upvotes"),
    ({"prompt": "p", "response": "a", "quality": 3}, "quality"),
    ({"prompt": "p", "win": "a"}, "win"), ({"prompt": "p", "text_lose": "b"}, "text_lose"),
    ({"prompt": "p", "positive": "a"}, "positive"),
    ({"prompt": "p", "negatives": "b", "negative_1": "b"}, "negative_1"),
    ({"prompt": "p", "human_ref_B": "b"}, "human_ref_B"), ({"prompt": "p", "summary1": "x"}, "summary1"),
    ({"prompt": "p", "summary_2": "x"}, "summary_2"),
    ({"message_id": "1", "parent_id": None, "text": "t", "role": "prompter", "rank": 0}, "rank"),
    ({"messages": [user("p"), assistant("c")], "rejected_answer": "r"}, "rejected_answer"),
    ({"system": "s", "prompt": "p", "messages": [user("p"), assistant("c")], "winner": 1}, "winner"),
    ({"prompt": "p", "responses": ["a", "b"], "orders": [1, 2], "ranking": [1, 2]}, "ranking"),
])
def test_comparisons_are_no_bare_prompts(tmp_path, row, left):
    path = write(tmp_path, [row])
    with pytest.raises(DataError, match="expected no further responses or judgements; fix: ") as error:
        FileData(path=path).records()
    message = str(error.value)
    assert FORM.fullmatch(message) and repr(left) in message and "_source'" not in message
    columns = dict(part.split(": ") for part in re.search(r"'data.columns={(.+)}'", message)[1].split(", "))
    assert len(FileData(path=path, columns=columns).records()[0]) == 1, "the option in the message reads the file"


@pytest.mark.parametrize("about", ["answer_type", "response_model", "id", "completion_tokens", "category", "rescored",
                                   "output_path", "answer_hash", "response_time", "responseId", "window",
                                   "summary"])
def test_columns_that_judge_nothing_are_left_over(tmp_path, about):
    assert only(tmp_path, {"prompt": "p", "response": "c", about: 1}) == Record("p", ["c"])
    assert only(tmp_path, {"messages": [user("p"), assistant("c")], about: 1}) == Record([user("p")], ["c"])


@pytest.mark.parametrize("row, scores", [
    ({"prompt": "p", "chosen": "c", "rejected": "r", "winner": 1}, [1.0, 0.0]),
    ({"prompt": "p", "completion": "c", "label": True, "rating": 3}, [1.0]),
    ({"prompt": "p", "response": "c", "score": 2, "upvotes": 3}, [2.0]),
    ({"prompt": "p", "responses": ["a", "b"], "scores": [1, 2], "ranks": [2, 1]}, [1.0, 2.0]),
])
def test_judged_rows_may_have_other_judgements(tmp_path, row, scores):
    assert only(tmp_path, row).scores == scores


def test_two_columns_of_one_meaning_are_named(tmp_path):
    path = write(tmp_path, [{"prompt": "p", "question": "p", "chosen": "c", "rejected": "r"}])
    with pytest.raises(DataError, match="of which 'prompt' and 'question' mean the same; .* fix: name the one to read: "
                                        "'data.columns={prompt: prompt, chosen: chosen, rejected: rejected}'"):
        FileData(path=path).records()


@pytest.mark.parametrize("more, option", [
    ({}, "prompt: [instruction, input], response: output"),
    ({"text": "t"}, "prompt: [instruction, input], response: output"),
    ({"system": "s"}, "prompt: [instruction, input], response: output, system: system"),
])
def test_where_the_input_of_instructions_belongs(tmp_path, more, option):
    path = write(tmp_path, [{"instruction": "i", "input": "j", "output": "c", **more}])
    with pytest.raises(DataError) as error:
        FileData(path=path).records()
    assert f"fix: say where input belongs: 'data.columns={{{option}}}', or data.mapper" in str(error.value)


@pytest.mark.parametrize("row", [
    {"prompt": "p", "messages": [], "conversation": []}, {"prompt": "p", "question": "p", "messages": []},
    {"prompt": "p", "answer": "c", "output": "c", "chosen": "c", "rejected": "r"},
    {"chosen": "c", "response_chosen": "c", "rejected": "r", "messages": []},
    {"prompt": "p", "question": "p", "input": "j", "output": "c"},
    {"instruction": "p", "input": "j", "output": "c", "chosen": "c", "rejected": "r"},
])
def test_no_option_is_given_that_would_be_refused_or_drop_the_input(tmp_path, row):
    with pytest.raises(DataError, match="fix: set data.columns, for example"):
        FileData(path=write(tmp_path, [row])).records()


def test_names_with_dots_that_lead_nowhere(tmp_path):
    path = write(tmp_path, [{"q": value, "r": "c"} for value in ({"text": "p"}, None, {"x": 1}, "t")])
    records, report = FileData(path=path, columns={"prompt": "q.text", "response": "r"}, on_bad_row="drop").records()
    assert report.dropped == {"not an object": 2, "missing column": 1} and report.ignored_columns == {}
    with pytest.raises(DataError, match="a.jsonl:2: q.text: found null in its place"):
        FileData(path=path, columns={"prompt": "q.text", "response": "r"}).records()
    with pytest.raises(DataError, match="expected the columns of data.columns: 'x.text'"):
        FileData(path=path, columns={"prompt": "x.text", "response": "r"}).records()


def test_what_to_do_where_conversations_part(tmp_path):
    rows = [{"chosen": [user("p"), assistant("a"), user("q"), assistant("c")],
             "rejected": [user("p"), assistant("b"), user("q"), assistant("r")]}]
    with pytest.raises(DataError, match="fix: cut both where they part .data.mapper.\\n"):
        FileData(path=write(tmp_path, rows)).records()
    rows = [{"prompt": "q", "chosen": rows[0]["chosen"], "rejected": rows[0]["chosen"][:3] + [assistant("r")]}]
    path = write(tmp_path, rows)
    with pytest.raises(DataError, match="fix: where the turns hold the prompt, leave it out: 'data.columns="):
        FileData(path=path).records()
    records, _ = FileData(path=path, columns={"chosen": "chosen", "rejected": "rejected"}).records()
    assert records[0].prompt == [user("p"), assistant("a"), user("q")] and records[0].responses == ["c", "r"]


@pytest.mark.parametrize("row, fix", [
    ({"prompt": "p", "response": TURNS},
     "where the turns hold the prompt, leave it out: 'data.columns={messages: response}'; otherwise data.mapper"),
    ({"system": "s", "question": "p", "response_chosen": TURNS, "response_rejected": "r"},
     "leave it out: 'data.columns={system: system, chosen: response_chosen, rejected: response_rejected}'; otherwise"),
    ({"prompt": "p", "response": HUMAN + " c"}, "fix: data.mapper, to take them off"),
    ({"prompt": "p", "responses": [TURNS, "r"]}, "fix: data.mapper, to take them off"),
])
def test_what_to_do_where_responses_hold_another_prompt(tmp_path, row, fix):
    row = {name: "q" if value == "p" else value for name, value in row.items()}
    with pytest.raises(DataError, match=re.escape(fix)):
        FileData(path=write(tmp_path, [row])).records()


def test_decimal_scores_in_parquet(tmp_path):
    rows = [{"prompt": "p", "response": "c", "score": Decimal("1.25")}]
    assert FileData(path=write(tmp_path, rows, "a.parquet")).records()[0][0].scores == [1.25]
    rows = [{"prompt": "p", "completion": "c", "label": Decimal("1.0")}]
    assert FileData(path=write(tmp_path, rows, "b.parquet")).records()[0][0].scores == [1.0]


def test_identical_responses_make_no_pair(tmp_path):
    path = write(tmp_path, [{"prompt": "p", "responses": ["x", "x", "y"], "scores": [1, 0, 0.5]}])
    records, report = FileData(path=path).records()
    made = [(pair.responses, pair.scores) for pair in pairs(records)]
    assert made == [(["x", "y"], [1.0, 0.5]), (["y", "x"], [0.5, 0.0])] and report.strict_pairs == 2


# Turns as tables hold them


NULLS = {"role": None, "content": None}
UNION = [{"from": "human", "value": "p", **NULLS}, {"from": "gpt", "value": "c", **NULLS}]
TABLES = [
    {"conversations": UNION},
    {"messages": [{**NULLS, "speaker": "user", "text": "p"},
                  {"role": "assistant", "content": "c", "speaker": None, "text": None}]},
    {"messages": {"role": ["user", "assistant"], "content": ["p", "c"]}},
    {"messages": {"from": ["human", "gpt"], "value": ["p", "c"], "role": None, "content": None}},
    {"prompt": {"role": ["user"], "content": ["p"]}, "response": {"role": ["assistant"], "content": ["c"]}},
    {"prompt": [{"from": "human", "value": "p", **NULLS}], "response": [{"from": "gpt", "value": "c", **NULLS}]},
]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "folder"])
@pytest.mark.parametrize("row", TABLES, ids=["union", "mixed union", "lists", "union of lists", "answered lists",
                                             "answered union"])
def test_turns_with_the_keys_of_several_forms_or_as_an_object_of_lists(tmp_path, row, form):
    path = tmp_path / f"a.{form}"
    if form == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        datasets.Dataset.from_list([row]).save_to_disk(path)
    (record,), report = FileData(path=str(path)).records()
    assert (record.prompt, record.responses) == ([{"role": "user", "content": "p"}], ["c"])
    assert report.kinds == {"demonstration": 1} and not report.ignored_columns


@pytest.mark.parametrize("turns, reason", [
    ({"role": ["user"], "content": ["p", "c"]}, "unequal lengths"),
    ({"role": ["user", "tool"], "content": ["p", "c"]}, "unknown role"),
    ({"role": ["user", "assistant"], "content": ["p", None]}, "null"), ({"role": ["user", "assistant"]}, "wrong type"),
    ([{**NULLS, "from": "human", "value": "p"}, {**NULLS, "from": None, "value": "c"}], "unknown role"),
    ([{**NULLS, "from": "human", "value": None}, {**NULLS, "from": "gpt", "value": "c"}], "null"),
    ({"role": [], "content": []}, "empty prompt")])
def test_turns_of_a_table_that_cannot_be_used(tmp_path, turns, reason):
    good = {"messages": {"role": ["user", "assistant"], "content": ["p", "c"]}}
    (tmp_path / "a.jsonl").write_text(json.dumps(good) + "\n" + json.dumps({"messages": turns}) + "\n")
    assert FileData(path=str(tmp_path / "a.jsonl"), on_bad_row="drop").records()[1].dropped == {reason: 1}
