"""Every fix that a message about data names works when it is followed, or leads to the next message that is true."""

import gzip
import json
import os
import re
import shlex
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from algorithms.common.data.records import BadRow, FileData, Record, Records, filters, mappers
from algorithms.common.data.records.fields import option
from algorithms.common.data.records.mixture import Mixture
from algorithms.common.support.errors import ConfigError, DataError, UserError

ROWS = [{"prompt": f"p{number}", "chosen": "c", "rejected": "r"} for number in range(3)]
CSV = "prompt,chosen,rejected\np0,c,r\np1,c,r\np2,c,r\n"


def text(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def turns(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[place % 2], "content": one} for place, one in enumerate(texts)]


def read(folder, name, content, **options):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return FileData(path=str(path), **options).records()


def refused(folder, name, content, says, **options) -> str:
    """The fix that the message names."""
    with pytest.raises(UserError) as error:
        read(folder, name, content, **options)
    message = str(error.value).split("\n")[0]
    assert says in message, message
    return message.rpartition("; fix: ")[2]


def overrides(fix: str) -> list[dict]:
    """The overrides in it, each as a shell and Hydra read it: FileData's options."""
    typed = [token.rstrip(";,") for token in shlex.split(fix)]
    parsed = OverridesParser.create().parse_overrides([token for token in typed if re.match(r"data\.\w+=", token)])
    return [{one.key_or_group.removeprefix("data."): plain(one.value())} for one in parsed]


def plain(value):
    """Without Hydra's quoted strings."""
    return OmegaConf.to_container(OmegaConf.create({"one": value}))["one"]


# Fixes that are options


