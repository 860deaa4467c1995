"""The record, its storage on Arrow, the views and the split by prompt."""

import json
import logging
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.data.records import (
    FileData,
    Record,
    Records,
    cache_folder,
    demonstrations,
    pairs,
    parse_transcript,
    preferred,
    prompt_hash,
    prompts,
    ranked,
    render_transcript,
    set_cache_folder,
    split,
)
from algorithms.common.data.records.values import Skipped
from algorithms.common.data.records.views import evaluation_records, highest_rating
from algorithms.common.support.errors import ConfigError, UserError

HI = [{"role": "user", "content": "hi"}]
SAMPLE = [
    Record("a", ["x"]),                                     # a demonstration
    Record("b", ["x", "y"], [1.0, 0.0], {"source": "s"}),   # a pair
    Record("b", ["u", "v", "w"], [2.0, 2.0, 3.0]),          # a ranking with a tie
    Record(HI, []),                                         # a bare prompt
    Record("c", ["x", "y", "z"], [1.0, 1.0, 1.0]),          # all tied
    Record("d", ["x"], [1.0]), Record("d", ["y"], [0.0]),   # thumbs
    Record("e", ["x", "y"]),                                # candidates nobody judged
]


@pytest.fixture(autouse=True)
def cache(tmp_path):
    before = cache_folder()
    set_cache_folder(tmp_path / "cache")
    yield
    set_cache_folder(before)


def many(count):
    return Records.from_list(Record(f"p{i % (count // 2)}", ["x", f"y{i}"], [1.0, 0.0]) for i in range(count))


def test_a_record_checks_its_scores():
    with pytest.raises(ValueError, match="1 scores for 2 responses"):
        Record("a", ["x", "y"], [1.0])
    with pytest.raises(ValueError, match="finite"):
        Record("a", ["x"], [float("nan")])


def test_strict_pairs_and_the_best_response():
    assert SAMPLE[2].strict_pairs == [(2, 0), (2, 1)]
    repeated = Record("a", ["x", "x", "y", "y", "z"], [1.0, 0.0, 0.5, 0.5, 0.5])
    assert repeated.strict_pairs == [(0, 2), (0, 3), (0, 4), (2, 1), (3, 1), (4, 1)] and repeated.strict_pair_count == 6
    assert [record.strict_pair_count for record in SAMPLE] == [len(record.strict_pairs) for record in SAMPLE]
    assert [record.best for record in SAMPLE] == ["x", "x", "w", None, None, "x", None, None]


def test_the_key_is_the_content_without_meta():
    assert Record("a", ["x"], [1], {"n": 1}).key == Record("a", ["x"], [1.0]).key
    others = [Record("a", ["x"]), Record("a", ["x"], [0.0]), Record("a", ["y"], [1.0]),
              Record("a", ["x", ""], [1.0, 0]), Record([{"role": "user", "content": "a"}], ["x"], [1.0])]
    assert len({record.key for record in others}) == len(others)
    assert Record("a", ["x"], [1.0]).key == "83be81125e7faaf78e123712705be0f2"      # what is stored depends on it


def test_prompt_hashes_are_stable_and_see_through_the_form():
    assert prompt_hash("hi") == prompt_hash(HI) != prompt_hash("hi ")
    assert 0 <= prompt_hash("hi") < 1 << 64
    assert prompt_hash(HI) != prompt_hash([{"role": "system", "content": "hi"}])


def test_records_come_back_as_they_were_and_are_mapped():
    records = Records.from_list(SAMPLE)
    assert list(records) == SAMPLE == [records[i] for i in range(len(records))]
    assert records[-1] == SAMPLE[-1] and SAMPLE[3] in records
    with pytest.raises(IndexError):
        records[len(SAMPLE)]
    assert records.dataset.cache_files[0]["filename"].startswith(str(cache_folder()))
    assert [path.suffix for path in cache_folder().iterdir()] == [".arrow"]


