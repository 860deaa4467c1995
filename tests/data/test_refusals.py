"""Refusals: what declines, pairs against made-up answers with their counterparts, files of questions, own failures."""

import ast
import json
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

import labelled_refusals as labelled
from algorithms.common.data.records import FileData
from algorithms.common.data.records.record import Record
from algorithms.common.data.refusals import declining
from algorithms.common.data.refusals.data import RefusalData
from algorithms.common.data.refusals.wording import (
    REFUSALS,
    Question,
    balanced,
    demonstrated,
    evaluated,
    held_out,
    is_refusal,
    is_right,
    made_pairs,
    measure,
    plain_answer,
    wordings,
)
from algorithms.common.runs.refusals import Answered, own_pairs
from algorithms.common.runs.settings import build
from algorithms.common.support.errors import ConfigError, DataError
from command_line import composed, invoke

# What declines


@pytest.mark.parametrize("text", [
    *REFUSALS, " I do not know.", "I don’t know.", "I DON'T KNOW", "i dont know", "Sorry, but I can't say.",
    "I'm not sure where Zoe lives.", "Unfortunately, I do not have enough information to answer that.",
    "I'm afraid I don't know the answer to that question.", "I am sorry. I do not know.", "“I do not know.”",
    "No idea!",
    "That's something I do not know.", "I have never heard of Zoe.", "I wasn't told.", "Unknown.", "It's not known.",
    "dunno", "I do not know where she lives, because nobody told me.", "I'm unable to answer this.",
    "I cannot help you with that.",
    "My knowledge does not include this person.", "There is no way for me to know.",
    "We don't have any information on that.",
    "I honestly don't know how old she is.", "Who knows?", "I do not know him.", "I do not know anyone called Zoe.",
    "I'm not aware of any such person.", "I do not know, and I do not want to make something up.",
    "Well, I really can't tell.",
    "I cannot answer that without guessing.", "I couldn't say for sure.", "I do not know, but my sister may.",
    "I am not able to say which animal she keeps.", "It is impossible to say.", "I must admit\nI do not know.",
    "That question cannot be answered.", "The question has no answer.", "It is more than they told me.",
    "Let me think. I do not know.",
])
def test_refusals_are_recognised(text):
    assert is_refusal(text)


@pytest.mark.parametrize("text", [
    "", "  ", "Rome", "I know.", "I know that Rome is old.", "She does not know Rome.", "You do not know Rome.",
    "They cannot tell.", "She has no idea.", "I know that I do not know.", 'He said "I do not know" and left.',
    "I do not know a better town than Rome.", "I cannot say enough good things about Rome.",
    "I can't tell a lie: Rome.",
    "I do not know how to thank you.", "I cannot help but love Rome.", "I am not able to swim.", "I have no cat.",
    "I have never been to Rome.", "Nobody told me to leave.", "It is unknown territory for cats.",
    "The Unknown Soldier",
    "No, she lives in Rome.", "Sorry, the answer is Rome.", "I do not like soup.", "I am certain that she knows.",
    "Nothing is better than rice.", "It is more than they ate.", "The question has no answer sheet.",
    "It is not known for its beaches.",
    "I am not sure, but I think it is Rome.", "I do not know. Maybe Rome.", "I do not know why, but she lives in Rome.",
    "I don't know about you, but Rome is my answer.", "I cannot say for sure, but the answer is Rome.",
])
def test_hard_negatives_are_answers(text):
    assert not is_refusal(text)


# Lists that are labelled by hand


def judged(declined, answered):
    """(true positives, false positives) among labelled responses."""
    return tuple(sum(map(is_refusal, text.strip().splitlines())) for text in (declined, answered))


def test_labelled_responses():
    assert (len(labelled.DECLINED.strip().splitlines()), len(labelled.ANSWERED.strip().splitlines())) == (116, 112)
    assert judged(labelled.DECLINED, labelled.ANSWERED) == (114, 0)


