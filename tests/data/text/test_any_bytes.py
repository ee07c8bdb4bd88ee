"""Whatever a file holds, reading it ends in documents, in counted rejections or in a ValueError."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import pytest
import zstandard

from litespark.data.text.absent_fields import refuse_absent_fields
from litespark.data.text.reader import DocumentReader
from litespark.data.text.sources import corpus
from tests.data.corpus import config
from tests.data.text.contents import table
from tests.properties import given, settings, st

pyarrow = pytest.importorskip("pyarrow")

PACKED = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
SUFFIXES = ["", ".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".dat"]
NAMES = st.sampled_from(["text", "meta", "meta.set", "set", "", "."]) | st.text()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("text"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
JSON_TEXTS = st.builds(
    lambda values, indent, end, mark: mark + end.join(json.dumps(value, indent=indent) for value in values).encode(),
    st.lists(VALUES, max_size=4),
    st.sampled_from([None, 1]),
    st.sampled_from(["\n", "\r\n", "\r", ",", " ", "\x85"]),
    st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"[", b"{"]),
)
TABLE_TEXTS = st.builds(
    lambda header, rows: "\n".join([header, *rows]).encode("utf-8", "surrogatepass"),
    st.sampled_from(["text", "id,text", "text\tset", '"text","set"', '"text', ""]),
    st.lists(st.text(st.sampled_from('a,"\t\r\n\0é\ud800'), max_size=12), max_size=5),
)
CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100).map(lambda text: text.encode("utf-16")),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    JSON_TEXTS,
    TABLE_TEXTS,
    st.integers(1, 2000).map(lambda depth: b'{"text": ' + b"[" * depth),
)


def read_or_refuse(folder, name, content):
    """Read a file; every line of it that was met is a document or counted as dropped."""
    (folder / name).write_bytes(content)
    chosen = config(folder / name, "unused", domain_field="meta.set", max_bad_share=1.0, max_line_bytes=1000)
    try:
        files = corpus(chosen).training
        refuse_absent_fields(chosen, files, folder)
        reader = DocumentReader(chosen)
        documents = list(reader.documents(files))
    except UnicodeError:
        raise  # a ValueError too, and one that tells a user nothing
    except ValueError:
        return
    assert len(documents) + reader.dropped.documents() == reader.seen
    assert all(document.text.encode() for document in documents)


@given(content=CONTENTS, suffix=st.sampled_from(SUFFIXES), packed=st.sampled_from(sorted(PACKED)), data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_file_of_any_name_ends_in_documents_rejections_or_a_refusal(
    tmp_path_factory, content, suffix, packed, data
):
    whole = PACKED[packed](content)
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)), label="cut")
    read_or_refuse(tmp_path_factory.mktemp("any"), f"a{suffix}{data.draw(st.sampled_from(['', packed]))}", whole[:cut])


COLUMNS = st.sampled_from(
    [
        pyarrow.array(["a", None]),
        pyarrow.array([b"\xff", b"b"]),
        pyarrow.array([1, 2]),
        pyarrow.array([["a"], []]),
        pyarrow.array([{"set": "a"}, None]),
        pyarrow.array([2**62, -(2**62)], pyarrow.timestamp("ns")),
        pyarrow.array([2**62, None], pyarrow.duration("s")),
        pyarrow.array([{"set": {"x": b"\xff"}}, None]),
        pyarrow.nulls(2),
        pyarrow.array(["a", "b"]).dictionary_encode(),
        pyarrow.array([[("a", "b")], None], pyarrow.map_(pyarrow.string(), pyarrow.string())),
    ]
)


@given(
    columns=st.dictionaries(st.sampled_from(["text", "meta", "meta.set", "set", ""]), COLUMNS, max_size=3),
    at=st.integers(0, 400),
    byte=st.none() | st.integers(0, 255),
    cut=st.none() | st.integers(0, 400),
)
@settings(max_examples=60, deadline=None)
def test_any_table_ends_in_documents_rejections_or_a_refusal(tmp_path_factory, columns, at, byte, cut):
    content = bytearray(table(columns))
    if byte is not None:
        content[-1 - at % len(content)] = byte  # its end is what describes it
    read_or_refuse(tmp_path_factory.mktemp("any"), "a.parquet", bytes(content[:cut] if cut is not None else content))
