"""Real files, read whole: the counts their publishers' data have, exact HH transcripts, and bounded memory."""

import gzip
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from algorithms.common.data.records import (
    FileData,
    pairs,
    parse_transcript,
    preferred,
    prompts,
    ranked,
    render_transcript,
)
from algorithms.common.support.errors import DataError
from few import few
from preset_rows import source

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no sample data at {DATA}")
HH = DATA / "hh-rlhf/harmless-base-test.jsonl.gz"
COT = ["file", "data.header=false", "data.quoting=false", "+data.columns.prompt=c0", "+data.columns.response=c1"]
SETS = {        # file: preset and options, rows, records, strict pairs, dropped, duplicates
    "hh-rlhf/harmless-base-test.jsonl.gz":
        (["hh_harmless", "data.on_bad_row=drop"], 2312, 2303, 2303, {"prompt not shared": 5, "empty response": 4}, 0),
    "oasst/en_100_tree.jsonl": (["oasst_tree"], 100, 211, 751, {}, 0),
    "gsm8k-solutions/example_model_solutions.jsonl.gz": (["gsm_solutions"], 1319, 1319, 2429, {}, 0),
    "llama-factory/dpo_en_demo.json.gz": (["dpo_demo"], 300, 300, 300, {}, 5),
    "llama-factory/kto_en_demo.json": (["kto_demo"], 300, 300, 0, {}, 0),
    "llama-factory/v1_dpo_demo.jsonl": (["dpo_parts_demo"], 10, 10, 10, {}, 0),
    "flan-cot/strategyqa_train.tsv": (COT, 2061, 2061, 0, {}, 1),
    "flan-cot/creak_train.tsv.gz": (COT, 6915, 6915, 0, {}, 0),
    "flan-cot/sensemaking_train.tsv.gz": (COT, 6070, 6070, 0, {}, 0),
    "flan-cot/ecqa_train.tsv.gz": (COT, 7112, 7112, 0, {}, 0),
}
CONVENTION = ["hh-rlhf/harmless-base-test.jsonl.gz", "llama-factory/dpo_en_demo.json.gz",
              "llama-factory/kto_en_demo.json",
              "llama-factory/v1_dpo_demo.jsonl"]


def load(name, path=None):
    preset, *options = SETS[name][0]
    return source(preset, f"data.path={path or DATA / name}", *options).records()


@needs_data
@pytest.mark.parametrize("name", few(SETS, [0, 3]))
def test_counts(name):
    _, rows, count, strict, dropped, duplicates = SETS[name]
    records, report = load(name)
    assert (report.read, report.kept, len(records), report.strict_pairs) == (rows, count, count, strict)
    assert (report.dropped, report.duplicates, report.blank_lines) == (dropped, duplicates, 0)
    assert len(pairs(records)) == strict


@needs_data
def test_every_file_is_in_the_table():
    files = [path for path in DATA.rglob("*") if path.is_file() and path.parent not in (DATA, DATA / "LICENSES")]
    assert {path.relative_to(DATA).as_posix() for path in files} == set(SETS)


@needs_data
@pytest.mark.parametrize("name", CONVENTION)
def test_a_preset_reads_what_the_conventions_read(name):
    by_convention, _ = FileData(path=str(DATA / name), on_bad_row="drop").records()
    assert load(name)[0].fingerprint == by_convention.fingerprint


BAD = {         # file: what makes a row of it unusable, the column named, the reason
    "hh-rlhf/harmless-base-test.jsonl.gz": ({"rejected": "no transcript"}, "rejected", "not a transcript"),
    "oasst/en_100_tree.jsonl": ({"prompt": None}, "prompt", "null"),
    "gsm8k-solutions/example_model_solutions.jsonl.gz": ({"6b_finetuning": None}, "6b_finetuning", "null"),
    "llama-factory/dpo_en_demo.json.gz": ({"chosen": None}, "chosen", "null"),
    "llama-factory/kto_en_demo.json": ({"label": "good"}, "label", "wrong type"),
    "llama-factory/v1_dpo_demo.jsonl": ({"rejected_messages": []}, "rejected_messages", "empty prompt"),
    **{name: (" \tyes\twhy", "c0", "empty prompt") for name in SETS if name.startswith("flan")},
}