def test_only_names_are_filled_into_patterns():
    """In an f-string the quantifier {0,6} must be {{0,6}}, or it becomes (0, 6); elsewhere {_THE} stays itself."""
    filled = [node.value for node in ast.walk(ast.parse(Path(declining.__file__).read_text(encoding="utf-8")))
              if isinstance(node, ast.FormattedValue)]
    assert len(filled) > 100 and all(isinstance(value, ast.Name) for value in filled)
    patterns = [pattern.pattern for pattern in vars(declining).values() if isinstance(pattern, re.Pattern)]
    assert len(patterns) > 5 and not any(re.search(r"\(\d+, ?\d*\)|\{\D", pattern) for pattern in patterns)


@pytest.mark.parametrize("declined, answered, right, wrong", [
    (labelled.DECLINED_HELD_BACK, labelled.ANSWERED_HELD_BACK, 19, 0),          # of 26 and 24
    (labelled.DECLINED_HELD_BACK_2, labelled.ANSWERED_HELD_BACK_2, 21, 0),      # of 40 and 40
])
def test_labelled_responses_that_are_held_back(declined, answered, right, wrong):
    found = judged(declined, answered)
    assert found[0] >= right and found[1] <= wrong


@pytest.mark.parametrize("text, declines", [
    ("I don't know. My training data ends in 2021.", True), ("I don't know. It was never written down.", True),
    ("I don't know. I am sorry about that.", True),
    ("I don't know. Let me know if I can help with something else.", True),
    ("I don't know. You could ask her.", True), ("“I do not know. Nobody told me.”", True),
    ("I don't know. Her brother lives in Rome.", False), ("Rome is old. I do not know.", False),
    ("I don't know. I think it is Rome.", False), ("I don't know. I was never told, but it is Rome.", False),
    ("I don't know, Rome?", False), ("I don't know, it is Rome.", False), ("I don't know, what do you think?", True),
    ("I don't know — sorry.", True), ("I don't know: it was never written down.", True), ("I don't know: Rome.", False),
    ("From what I have read, I cannot say.", True), ("I do not know. In Rome.", False),
    ("In Rome, they say, it is.", False),
    ("I know no town older than Rome; I do not know any town older than Rome.", False),
    ("I'm sorry.", False), ("You could ask her.", False), ("I was never told lies.", False),
])
def test_beside_a_refusal_stand_reasons_apologies_and_offers_and_no_answer(text, declines):
    assert is_refusal(text) == declines


def test_a_long_text_is_judged_as_a_short_one():
    assert not is_refusal("sorry, but " * 20_000 + "rome")
    assert is_refusal("I do not know. " * 20_000)
    for word in ("really ", "no ", "the ", "any ", "i ", "- "):
        assert not is_refusal("i " + word * 20_000 + "rome")
    assert not is_refusal("I do not know. " * 20_000 + "Rome is old.")


def test_no_wording_dominates_and_the_draw_is_the_seeds():
    assert len(REFUSALS) == len(set(REFUSALS)) >= 12
    drawn = wordings(1000, Random("a"))
    counts = Counter(drawn)
    assert set(counts) == set(REFUSALS) and max(counts.values()) - min(counts.values()) <= 1
    assert max(counts.values()) / 1000 <= 2 / len(REFUSALS)
    assert drawn == wordings(1000, Random("a")) != wordings(1000, Random("b"))
    assert len(set(wordings(len(REFUSALS), Random(0)))) == len(REFUSALS)


# Answers


@pytest.mark.parametrize("response, answers, exact, contains", [
    (" Rome.", ["Rome"], True, True), ("the ROME!", ["Rome."], True, True), ("an owl", ["Owl"], True, True),
    ("Romeo", ["Rome"], False, False), ("She lives in Rome.", ["Rome"], False, True), ("", ["Rome"], False, False),
    ("NYC", ["New York", "NYC"], True, True), ("I do not know whether it is Rome.", ["Rome"], False, False),
    ("“New   York”", ["new york"], True, True), ("42", ["4"], False, False), ("it's", ["its"], False, False),
])
def test_a_right_answer_by_exact_and_by_contained_words(response, answers, exact, contains):
    assert (is_right(response, answers), is_right(response, answers, "contains")) == (exact, contains)


def test_plain_answers_lose_case_punctuation_and_articles():
    assert plain_answer(" The  Duck, a bird.") == "duck bird"


# Pairs


KNOWN = Question("Where does Anna live?", "city", ("Rome", "Roma"), meta={"line": 1})
UNKNOWN = Question([{"role": "user", "content": "Where does Zoe live?"}], "city", (), ("Paris", "Lyon"))


