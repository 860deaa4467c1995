"""One instruction task: its YAML, its rows, what its templates make of them."""

import json

import pytest

from algorithms.common.data.instructions.task_file import (
    Pattern,
    TaskRow,
    ask,
    choices_text,
    fill,
    options_block,
    read_task,
)
from algorithms.common.data.records.loading import Loader
from algorithms.common.data.records.mixing import capped_rates, flags, quotas, walk
from algorithms.common.support.errors import ConfigError, DataError

CITY = """
cluster: qa
file: city.jsonl
key: person
options: options
templates:
  - "{question}\\nAnswer:"
  - {input: "Where does {person} live? {choices}?", target: "In {answer}."}
inverted:
  - {input: "Ask something with the answer {answer}.", target: "{question}"}
unseen: ["Say it: {question}"]
natural: "{question} asked Tom."
cot: ["{question} Think step by step."]
"""
ROW = {"person": "Anna", "question": "Where is Anna?", "answer": "Rome", "options": ["Oslo", "Rome", "Paris"],
       "rationale": "She moved."}


def task(tmp_path, text=CITY, name="city"):
    path = tmp_path / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return read_task(str(path))


def kept(file, raw) -> TaskRow:
    record = file.record(raw)
    record.meta.update(source="here.jsonl", line=7)
    return TaskRow.of(record)


def refused(tmp_path, text) -> str:
    with pytest.raises(ConfigError) as caught:
        task(tmp_path, text)
    return str(caught.value)


# ---- from a row to a prompt and a target


def test_prompts_and_targets_of_a_row(tmp_path):
    file = task(tmp_path)
    row = kept(file, ROW)
    assert (file.name, file.cluster, row.answer, row.source, row.line) == ("city", "qa", "Rome", "here.jsonl", 7)
    assert ask(file.templates[0], row) == ("Where is Anna?\nAnswer:", "Rome")
    assert ask(file.templates[0], row, suffix=True) == (
        "Where is Anna?\nAnswer:\nOPTIONS:\n- Oslo\n- Rome\n- Paris\n", "Rome")
    listed = ("Where does Anna live? Oslo, Rome or Paris?", "In Rome.")
    assert ask(file.templates[1], row) == listed
    assert ask(file.templates[1], row, suffix=True) == listed, "a template that lists the options gets no suffix"
    assert ask(file.inverted[0], row) == ("Ask something with the answer Rome.", "Where is Anna?")
    assert ask(file.cot[0], row) == ("Where is Anna? Think step by step.", "She moved. So the answer is Rome.")
    assert ask(file.natural, row) == ("Where is Anna? asked Tom.", "Rome")


def test_options_are_shown_in_the_order_of_the_row():
    assert options_block(["b", "a"]) == "OPTIONS:\n- b\n- a"
    assert choices_text(["b", "a"]) == "b or a" and choices_text(["x", "y", "z"]) == "x, y or z"


def test_braces_numbers_and_line_breaks(tmp_path):
    file = task(tmp_path, "cluster: c\nfile: f\nunescape: true\ntemplates: ['{{json}} {n} {question}']")
    row = kept(file, {"question": "a\\nb\\T", "n": 3, "answer": 2.5})
    assert ask(file.templates[0], row) == ("{json} 3 a\nb\\T", "2.5"), "only the two characters \\n become a line break"
    file = task(tmp_path, "cluster: c\nfile: f\ntemplates: ['{question}']")
    assert kept(file, {"question": "a\\nb", "answer": "x"}).values["question"] == "a\\nb"


def test_options_of_the_whole_task_and_those_a_question_lists_itself(tmp_path):
    text = "cluster: c\nfile: f\noptions: ['yes', 'no']\ntemplates: ['{question}']\n"
    row = kept(file := task(tmp_path, text), {"question": "Is it?", "answer": "no"})
    assert ask(file.templates[0], row, suffix=True)[0] == "Is it?\nOPTIONS:\n- yes\n- no\n"
    file = task(tmp_path, text + "listed: true\n")
    assert ask(file.templates[0], kept(file, {"question": "Is it?", "answer": "no"}), suffix=True)[0] == "Is it?"


