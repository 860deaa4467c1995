"""What was read is kept: the same files give the same sets, report and words, without being read again."""

import csv
import gzip
import importlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from algorithms.common.data.records import (
    FileData,
    cache_folder,
    kept,
    own_files,
    readers,
    set_cache_folder,
    watching,
)
from algorithms.common.data.records.filters import at_least
from algorithms.common.data.records.mixture import Mixture
from algorithms.common.evaluation.votes import BradleyTerry
from algorithms.common.support import phases
from algorithms.common.support.errors import DataError
from plain_mapper import shouting, to_record, unasked, under

SETS = ("preferences", "demonstrations", "prompts", "evaluation", "heldout", "tuning", "audit", "unjudged")


@pytest.fixture(autouse=True)
def keeping(tmp_path, monkeypatch):
    """Small files are kept, too, in a folder of this test."""
    set_cache_folder(tmp_path / "cache")
    monkeypatch.setattr(kept, "SMALL", 0)


def pairs(count, mark=""):
    return [{"prompt": f"Why{mark} {i // 2}? " + "word " * (i % 7), "chosen": f"yes {i}", "rejected": f"no {i % 5}"}
            for i in range(count)]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lines(tmp_path):
    return {"path": jsonl(tmp_path / "p.jsonl", pairs(40)), "tuning": 0.2, "audit": 0.3}


def bad_rows(tmp_path):
    rows = pairs(30)
    rows[3]["chosen"], rows[7]["rejected"], rows[9] = None, rows[7]["chosen"], {"prompt": "only this"}
    return {"path": jsonl(tmp_path / "p.jsonl", [*rows, rows[0]]), "on_bad_row": "drop", "duplicates": "drop"}