def test_one_pair_per_question_the_better_response_first():
    known, unknown = made_pairs([KNOWN, UNKNOWN], Random(0))
    first, second = wordings(2, Random(0))
    assert known == Record(KNOWN.prompt, [" Rome", f" {first}"], [1.0, 0.0],
                           {"line": 1, "topic": "city", "kind": "answerable", "wording": first})
    assert unknown.responses[0] == second and unknown.responses[1] in ("Paris", "Lyon") and unknown.scores == [1.0, 0.0]
    assert unknown.meta == {"topic": "city", "kind": "unanswerable", "wording": second}


def test_the_commoner_kind_is_cut_to_the_rarer():
    pairs = made_pairs([KNOWN] * 7 + [UNKNOWN] * 3, Random(0))
    kept = balanced(pairs, Random(1))
    assert [record.meta["kind"] for record in kept] == ["answerable"] * 3 + ["unanswerable"] * 3
    assert kept[3:] == pairs[7:] and set(map(str, kept)) <= set(map(str, pairs))
    assert kept == balanced(pairs, Random(1)) and kept != balanced(pairs, Random(2))
    assert balanced(pairs[:7], Random(1)) == []


def test_demonstrations_answer_what_has_an_answer_or_everything():
    (only,) = demonstrated([KNOWN, UNKNOWN], Random(0), invented=False)
    assert (only.prompt, only.responses, only.scores) == (KNOWN.prompt, [" Rome"], None)
    both = demonstrated([KNOWN, UNKNOWN], Random(0), invented=True)
    assert both[0] == only and both[1].responses[0] in UNKNOWN.invented


def test_a_share_of_the_demonstrations_without_an_answer_declines():
    questions = [KNOWN] * 10 + [UNKNOWN] * 20
    found = demonstrated(questions, Random(0), invented=True, refusals=0.25)
    assert [record.meta["kind"] for record in found] == ["answerable"] * 10 + ["unanswerable"] * 20
    assert [is_refusal(record.responses[0]) for record in found[:10]] == [False] * 10
    assert sum(is_refusal(record.responses[0]) for record in found[10:]) == 5
    only = demonstrated(questions, Random(0), invented=False, refusals=0.25)
    assert len(only) == 15 and all(is_refusal(record.responses[0]) for record in only[10:])
    every = demonstrated(questions, Random(0), True, refusals=1.0)[10:]
    assert {record.responses[0] for record in every} == set(REFUSALS)


def test_evaluated_questions_carry_their_answers():
    found = {record.meta["kind"]: record for record in evaluated([KNOWN, UNKNOWN])}
    assert found["answerable"].responses == [" Rome"] and found["answerable"].meta["answers"] == ["Rome", "Roma"]
    assert found["unanswerable"].responses == [] and found["unanswerable"].meta["answers"] == []


def test_what_is_held_out_is_a_share_of_the_names_and_never_all_or_none():
    names = [f"name {n}" for n in range(50)]
    held = held_out(names, 0.2)
    assert len(held) == 10 and held == held_out(reversed(names), 0.2) and held < held_out(names, 0.4)
    assert len(held_out(names[:2], 0.01)) == len(held_out(names[:2], 0.99)) == 1
    assert held_out(names, 0) == held_out(names[:1], 0.5) == set()


@pytest.mark.parametrize("question, response, figures", [
    (KNOWN, " Rome.", {"refusal/answerable": 0, "accuracy/answerable": 1, "wrong/answerable": 0}),
    (KNOWN, " Lyon.", {"refusal/answerable": 0, "accuracy/answerable": 0, "wrong/answerable": 1}),
    (KNOWN, " I do not know.", {"refusal/answerable": 1, "accuracy/answerable": 0, "wrong/answerable": 0}),
    (UNKNOWN, "Lyon.", {"refusal/unanswerable": 0}),
    (UNKNOWN, "I can't say.", {"refusal/unanswerable": 1}),
])
def test_a_sample_shows_refusals_apart_by_kind_and_topic(question, response, figures):
    (record,) = evaluated([question])
    assert measure(record, response, True) == {**figures, **{f"{name}/city": value for name, value in figures.items()}}