BY_OPTION = [   # file, content, options, what is found, which of the overrides, the records then read
    ("a.txt", text(ROWS), {}, "an unknown extension", {"format": "jsonl"}, 3),
    ("a.jsonl", gzip.compress(text(ROWS).encode()), {}, "gzip data", 0, 3),
    ("a.csv", gzip.compress(CSV.encode()), {}, "gzip data", 0, 3),
    ("a.csv", CSV.replace(",", ";"), {}, "the one column", 0, 3),
    ("a.csv", CSV.replace(",", "|"), {}, "the one column", 0, 3),
    ("a.csv", CSV.replace(",", "\t"), {}, "the one column", 0, 3),
    ("a.tsv", CSV.replace(",", "|"), {}, "the one column", 0, 3),
    ("a.csv", "a;b\nx\ny\n", {"columns": {"prompt": "a;b"}}, "the one column", 1, 2),
    ("a.csv", CSV + 'p3,"c" or not,r\n', {}, "fields that cannot be told apart", 0, 4),
    ("a.csv", CSV.replace("c,r", 'c,"r'), {}, "fields that cannot be told apart", 0, 3),
    ("a.csv", 'prompt,response\n"a, b",c\n', {"quoting": False}, "3 fields; expected 2", 0, 1),
    ("a.csv", "a,a\np,c\n", {"columns": {"prompt": "c0", "response": "c1"}}, "the column 'a' twice", 0, 2),
    ("a.json", text(ROWS), {}, "an object and more after it", 0, 3),
    ("a.json", '"x"\n' + text(ROWS), {}, "text that begins with", None, None),
    ("a.json", json.dumps({"rows": ROWS, "notes": ["n"]}), {}, "an object with lists at", 0, 3),
    ("a.json", json.dumps({"it's \"mine\"": ROWS}), {}, "an object with lists at", 0, 3),
    ("a.json", json.dumps({"größe: 1": ROWS}), {}, "an object with lists at", 0, 3),
    ("a.jsonl", text([{"instruction": "i", "input": "j", "output": "o"}]), {}, "'input'", 0, 1),
    ("a.jsonl", text([{"prompt": "p", "question": "q", "response": "r"}]), {}, "mean the same", 0, 1),
    ("a.jsonl", text([{"prompt": "p", "response": "r", "quality rating": 1}]), {}, "'quality rating'", 0, 1),
    ("a.jsonl", text([{"prompt": "p", "messages": turns("p", "c"), "score_2": 1}]), {}, "'score_2'", 0, 1),
    ("a.jsonl", text([{"prompt": "p", "chosen": turns("q", "c"), "rejected": turns("q", "r")}]), {},
     "turns before the response that are not the prompt's", 0, 1),
    ("a.jsonl", text([ROWS[0]] * 100 + [{**ROWS[0], "label": 1}]), {}, "a column that the first rows do not", 0, 101),
    ("a.jsonl", text([{"prompt": "x", "messages": turns("p", "c")}]), {}, "the text of one of the user's turns", 0, 1),
    ("a.jsonl", text(ROWS), {"filter": partial(filters.at_least, column="n", value=1)}, "no such column", 0, 3),
    ("a.jsonl", text(ROWS), {"group": "prompt"}, "2 responses in a row of a group", {"group": None}, 3),
    ("a.jsonl", text(ROWS), {"delimiter": ";"}, "found ';' for", {"delimiter": None}, 3),
    ("a.jsonl", text(ROWS), {"rows": "x"}, "found 'x' for", {"rows": None}, 3),
    ("a.parquet", text(ROWS), {}, "no valid Parquet data", {"format": "jsonl"}, 3),
    ("a.csv", "p,c\nq,d\n", {"columns": {"prompt": "c0", "response": "c1"}}, "the columns 'p', 'c'", 0, 2),
    ("a.jsonl", '{"prompt": "什么是爱", "response": "好的，我来说"}\n'.encode("gb18030"), {}, "not UTF-8", 0, 1),
    ("a.jsonl", '{"prompt": "Où", "response": "là"}\n'.encode("cp1252"), {}, "not UTF-8", 0, 1),
    ("a.jsonl", json.dumps(ROWS), {}, "a JSON array of objects on a line", 0, 3),
    ("a.jsonl", json.dumps(ROWS, indent=1), {}, "invalid JSON", 0, 3),
    ("a.jsonl.gz", gzip.compress(json.dumps(ROWS, indent=1).encode()), {}, "invalid JSON", 0, 3),
    ("a.jsonl", text([{"prompt": "p", "response": "r", "rating": 3}]), {}, "'rating'",
     {"columns": {"prompt": "prompt", "response": "response", "score": "rating"}}, 1),
    ("a.jsonl", text([{"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 1}]), {},
     "'response_0', 'response_1'", {"columns": {"prompt": "prompt", "responses": ["response_0", "response_1"],
                                                "winner": "better_response_id"}}, 1),
    ("a.jsonl", text([{"prompt": "p", "completion": "r", "label": -1}]), {}, "label: found -1",
     {"columns": {"prompt": "prompt", "response": "completion", "score": "label"}}, 1),
]


@pytest.mark.parametrize("name, content, options, says, chosen, kept", BY_OPTION,
                         ids=[f"{one[0]}: {one[3]}" for one in BY_OPTION])
def test_an_option_that_a_message_names_works(tmp_path, name, content, options, says, chosen, kept):
    fix = refused(tmp_path, name, content, says, **options)
    if chosen is None:
        assert "data.format=jsonl" in fix, "and what JSON Lines make of it is told then"
        refused(tmp_path, name, content, "expected an object with columns", **overrides(fix)[0])
        return
    followed = chosen if isinstance(chosen, dict) else overrides(fix)[chosen]
    assert all(f"data.{key}" in fix or value is None for key, value in followed.items()), fix
    records, _ = read(tmp_path, name, content, **{**options, **followed})
    assert len(records) == kept


def test_parquet_under_another_name(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "p")
    content = (tmp_path / "p").read_bytes()
    fix = refused(tmp_path, "a.csv", content, "found Parquet data")
    assert fix == "name the file .parquet, or set data.format=parquet"
    assert len(read(tmp_path, "b.parquet", content)[0]) == 3
    assert len(read(tmp_path, "a.csv", content, **overrides(fix)[0])[0]) == 3
    fix = refused(tmp_path, "a.csv.gz", gzip.compress(content), "found Parquet data")
    assert fix == "unpack the file and name it .parquet" and len(read(tmp_path, "c.parquet", content)[0]) == 3
    twice = gzip.compress(gzip.compress(text(ROWS).encode()))
    fix = refused(tmp_path, "a.jsonl.gz", twice, "found gzip data")
    assert fix == "unpack the file and name it .gz"
    assert len(read(tmp_path, "d.jsonl.gz", gzip.decompress(twice))[0]) == 3


@pytest.mark.parametrize("name", ["my column", "it's", 'say "x"', "a\\b", "end\\", "a: b", "a, b", "größe", "true", "1",
                                  "{x}", "[y]", "a=b", " lead", "質", "q?"])
def test_a_column_of_any_name_can_be_named(name):
    (found,) = overrides(option({"prompt": name, "responses": [name, "other"]}))
    assert found == {"columns": {"prompt": name, "responses": [name, "other"]}}


def test_columns_of_an_unknown_layout(tmp_path):
    rows = [{"q": "p", "a": "c"}]
    fix = refused(tmp_path, "a.jsonl", text(rows), "the columns 'q', 'a'")
    (named,) = overrides(fix)
    assert set(named["columns"]) == {"prompt", "response"}
    assert len(read(tmp_path, "a.jsonl", text(rows), columns=dict(zip(named["columns"], ("q", "a"))))[0]) == 1
    assert refused(tmp_path, "a.jsonl", text(rows), "expected the columns", **named) == "correct data.columns"
    told = refused(tmp_path, "a.jsonl", text(rows), "expected the columns", columns={"response": "a"}, template="{x}")
    assert told == "correct data.columns and data.template"
    assert len(read(tmp_path, "a.jsonl", text(rows), columns={"response": "a"}, template="{q}")[0]) == 1


def test_dropping_keeps_as_many_records_as_the_message_says(tmp_path):
    bad = [*ROWS, {**ROWS[0], "chosen": ""}, {**ROWS[0], "chosen": None}]
    with pytest.raises(DataError) as error:
        read(tmp_path, "a.jsonl", text(bad))
    hint = str(error.value).split("\n")[-1]
    assert hint.startswith("data.on_bad_row=drop would leave 3 records; ")
    assert len(read(tmp_path, "a.jsonl", text(bad), **overrides(hint)[0])[0]) == 3


def test_a_split_and_a_folder(tmp_path):
    import datasets

    part = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"first": part, "second": part}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="the splits first, second; expected one named train; .*set data.split=first$"):
        FileData(path=str(tmp_path / "d")).records()
    assert len(FileData(path=str(tmp_path / "d"), split="second").records()[0]) == 3
    read(tmp_path, "d/a.jsonl", text(ROWS))
    (tmp_path / "plain").mkdir()
    files = [str(tmp_path / "plain" / name) for name in ("a.jsonl", "b.jsonl")]
    for path in files:
        open(path, "w").write(text(ROWS))
    assert len(FileData(path=str(tmp_path / "plain")).records()[0]) == 6
    assert len(FileData(path=files[0]).records()[0]) == 3 and len(FileData(path=files).records()[0]) == 6


# Fixes of the file


BY_HAND = [     # file, content, what is found, the fix, the content as it says (and the name)
    ("a.jsonl", "", "no rows", "check that the file is the right one", text(ROWS)),
    ("a.csv", CSV + "p,c\n", "2 fields; expected 3", "quote fields that hold the delimiter", CSV + 'p,"c,d",r\n'),
    ("a.csv", "a,a\np,c\n", "the column 'a' twice", "rename one", "prompt,response\np,c\n"),
    ("a.csv", CSV + 'p3,"c" or not,r\n', "cannot be told apart", "double the quotes", CSV + 'p3,"""c"" or not",r\n'),
    ("a.csv", CSV.encode("utf-16-le"), "a NUL character", "convert the file to UTF-8", CSV),
    ("a.csv", CSV.encode("utf-16"), "UTF-16 text", "iconv -f UTF-16 -t UTF-8", CSV),
    ("a.csv", (CSV + "é,c,r\n").encode("latin-1"), "not UTF-8", "iconv -f ENCODING -t UTF-8", CSV + "é,c,r\n"),
    ("a.jsonl.gz", text(ROWS), "no valid gzip data", "drop .gz from its name if it is", ("a.jsonl", text(ROWS))),
    ("a.jsonl.gz", gzip.compress(text(ROWS).encode())[:-9], "the end of the data inside", "write the file again",
     gzip.compress(text(ROWS).encode())),
    ("a.jsonl", b"PK\x03\x04rest", "a zip archive", "name the file .zip, or set data.format=jsonl.zip", text(ROWS)),
    ("a.jsonl", text(ROWS)[:-5], "invalid JSON", "correct or complete the row", text(ROWS)),
    ("a.jsonl", '{"prompt": NaN}', "the literal NaN", "missing numbers are null", text(ROWS)),
    ("a.jsonl", '{"prompt": "p", "prompt": "q"}', "the key 'prompt' twice", "correct the row", '{"prompt": "p"}'),
    ("a.jsonl", '{"prompt": "\\ud83d"}', "half of a surrogate pair", "write the character whole",
     '{"prompt": "\\ud83d\\ude00"}'),
    ("a.jsonl", '{"prompt": %s}' % ("[" * 100_000), "nested too deeply", "flatten the row", '{"prompt": "p"}'),
    ("a.jsonl", '{"prompt": %s}' % ("9" * 10_000), "a number that cannot be", "correct the row", '{"prompt": "9"}'),
    ("a.jsonl", json.dumps(ROWS[0]) * 2, "more text after the JSON value", "every object on a line of its", text(ROWS)),
    ("a.json", json.dumps(ROWS[0]), "an object with no list", "put the object in brackets", json.dumps(ROWS[:1])),
    ("a.json", json.dumps(ROWS) + "x", "more text after the array", "correct the file", json.dumps(ROWS)),
    ("a.csv", CSV.replace("\n", "\r"), "carriage returns alone", "tr '\\r' '\\n' < FILE > OTHER", CSV),
    ("a.xlsx", b"PK\3\4", "an unknown extension", "save the sheet as CSV in UTF-8", ("a.csv", CSV)),
    ("a.jsonl", json.dumps(ROWS[0], indent=1), "invalid JSON", "jq -c . FILE writes each on one", text(ROWS[:1])),
    ("a.json", json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}), "an object with lists at 'prompt'",
     "write a list of objects, one for each row (pandas: to_json(FILE, orient='records'))", json.dumps(ROWS)),
    ("a.jsonl", text([{"chosen": "Human: p\n\nAssistant: c", "rejected": "Human: p\n\nAssistant: r"}]), "'Human: p",
     "begin the text with two line feeds and the mark of a human's turn",
     text([{"chosen": "\n\nHuman: p\n\nAssistant: c", "rejected": "\n\nHuman: p\n\nAssistant: r"}])),
    ("a.jsonl", text([[1]]), "found a list", "give every row its columns' names", text(ROWS)),
    ("a.csv", 'prompt,chosen,rejected\np,"[{\'role\': \'user\', \'content\': \'x\'}]",r\n', "found \"[{'role'",
     "write the column with json.dumps",
     'prompt,chosen,rejected\np,"[{""role"": ""assistant"", ""content"": ""x""}]",r\n'),
]


