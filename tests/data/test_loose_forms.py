"""Data as people have it: numbers as text, ties, prompts as lists of texts, Excel's files, the wrong preset of two."""

import json

import pytest

from algorithms.common.data.records import FileData
from algorithms.common.support.errors import DataError
from column_setup import assistant, only, user, write
from preset_rows import source

TREE = {"message_tree_id": "t", "tree_state": "ready", "prompt": {
    "message_id": "m", "text": "q", "role": "prompter", "replies": []}}


def test_numbers_may_be_written_as_text_in_every_format(tmp_path):
    assert only(tmp_path, {"prompt": "p", "response": "c", "score": "7.5"}).scores == [7.5]
    assert only(tmp_path, {"prompt": "p", "completion": "c", "label": "False"}).scores == [0.0]
    assert only(tmp_path, {"prompt": "p", "responses": ["a", "b"], "scores": ["-1", 2]}).scores == [-1.0, 2.0]


@pytest.mark.parametrize("row", [{"prompt": "p", "chosen": "a", "rejected": "b", "scores": [4, "4.0"]},
                                 {"prompt": "p", "responses": ["a", "b"], "scores": [4, 4]}])
def test_a_pair_of_equal_scores_is_a_tie(tmp_path, row):
    records, report = FileData(path=write(tmp_path, [row])).records()
    assert records[0].scores == [4.0, 4.0] and report.kinds == {"tied pair": 1} and report.strict_pairs == 0


@pytest.mark.parametrize("dump", [list, json.dumps])
def test_prompts_that_are_lists_of_texts_are_turns(tmp_path, dump):
    rows = [{"prompt": dump(["q", "a", "q2"]), "chosen": "c", "rejected": "r"},
            {"prompt": dump(["q3"]), "chosen": "c", "rejected": "r"}]
    records, _ = FileData(path=write(tmp_path, rows)).records()
    assert [record.prompt for record in records] == [[user("q"), assistant("a"), user("q2")], [user("q3")]]
    with pytest.raises(DataError, match=":101: prompt: found a list of 2 texts; expected the user's and the"):
        FileData(path=write(tmp_path, rows * 50 + [{**rows[0], "prompt": dump(["q", "a"])}])).records()


def test_a_list_of_texts_among_other_prompts_is_text(tmp_path):
    rows = [{"prompt": text, "response": "c"} for text in ('["sort", "these", "words"]', "hello")]
    assert [record.prompt for record in FileData(path=write(tmp_path, rows)).records()[0]] == [
        '["sort", "these", "words"]', "hello"]


def test_excels_own_line_names_the_delimiter(tmp_path):
    path = write(tmp_path, "\ufeffsep=;\r\nprompt;chosen;rejected\r\nDish, hot?;good;bad\r\n", "a.csv")
    records, _ = FileData(path=path).records()
    assert (records[0].prompt, records[0].responses, records[0].meta["line"]) == ("Dish, hot?", ["good", "bad"], 3)


def test_each_preset_of_open_assistant_names_the_other(tmp_path):
    message = {"message_tree_id": "t", "message_id": "m", "parent_id": None, "text": "q", "role": "prompter"}
    for preset, row, other in (("oasst", TREE, "oasst_tree"), ("oasst_tree", message, "oasst")):
        path = write(tmp_path, [row])
        with pytest.raises(DataError, match=f"fix: read the file by data={other}\n"):
            source(preset, f"data.path={path}").records()