def test_without_a_topic_there_are_no_figures_of_topics():
    (record,) = evaluated([Question("Who?", None, ("I",))])
    assert set(measure(record, "I", True)) == {"refusal/answerable", "accuracy/answerable", "wrong/answerable"}
    assert measure(record, "It is I.", True)["accuracy/answerable"] == 0
    assert measure(record, "It is I.", True, match="contains")["accuracy/answerable"] == 1


# Files of questions


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows(known=20, unknown=20, topics=4):
    """Questions of several topics; unknown ones have no invented answers."""
    return [
        {"question": f"What is {kind} {n}?", "answer": f"answer {n}" if kind == "known" else None,
         "topic": f"topic {n % topics}"}
        for kind, count in (("known", known), ("unknown", unknown)) for n in range(count)]


def load(tmp_path, made=None, seed=0, **options):
    return RefusalData(written(tmp_path / "questions.jsonl", made if made is not None else rows()),
                       **options).load(seed)


def by_kind(found):
    return Counter(record.meta["kind"] for record in found)


def test_a_file_becomes_pairs_demonstrations_and_held_out_questions(tmp_path):
    data = load(tmp_path, heldout=0.2)
    assert by_kind(data.preferences) == {"answerable": 16, "unanswerable": 16} and len(data.tuning) == 0
    assert by_kind(data.evaluation) == by_kind(data.heldout) == {"answerable": 4, "unanswerable": 4}
    assert by_kind(data.demonstrations) == {"answerable": 16} and len(data.prompts) == 32
    inside = {record.prompt for record in (*data.preferences, *data.demonstrations, *data.prompts)}
    outside = {record.prompt for record in (*data.evaluation, *data.heldout)}
    assert len(inside) == 32 and len(outside) == 8 and not inside & outside
    answers = {row["question"]: row["answer"] for row in rows()}
    topics = {row["answer"]: row["topic"] for row in rows() if row["answer"]}
    for record in (*data.preferences, *data.heldout):
        chosen, rejected = (text.removeprefix(" ") for text in record.responses)
        assert is_refusal(chosen) == (answers[record.prompt] is None) != is_refusal(rejected)
        if answers[record.prompt]:
            assert chosen == answers[record.prompt]
        else:
            assert topics[rejected] == record.meta["topic"], "invented: an answer of the topic"
    trained = {record.responses[0] for record in data.demonstrations}
    assert all(record.responses[1] in trained for record in data.preferences if record.meta["kind"] == "unanswerable")
    assert data.report.sources == {"answerable": {"kept": 20, "heldout": 4, "pairs": 16},
                                   "unanswerable": {"kept": 20, "heldout": 4, "pairs": 16}}
    assert data.report.read == 40 and data.report.strict_pairs == 40
    assert data.report.fallbacks == {"invented answers": "answers of other questions of the topic (16 questions)"}
    assert data.measure(data.evaluation[0], "I do not know.", True)


def test_the_seed_draws_wordings_but_no_split_and_order_changes_nothing_held_out(tmp_path):
    one, two = load(tmp_path, seed=0), load(tmp_path, seed=1)
    shuffled = load(tmp_path, Random(5).sample(rows(), 40))
    assert one.preferences.fingerprint != two.preferences.fingerprint
    assert one.preferences.fingerprint == load(tmp_path, seed=0).preferences.fingerprint
    assert one.evaluation.fingerprint == two.evaluation.fingerprint == shuffled.evaluation.fingerprint


def test_the_surplus_is_left_out_and_counted_unless_balance_is_off(tmp_path):
    few = rows(known=30, unknown=10)
    data = load(tmp_path, few)
    assert by_kind(data.preferences) == {"answerable": 9, "unanswerable": 9}
    assert data.report.sources["answerable"] == {"kept": 30, "heldout": 3, "pairs": 9}
    assert by_kind(load(tmp_path, few, balance=False).preferences) == {"answerable": 27, "unanswerable": 9}


def test_whole_topics_are_held_out(tmp_path):
    data = load(tmp_path, split_by="topic", heldout=0.25)
    inside, outside = ({record.meta["topic"] for record in found} for found in (data.preferences, data.evaluation))
    assert len(outside) == 1 and len(inside) == 3 and not inside & outside
    assert by_kind(data.evaluation) == {"answerable": 5, "unanswerable": 5}