@pytest.mark.parametrize("name, content, says, told, mended", BY_HAND, ids=[f"{one[0]}: {one[2]}" for one in BY_HAND])
def test_a_file_mended_as_a_message_says_is_read(tmp_path, name, content, says, told, mended):
    assert told in refused(tmp_path, name, content, says)
    name, mended = mended if isinstance(mended, tuple) else (name, mended)
    assert len(read(tmp_path, name, mended)[0]) > 0


def test_an_excel_file_is_read_by_its_own_first_line(tmp_path):
    for first, mark in (("sep=;\n", ";"), ("sep=;\r\n", ";"), ("SEP=|\n", "|"), ("sep=\t\n", "\t"), ('"sep=;"\n', ";"),
                        ("sep=,\n", ",")):
        records, _ = read(tmp_path, "a.csv", first + CSV.replace(",", mark))
        assert [one.meta["line"] for one in records] == [3, 4, 5] and records[0].responses == ["c", "r"]
        assert len(read(tmp_path, "a.csv", first + CSV.replace(",", mark), delimiter=mark, quoting=False)[0]) == 3
    with pytest.raises(DataError, match="a.csv:4: row: found 2 fields"):
        read(tmp_path, "a.csv", "sep=;\n" + CSV.replace(",", ";").replace("p1;c", "p1"))
    assert read(tmp_path, "a.csv", "prompt\nsep=;\n")[0][0].prompt == "sep=;", "elsewhere it is text"