@needs_data
@pytest.mark.parametrize("name", few(SETS, [0, 3]))
def test_a_bad_row_in_a_copy_is_reported_by_its_line(tmp_path, name):
    change, column, reason = BAD[name]
    text = (gzip.open if name.endswith(".gz") else open)(DATA / name, "rt", encoding="utf-8", newline="").read()
    array = ".json" in name and ".jsonl" not in name
    rows = [json.dumps(row) for row in json.loads(text)] if array else text.removesuffix("\n").split("\n")
    bad = change if isinstance(change, str) else json.dumps({**json.loads(rows[4]), **change})
    rows.insert(6, bad)
    path = tmp_path / Path(name).name.removesuffix(".gz")
    path.write_text("[" + ",".join(rows) + "]" if array else "\n".join(rows), encoding="utf-8", newline="")
    options = [one for one in SETS[name][0] if one != "data.on_bad_row=drop"]
    with pytest.raises(DataError) as error:
        source(options[0], f"data.path={path}", *options[1:]).records()
    assert str(error.value).startswith(f"{path}:7: {column}: found ")
    _, report = source(options[0], f"data.path={path}", "data.on_bad_row=drop", *options[1:]).records()
    _, count, records, _, dropped, _ = SETS[name]
    assert (report.read, report.kept) == (count + 1, records) and report.lines[reason][0] == f"{path}:7"
    assert report.dropped == {**dropped, reason: dropped.get(reason, 0) + 1}


@needs_data
def test_hh_transcripts_render_back_exactly():
    with gzip.open(HH, "rt", encoding="utf-8") as file:
        texts = [text for line in file for text in json.loads(line).values()]
    assert len(texts) == 2 * 2312
    for text in texts:
        messages, response, prompt = parse_transcript(text)
        assert render_transcript(messages) == prompt and f"{prompt} {response}" == text


@needs_data
def test_hh_rows_that_cannot_be_used_are_named_by_line():
    with pytest.raises(DataError) as error:
        FileData(path=str(HH)).records()
    lines = str(error.value).split("\n")
    assert lines[0].startswith(f"{HH}:87: chosen: found an empty response; expected some text; fix: ")
    assert lines[1:] == ["9 of 2312 rows cannot be used:",
                         "  prompt not shared: 5 (lines 1255, 1689, 1951, 1953, 2037)", lines[3],
                         "  empty response: 4 (lines 87, 517, 926, 1104)",
                         "data.on_bad_row=drop would leave 2303 records; the tokenizer and chat template of a run may "
                         "refuse more"]
    assert lines[3].startswith(f"    {HH}:1255: rejected: found another prompt than in chosen; expected ")
    _, report = load("hh-rlhf/harmless-base-test.jsonl.gz")
    assert report.lines["empty response"] == [f"{HH}:{line}" for line in (87, 517, 926, 1104)]


@needs_data
def test_hh_sets_share_no_prompt():
    data = FileData(path=str(HH), on_bad_row="drop").load(seed=0)

    def prompts_of(*parts):
        return {render_transcript(record.prompt) for part in parts for record in part}

    train = prompts_of(data.preferences, data.demonstrations, data.prompts)
    held, audit = prompts_of(data.evaluation, data.heldout), prompts_of(data.audit)
    assert not train & held and not (train | held) & audit and len(train | held | audit) == 2301
    assert len(data.preferences) + len(data.heldout) + len(data.audit) == 2303
    assert len(data.audit) == pytest.approx(0.2 * 2072, abs=10), "of the conversations, which may have several"
    assert len(held) == len(data.evaluation) == 231
    roots = [set(records.array("root_hash").tolist()) for records in (data.preferences, data.heldout, data.audit)]
    apart = not roots[0] & roots[1] and not roots[2] & (roots[0] | roots[1])
    assert apart, "no conversation is on both sides either, in a shorter or longer form"


@needs_data
def test_oasst_rankings_follow_rank_not_order(tmp_path):
    records, report = load("oasst/en_100_tree.jsonl")
    sizes = [len(record.responses) for record in records]
    assert {k: sizes.count(k) for k in set(sizes)} == {2: 57, 3: 116, 4: 27, 5: 3, 6: 6, 8: 1, 9: 1}
    assert all(record.prompt[-1]["role"] == "user" and max(record.scores) == 0 for record in records)

    def shuffle(node):
        random.Random(0).shuffle(node["replies"])
        for reply in node["replies"]:
            shuffle(reply)

    trees = [json.loads(line) for line in (DATA / "oasst/en_100_tree.jsonl").read_text().split("\n") if line]
    for tree in trees:
        shuffle(tree["prompt"])
    (tmp_path / "trees.jsonl").write_text("\n".join(map(json.dumps, trees)))
    shuffled, _ = load("oasst/en_100_tree.jsonl", tmp_path / "trees.jsonl")
    best = {(record.prompt[-1]["content"], record.best) for record in records}
    assert {(record.prompt[-1]["content"], record.best) for record in shuffled} == best
    assert any(record.scores[0] != 0 for record in shuffled)