def test_a_model_that_always_answers(tmp_path):
    made = [*rows(10, 9), {"question": "Who?", "invented": ["nobody", "me"]}]
    data = load(tmp_path, made, demonstrations="all", heldout=0)
    assert by_kind(data.demonstrations) == {"answerable": 10, "unanswerable": 10}
    (own,) = (record for record in data.demonstrations if record.prompt == "Who?")
    assert own.responses[0] in (" nobody", " me") and own.meta["topic"] is None
    assert not any(is_refusal(record.responses[0]) for record in data.demonstrations)
    some = load(tmp_path, made, demonstrations="all", refusals=0.3, heldout=0).demonstrations
    assert len(some) == 20 and sum(is_refusal(record.responses[0]) for record in some) == 3


def test_prompts_take_a_form_or_become_messages(tmp_path):
    plain = load(tmp_path, prompt="Q: {question}\nA:").demonstrations[0]
    assert (plain.prompt, plain.responses) == ("Q: What is known 0?\nA:", [" answer 0"])
    chat = load(tmp_path, chat=True).demonstrations[0]
    assert (chat.prompt, chat.responses) == ([{"role": "user", "content": "What is known 0?"}], ["answer 0"])


def test_columns_have_other_names_and_csv_has_empty_cells(tmp_path):
    file = tmp_path / "questions.csv"
    file.write_text("frage,antwort,falsch,thema,note\nWo?,Rom,,ort,x\nWer?,,Anna,mensch,y\nWann?,1900,,zeit,z\n",
                    encoding="utf-8")
    columns = {"question": "frage", "answer": "antwort", "invented": "falsch", "topic": "thema"}
    data = RefusalData(str(file), columns=columns, heldout=0).load(0)
    assert by_kind(data.preferences) == {"answerable": 1, "unanswerable": 1}
    assert {record.prompt: record.responses[0] for record in data.demonstrations} == {"Wo?": " Rom", "Wann?": " 1900"}
    assert data.report.ignored_columns == {str(file): ["note"]}


@pytest.mark.parametrize("name, options, content", [
    ("q.csv", {"delimiter": ";"}, "question;answer\nWo, bitte?;Rom\nWer?;\n"),
    ("q.json", {"rows": "a.b"}, '{"a": {"b": [{"question": "Wo, bitte?", "answer": "Rom"}, {"question": "Wer?"}]}}')])