def test_select_keeps_the_order_asked_for():
    records = Records.from_list(SAMPLE)
    for order in ([5, 0, 2, 2], [], np.array([1, 2, 6]), range(3)):
        assert list(records.select(order)) == [SAMPLE[i] for i in order]
    assert list(records.select([5, 4, 3]).select([2, 0])) == [SAMPLE[3], SAMPLE[5]]
    with pytest.raises(IndexError):
        records.select([8])


def test_large_texts_and_many_batches():
    long = "p" * (3 << 20)
    data = [Record(long, ["x"], None), *(Record(f"{i}", []) for i in range(5000)), Record("q", [long, "x"], [0.0, 1.0])]
    records = Records.from_list(data)
    assert list(records) == data
    assert list(records.select(np.arange(1, 5002, 7))) == data[1:5002:7]
    backwards = records.select([5001, 3, 4000, 3])
    assert list(backwards) == [data[5001], data[3], data[4000], data[3]]
    assert list(backwards.column("key")) == [record.key for record in backwards]


def test_no_records():
    empty = Records.from_list([])
    assert len(empty) == 0 and list(empty) == [] and len(empty.select([])) == 0
    assert [len(view(empty)) for view in (demonstrations, preferred, pairs, ranked, prompts)] == [0] * 5
    assert [len(side) for side in split(empty, 0.5)] == [0, 0]


def test_the_fingerprint_is_that_of_the_content_in_order(tmp_path):
    records = Records.from_list(SAMPLE)
    moved = Records(shutil.copy(records.path, tmp_path / "elsewhere.arrow"), len(records))
    other_meta = Records.from_list(Record(r.prompt, r.responses, r.scores, {"other": 1}) for r in SAMPLE)
    assert records.fingerprint == moved.fingerprint == other_meta.fingerprint == records.select(range(8)).fingerprint
    assert list(moved) == SAMPLE and list(other_meta) != SAMPLE
    assert records.select([1, 0]).fingerprint == Records.from_list([SAMPLE[1], SAMPLE[0]]).fingerprint
    assert len({records.fingerprint, records.select([0, 1]).fingerprint, records.select([1, 0]).fingerprint}) == 3


def test_a_failed_write_leaves_nothing_behind():
    def broken():
        yield SAMPLE[0]
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        Records.from_list(broken())
    assert list(cache_folder().iterdir()) == []


