"""Whatever bytes lie in a file, readers raise nothing but DataError; what a writer wrote, they give back."""

import csv
import io
import json
import random
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from algorithms.common.data.records import FileData, set_cache_folder
from algorithms.common.data.records.readers import FORMATS, Source
from algorithms.common.support.errors import DataError
from packed import PACK

pytestmark = pytest.mark.slow
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUE = st.recursive(st.none() | st.booleans() | NUMBER | TEXT,
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)
OBJECTS = st.lists(st.dictionaries(TEXT, VALUE, max_size=4), min_size=1, max_size=6)
COLUMN = st.sampled_from("prompt chosen rejected response responses scores label messages text".split())
ROWS = [{"prompt": f"ask {i}\n", "chosen": "good, “so”", "rejected": 'bad "x"\t'} for i in range(30)]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    set_cache_folder(tmp_path_factory.mktemp("cache"))


def table(rows, delimiter):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return out.getvalue().encode()


def encode(rows, name):
    if name == "parquet":
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), out)
        return out.getvalue()
    kind, _, packing = name.partition(".")
    lines = [json.dumps(row, ensure_ascii=index % 2 == 0) for index, row in enumerate(rows)]
    data = {"jsonl": lambda: "\n".join(lines).encode(), "json": lambda: ("[" + ",\n".join(lines) + "]").encode(),
            "csv": lambda: table(rows, ","), "tsv": lambda: table(rows, "\t")}[kind]()
    return PACK[packing](data) if packing else data


def read(data, name, **options):
    """The rows in `data`, or None where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a." + name)
        path.write_bytes(data)
        try:
            return [row.value for row in Source(str(path), **options)]
        except DataError as error:
            assert str(error).startswith(f"{path}:") and "; expected " in str(error) and "; fix: " in str(error)
            return None


@pytest.mark.parametrize("name", ["jsonl", "jsonl.gz", "json", "json.gz"])
@QUICK
@given(objects=OBJECTS)
def test_json_objects_round_trip(name, objects):
    assert read(encode(objects, name), name) == objects


@pytest.mark.parametrize("name", ["csv", "csv.gz", "tsv"])
@QUICK
@given(cells=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_cells_round_trip(name, cells):
    rows = [{"a": a.replace("\0", ""), "b": b.replace("\0", "")} for a, b in cells]
    assert read(encode(rows, name), name) == rows


@QUICK
@given(cells=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_parquet_round_trip(cells):
    rows = [{"a": a, "b": [b]} for a, b in cells]
    assert read(encode(rows, "parquet"), "parquet") == rows


@pytest.mark.parametrize("name", FORMATS)
@QUICK
@given(data=st.binary(max_size=200), options=st.fixed_dictionaries({"header": st.booleans(), "quoting": st.booleans()}))
@example(data=b"\x0b", options={"header": True, "quoting": True})     # white space for Python, none in JSON
@example(data=b"[\xc2\xa0", options={"header": True, "quoting": True})
def test_any_bytes_are_read_or_refused(name, data, options):
    read(data, name, **options)
    others = {"csv": {"delimiter": "|"}, "tsv": {"delimiter": ","}, "json": {"rows": "a.b"}}
    read(data, name, **options, **others.get(name.partition(".")[0], {}))


@QUICK
@given(objects=OBJECTS, other=VALUE, indent=st.sampled_from([None, 2]))
def test_rows_within_an_object_round_trip(objects, other, indent):
    content = json.dumps({"z": other, "outer": {"list": objects}}, indent=indent).encode()
    assert read(content, "json", rows="outer.list") == objects


@pytest.mark.parametrize("name", FORMATS)
@QUICK
@given(seed=st.integers(0, 1 << 32), cut=st.booleans())
def test_damaged_files_are_read_or_refused(name, seed, cut):
    rng = random.Random(seed)
    data = bytearray(encode(ROWS, name))
    if cut:
        data = data[:rng.randrange(len(data))]
        if name not in ("jsonl", "csv", "tsv"):         # where a cut between two lines leaves a whole file
            assert read(bytes(data), name) is None
    else:
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    read(bytes(data), name)


@pytest.mark.parametrize("name", FORMATS)
@QUICK
@given(texts=st.lists(st.tuples(*[TEXT.map(lambda text: "x" + text.replace("\0", ""))] * 3), min_size=1, max_size=5))
def test_pairs_of_any_text_become_records_unchanged(name, texts):
    rows = [{"prompt": prompt, "chosen": chosen, "rejected": f"no {rejected}"} for prompt, chosen, rejected in texts]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a." + name)
        path.write_bytes(encode(rows, name))
        records, _ = FileData(path=str(path)).records()
        assert [[r.prompt, *r.responses] for r in records] == [list(row.values()) for row in rows]


@QUICK
@given(rows=st.lists(st.dictionaries(COLUMN, VALUE, max_size=4), min_size=1, max_size=4), drop=st.booleans())
def test_any_json_rows_become_records_or_a_data_error(rows, drop):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_bytes(encode(rows, "jsonl"))
        data = FileData(path=str(path), on_bad_row="drop" if drop else "error")
        try:
            records, report = data.records()
        except DataError:
            return
        assert report.read == len(rows) == len(records) + sum(report.dropped.values())