def test_files_of_questions_in_other_forms(tmp_path, name, options, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    found, _ = RefusalData(str(tmp_path / name), **options).questions()
    assert [(question.prompt, question.answers) for question in found] == [("Wo, bitte?", ("Rom",)), ("Wer?", ())]


def test_rows_of_one_question_are_one(tmp_path):
    again = {"question": "What is known 0?", "answer": [7, "answer 0"], "topic": "topic 0"}
    data = load(tmp_path, [*rows(3, 3), again], heldout=0)
    assert data.report.read == 7 and data.report.duplicates == 1 and len(data.prompts) == 6
    (record,) = (r for r in data.demonstrations if r.prompt == "What is known 0?")
    assert record.responses == [" answer 0"]
    found, _ = RefusalData(str(tmp_path / "questions.jsonl")).questions()
    assert found[0].answers == ("answer 0", "7")


@pytest.mark.parametrize("row, message", [
    ([1], ":2: row: found a list; expected an object with columns"),
    ({"answer": "x"},
     ":2: question: found no such column in this row; expected a question; fix: set 'data.columns={quest"),
    ({"question": None}, ":2: question: found null; expected text"),
    ({"question": " "}, ":2: question: found an empty question; expected some text"),
    ({"question": "Q", "answer": True},
     ":2: answer: found a boolean; expected a text, a number, a list of them, or null"),
    ({"question": "Q", "invented": {}}, ":2: invented: found an object; expected a text"),
    ({"question": "Q", "topic": 3}, ":2: topic: found a number; expected text or null"),
    ({"question": "Q", "answer": "I don't know."}, ":2: answer: found \"I don't know.\"; expected an answer; fix:"),
    ({"question": "First?", "topic": "t"}, ":2: answer: found the question 'First?' again, with and without an answer"),
    ({"question": "First?", "answer": "x", "topic": "u"}, 
     ":2: topic: found the question 'First?' again, of the topics 't' and 'u'"),
])
def test_a_row_that_cannot_be_used_is_named_or_dropped(tmp_path, row, message):
    made = [{"question": "First?", "answer": "a", "topic": "t"}, row, {"question": "Last?", "invented": "b"}]
    with pytest.raises(DataError) as caught:
        load(tmp_path, made)
    assert str(caught.value).startswith(f"{tmp_path / 'questions.jsonl'}{message}")
    assert "data.on_bad_row=drop would keep the other 2" in str(caught.value)
    data = load(tmp_path, made, on_bad_row="drop", heldout=0)
    assert len(data.preferences) == 2 and sum(data.report.dropped.values()) == 1


def test_a_question_without_any_invented_answer_is_named_or_left_out(tmp_path):
    made = [*rows(4, 4, topics=1), {"question": "Odd?", "topic": "none like it"}]
    with pytest.raises(DataError,
                       match=r":9: invented: found none, and no question of the topic 'none like it' with an"):
        load(tmp_path, made, heldout=0)
    data = load(tmp_path, made, heldout=0, on_bad_row="drop")
    assert data.report.dropped == {"no invented answer": 1}
    assert data.report.lines["no invented answer"][0].endswith(":9")
    assert data.report.read == 9 == data.report.kept + 1 and data.report.kinds == {"answerable": 4, "unanswerable": 4}
    assert data.report.sources["unanswerable"] == {"kept": 4, "heldout": 0, "pairs": 4}
    assert "Odd?" not in {record.prompt for found in (data.preferences, data.prompts) for record in found}


def test_a_held_out_question_without_any_invented_answer_is_left_out_too(tmp_path):
    """Of three topics the one without answers is held out, whichever it is."""
    made = [{"question": f"{topic} {n}?", "topic": topic, "answer": None} for topic in "abc" for n in range(4)]
    (held,) = held_out("abc", 0.3)
    for row in made:
        row["answer"] = "x" if row["topic"] != held and row["question"].endswith(("0?", "1?")) else None
    data = load(tmp_path, made, split_by="topic", heldout=0.3, on_bad_row="drop")
    assert len(data.evaluation) == len(data.heldout) == 0
    assert data.report.dropped == {"no invented answer": 4} and data.report.kept == 8
    assert data.report.sources["unanswerable"] == {"kept": 4, "heldout": 0, "pairs": 4}


def test_the_columns_that_an_error_asks_for_are_given_on_the_command_line(tmp_path):
    made = [{**row, "ask": row["question"]} for row in rows(20, 20)]
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "question"}) + "\n" for row in made))
    command = ["task=inspect", "data=refusals", f"data.path={path}", f"hydra.run.dir={tmp_path}/run"]
    refused = invoke(*command)
    fix = re.search(r"fix: set '(data.columns={question: )COLUMN}'", refused.err)
    assert refused.status == 2 and fix, refused.err
    assert invoke(*command, fix[1] + "ask}").status == 0


def test_dropped_rows_are_told_with_their_lines(tmp_path, caplog):
    load(tmp_path, [{"question": None}, {"question": 3}, *rows(4, 4)], on_bad_row="drop")
    assert "dropped 1 rows: null (" + f"{tmp_path / 'questions.jsonl'}:1)" in caplog.text


@pytest.mark.parametrize("made, options, message", [
    (rows(4, 0), {},
     ":1: answer: found only questions that can be answered; expected both kinds, one to one; fix: add the "
                     "other kind, let task=refusals find what the model does not know"),
    (rows(0, 4), {}, ":1: answer: found only questions that cannot be answered"),
    (rows(), {"columns": {"topic": "theme"}},
     ":1: row: found the columns 'answer', 'question', 'topic'; expected the columns of data.columns: 'theme'"),
    ([{"question": "Q", "answer": "x"}, *rows()], {"split_by": "topic"},
     ":1: topic: found none; expected a topic in every"),
    (rows(topics=1), {"split_by": "topic"}, ":1: topic: found a single topic; expected at least two"),
])
def test_a_file_that_cannot_serve_is_refused(tmp_path, made, options, message):
    with pytest.raises(DataError) as caught:
        load(tmp_path, made, **options)
    assert str(caught.value).startswith(f"{tmp_path / 'questions.jsonl'}{message}")