@needs_data
def test_trees_and_their_messages_as_rows_hold_the_same(tmp_path):
    """As the hub has them: one message a row, ranks null where there are none; here in no order."""
    rows = []
    for line in (DATA / "oasst/en_100_tree.jsonl").read_text().split("\n"):
        tree, stack = [], [(json.loads(line)["prompt"], None)] if line else []
        while stack:
            node, parent = stack.pop()
            tree.append({**{key: node.get(key) for key in ("message_id", "text", "role", "rank")}, "parent_id": parent,
                         "message_tree_id": json.loads(line)["message_tree_id"]})
            stack += [(reply, node["message_id"]) for reply in node["replies"]]
        random.Random(0).shuffle(tree)
        rows += tree
    (tmp_path / "messages.jsonl").write_text("\n".join(map(json.dumps, rows)))
    records, report = source("oasst", f"data.path={tmp_path / 'messages.jsonl'}").records()
    assert (report.read, report.kept, report.strict_pairs) == (1167, 211, 751)

    def content(records):
        return {(json.dumps(one.prompt), *sorted(zip(one.scores, one.responses))) for one in records}

    assert content(records) == content(load("oasst/en_100_tree.jsonl")[0])


@needs_data
def test_gsm_ties_stay_as_rankings():
    records, report = load("gsm8k-solutions/example_model_solutions.jsonl.gz")
    assert report.kinds == {"ranking": 1319} and len(ranked(records)) == len(preferred(records)) == 731
    correct = [sum(record.scores) for record in records]
    assert [correct.count(n) for n in range(5)] == [432, 290, 236, 205, 156]


@needs_data
def test_dpo_demo_prompts():
    records, _ = load("llama-factory/dpo_en_demo.json.gz")
    assert sum(record.prompt[0]["role"] == "system" for record in records) == 80
    assert sum(len([t for t in record.prompt if t["role"] != "system"]) > 1 for record in records) == 106
    assert len(prompts(records)) == 295
    assert {"\x80", "\x94"} <= set(records[15].prompt[-1]["content"])


@needs_data
def test_kto_demo_thumbs():
    records, report = load("llama-factory/kto_en_demo.json")
    assert report.kinds == {"scored response": 300} and sum(record.scores[0] for record in records) == 150
    assert {record.scores[0] for record in records} == {0.0, 1.0}


@needs_data
def test_flan_fields_keep_their_quotes():
    records, _ = load("flan-cot/creak_train.tsv.gz")
    with gzip.open(DATA / "flan-cot/creak_train.tsv.gz", "rb") as file:
        for line, record in zip(file, records, strict=True):
            assert line.decode().split("\t")[:2] == [record.prompt, record.responses[0]]
    assert sum(record.prompt.startswith('"') for record in records) > 900
    assert {record.responses[0] for record in records} == {"yes", "no"}


SCRIPT = """
import json, sys
from algorithms.common.data.records import FileData, set_cache_folder

def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) * 1024

folder, count = sys.argv[1], int(sys.argv[2])
set_cache_folder(folder + "/cache")
with open(folder + "/big.jsonl", "w") as file:
    for i in range(count):
        row = {"prompt": f"Question {i}: " + "why? " * 20, "chosen": f"{i} " + "well " * 20, "rejected": "word " * 20}
        file.write(json.dumps(row) + "\\n")
before = status("VmRSS")
data = FileData(path=folder + "/big.jsonl", audit=0).load(0)
assert len(data.preferences) == count * 9 // 10 and data.report.kept == count
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_stays_flat(tmp_path):
    """What loading adds at its peak, mapped pages included: ≤ 100 MB for 600,000 records, ≤ 32 bytes for each further.

    The allocator leaves some MB more or less in a process, whatever it reads: 8 bytes of a record here.
    """
    def added(count):
        folder = tmp_path / str(count)
        folder.mkdir()
        run = subprocess.run([sys.executable, "-c", SCRIPT, str(folder), str(count)], capture_output=True, text=True,
                             check=True, cwd=Path(__file__).parents[2])
        shutil.rmtree(folder)
        return int(run.stdout)

    small, large = added(100_000), added(600_000)
    print(f"{small / 2 ** 20:.1f} and {large / 2 ** 20:.1f} MB: {(large - small) / 500_000:.1f} bytes a record")
    assert large < 100 * 2 ** 20 and (large - small) / 500_000 <= 32 + 8