def test_judged_columns_are_named_as_they_may_be_meant(tmp_path):
    for row, told in (({"prompt": "p", "response": "r", "rating": 3}, "data.columns with score: rating beside these"),
                      ({"prompt": "p", "response_0": "a", "response_1": "b"},
                       "data.columns with responses: [response_0, response_1] and the column of the winner")):
        assert told in refused(tmp_path, "a.jsonl", text([row]), "expected no further responses or judgements")


def test_tables_of_other_programs_become_parquet(tmp_path):
    import pandas

    for ending, write in (("pkl", "to_pickle"), ("feather", "to_feather"), ("arrow", "to_feather")):
        path = tmp_path / f"a.{ending}"
        getattr(pandas.DataFrame(ROWS), write)(path)
        fix = refused(tmp_path, path.name, path.read_bytes(), "an unknown extension")
        reader = re.search(r"pandas\.(\w+)\(FILE\)\.to_parquet", fix)[1]
        getattr(pandas, reader)(path).to_parquet(tmp_path / "rows.parquet")
        assert len(FileData(path=str(tmp_path / "rows.parquet")).records()[0]) == 3


def test_what_is_no_json_is_not_said_to_go_on(tmp_path):
    for line in ("{'prompt': 'p'}\n", "// a comment\n", '{"prompt": "p"\n'):
        assert refused(tmp_path, "a.jsonl", line + text(ROWS), "invalid JSON") == "correct or complete the row"