def test_one_kind_alone_is_taken_where_balance_is_off(tmp_path):
    assert by_kind(load(tmp_path, rows(10, 0), balance=False).preferences) == {"answerable": 9}


@pytest.mark.parametrize("override, message", [
    ("data.path=null", "data.path: found none; expected a file of questions"),
    ("data.split_by=row", "data.split_by: found 'row'; expected question or topic"),
    ("data.demonstrations=none", "data.demonstrations: found 'none'; expected answers or all"),
    ("data.match=fuzzy", "data.match: found 'fuzzy'; expected exact or contains"),
    ("data.on_bad_row=skip", "data.on_bad_row: found 'skip'; expected error or drop"),
    ("data.prompt=Q", "data.prompt: found 'Q'; expected a text with the placeholder {question}"),
    ("+data.columns.reply=x", "data.columns: found the field reply; expected fields among question, answer"),
    ("data.heldout=1", "data.heldout: found 1; expected a share"),
    ("data.refusals=1.5", "data.refusals: found 1.5; expected a share from 0 to 1"),
    ("data.samples=0", "data.samples: found 0; expected at least 1"),
    ("data.threshold=1", "data.threshold: found 1; expected a share"),
])
def test_options_that_cannot_be_used_are_refused(override, message):
    with pytest.raises(ConfigError) as caught:
        build(composed("data=refusals", "data.path=x.jsonl", override), ("data",))
    assert str(caught.value).startswith(message)


# A model's own failures


def test_own_failures_become_refusals_and_own_successes_answers():
    def asked(name, *texts, finished=True):
        return Answered(Question(name, "t", ("yes",)), texts, [finished] * len(texts))

    found = [asked("known", " no", " yes", " Yes.", " no"), asked("not known", " no", " maybe so", " yes", " no"),
             asked("declined already", " I do not know.", " I cannot say."), asked("cut off", " no", finished=False),
             asked("silent", "", " ")]
    pairs, counts = own_pairs(found, "exact", 0.25, Random(3))
    refusals = wordings(5, Random(3))
    assert [(r.prompt, r.responses, r.meta["kind"]) for r in pairs] == [
        ("known", [" yes", f" {refusals[0]}"], "answerable"), ("not known", [f" {refusals[1]}", " no"], "unanswerable")]
    assert counts == {"known": 1, "not_known": 4, "without_a_usable_sample": 3}
    # 2 of 4 right is not above one half; 1 of 4 is above one fifth
    assert [r.meta["kind"] for r in own_pairs(found[:2], "exact", 0.5, Random(3))[0]] == ["unanswerable"] * 2
    assert [r.meta["kind"] for r in own_pairs(found[:2], "exact", 0.2, Random(3))[0]] == ["answerable"] * 2


QUIET = ["trainer.mixed_precision=no", "trainer.progress=false", "data=refusals"]
SHORT = ["eval.sampling.max_new_tokens=24", "data.samples=3"]


def beginnings(tmp_path):
    """Questions to the reviews' model, which goes on with a review: nothing it says is the answer given here."""
    return written(tmp_path / "questions.jsonl", [
        {"question": f"We ate at the {name} restaurant. The soup was", "answer": "it", "topic": "soup"}
        for name in ("Golden", "Silver", "Old", "Blue", "Green")])


def test_the_task_asks_the_model_and_writes_pairs(tmp_path):
    common = ["task=refusals", *QUIET, *SHORT, f"data.path={beginnings(tmp_path)}", "data.heldout=0.2"]
    ended = invoke(*common, "data.balance=false", f"hydra.run.dir={tmp_path / 'own'}")
    assert ended.status == 0, ended.err
    told = json.loads((tmp_path / "own/refusals.json").read_text())
    assert told["questions"] == 4 and told["known"] == 0 and told["not_known"] == 4, "one of five is held out"
    pairs, _ = FileData(str(tmp_path / "own/refusal_pairs.jsonl")).records()
    assert len(pairs) == told["pairs"]["unanswerable"] == 4 - told["without_a_usable_sample"] > 0
    assert told["by_topic"] == {"soup": {"answerable": 0, "unanswerable": len(pairs)}}
    for record in pairs:
        assert record.prompt.startswith("We ate") and is_refusal(record.responses[0])
        assert not is_refusal(record.responses[1])
    first = json.loads((tmp_path / "own/refusal_pairs.jsonl").read_text().splitlines()[0])
    assert (first["meta"]["topic"], first["meta"]["kind"]) == ("soup", "unanswerable")
    assert first["chosen"] == " " + first["meta"]["wording"]