def test_files_and_folders_that_cannot_serve(tmp_path):
    import datasets
    datasets.Dataset.from_list([{"a": 1}]).save_to_disk(tmp_path / "d")
    with pytest.raises(UserError, match="expected an Arrow file of records"):
        list(Records(next((tmp_path / "d").glob("*.arrow")), 1))
    (tmp_path / "file").write_text("")
    set_cache_folder(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        Records.from_list(SAMPLE)


def test_records_can_be_pickled_for_workers():
    records = Records.from_list(SAMPLE).select([4, 1])
    assert list(pickle.loads(pickle.dumps(records))) == [SAMPLE[4], SAMPLE[1]]


# ---- views


def test_views():
    records = Records.from_list(SAMPLE)
    assert list(demonstrations(records)) == [SAMPLE[0], SAMPLE[5]]
    assert list(preferred(records)) == [Record("b", ["w"])], "never below another, and scored higher than x"
    assert list(pairs(records)) == [SAMPLE[1], Record("b", ["w", "u"], [3.0, 2.0]), Record("b", ["w", "v"], [3.0, 2.0])]
    assert list(ranked(records)) == [SAMPLE[1], SAMPLE[2]]
    assert [record.prompt for record in prompts(records)] == ["a", "b", HI, "c", "d", "e"]
    assert all(record.responses == [] for record in prompts(records))


def judged(prompt, **scores):
    return Record(prompt, list(scores), list(scores.values()),
                  {"of": prompt if isinstance(prompt, str) else "messages"})


def best(*records):
    return [(record.prompt, record.responses[0]) for record in preferred(Records.from_list(records))]


def test_the_preferred_response_is_the_best_over_all_records_of_a_prompt():
    five = [judged("q", a0=0, a1=1), judged("q", a3=3, a2=2), judged("q", a1=1, a4=4), judged("q", a2=2, a0=0)]
    assert best(*five) == best(*reversed(five)) == [("q", "a4")]
    assert best(judged("q", a=1, b=0), judged("q", b=1, c=0), judged("q", d=0, b=1)) == [("q", "a")], "b is below a"
    assert best(judged("q", a=9, b=5),
                judged("q", c=7, a=1)) == [("q", "c")], "a is below c, whatever it scores elsewhere"
    assert best(judged("q", x=5, y=5, z=0), judged("q", w=3, x=2)) == [("q", "y")], "the top that is below none"
    assert best(judged("q", a=1, b=0), judged("q", c=1, d=0)) == [("q", "a")], "the first of equals"
    circle = [judged("q", a=2, b=1), judged("q", b=5, c=1), judged("q", c=3, a=1)]
    assert best(*circle) == [("q", "b")], "the highest-scored winner where all are below another"


def test_one_record_of_a_prompt_is_preferred_as_it_was_and_in_its_place():
    data = [judged("p", x=0, y=1), judged("q", a=1, b=0), judged("r", x=4, y=4, z=1), judged("q", b=1, c=0),
            judged([{"role": "user", "content": "q"}], c=1, d=0), judged("s", y=1, x=2)]
    expected = [Record("p", ["y"], None, {"of": "p"}), Record("q", ["a"], None, {"of": "q"}),
                Record("r", ["x"], None, {"of": "r"}), Record("s", ["x"], None, {"of": "s"})]
    assert list(preferred(Records.from_list(data))) == expected


def test_one_response_to_a_prompt_is_what_evaluation_compares_with():
    data = [Record("p", []), judged("q", a=1, b=0), judged("q", c=3, a=2), Record("p", ["d"]), Record("s", ["x", "y"]),
            judged("t", b=1, c=0), Record("t", ["demo"], None, {"n": 1}), judged("u", low=4), judged("u", high=5),
            judged("v", low=4)]
    expected = [Record("q", ["c"], None, {"of": "q"}), Record("p", ["d"]), Record("s", []),
                Record("t", ["demo"], None, {"n": 1}), Record("u", ["high"], None, {"of": "u"}),
                Record("v", [], None, {"of": "v"})]
    assert list(evaluation_records(Records.from_list(data))) == expected
    fours = [record.responses for record in evaluation_records(Records.from_list(data), 4.0)]
    assert fours == [["c"], ["d"], [], ["demo"], ["low"], ["low"]]


@pytest.mark.parametrize("scores, rating, kept", [
    ([1, 5, 4, 5], 5.0, ["r1", "r3"]), ([1, 0, 1], 1.0, ["r0", "r2"]), ([-3, 0, -1], None, []),
    ([0.5, 0.2], 0.5, ["r0"])])
def test_single_responses_with_the_highest_rating_are_demonstrations(scores, rating, kept):
    data = [Record(f"p{i}", [f"r{i}"], [score]) for i, score in enumerate(scores)]
    records = Records.from_list([*data, judged("q", a=99, b=0), Record("e", ["plain"])])
    assert highest_rating(records) == rating
    assert [record.responses[0] for record in demonstrations(records)] == [*kept, "plain"]
    assert [record.responses[0] for record in demonstrations(records, 4)] == (["r2"] if 4 in scores else []) + ["plain"]


def test_pairs_put_the_better_response_first():
    records = Records.from_list([Record("a", ["x", "y"], [0.0, 4.0])])
    assert list(pairs(records)) == [Record("a", ["y", "x"], [4.0, 0.0])]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.99])