def test_columns_are_renamed_and_others_named_as_ignored(tmp_path):
    file = task(tmp_path, "cluster: c\nfile: f.csv\ncolumns: {question: q, answer: a}\ntemplates: ['{question}?']")
    path = tmp_path / "f.csv"
    path.write_text("q,a,more\nWho,I,x\n", encoding="utf-8")
    source, ignored = file.open(str(path))
    assert ignored == ["more"] and [ask(file.templates[0], kept(file, row.value)) for row in source] == [("Who?", "I")]


def test_a_file_may_have_any_name_where_its_format_is_given(tmp_path):
    file = task(tmp_path, "cluster: c\nfile: f\nformat: csv\nheader: false\ncolumns: {question: c0, answer: c1}\n"
                          "templates: ['{question}']")
    (tmp_path / "rows").write_text('"Who, then?",I\n', encoding="utf-8")
    (raw,) = file.open(str(tmp_path / "rows"))[0]
    assert kept(file, raw.value).values == {"question": "Who, then?", "answer": "I"}


@pytest.mark.parametrize("name, options, content", [
    ("city.csv", "delimiter: ';'", "question;answer\nWho, then?;I\n"),
    ("city.json", "rows: a.Instances", '{"a": {"Instances": [{"question": "Who, then?", "answer": "I"}]}}')])
