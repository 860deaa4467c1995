"""Globs and folders stand for their files: which ones, in which order, of which split; what is refused, and its fix."""

import gzip
import json
import logging
import os
import re

import pytest

from algorithms.common.data.records import FileData
from algorithms.common.data.records.readers import found_files
from algorithms.common.data.records.shards import found_in, grouped, split_of
from algorithms.common.support.errors import DataError


def rows(*names):
    return "".join(json.dumps({"prompt": f"{name}?", "response": f"{name}!"}) + "\n" for name in names)


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return folder


def asked(path, **options):
    return [record.prompt for record in FileData(path=path, evaluation_split=None, **options).records()[0]]


def relative(files, folder):
    return [os.path.relpath(file, folder) for file in files]


def test_shards_are_read_in_the_order_of_their_numbers(tmp_path, caplog):
    fill(tmp_path, {f"part-{i}.jsonl": rows(i) for i in (10, 9, 1, 2)})
    expected = ["1?", "2?", "9?", "10?"]
    with caplog.at_level(logging.INFO):
        assert asked(f"{tmp_path}/part-*.jsonl") == expected
    assert f"{tmp_path}/part-*.jsonl: 4 files, part-1.jsonl to part-10.jsonl" in caplog.text
    assert asked(str(tmp_path)) == asked([f"{tmp_path}/part-?.jsonl", f"{tmp_path}/part-10.jsonl"]) == expected
    assert asked(f"{tmp_path}/part-[12].jsonl", limit=1) == ["1?"]
    assert FileData(path=str(tmp_path)).records()[0][3].meta["source"] == str(tmp_path / "part-10.jsonl")


def test_a_file_whose_name_is_a_pattern_is_itself(tmp_path):
    fill(tmp_path, {"a[1].jsonl": rows("bracket"), "a1.jsonl": rows("plain")})
    assert asked(f"{tmp_path}/a[1].jsonl") == ["bracket?"]


def test_a_folder_is_its_data_files_at_any_depth(tmp_path):
    fill(tmp_path, {"b/2.jsonl.gz": rows("c"), "a.jsonl": rows("a"), "b/1.ndjson": rows("b"), "README.md": "# no data",
                    ".hidden.jsonl": rows("hidden"), ".git/x.jsonl": rows("git"), "_SUCCESS": "", "_tmp/x.jsonl": "{"})
    assert asked(str(tmp_path)) == ["a?", "b?", "c?"]
    found = found_in(str(tmp_path), {"jsonl": "jsonl", "ndjson": "jsonl", "jsonl.gz": "jsonl.gz"})
    assert relative(found.others, tmp_path) == ["README.md"] and str(found).endswith("; not read: README.md")
    assert relative(found_files(f"{tmp_path}/*", None), tmp_path) == ["a.jsonl", "b/1.ndjson", "b/2.jsonl.gz"]
    assert asked(f"{tmp_path}/**/*.jsonl*") == ["a?", "c?"]


def test_what_a_glob_matches_beside_data_is_left_out(tmp_path):
    fill(tmp_path, {"a.jsonl": rows("a"), "notes.txt": "x"})
    assert asked(f"{tmp_path}/*") == ["a?"]


def test_the_files_of_a_split_are_told_by_their_names(tmp_path):
    fill(tmp_path, {"data/train-00000-of-00002.jsonl": rows(0), "data/train-00001-of-00002.jsonl": rows(1),
                    "data/test-00000-of-00001.jsonl": rows("t"), "validation/x.jsonl": rows("v")})
    assert asked(str(tmp_path)) == ["0?", "1?"]
    assert asked(str(tmp_path), split="test") == ["t?"] and asked(str(tmp_path), split="validation") == ["v?"]
    assert len(asked(f"{tmp_path}/data/*.jsonl")) == 3, "a pattern names its files"
    with pytest.raises(DataError) as error:
        asked(str(tmp_path), split="train_sft")
    assert "found files of the splits test, train, validation, by their names; expected some of train_sft; fix: set " \
           "data.split=test, or" in str(error.value)


@pytest.mark.parametrize("name, split", [
    ("train.jsonl", "train"), ("training/1.jsonl", "train"), ("dev.csv", "validation"), ("my_val-3.csv", "validation"),
    ("eval_2.json", "test"), ("latest.jsonl", "train"), ("contest.jsonl", "train"), ("device.jsonl", "train"),
    ("test00.parquet", "test"), ("Test.jsonl", "test"), ("evaluated.jsonl", "train"), ("part-1.jsonl", "train")])
def test_the_split_that_a_name_says(name, split):
    assert split_of(name) == split


def test_a_saved_dataset_is_itself_in_a_folder_of_them_too(tmp_path):
    import datasets

    for name in ("1", "2"):
        datasets.Dataset.from_list([{"prompt": f"{name}?", "response": "!"}]).save_to_disk(tmp_path / name)
    assert asked(str(tmp_path / "2")) == ["2?"]
    assert asked(str(tmp_path)) == asked(f"{tmp_path}/*") == ["1?", "2?"]


def test_files_without_a_known_ending_are_read_where_the_format_is_given(tmp_path):
    fill(tmp_path, {"part-00000": rows("a"), "part-00001": rows("b"), "_SUCCESS": ""})
    with pytest.raises(DataError, match="a folder with part-00000, part-00001 and no data file; .*data.format where"):
        asked(str(tmp_path))
    assert asked(str(tmp_path), format="jsonl") == ["a?", "b?"]


def test_what_is_refused_says_what_helps(tmp_path):
    fill(tmp_path, {"a.jsonl": rows("a"), "b.jsonl": rows("b"), "notes.json": "{}"})
    with pytest.raises(DataError) as error:
        asked(str(tmp_path))
    assert "found files of several formats, such as notes.json and a.jsonl; expected one" in str(error.value)
    assert asked(re.search("'(.*)'$", str(error.value))[1]) == ["a?", "b?"]
    fill(tmp_path, {"c/a.json": f"[{rows('j').strip()}]", "c/b.json": f"[{rows('k').strip()}]", "c/c.jsonl": rows("l")})
    with pytest.raises(DataError, match="several formats") as error:
        asked(str(tmp_path / "c"))
    assert asked(re.search("'(.*)'$", str(error.value))[1]) == ["j?", "k?"], "*.json* would match JSON Lines, too"
    fill(tmp_path, {"d/a.jsonl": rows("a"), "d/dataset_infos.json": "{}", "d/README.md": "# rows"})
    assert asked(str(tmp_path / "d")) == ["a?"], "what the hub's tools write beside data is none"
    with pytest.raises(DataError, match="no file that this pattern matches; .*check data.path"):
        asked(f"{tmp_path}/c*.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found a folder, empty, and no data file"):
        asked(str(tmp_path / "empty"))


def test_what_is_told_of_many_files_is_told_once():
    told = {"a": ["x"], "b": ["y"], "c": ["x"], "d": ["x"]}
    assert grouped(told) == {"a and 2 more files": ["x"], "b": ["y"]}
    assert grouped({"a": "x", "b": "x"}) == {"a and 1 more file": "x"}