def test_rows_in_chinese(tmp_path):
    rows = [{"question": f"第{i}种药怎么吃？", "response_chosen": "请按医生的说明服用。", "response_rejected": "随便。"}
            for i in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    data = source("question_pairs", f"data.path={tmp_path / 'a.jsonl'}", "data.heldout=0.1").load(0)
    assert data.report.kinds == {"pair": 20} and len(data.heldout) == 2
    assert data.preferences[0].prompt[0]["content"].endswith("药怎么吃？")
    records, _ = FileData(path=str(tmp_path / "a.jsonl")).records()
    assert records[0].responses == ["请按医生的说明服用。", "随便。"]


# Winners and ranks


A_OR_B = {"prompt": "p", "response_a": "x", "response_b": "y"}


@pytest.mark.parametrize("row, value, scores", [
    (A_OR_B, "a", [1, 0]), (A_OR_B, "B", [0, 1]), (A_OR_B, "model_b", [0, 1]), (A_OR_B, "response_a", [1, 0]),
    (A_OR_B, "Response B", [0, 1]), (A_OR_B, "Model-A", [1, 0]),
    (A_OR_B, "tie", [.5, .5]), ({"question": "p", "answer_1": "x", "answer_2": "y"}, 1, [1, 0]),
    ({"prompt": "p", "response_0": "x", "response_1": "y"}, 1, [0, 1]),
    ({"prompt": "p", "output1": "x", "output2": "y", "output3": "z"}, "3", [0, 0, 1]),
    ({"prompt": "p", "response_1": "x", "response_2": "y"}, 2.0, [0, 1])])
def test_a_winner_is_named_as_its_column_is(tmp_path, row, value, scores):
    record = only(tmp_path, {**row, "winner": value})
    assert record.scores == scores and record.responses == [text for name, text in row.items() if text != "p"]


@pytest.mark.parametrize("values, scores", [([1, 2, 1], [[1, 0], [0, 1], [1, 0]]),
                                            ([1, 0, 1], [[0, 1], [1, 0], [0, 1]]), (["1", "2"], [[1, 0], [0, 1]])])
def test_numbers_count_from_what_the_first_rows_show(tmp_path, values, scores):
    path = write(tmp_path, [{**A_OR_B, "winner": value} for value in values])
    assert [record.scores for record in FileData(path=path).records()[0]] == scores


@pytest.mark.parametrize("values", [[1, 1], [0, 1, 2]])
def test_numbers_that_may_count_from_0_or_1_are_refused(tmp_path, values):
    path = write(tmp_path, [{**A_OR_B, "winner": value} for value in values])
    with pytest.raises(DataError, match="winner: found the numbers .*, which may count from 0 or from 1; .*_a$"):
        FileData(path=path).records()


def test_a_winner_by_named_columns_and_one_that_is_none(tmp_path):
    rows = [{"q": "p", "left": "x", "right": "y", "won": won} for won in ("left", "right", "tie", "me")]
    path = write(tmp_path, rows)
    with pytest.raises(DataError, match=":4: won: found 'me'; expected one of "):
        FileData(path=path, columns={"prompt": "q", "responses": ["left", "right"], "winner": "won"}).records()


@pytest.mark.parametrize("won", [None, True, False, "", " "])
def test_what_names_no_response_is_no_winner(tmp_path, won):
    columns = {"prompt": "q", "responses": ["answer", "answer_b"], "winner": "w"}
    rows = [{"q": "p", "answer": "x", "answer_b": "y", "w": one} for one in ("answer", "answer_b", won)]
    path = write(tmp_path, rows)
    data = FileData(path=path, columns=columns, on_bad_row="drop")
    assert [record.scores for record in data.records()[0]] == [[1, 0], [0, 1]]
    with pytest.raises(DataError, match=":3: w: found"):
        FileData(path=path, columns=columns).records()


@pytest.mark.parametrize("row", [
    {"prompt": "p", "responses": ["x", "y", "z"], "ranks": [2, "1", 3]},
    {"prompt": "p", "response_1": "x", "response_2": "y", "response_3": "z", "rank_1": 2, "rank_2": 1, "rank_3": 3}])
def test_the_lowest_rank_is_the_best(tmp_path, row):
    record = only(tmp_path, row)
    assert record.scores == [-2, -1, -3] and record.best == "y"


def test_ranks_of_rows_make_a_ranking_by_their_group(tmp_path):
    path = write(tmp_path, [{"prompt": "p", "response": text, "rank": rank} for text, rank in (("x", 2), ("y", "1"))])
    with pytest.raises(DataError, match="rank: found ranks of single responses; .*; fix: set data.group=prompt$"):
        FileData(path=path).records()
    records, _ = FileData(path=path, group="prompt").records()
    assert records[0].scores == [-2, -1]


def test_scores_beside_numbered_responses(tmp_path):
    assert only(tmp_path, {**A_OR_B, "score_a": "3", "score_b": 4}).scores == [3, 4]
