"""Content, packed as a reader finds it."""

import bz2
import gzip
import io
import lzma
import zipfile

import pyarrow as pa


def zstandard(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def zipped(content, *names):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names or ["rows.jsonl"]:
            archive.writestr(name, content)
    return sink.getvalue()


PACK = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "zst": zstandard, "zip": zipped}