def table(tmp_path):
    with open(tmp_path / "p.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
        writer.writeheader()
        writer.writerows(pairs(20))
    return {"path": str(tmp_path / "p.csv"), "limit": 15, "split_by": "similarity"}


def parquet(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": f"q{i}"}], "responses": [f"a{i}", "b", "c"], "scores": [1., 2., i]}
            for i in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    return {"path": str(tmp_path / "p.parquet")}


def array(tmp_path):
    rows = [{"question": f"q{i}", "a": "x", "b": "y", "better": "ab"[i % 2]} for i in range(20)]
    (tmp_path / "p.json.gz").write_bytes(gzip.compress(json.dumps({"rows": rows}).encode()))
    return {"path": str(tmp_path / "p.json.gz"), "rows": "rows", "chat": True,
            "columns": {"prompt": "question", "responses": ["a", "b"], "winner": "better"}}


def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for name, mark in (("train-0.jsonl", "a"), ("train-1.jsonl", "b"), ("test-0.jsonl", "c")):
        jsonl(folder / name, pairs(10, mark))
    (folder / "README.md").write_text("what this is")
    return {"path": str(folder)}


def several(tmp_path):
    answers = jsonl(tmp_path / "answers.jsonl", [{"prompt": f"x{i}", "completion": "y"} for i in range(9)])
    return {"path": jsonl(tmp_path / "p.jsonl", pairs(20)), "demonstrations_path": answers,
            "evaluation_path": jsonl(tmp_path / "e.jsonl", pairs(3))}


def rated(tmp_path):
    rows = [{"prompt": f"q{i // 3}", "response": f"a{i}", "score": i % 5 + 1} for i in range(30)]
    rows[4]["score"] = "much"
    return {"path": jsonl(tmp_path / "p.jsonl", rows), "group": "prompt", "on_bad_row": "drop"}


def mapped(tmp_path):
    rows = [{**row, "score": i % 4} for i, row in enumerate(pairs(20))]
    return {"path": jsonl(tmp_path / "p.jsonl", rows), "mapper": to_record,
            "filter": partial(at_least, column="score", value=1)}


def voted(tmp_path):
    return {"path": jsonl(tmp_path / "p.jsonl", pairs(20)), "votes": BradleyTerry()}


def unjudged(tmp_path):
    return {"path": jsonl(tmp_path / "p.jsonl", [{"prompt": f"q{i}", "responses": ["a", f"b{i}"]} for i in range(9)])}


def told(data):
    report = data.report
    sets = {name: None if (records := getattr(data, name)) is None else list(records) for name in SETS}
    return sets, report, report.columns, list(report.refused), report.to_dict()


def entries():
    return len(list(cache_folder().glob("reading-*")))


READINGS = (lines, bad_rows, table, parquet, array, shards, several, rated, mapped, voted, unjudged)


@pytest.mark.parametrize("make", READINGS)
def test_kept_is_as_read_afresh(make, tmp_path, monkeypatch, caplog):
    options, said = make(tmp_path), []

    def load():
        said.clear()
        data = FileData(**options).load(0)
        return told(data), [line for line in said if "reading kept" not in line]

    caplog.set_level(logging.INFO, "algorithms.common")
    monkeypatch.setattr(caplog.handler, "emit", lambda record: said.append(record.getMessage()))
    with monkeypatch.context() as patch:
        patch.setattr(kept, "SMALL", 1 << 40)
        afresh = load()
    assert load() == afresh
    with monkeypatch.context() as patch:
        patch.setattr(own_files, "Loader", None)        # whoever reads fails
        again = load()
    assert again == afresh
    assert any("reading kept" in line for line in said) and entries() == 1


def test_a_mixture_is_made_of_kept_readings(tmp_path, monkeypatch, caplog):
    options = [lines(tmp_path), parquet(tmp_path)]

    def load():
        sources = {name: {"data": FileData(**one), "weight": weight}
                   for name, one, weight in zip(("one", "two"), options, (1, 0.5))}
        return told(Mixture(sources).load(1))

    afresh = load()
    monkeypatch.setattr(own_files, "Loader", None)
    assert load() == afresh
    assert {record.meta["origin"] for record in afresh[0]["preferences"]} == {"one", "two"}


def test_what_determines_a_reading_makes_another(tmp_path, monkeypatch):
    options = mapped(tmp_path)
    FileData(**options).load(0)
    FileData(**options).load(7)     # the seed changes nothing
    assert entries() == 1
    changed = [{"on_bad_row": "drop"}, {"heldout": 0.2}, {"mapper": unasked}, {"limit": 3},
               {"mapper": shouting}, {"filter": None}, {"audit": 0.1},
               {"mapper": partial(to_record, word="1")}, {"mapper": partial(under, key="a")},
               {"mapper": partial(under, key="b")}]
    for count, other in enumerate(changed, 2):
        FileData(**options | other).load(0)
        assert entries() == count, other
    with monkeypatch.context() as patch:
        patch.setattr(kept, "installed", lambda names: {"pyarrow": "0"})
        FileData(**options).load(0)
        patch.setattr(kept, "code_of", lambda *what: {"algorithms.common.data.records.columns": "edited"})
        FileData(**options).load(0)
    assert entries() == len(changed) + 3
    path = tmp_path / "p.jsonl"
    time = os.stat(path).st_mtime_ns
    path.write_text(path.read_text().replace("yes 4", "yes 5"))
    os.utime(path, ns=(time, time))
    assert any("yes 5" in record.responses for record in FileData(**options).load(0).preferences)
    assert entries() == len(changed) + 4


def test_another_file_beside_makes_another_reading(tmp_path):
    options = shards(tmp_path)
    FileData(**options).load(0)
    jsonl(tmp_path / "shards/train-2.jsonl", pairs(4, "d"))
    assert len(FileData(**options).load(0).preferences) == 24
    (tmp_path / "shards/test-0.jsonl").unlink()
    assert FileData(**options).load(0).report.own_files == {}
    assert entries() == 3


def test_a_damaged_reading_is_made_again(tmp_path, caplog):
    options = lines(tmp_path)
    afresh = told(FileData(**options).load(0))
    arrow, = {path for path in cache_folder().glob("reading-*/0.arrow")}
    arrow.write_bytes(arrow.read_bytes()[:-40])
    assert told(FileData(**options).load(0)) == afresh
    assert "is damaged" in caplog.text


def test_two_at_once_read_once(tmp_path, monkeypatch):
    own, asked, options = FileData._read, [], lines(tmp_path)
    monkeypatch.setattr(FileData, "_read", lambda self: asked.append(1) or own(self))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda seed: told(FileData(**options).load(seed)), range(2))
    assert first == second and len(asked) == entries() == 1


def test_bad_rows_that_end_the_reading_end_it_again(tmp_path):
    options = bad_rows(tmp_path) | {"on_bad_row": "error"}
    for _ in range(2):
        with pytest.raises(DataError, match="p.jsonl:4: chosen: found null") as refused:
            FileData(**options).load(0)
        assert len(refused.value.refused) == 3
    assert entries() == 0


def test_a_file_that_is_written_to_meanwhile_is_not_kept(tmp_path, monkeypatch, caplog):
    options = lines(tmp_path)
    own = FileData._read

    def read(self):
        found = own(self)
        jsonl(tmp_path / "p.jsonl", pairs(41))
        return found

    monkeypatch.setattr(FileData, "_read", read)
    assert len(FileData(**options).load(0).heldout) and entries() == 0
    assert "not kept" in caplog.text


def test_nothing_but_arrays_arrow_and_json_is_kept(tmp_path):
    FileData(**lines(tmp_path)).load(0)
    kinds = {path.suffix for path in cache_folder().glob("reading-*/*")}
    assert kinds == {".arrow", ".npy", ".json", ".jsonl"}


def test_small_files_are_read_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "SMALL", 1 << 20)
    FileData(**lines(tmp_path)).load(0)
    assert entries() == 0