def test_the_split_has_no_prompt_on_both_sides(share):
    records = many(200)
    train, heldout = split(records, share)
    sides = [{record.prompt for record in side} for side in (train, heldout)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 100 and len(train) + len(heldout) == 200
    assert len(sides[1]) == (0 if share == 0 else max(1, round(share * 100)))
    shuffled = records.select(np.random.default_rng(0).permutation(200))
    assert {record.prompt for record in split(shuffled, share)[1]} == sides[1]


def test_a_single_prompt_is_not_held_out_and_shares_are_checked():
    assert [len(side) for side in split(Records.from_list(SAMPLE[1:3]), 0.5)] == [2, 0]
    for share in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="data.heldout"):
            split(many(4), share)


# ---- transcripts


TEXT = st.text(st.sampled_from("ab \n\t:HumanAssistantSystem"), max_size=12) | st.sampled_from(
    ["\n\nHuman:", "\n\nAssistant:", "\n\nSystem:", "\n\nHuman: x", "", " "])


def test_a_transcript_becomes_messages():
    text = "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: more\n\nAssistant: no"
    messages, response, prompt = parse_transcript(text)
    assert messages == [*HI, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": "more"}]
    assert response == "no" and prompt + " no" == text and render_transcript(messages) == prompt
    kind = [{"role": "system", "content": "Be kind."}, *HI]
    assert render_transcript(kind) == "\n\nSystem: Be kind.\n\nHuman: hi\n\nAssistant:"


@pytest.mark.parametrize("text", ["", "\n\nHuman: hi", "Human: a\n\nAssistant: b", "x\n\nHuman: a\n\nAssistant: b"])
def test_no_transcript(text):
    assert parse_transcript(text) is None


@settings(max_examples=200, deadline=None)
@given(first=st.sampled_from(["\n\nHuman:", "\n\nAssistant:", "\n\nSystem:"]), texts=st.lists(TEXT, max_size=6))
def test_transcripts_render_back_exactly(first, texts):
    body = "".join(texts)
    text = first + body + "\n\nAssistant: end"
    parsed = parse_transcript(text)
    is_mark = body.startswith(" ") if "System" in first else body == "" or body[0].isspace()
    assert (parsed is not None) == is_mark
    if parsed is not None:
        messages, response, prompt = parsed
        assert response == "end" and render_transcript(messages) == prompt == text.removesuffix(" end")


# ---- files as a data source


def jsonl(tmp_path, rows, name="a.jsonl"):
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / name)


PAIRS = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(20)]