def test_a_shard_without_a_byte_is_said_and_can_be_taken_away(tmp_path):
    (tmp_path / "b.jsonl").write_text("")
    (tmp_path / "a.jsonl").write_text(text(ROWS))
    with pytest.raises(DataError, match="b.jsonl:1: file: found no rows; .* take it away where others are read with"):
        FileData(path=str(tmp_path)).records()
    (tmp_path / "b.jsonl").unlink()
    assert len(FileData(path=str(tmp_path)).records()[0]) == 3


def test_a_tree_of_messages_is_no_bare_prompt(tmp_path):
    reply = {"message_id": "1", "text": "a", "role": "assistant", "rank": 0, "replies": []}
    replies = [reply, {**reply, "message_id": "2", "text": "b", "rank": 1}]
    tree = {"message_tree_id": "t", "prompt": {"message_id": "0", "text": "q", "role": "prompter", "replies": replies}}
    fix = refused(tmp_path, "a.jsonl", text([tree]), "prompt: found a message with the replies to it")
    assert "data=oasst_tree" in fix
    assert read(tmp_path, "a.jsonl", text([tree]), mapper=mappers.oasst_tree)[0][0].responses == ["a", "b"]


# Mappers, filters, mixtures, the cache


def test_what_messages_about_mappers_and_filters_say(tmp_path):
    for what in ("mapper", "filter"):
        fix = refused(tmp_path, "a.jsonl", text(ROWS), f"found that data.{what} returned", **{what: lambda row: 1})
        assert fix == f"correct the {what}"
    none = refused(tmp_path, "a.jsonl", text(ROWS), "no row that makes a record", mapper=lambda row: [])
    assert none == "check data.mapper and data.filter"
    assert len(read(tmp_path, "a.jsonl", text(ROWS), mapper=lambda row: Record(row["prompt"], []))[0]) == 3

    def look(row):
        raise BadRow("null", "votes", "null", "two numbers", "look")

    assert refused(tmp_path, "a.jsonl", text(ROWS), "votes: found null", mapper=look) == "look"
    arena = [{"winner": "tie", "conversation_a": turns("q", "a"), "conversation_b": turns("q", "b"), "turn": 1},
             {"winner": "tie", "conversation_a": turns("q", "a", "more", "c"),
              "conversation_b": turns("q", "b", "more", "d"), "turn": 2}]
    fix = refused(tmp_path, "a.jsonl", text(arena), "other turns before the answer", mapper=mappers.arena)
    assert "data.filter on the column turn" in fix
    single = partial(filters.equals, column="turn", value=1)
    assert len(read(tmp_path, "a.jsonl", text(arena), mapper=mappers.arena, filter=single)[0]) == 1


def test_conversations_that_part_earlier_can_be_cut_or_dropped(tmp_path):
    rows = [{"chosen": turns("p", "c"), "rejected": turns("p", "r")},
            {"chosen": turns("p", "c", "q", "d"), "rejected": turns("p", "r", "q", "e")}]
    fix = refused(tmp_path, "a.jsonl", text(rows), "another prompt than in chosen")
    assert len(read(tmp_path, "a.jsonl", text(rows), on_bad_row="drop")[0]) == 1

    def cut(row):
        return Record(row["chosen"][:1], [row["chosen"][1]["content"], row["rejected"][1]["content"]], [1.0, 0.0])

    assert "data.mapper" in fix and len(read(tmp_path, "a.jsonl", text(rows), mapper=cut)[0]) == 2


def test_a_source_that_is_added_to_a_mixture_as_it_says(tmp_path):
    with pytest.raises(ConfigError, match=r"data.sources: found none; .*\+data.sources.NAME=\{weight: 1.0, data: "):
        Mixture().load(0)
    with pytest.raises(ConfigError, match=r"data.sources.a.data: found none; .*fix: \+data@data.sources.a.data=CHOICE"):
        Mixture({"a": {"weight": 1.0}})
    (tmp_path / "a.jsonl").write_text(text(ROWS))
    source = {"weight": 1.0, "data": FileData(path=str(tmp_path / "a.jsonl"), heldout=0.0)}
    assert len(Mixture({"a": source}).load(0).preferences) == 3


def test_a_broken_file_of_the_cache_is_made_again_once_it_is_removed(tmp_path):
    records, _ = read(tmp_path, "a.jsonl", text(ROWS))
    with open(records.path, "r+b") as file:
        file.truncate(300)
    with pytest.raises(UserError, match="fix: remove it, and it is made again"):
        list(Records(records.path, 3))
    os.remove(records.path)
    again, _ = read(tmp_path, "a.jsonl", text(ROWS))
    assert again.path == records.path and len(list(again)) == 3