READS_MORE = {
    "a file": 'WORDS = open("words.txt")\n\n\ndef to_record(row):\n    return Record(row["prompt"], [])\n',
    "a path": 'def to_record(row):\n    from pathlib import Path\n    return Record(Path(row["prompt"]).name, [])\n',
    "the environment": 'import os\n\n\ndef to_record(row):\n    return Record(os.environ["HOME"], [])\n',
    "our own readers": 'from algorithms.common.data.records import FileData as F\n\n\ndef to_record(row):\n'
                       '    return Record(row["prompt"], [])\n',
    "a library": 'import numpy\n\n\ndef to_record(row):\n    return Record(str(numpy.e), [])\n',
}


@pytest.mark.parametrize("what", READS_MORE)
def test_a_mapper_that_may_read_more_than_its_row_reads_each_time(what, tmp_path, monkeypatch, caplog):
    name = f"reads_more_{list(READS_MORE).index(what)}"
    (tmp_path / f"{name}.py").write_text(f"from algorithms.common.records import Record\n{READS_MORE[what]}")
    (tmp_path / "words.txt").write_text("these")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    caplog.set_level(logging.INFO)
    mapper = importlib.import_module(name).to_record
    FileData(**lines(tmp_path) | {"mapper": mapper, "tuning": 0.0}).load(0)
    assert entries() == 0 and "read each time" in caplog.text


def test_what_is_said_of_an_auditor_is_said_where_no_truth_is_known(tmp_path, caplog):
    options = {"path": jsonl(tmp_path / "p.jsonl", pairs(40))}
    FileData(**options, gold=SimpleNamespace(load=None)).load(0)
    assert "no auditor" not in caplog.text
    FileData(**options).load(0)
    assert "no auditor" in caplog.text and entries() == 2


def test_a_file_that_appears_meanwhile_is_not_kept(tmp_path, monkeypatch, caplog):
    options, own = shards(tmp_path), FileData._read

    def read(self):
        jsonl(tmp_path / "shards/train-2.jsonl", pairs(4, "d"))
        return own(self)

    monkeypatch.setattr(FileData, "_read", read)
    assert len(FileData(**options).load(0).preferences) == 24
    assert entries() == 0 and "not kept" in caplog.text


def test_how_far_reading_is_is_not_said_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(phases, "EVERY", 0.0)
    monkeypatch.setattr(watching, "MEGABYTE", 1)
    monkeypatch.setattr(readers, "WATCHED", 10)
    caplog.set_level(logging.INFO)
    FileData(**lines(tmp_path)).load(0)
    assert "reading: " in caplog.text
    caplog.clear()
    FileData(**lines(tmp_path)).load(0)
    assert "reading kept" in caplog.text and "reading: " not in caplog.text
