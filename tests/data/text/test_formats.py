"""Records of each format: lines, members of arrays, rows of tables."""

from __future__ import annotations

import json
import random
import sys
import tracemalloc

import pytest
import zstandard

from litespark.data.text import archives
from litespark.data.text.formats import Overlong, json_records
from litespark.data.text.tables import parquet_rows
from tests.data.corpus import config
from tests.data.text.contents import table
from tests.properties import given, settings, st

pyarrow = pytest.importorskip("pyarrow")

ANY = 10**9


def records(folder, name, content, most_bytes=ANY):
    (folder / name).write_bytes(content)
    return list(json_records(folder / name, name, most_bytes))


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 1000])
def test_lines_are_numbered_as_an_editor_does_wherever_blocks_end(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(archives, "BLOCK_BYTES", block_bytes)
    content = b'{"a": 1}\n\n  \n{"b": 2}\r\n{"c": "\xe2\x80\xa8"}\nlast'
    assert records(tmp_path, "a.jsonl", content) == [
        (1, b'{"a": 1}'),
        (4, b'{"b": 2}\r'),
        (5, b'{"c": "\xe2\x80\xa8"}'),
        (6, b"last"),
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(members=st.lists(VALUES, max_size=5), block_bytes=st.integers(1, 40), indent=st.sampled_from([None, 1]))
@settings(max_examples=60, deadline=None)
def test_an_array_gives_its_members_wherever_blocks_end(tmp_path_factory, members, block_bytes, indent):
    folder = tmp_path_factory.mktemp("array")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "BLOCK_BYTES", block_bytes)
        content = (" \n" + json.dumps(members, indent=indent, ensure_ascii=False)).encode("utf-8", "surrogatepass")
        found = records(folder, "a.json", content)
    decoded = [json.loads(record.decode("utf-8", "surrogatepass")) for _, record in found]
    assert decoded == members
    assert [place for place, _ in found] == list(range(1, len(members) + 1))


def test_a_json_file_that_is_no_array_has_a_record_a_line(tmp_path):
    assert records(tmp_path, "a.json", b'\n{"a": 1}\n[2]\n') == [(2, b'{"a": 1}'), (3, b"[2]")]
    assert records(tmp_path, "a.json.zst", zstandard.compress(b'[{"a": 1},\n 2]')) == [(1, b'{"a": 1}'), (2, b"\n 2")]
    assert records(tmp_path, "a.jsonl", b"[1, 2]\n[3]") == [(1, b"[1, 2]"), (2, b"[3]")], "lines whatever is in them"
    assert records(tmp_path, "empty.json", b"") == records(tmp_path, "none.json", b" [ ] \n") == []


def test_a_broken_member_costs_no_other_and_what_stands_behind_is_not_lost(tmp_path):
    found = records(tmp_path, "a.json", b'[{"a": 1}, {nonsense}, {"b": "]"}] tail')
    assert [record.strip() for _, record in found] == [b'{"a": 1}', b"{nonsense}", b'{"b": "]"}', b"tail"]


@pytest.mark.parametrize("end", [b'{"b": ', b'{"b": "x', b'{"b": 1}', b'{"b": "\\'])
def test_an_array_that_does_not_end_is_refused(tmp_path, end):
    with pytest.raises(ValueError, match=r"a\.json is truncated or damaged: the array .*does not end.*a \.jsonl"):
        records(tmp_path, "a.json", b'[{"a": 1}, ' + end)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("block_bytes", [10, 10_000])
def test_a_record_that_is_too_long_comes_as_its_size_and_beginning(tmp_path, monkeypatch, name, block_bytes):
    monkeypatch.setattr(archives, "BLOCK_BYTES", block_bytes)
    texts = ["a" * 98, "b" * 99, "c" * 5000, "d"]
    members = [f'"{text}"'.encode() for text in texts]
    content = b"[" + b",".join(members) + b"]" if name == "a.json" else b"\n".join(members)
    found = records(tmp_path, name, content, most_bytes=100)
    assert found == [
        (1, members[0]),
        (2, Overlong(101, members[1])),
        (3, Overlong(5002, members[2][:1000])),
        (4, members[3]),
    ]


def test_a_line_of_50_megabytes_is_never_held(tmp_path):
    content = b'{"text": "' + b"x" * 50_000_000 + b'"}'
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(content + b'\n"after"'))
    size = len(content)
    del content
    tracemalloc.start()
    (_, overlong), (_, after) = json_records(tmp_path / "a.jsonl.zst", "a.jsonl.zst", 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(overlong, Overlong)
    assert (overlong.size, after) == (size, b'"after"')
    assert peak < 10_000_000


def rows_of(folder, columns, **settings):
    (folder / "a.parquet").write_bytes(table(columns))
    return parquet_rows(folder / "a.parquet", "a.parquet", config("unused", "unused", **settings))


def test_rows_of_parquet_name_all_columns_and_have_the_text_as_bytes(tmp_path):
    columns = {"text": ["ü", "", None], "meta": [{"set": "web", "n": 1}] * 3}
    rows = list(rows_of(tmp_path, columns, domain_field="meta.set"))
    assert [(place, row.text, row.domain) for place, row in rows] == [
        (1, "ü".encode(), b"web"),
        (2, "", b"web"),
        (3, "", b"web"),
    ]
    assert {*rows[0][1].record} == {"text", "meta.set", "meta.n"}
    assert next(rows_of(tmp_path, columns, domain_field="meta.absent"))[1].domain is None


def test_only_the_named_columns_are_read(tmp_path):
    draw = random.Random(0)
    rows = rows_of(tmp_path, {"text": ["short"] * 300, "large": [draw.randbytes(100_000) for _ in range(300)]})
    before = pyarrow.total_allocated_bytes()
    assert max(pyarrow.total_allocated_bytes() - before for _ in rows) < 5_000_000


def test_parquet_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    rows = rows_of(tmp_path, {"text": ["x"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"a parquet file needs pyarrow.*pip install 'litespark\[parquet\]'"):
        list(rows)