def test_the_named_sets_of_preferences(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        data = FileData(path=jsonl(tmp_path, PAIRS), heldout=0.25).load(seed=0)
    assert [len(part) for part in (data.preferences, data.demonstrations, data.prompts)] == [15, 15, 15]
    assert [len(part) for part in (data.evaluation, data.heldout, data.tuning)] == [5, 5, 0]
    assert {record.responses[0] for record in data.demonstrations} == {"good"}
    assert all(record.responses == ["good"] and record.scores is None for record in data.evaluation)
    assert not {r.prompt for r in data.prompts} & {r.prompt for r in data.evaluation} and data.gold is None
    assert data.report.fallbacks["demonstrations"] == "preferred responses" and "preferred responses" in caplog.text
    assert data.report.to_dict()["kinds"] == {"pair": 20}


def test_the_seed_does_not_change_the_split(tmp_path):
    data = FileData(path=jsonl(tmp_path, PAIRS))
    assert data.load(0).evaluation.fingerprint == data.load(1).evaluation.fingerprint


def test_the_named_sets_of_thumbs(tmp_path):
    rows = [{"prompt": f"p{i // 2}", "completion": f"c{i}", "label": i % 2 == 1} for i in range(40)]
    data = FileData(path=jsonl(tmp_path, rows)).load(seed=0)
    assert (len(data.preferences), len(data.heldout), len(data.demonstrations)) == (36, 4, 18)
    assert len(pairs(data.preferences)) == len(ranked(data.heldout)) == 0, "single ratings order nothing"
    assert len(data.evaluation) == 2 and all(int(r.responses[0][1:]) % 2 for r in data.evaluation)
    assert "demonstrations" not in data.report.fallbacks


def test_the_named_sets_of_ratings(tmp_path, caplog):
    rows = [{"prompt": f"p{i // 5}", "response": f"c{i}", "score": i % 5} for i in range(100)]
    with caplog.at_level(logging.INFO):
        data = FileData(path=jsonl(tmp_path, rows), heldout=0.25).load(seed=0)
    assert (len(data.preferences), len(data.demonstrations), len(data.evaluation)) == (75, 15, 5)
    assert all(int(r.responses[0][1:]) % 5 == 4 for part in (data.demonstrations, data.evaluation) for r in part)
    assert data.report.fallbacks["demonstrations by rating"] == "single responses rated 4, the highest"
    assert "demonstrations by rating made from: single responses rated 4, the highest" in caplog.text


def test_the_highest_rating_is_that_of_all_records(tmp_path):
    rows = [{"prompt": f"p{i}", "response": "c", "score": 3} for i in range(20)]
    held = {record.prompt for record in FileData(path=jsonl(tmp_path, rows)).load(0).evaluation}
    rows = [{**row, "score": 5 if row["prompt"] in held else 3} for row in rows]
    data = FileData(path=jsonl(tmp_path, rows)).load(0)
    assert len(data.demonstrations) == 0 and [record.responses for record in data.evaluation] == [["c"]] * 2


def test_plain_prompts_become_messages_in_chat_form(tmp_path):
    rows = [{"prompt": "p", "completion": "c"}, {"prompt": HI, "completion": "c"}]
    records, _ = FileData(path=jsonl(tmp_path, rows), chat=True).records()
    assert [record.prompt for record in records] == [[{"role": "user", "content": "p"}], HI]
    texts, _ = FileData(path=jsonl(tmp_path, [{"text": "t"}]), chat=True).records()
    assert [(record.prompt, record.responses) for record in texts] == [("", ["t"])], "there is no prompt"


def test_dots_stand_for_the_lines_left_out(tmp_path, caplog):
    bad = [{"prompt": "p", "chosen": "", "rejected": "x"}] * 5
    path = jsonl(tmp_path, [*bad, *PAIRS])
    FileData(path=path, on_bad_row="drop").load(0)
    assert "dropped 5 rows: empty response (" + ", ".join(f"{path}:{i}" for i in range(1, 6)) + ")" in caplog.text
    FileData(path=jsonl(tmp_path, [*bad, *PAIRS, *bad]), on_bad_row="drop").load(0)
    assert f"dropped 10 rows: empty response ({path}:1, " in caplog.text and f"{path}:5, …)" in caplog.text


def test_what_a_mapper_skips_is_told(tmp_path, caplog):
    path = jsonl(tmp_path, PAIRS[:3])
    data = FileData(path=path, mapper=lambda row: [Skipped("part"), Record(row["prompt"], ["x"])])
    report = data.load(0).report
    assert report.skipped == {"part": 3} == report.to_dict()["skipped"] and report.kept == 3
    assert "skipped 3 times: part" in caplog.text


def test_the_named_sets_of_prompts(tmp_path):
    data = FileData(path=jsonl(tmp_path, [{"prompt": f"p{i % 10}"} for i in range(20)])).load(seed=0)
    assert len(data.prompts) == 9 and [r.responses for r in data.evaluation] == [[]]
    assert data.report.duplicates == 10 and data.report.fallbacks == {}


def test_one_prompt_holds_nothing_out_and_says_so(tmp_path, caplog):
    data = FileData(path=jsonl(tmp_path, PAIRS[:1])).load(seed=0)
    assert len(data.preferences) == 1 and len(data.evaluation) == 0 and "nothing is held out" in caplog.text


def test_several_files_and_the_limit(tmp_path):
    paths = [jsonl(tmp_path, PAIRS[:3]), jsonl(tmp_path, [{"text": "t"}], "b.jsonl")]
    records, report = FileData(path=paths).records()
    assert [record.meta for record in records] == [{"source": path, "line": line} for path, line in
                                                   ((paths[0], 1), (paths[0], 2), (paths[0], 3), (paths[1], 1))]
    assert report.layouts == {paths[0]: "{prompt, chosen, rejected}", paths[1]: "{response ← text}"}
    limited, report = FileData(path=paths, limit=2).records()
    assert list(limited) == list(records)[:2] and (report.read, report.kept) == (2, 2)


def test_what_is_not_read_is_reported(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "p", "id": 1}\n\n{"prompt": "p", "note": ""}')
    _, report = FileData(path=str(tmp_path / "a.jsonl")).records()
    assert (report.blank_lines, report.duplicates) == (1, 1)
    assert list(report.ignored_columns.values()) == [["id", "note"]]


@pytest.mark.parametrize("options, says", [
    ({}, "data.path: found neither"), ({"path": []}, "data.path: found neither"),
    ({"path": "a", "on_bad_row": "skip"}, "data.on_bad_row"), ({"path": "a", "limit": 0}, "data.limit"),
    ({"path": "a", "columns": {"loser": "w"}}, "found the field loser"),
    ({"path": "a", "columns": {"prompt": "w"}, "mapper": dict}, "both columns and data.mapper"),
    ({"path": "a", "delimiter": ";;"}, "data.delimiter: found ';;'; expected one character"),
    ({"name": "a/b", "rows": "x"}, "data.rows: found 'x' and no data.path; expected a file"),
    ({"name": "a/b", "delimiter": ";"}, "data.delimiter: found ';' and no data.path; expected a file"),
    ({"path": "a", "template": "{q}"}, "data.template: found no data.columns"),
    ({"path": "a", "template": "{q}", "mapper": dict}, "data.template: found no data.columns"),
    ({"path": "a", "template": "{q}", "columns": {"prompt": "q", "response": "a"}},
     "template: found the prompt in data.columns"),
    ({"path": "a", "template": "q", "columns": {"response": "a"}}, "no {column} in it"),
    ({"path": "a", "template": "{q", "columns": {"response": "a"}}, "data.template: found '{q' .expected '}'"),
    ({"path": "a", "template": "{}", "columns": {"response": "a"}}, "placeholders are {column}"),
    ({"path": "a", "template": "{q!r}", "columns": {"response": "a"}}, "placeholders are {column}"),
    ({"path": "a", "template": "{q:3}", "columns": {"response": "a"}}, "placeholders are {column}"),
])
def test_options_that_cannot_be_used(options, says):
    with pytest.raises(ConfigError, match=says):
        FileData(**options)


def test_the_cache_is_written_anew_and_so_never_stale(tmp_path):
    data = FileData(path=jsonl(tmp_path, PAIRS))
    data.records()
    next(cache_folder().iterdir()).write_bytes(b"torn")
    assert list(data.records()[0]) == [Record(r["prompt"], [r["chosen"], r["rejected"]], [1.0, 0.0],
                                              {"source": data.path, "line": i}) for i, r in enumerate(PAIRS, 1)]


def test_a_conversation_and_its_continuation_are_on_one_side():
    def turns(*texts, system=""):
        roles = ("user", "assistant")
        head = [{"role": "system", "content": system}] * bool(system)
        return head + [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]

    made = [Record(prompt, [f"yes {i} {n}", "no"], [1.0, 0.0]) for i in range(40) for n, prompt in enumerate(
        (turns(f"q{i}"), turns(f"q{i}", "because", "why?"), turns(f"q{i}", "so", "and?", system="Be short."), f"q{i}"))]
    train, held = split(Records.from_list(made), 0.25)
    sides = [{record.prompt if isinstance(record.prompt, str)
              else next(t["content"] for t in record.prompt if t["role"] == "user")
              for record in records} for records in (train, held)]
    assert len(held) == 4 * 10 and len(sides[1]) == 10 and not sides[0] & sides[1]
    assert len(split(Records.from_list([Record([{"role": "assistant", "content": c}], []) for c in "abcd"]),
                     0.5)[1]) == 2