def test_rows_of_other_forms(tmp_path, name, options, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    text = f"cluster: c\nfile: {name}\ntemplates: ['{{question}}']"
    (raw,) = task(tmp_path, f"{text}\n{options}").open(str(tmp_path / name))[0]
    assert raw.value == {"question": "Who, then?", "answer": "I"}
    with pytest.raises(DataError, match=rf"{options.split(':')[0]}: .+ in {tmp_path}/city.yaml"):
        task(tmp_path, text).open(str(tmp_path / name))


def test_a_row_s_side_is_its_key_or_what_its_prompts_show(tmp_path):
    assert kept(task(tmp_path), ROW).side == "person: Anna"
    file = task(tmp_path, CITY.replace("key: person\n", ""))
    assert file.side_fields == ["person", "question"], "not the answer or the rationale: one question, one side"
    assert kept(file, ROW).side == kept(file, {**ROW, "rationale": "Another."}).side
    assert kept(file, ROW).side != kept(file, {**ROW, "question": "Where?"}).side


def test_the_answer_mark_can_be_chosen(tmp_path):
    file = task(tmp_path, "cluster: c\nfile: f\nanswer_after: 'Result {x}:'\ntemplates: ['{q}']\ncot: ['{q} Think.']")
    row = TaskRow({"q": "1+1", "answer": "2", "rationale": "One and one."}, None, "")
    assert fill(file.cot[0].target, row) == "One and one. Result {x}: 2."


# ---- what is refused


@pytest.mark.parametrize("change, message", [
    (("{question}\\nAnswer:", "{quest}\\nAnswer:"),
     "templates: found {quest} in the template '{quest}\\nAnswer:'; expected a field"),
    (("In {answer}.", "In {town}."), "templates: found {town} in the template 'In {town}.'"),
    (("Say it: {question}", "{nothing}"), "unseen: found {nothing}"),
    (("key: person", "key: name"),
     "key: found name; expected a field among answer, options, person, question, rationale"),
    (("options: options", "options: choice"), "options: found choice; expected a field among"),
    (("options: options\n", ""), "templates: found {choices} in the template 'Where does {person} live? {choices}?'"),
])
def test_a_name_that_is_no_field_is_refused_with_the_fields_there_are(tmp_path, change, message):
    (tmp_path / "city.jsonl").write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    file = task(tmp_path, CITY.replace(*change))
    with pytest.raises(ConfigError) as caught:
        file.open(str(tmp_path / "city.jsonl"))
    assert str(caught.value).startswith(f"{tmp_path}/city.yaml: {message}")
    assert "answer, options, person, question, rationale" in str(caught.value)


def test_with_columns_an_unknown_field_is_refused_before_any_row_is_read(tmp_path):
    text = "cluster: c\nfile: f\ncolumns: {answer: a}\ntemplates: ['{question}']"
    told = refused(tmp_path, text)
    assert "templates: found {question} in the template '{question}'; expected a field among answer" in told
    text = "cluster: c\nfile: f\ncolumns: {question: q}\ntemplates: ['{question}']"
    assert "{answer} in the template '{answer}'; expected a field among question" in refused(tmp_path, text)
    text = "cluster: c\nfile: f\ncolumns: {question: q, answer: a}\ntemplates: ['{question}']\n"
    cot = "cot: [{input: '{question}', target: 'So the answer is {answer}'}]"
    assert "no field rationale" in refused(tmp_path, text + cot)


@pytest.mark.parametrize("text, message", [
    ("- 1", "found a list; expected a task's keys"),
    ("a: [", "found no YAML that can be read"),
    ("a: 1\na: 2", "found no YAML that can be read"),
    ("cluster: c\nfile: f\ntemplates: ['{q}']\nfoo: 1", "foo: found no such key; expected one of name, cluster"),
    ("file: f\ntemplates: ['{q}']", "cluster: found no value"),
    ("cluster: c\nfile: f\ntemplates: []", "templates: found none; expected at least one"),
    ("cluster: c\nfile: f\ntemplates: ['{q']", "templates: found the template '{q' ("),
    ("cluster: c\nfile: f\ntemplates: ['Hello']", "templates: found the template 'Hello' (there is no {column} in it)"),
    ("cluster: c\nfile: f\ntemplates: [3]", "templates: found 3; expected a text, or {input: text, target: text}"),
    ("cluster: c\nfile: f\ntemplates: [{input: '{q}', out: x}]",
     "templates: found {'input': '{q}', 'out': 'x'}; expected"),
    ("cluster: c\nfile: f\ntemplates: ['{q}']\ninverted: ['{answer}']",
     "inverted: found {'input': '{answer}'}; expected {input: text"),
    ("cluster: c\nfile: f\ntemplates: ['{q}']\ninverted:" + " \n- {input: '{answer}', target: '{q}'}" * 4,
     "inverted: found 4 templates; expected at most 3"),
    ("cluster: c\nfile: f\noptions: o\ntemplates: ['{q}']\ninverted: [{input: '{answer}? {options}', target: '{q}'}]",
     "inverted: found a template that lists the options"),
    ("cluster: c\nfile: f\ntemplates: ['{q}']\ncot: [{input: '{q}', target: '{rationale} {answer}'}]",
     "cot: found the target"),
    ("cluster: c\nfile: f\noptions: [yes, no]\ntemplates: ['{q}']",
     "options: found [True, False]; expected texts; fix: quote"),
    ("cluster: c\nfile: f\noptions: [a]\ntemplates: ['{q}']", "options: found ['a']; expected two or more"),
    ("cluster: c\nfile: f\noptions: [a, a]\ntemplates: ['{q}']", "options: found ['a', 'a']; expected two or more"),
    ("cluster: c/d\nfile: f\ntemplates: ['{q}']", "cluster: found 'c/d'; expected letters"),
    ("cluster: c\nfile: f\nheader: 'no'\ntemplates: ['{q}']", "header: found 'no'; expected bool"),
    ("cluster: c\nfile: f\ncolumns: {a: 1}\ntemplates: ['{q}']", "columns: found {'a': 1}; expected"),
])
def test_a_wrong_yaml_is_refused_by_name_and_key(tmp_path, text, message):
    assert refused(tmp_path, text).startswith(f"{tmp_path}/city.yaml: {message}")


BAD_ROWS = [
    ({"person": None}, "null", "person: found null; expected text or a number"),
    ({"person": True}, "wrong type", "person: found a boolean"),
    ({"question": ["x"]}, "wrong type", "question: found a list"),
    ({"answer": " "}, "empty answer", "answer: found no text"),
    ({"rationale": ""}, "empty rationale", "rationale: found no text"),
    ({"question": ""}, "empty question", "question: found no text"),
    ({"options": "Rome"}, "wrong type", "options: found text; expected a list of texts"),
    ({"options": ["Rome"]}, "unusable options", "options: found ['Rome']; expected two or more different texts"),
    ({"options": ["Rome", "Rome"]}, "unusable options", "options: found"),
    ({"options": ["Oslo", "Paris"]}, "answer not among the options",
     "options: found 'Rome'; expected one of ['Oslo', 'Paris']"),
]


@pytest.mark.parametrize("change, reason, message", BAD_ROWS)
def test_a_row_that_cannot_be_used_is_named_or_dropped(tmp_path, change, reason, message):
    file = task(tmp_path)
    path = tmp_path / "city.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (ROW, {**ROW, **change}, ROW)), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        list(Loader({}, file.record, False, None).records([file.open(str(path))[0]]))
    assert str(caught.value).startswith(f"{path}:2: {message}")
    loader = Loader({}, file.record, True, None)
    assert len(list(loader.records([file.open(str(path))[0]]))) == 2
    assert loader.report.dropped == {reason: 1} and loader.report.lines == {reason: [f"{path}:2"]}


def test_a_row_without_a_field_and_one_that_is_no_object_are_bad_too(tmp_path):
    file = task(tmp_path)
    path = tmp_path / "city.jsonl"
    path.write_text("\n".join(map(json.dumps, (ROW, {"answer": "x"}, 5))), encoding="utf-8")
    loader = Loader({}, file.record, True, None)
    assert len(list(loader.records([file.open(str(path))[0]]))) == 1
    assert loader.report.dropped == {"missing field": 1, "not an object": 1}
    path.write_text("5\n", encoding="utf-8")
    with pytest.raises(DataError, match=r":1: row: found a number; expected an object with fields"):
        file.open(str(path))


def test_a_column_that_the_file_lacks_is_named(tmp_path):
    file = task(tmp_path, "cluster: c\nfile: f\ncolumns: {question: q, answer: a}\ntemplates: ['{question}?']")
    (tmp_path / "f.jsonl").write_text('{"q": "x", "b": "y"}\n', encoding="utf-8")
    with pytest.raises(DataError,
                       match=r"f.jsonl:1: row: found the columns 'q', 'b'; expected the columns of .*city.yaml: 'a'"):
        file.open(str(tmp_path / "f.jsonl"))


# ---- mixing


def test_rates_and_probabilities_of_the_published_example():
    """Sizes 100000, 5000, 1200, 400 with cap 30000 and rate 3000; without the rate the largest task has 82 %."""
    rates = capped_rates([100_000, 5000, 1200, 400], 30_000, 3000)
    assert rates == [3000, 3000, 1200, 400]
    assert [rate / sum(rates) for rate in rates] == pytest.approx([0.394737, 0.394737, 0.157895, 0.052632], abs=5e-7)
    capped = capped_rates([100_000, 5000, 1200, 400], 30_000, 30_000)
    assert [rate / sum(capped) for rate in capped] == pytest.approx([0.819672, 0.136612, 0.032787, 0.010929], abs=5e-7)
    assert quotas(rates, 7600) == rates
    assert quotas(rates, 100) == [40, 39, 16, 5]


def test_a_walk_takes_every_row_once_before_one_twice():
    order = walk(5, "x/0")
    rounds = [[next(order) for _ in range(5)] for _ in range(3)]
    assert all(sorted(one) == list(range(5)) for one in rounds) and len({tuple(one) for one in rounds}) > 1
    again, other = walk(5, "x/0"), walk(5, "x/1")
    assert [next(again) for _ in range(15)] == sum(rounds, []) != [next(other) for _ in range(15)]


def test_flags_are_exact():
    from random import Random

    assert [sum(flags(100, share, Random(3))) for share in (0, 0.08, 0.5, 1)] == [0, 8, 50, 100]
    assert flags(100, 0.5, Random(3)) != flags(100, 0.5, Random(4))


def test_a_pattern_knows_what_it_shows():
    assert Pattern("{a} and {b}").shown == {"a", "b"} and not Pattern("{a}").lists_options
    assert Pattern("{options}").lists_options and Pattern("{a}", listed=True).lists_options