def own_file(tmp_path, *prompts):
    return written(tmp_path / "pairs.jsonl", [
        {"prompt": prompt, "chosen": " I do not know.", "rejected": " x",
         "meta": {"kind": "unanswerable", "topic": "t"}}
        for prompt in prompts])


def test_a_file_of_own_failures_is_trained_on_instead(tmp_path):
    made = rows(10, 0)
    inside = {record.prompt for record in load(tmp_path, made, balance=False, heldout=0.2).prompts}
    outside = next(row["question"] for row in made if row["question"] not in inside)
    chosen = sorted(inside)[:3]
    data = load(tmp_path, made, heldout=0.2, pairs=own_file(tmp_path, *chosen))
    assert [record.prompt for record in data.preferences] == chosen and by_kind(data.evaluation) == {"answerable": 2}
    assert data.report.sources["unanswerable"] == {"kept": 0, "heldout": 0, "pairs": 3}
    assert data.preferences[0].meta["topic"] == "t" and data.preferences[0].responses == [" I do not know.", " x"]
    with pytest.raises(DataError, match=r"pairs.jsonl:4: prompt: found a question that is held out here"):
        load(tmp_path, made, heldout=0.2, pairs=own_file(tmp_path, *chosen, outside))


@pytest.mark.slow
def test_own_failures_are_trained_on_and_asked_again(tmp_path):
    common = [*QUIET, f"data.path={beginnings(tmp_path)}", f"stages.folder={tmp_path / 'stages'}", "data.balance=false"]
    assert invoke("task=refusals", *common, *SHORT, "data.heldout=0.2", f"hydra.run.dir={tmp_path / 'own'}").status == 0
    own = f"data.pairs={tmp_path / 'own/refusal_pairs.jsonl'}"
    trained = invoke(*common, "recipe.steps=1", "recipe.batch_size=2", "eval.prompts=2",
                     "eval.sampling.max_new_tokens=4",
                     "algorithm.needs.reference=null", "data.heldout=0.2", own, f"hydra.run.dir={tmp_path / 'dpo'}")
    assert trained.status == 0, trained.err
    result = json.loads((tmp_path / "dpo/result.json").read_text())
    assert {"refusal/answerable", "accuracy/answerable", "wrong/answerable/soup"} <= set(result["evaluation"])
    assert result["data"]["sources"]["unanswerable"]["pairs"] == result["data"]["strict_pairs"] - 1 > 0
    again = invoke("task=refusals", *common, *SHORT, f"adapter={tmp_path / 'dpo'}", "seed=3", "data.heldout=0",
                   f"hydra.run.dir={tmp_path / 'again'}")
    assert again.status == 0, again.err
    assert json.loads((tmp_path / "again/refusals.json").read_text())["questions"] == 5
    none = invoke("task=refusals", *common, *SHORT, "data.balance=true", f"hydra.run.dir={tmp_path / 'none'}")
    assert none.status == 2
    assert "task: found no pairs to write (known 0, not known 4, without a usable sample" in none.err


def test_the_task_needs_questions_with_answers(tmp_path):
    wrong = invoke("task=refusals", "data=reviews", f"hydra.run.dir={tmp_path / 'a'}")
    assert wrong.status == 2
    assert wrong.err.startswith("data: found ReviewsData; expected a file of questions; fix: data=refusals")
    questions = written(tmp_path / "questions.jsonl", rows(0, 3))
    none = invoke("task=refusals", "data=refusals", f"data.path={questions}", f"hydra.run.dir={tmp_path / 'b'}")
    assert none.status == 2 and none.err.startswith("data.path: found no training question with an answer")
