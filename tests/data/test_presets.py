"""Every preset of conf/data on a tiny file in its dataset's layout: each field of each record, each row left out."""

import json
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from algorithms.common.data.records import Record
from algorithms.common.data.records.mappers import stack_exchange, stack_exchange_score
from algorithms.common.support.errors import ConfigError, DataError
from command_line import CONF, choices, invoke
from preset_rows import (
    CASES,
    FILTERED,
    MESSAGE,
    QUESTION,
    REVIEW,
    SAFE,
    SHP,
    STEER,
    VERDICT,
    Bad,
    Case,
    changed,
    said,
    source,
    user,
)


def is_preset(name: str) -> bool:
    """Whether a choice of the group reads files by FileData, and says how."""
    node = OmegaConf.load(CONF / "data" / f"{name}.yaml")
    return name != "file" and ("file" in node.get("defaults", []) or str(node.get("_target_")).endswith(".FileData"))


PRESETS = [name for name in choices("data") if is_preset(name)]


def write(folder, case):
    path, rows = folder / case.name, [row for row, _ in case.rows]
    if case.name.endswith("parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif case.name.endswith("json"):
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_preset_is_in_the_table():
    assert set(CASES) == set(PRESETS)
    assert all(any(isinstance(outcome, Bad) for _, outcome in case.rows) for case in CASES.values())


@pytest.mark.parametrize("preset", CASES)
def test_every_record_of_a_preset_and_every_row_left_out(tmp_path, preset):
    case = CASES[preset]
    path = write(tmp_path, case)
    records, report = source(preset, f"data.path={path}", "data.on_bad_row=drop").records()
    outcomes = list(enumerate((outcome for _, outcome in case.rows), 1))
    expected = [Record(one.prompt, one.responses, one.scores, {"source": path, "line": line, **one.meta})
                for line, outcome in outcomes if isinstance(outcome, list) for one in outcome]
    assert [replace(one, meta={key: value for key, value in one.meta.items() if key not in ("lines", "response_lines")})
            for one in records] == expected
    bad = {}
    for line, outcome in outcomes:
        if isinstance(outcome, Bad):
            bad.setdefault(outcome.reason, []).extend(line + place for place in outcome.group)
    assert report.dropped == {reason: len(places) for reason, places in bad.items()}
    assert report.lines == {reason: [f"{path}:{line}" for line in places] for reason, places in bad.items()}
    filtered = sum(outcome == FILTERED for _, outcome in outcomes)
    assert report.filtered == ({case.filter: filtered} if case.filter else {}) and bool(filtered) == bool(case.filter)
    assert (report.read, report.kept, report.skipped) == (len(case.rows), len(expected), case.skipped)


@pytest.mark.parametrize("preset", CASES)
def test_a_bad_row_is_reported_by_path_and_line(tmp_path, preset):
    case = CASES[preset]
    path = write(tmp_path, case)
    line, bad = next((line, outcome) for line, (_, outcome) in enumerate(case.rows, 1) if isinstance(outcome, Bad))
    with pytest.raises(DataError) as error:
        source(preset, f"data.path={path}").records()
    first, _, listed = str(error.value).split("\n")[:3]
    assert first.startswith(f"{path}:{line}: {bad.column}: found ") and "; expected " in first and "; fix: " in first
    reasons = [outcome.reason for _, outcome in case.rows if isinstance(outcome, Bad)]
    assert listed.strip().split(":")[0] in reasons


WITHOUT_NAME = {"oasst_tree", "gpt4_llm", "question_pairs", "gsm_solutions", "dpo_demo", "kto_demo", "dpo_parts_demo",
                "verdicts"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_its_dataset_or_asks_for_a_file(preset):
    if preset in WITHOUT_NAME:
        with pytest.raises(ConfigError, match="data.path: found neither it nor data.name"):
            source(preset)
    else:
        data = source(preset)
        assert data.path is None and data.name.count("/") == 1


def test_a_file_takes_the_place_of_the_hub_dataset_on_the_command_line(tmp_path):
    path = write(tmp_path, Case([(SHP, []), (changed(SHP, score_A=9, score_ratio=1.5), [])]))
    ended = invoke("task=inspect", "data=shp", f"data.path={path}", f"hydra.run.dir={tmp_path}/run",
                   f"stages.folder={tmp_path}/s")
    assert ended.status == 0, ended.err
    assert "data.path is read, not the hub's stanfordnlp/SHP" in ended.out
    assert "kept 1 records" in ended.out and "filtered 1 rows: at_least(column='score_ratio', value=2)" in ended.out


def test_presets_say_which_part_of_a_hub_dataset_they_read():
    read = {preset: [(one.path, one.subset, one.split, one.revision) for one in source(preset)._sources()]
            for preset in ("hh", "hh_helpful", "hh_harmless", "summarize", "webgpt", "ultrafeedback")}
    assert read == {
        "hh": [("Anthropic/hh-rlhf", None, "train", None)],
        "hh_helpful": [(f"Anthropic/hh-rlhf/helpful-{part}", None, "train", None)
                       for part in ("base", "online", "rejection-sampled")],
        "hh_harmless": [("Anthropic/hh-rlhf/harmless-base", None, "train", None)],
        "summarize": [("openai/summarize_from_feedback/comparisons", None, "train", "refs/convert/parquet")],
        "webgpt": [("openai/webgpt_comparisons/default", None, "train", "refs/convert/parquet")],
        "ultrafeedback": [("HuggingFaceH4/ultrafeedback_binarized", None, "train_prefs", None)]}


# Where the prompt ends and the response begins


@pytest.fixture(scope="module")
def template():
    from transformers import AutoTokenizer

    from algorithms.common.data.template import Template
    return Template(AutoTokenizer.from_pretrained(CONF.parent / "benchmarks/lab/reviews"))


JOINED = {      # of each kind of prompt: the text of the first record with a response
    "hh": "\n\nHuman: Hi\n\nAssistant: Hello.\nHuman: is no mark",
    "rm_static": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Tea?\n\nAssistant: Green.",
    "summarize": "SUBREDDIT: r/advice\n\nTITLE: Hat\n\nPOST: I lost my hat.\n\nTL;DR: Hat lost.",
    "tldr": "SUBREDDIT: r/advice\n\nTITLE: Hat\n\nPOST: I lost my hat.\n\nTL;DR: hat lost",
    "stack_exchange_paired": "Question: How {so}?\n\nAnswer: Like this.",
    "stack_exchange": "\n\nHuman: <p>How?</p>\n\nAssistant: So.",
    "alpaca": "\n\nHuman: Add.\n1 and 2\n\nAssistant: 3",
    "ultrafeedback": "\n\nHuman: Sum?\n\nAssistant: Four.",
    "helpsteer2_pairs": "\n\nHuman: Name it.\n\nAssistant: Bo.",
    "oasst_tree": "\n\nHuman: Hi\n\nAssistant: two",
    "dpo_demo": "\n\nSystem: Be brief.\n\nHuman: Hi\n\nAssistant: Hey",
}


@pytest.mark.parametrize("preset", CASES)
def test_a_response_is_told_apart_from_its_prompt(tmp_path, template, preset):
    path = write(tmp_path, CASES[preset])
    records, _ = source(preset, f"data.path={path}", "data.on_bad_row=drop").records()
    for record in records:
        for response in record.responses:
            seam = template.prompt_text(record.prompt)[-1] + template.response_text(record.prompt, response)[0]
            assert any(map(str.isspace, seam)), seam
    if preset in JOINED:
        one = template.example(records[0], 512, 256)
        assert template.decode(one.prompt) + template.decode(one.responses[0]) == JOINED[preset]


def test_a_prompt_in_chat_form_meets_the_chat_template(tmp_path, template, monkeypatch):
    monkeypatch.setattr(template.tokenizer, "chat_template", "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
                        "{% endfor %}{% if add_generation_prompt %}<say>{% endif %}")
    monkeypatch.setattr(template, "chat", True)
    path = write(tmp_path, CASES["alpaca"])
    chat, plain = (source("alpaca", f"data.path={path}", "data.on_bad_row=drop", f"data.chat={on}").records()[0][0]
                   for on in ("true", "false"))
    assert template.prompt_text(chat.prompt) == "<user>Add.\n1 and 2<say>" and plain.prompt == "Add.\n1 and 2"


# The options of mappers


@pytest.mark.parametrize("upvotes, accepted, score", [
    (0, False, 0), (1, False, 1), (2, False, 2), (10, True, 4), (100, False, 7), (-3, False, -1), (-3, True, -1)])
def test_stack_exchange_scores(upvotes, accepted, score):
    assert stack_exchange_score(upvotes, accepted) == score


def test_at_most_ten_comparisons_of_a_question():
    row = {"question": "How?", "answers": [{"text": f"a{i}", "pm_score": i} for i in range(6)]}        # 15 strict pairs
    records = stack_exchange(row)
    found = [tuple(record.responses) for record in records]
    assert len(set(found)) == len(found) == 10 and all(a > b for a, b in (record.scores for record in records))
    assert found == [tuple(record.responses) for record in stack_exchange(row)], "the same ones every time"
    others = [tuple(record.responses) for record in stack_exchange({**row, "question": "Why?"})]
    assert others != found, "drawn by the question"
    assert len(stack_exchange(row, pairs=3)) == 3 and len(stack_exchange(row, pairs=20)) == 15


def only(tmp_path, preset, row, *overrides):
    path = write(tmp_path, Case([(row, [])]))
    records, _ = source(preset, f"data.path={path}", *overrides).records()
    return [(record.prompt, record.responses, record.scores) for record in records]


def test_options_of_presets(tmp_path):
    assert only(tmp_path, "stack_exchange", QUESTION, "data.mapper.pairs=null") == [
        ([user("<p>How?</p>")], ["So.", "Or so.", "No."], [4.0, 2.0, 2.0])]
    assert only(tmp_path, "stack_exchange", QUESTION, "data.chat=false", "data.mapper.pairs=1")[0][0] == "<p>How?</p>"
    assert only(tmp_path, "safe_rlhf", SAFE, "data.mapper.by=safer_response_id") == [
        ([user("Pick a lock?")], ["Call a locksmith.", "Use a pin."], [1.0, 0.0])]
    assert only(tmp_path, "imdb", {"text": REVIEW}, "data.mapper.shortest=3", "data.mapper.longest=3") == [
        ("A slow film", [" about bread that rises , in the end , twice"], None)]
    assert only(tmp_path, "helpsteer2", STEER, "data.columns.score=coherence") == [([user("Name it.")], ["Bo."], [4.0])]
    found = only(tmp_path, "helpsteer2_pairs", STEER, "data.mapper.score=verbosity")
    assert found == [([user("Name it.")], ["Bo."], [0.0])]
    assert only(tmp_path, "verdicts", changed(VERDICT, judge="auditor"), "data.mapper.judge=null") == [
        ("Tea?", [" Green.", " None."], [1.0, 0.0])]
    assert only(tmp_path, "shp", changed(SHP, score_A=9, score_ratio=1.5), "data.filter=null") == [
        ([user("My bread?")], ["Knead.", "Wait."], [9.0, 6.0])]


def test_reviews_are_cut_after_two_to_eight_words(tmp_path):
    rows = [({"text": f"{i} " + "word " * 20, "label": 1}, []) for i in range(100)]
    records, _ = source("imdb", f"data.path={write(tmp_path, Case(rows))}").records()
    assert {len(record.prompt.split()) for record in records} == set(range(2, 9))
    assert all(record.prompt + record.responses[0] == row["text"] for record, (row, _) in zip(records, rows))


BAD_TREES = [
    ([MESSAGE, said("a", "r", "x", "prompter")], 2, "same role twice", "role"),
    ([MESSAGE, said("r", "r", "x")], 2, "message twice", "message_id"),
    ([MESSAGE, said("z", None, "x")], 2, "no single root", "parent_id"),
    ([said("a", "b", "x"), said("b", "a", "y", "prompter")], 1, "no single root", "parent_id"),
    ([MESSAGE, said("a", "r", "x", "bot")], 2, "unknown role", "role"),
    ([MESSAGE, said("a", "r", "x", rank="first")], 2, "wrong type", "rank"),
]


@pytest.mark.parametrize("rows, line, reason, column", BAD_TREES, ids=[case[2] for case in BAD_TREES])
def test_messages_that_are_no_tree(tmp_path, rows, line, reason, column):
    path = write(tmp_path, Case([(row, []) for row in rows]))
    with pytest.raises(DataError) as error:
        source("oasst", f"data.path={path}").records()
    assert str(error.value).startswith(f"{path}:{line}: {column}: found ")
    assert f"  {reason}: {len(rows)} (lines {', '.join(map(str, range(1, len(rows) + 1)))})" in str(error.value)


def test_the_columns_of_a_csv_are_numbers_in_text(tmp_path):
    names = ["history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B", "score_ratio"]
    (tmp_path / "shp.csv").write_text("\n".join([",".join(names), "p,a,b,0,3,9,3.0", "p,a,b,1,4,3,1.3"]))
    records, report = source("shp", f"data.path={tmp_path / 'shp.csv'}").records()
    assert [record.scores for record in records] == [[3.0, 9.0]] and sum(report.filtered.values()) == 1
