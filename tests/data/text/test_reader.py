"""Documents of every format, and the table of what is none: each reason counted, with file and line."""

from __future__ import annotations

import gzip
import json
import os

import pytest
import zstandard

from litespark.data.dropped import DroppedDocuments, DroppedRow
from litespark.data.text.document import Document
from litespark.data.text.reader import DocumentReader, require_few_bad
from litespark.data.text.sources import corpus
from tests.data.corpus import config, documents, write_texts
from tests.data.s3_server import fill, s3_client

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TEXTS = documents(30)


def files_of(path):
    return corpus(config(path, "unused")).training


def reader_of(scratch=None, split="train", **changes):
    return DocumentReader(config("unused", "unused", **changes), scratch=scratch, split=split)


def lines(texts, field="text"):
    return "".join(json.dumps({field: text, "meta": {}}) + "\n" for text in texts).encode()


def read(path, **changes):
    reader = reader_of(**changes)
    texts = [document.text for document in reader.documents(files_of(path))]
    require_few_bad(len(texts), reader.dropped, reader.config.max_bad_share)
    return texts, reader


def table(texts):
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"text": texts, "content": texts}), sink)
    return sink.getvalue().to_pybytes()


FORMATS = {
    "a.jsonl": lines,
    "a.jsonl.gz": lambda texts, *field: gzip.compress(lines(texts, *field)),
    "a.jsonl.zst": lambda texts, *field: zstandard.compress(lines(texts, *field)),
    "a.json": lambda texts, field="text": json.dumps([{field: text} for text in texts], indent=1).encode(),
    "a.parquet": lambda texts, *field: table(texts),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(tmp_path, name):
    for field in ("text", "content"):
        (tmp_path / name).write_bytes(FORMATS[name](TEXTS, field))
        found = list(reader_of(text_field=field).documents(files_of(tmp_path / name)))
        assert found == [Document(text, "text", name, place) for place, text in enumerate(TEXTS, start=1)]


def test_fields_may_be_nested_and_name_the_domain(tmp_path):
    records = [
        {"body": {"text": "one"}, "meta": {"set": "web"}},
        {"body": {"text": "two"}, "meta": {}},
        {"body": {"text": "three"}, "meta": "code"},
        {"body": {"text": "four"}, "meta": {"set": 4}},
        {"body": {"text": "five"}, "meta": {"set": " "}},
        {"body": {"text": "six"}, "meta": {"set": "\ud800"}},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    parquet.write_table(pyarrow.Table.from_pylist(records[:2]), tmp_path / "b.parquet")
    reader = reader_of(text_field="body.text", domain_field="meta.set")
    found = [(document.text, document.domain) for document in reader.documents(files_of(tmp_path))]
    domains = ["web", "unknown", "unknown", "4", "unknown", "unknown", "web", "unknown"]
    assert [domain for _, domain in found] == domains
    assert [text for text, _ in found] == ["one", "two", "three", "four", "five", "six", "one", "two"]


BAD_RECORDS = [
    ("invalid_utf8", b'{"text": "\xff"}'),
    ("missing_text", b'{"body": "x"}'),
    ("missing_text", b'["text"]'),
    ("missing_text", b"7"),
    ("text_not_a_string", b'{"text": 3}'),
    ("text_not_a_string", b'{"text": ["a", "b"]}'),
    ("lone_surrogate", b'{"text": "\\ud800"}'),
    ("nul_character", b'{"text": "a\\u0000b"}'),
    ("overlong", b'{"text": "' + b"x" * 2000 + b'"}'),
    ("malformed_json", b'{"text": }'),
    ("malformed_json", b'{"text": "a\x00b"}'),
]
BAD_LINES = [
    ("malformed_json", b'{"text": '),
    ("malformed_json", b"[" * 1500),
    ("malformed_json", b'{"text": "a"} {"text": "b"}'),
]


@pytest.mark.parametrize("reason, line", BAD_RECORDS + BAD_LINES)
def test_a_bad_line_costs_one_document_and_is_counted_with_its_place(tmp_path, reason, line):
    name = "a.jsonl"
    (tmp_path / name).write_bytes(lines(TEXTS) + line + b"\n" + lines(["after"]))
    texts, reader = read(tmp_path / name, max_bad_share=0.1, max_line_bytes=1900)
    assert texts == [*TEXTS, "after"]
    (row,) = reader.dropped.rows
    entry = (row.split, row.domain, row.rule, row.documents, row.tokens)
    assert entry == ("train", "text", f"reading/{reason}", 1, None)
    assert (row.examples[0].file, row.examples[0].place) == (name, 31)
    assert row.bytes == len(line) or reason in ("nul_character", "lone_surrogate")
    assert (reader.seen, reader.bad) == (32, 1)
    with pytest.raises(
        ValueError, match=rf"1 of 32 documents .*{reason}: 1\).* allows 1\.00%.* {name} line 31.*max_bad"
    ):
        read(tmp_path / name, max_bad_share=0.01, max_line_bytes=1900)


@pytest.mark.parametrize("reason, record", BAD_RECORDS)
def test_a_bad_member_of_an_array_is_counted_in_the_same_way(tmp_path, reason, record):
    (tmp_path / "a.json").write_bytes(b"[" + b", ".join([b'{"text": "one"}', record, b'{"text": "two"}']) + b"]")
    texts, reader = read(tmp_path / "a.json", max_bad_share=0.5, max_line_bytes=1900)
    assert texts == ["one", "two"]
    assert [(row.rule, row.examples[0].place) for row in reader.dropped.rows] == [(f"reading/{reason}", 2)]


def test_a_bad_row_of_a_table_is_counted_in_the_same_way(tmp_path):
    values = [b"one", b"\xff", None, b"a\0b", b" ", b"x" * 2000, b"two"]
    # as others write it: pyarrow does not look whether a string is UTF-8
    column = pyarrow.Array.from_buffers(
        pyarrow.string(), len(values), pyarrow.array(values, type=pyarrow.binary()).buffers()
    )
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    texts, reader = read(tmp_path / "a.parquet", max_bad_share=0.6, max_line_bytes=1900)
    assert texts == ["one", "two"]
    assert {row.rule.removeprefix("reading/"): row.examples[0].place for row in reader.dropped.rows} == {
        "invalid_utf8": 2, "empty": 3, "nul_character": 4, "overlong": 6
    }  # fmt: skip
    parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", max_bad_share=1.0)[1].dropped.by_rule() == {"reading/text_not_a_string": 2}
    (tmp_path / "a.csv").write_text('id,text\n1,one\n2\n3,"a"b\n4,two\n')
    texts, reader = read(tmp_path / "a.csv", max_bad_share=0.6)
    assert texts == ["one", "two"]
    assert reader.dropped.by_rule() == {"reading/malformed_csv": 1, "reading/missing_text": 1}


def test_a_plain_text_is_one_document_and_may_be_bad(tmp_path):
    write_texts(tmp_path, TEXTS)
    (tmp_path / "y.txt").write_bytes(b"abc\0")
    (tmp_path / "z.txt").write_bytes(b"abc\xff")
    texts, reader = read(tmp_path, max_bad_share=0.1)
    assert texts == TEXTS
    assert reader.dropped.by_rule() == {"reading/invalid_utf8": 1, "reading/nul_character": 1}
    with pytest.raises(
        ValueError, match=r"invalid_utf8: 1, nul_character: 1\).* in z\.txt line 1, y\.txt line 1\. Mend"
    ):
        read(tmp_path)


def test_empty_documents_are_counted_but_are_not_bad(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(["", " \n", None, "text"]) + b"\n\n")
    parquet.write_table(pyarrow.table({"text": ["two", None]}), tmp_path / "b.parquet")
    texts, reader = read(tmp_path, max_bad_share=0.0)
    assert texts == ["text", "two"]
    assert (reader.seen, reader.dropped.by_rule()) == (6, {"reading/empty": 4})


def test_what_is_left_out_is_entered_under_its_split_and_domain_with_the_first_examples(tmp_path):
    bad = [b'{"text": 3, "meta": {"set": "web"}}'] * 7 + [b"no json"]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(bad))
    reader = reader_of(domain_field="meta.set", split="validation", max_bad_share=1.0)
    list(reader.documents(files_of(tmp_path)))
    of_lines, of_types = reader.dropped.rows
    assert (of_lines.split, of_lines.domain, of_lines.documents) == ("validation", "unknown", 1)
    assert of_lines.examples[0].excerpt == "no json"
    assert (of_types.split, of_types.domain, of_types.documents) == ("validation", "web", 7)
    assert [example.place for example in of_types.examples] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("text", [b"\xff\xfe" * 300, "ü".encode() * 300, b'"\\ud800"' * 100])
def test_excerpts_can_be_written_as_utf8_and_are_short(tmp_path, text):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + text)
    (tmp_path / "b.jsonl").write_text('{"text": "\\ud800\\u0000 and more"}')
    rows = read(tmp_path, max_bad_share=1.0)[1].dropped.rows
    excerpts = [example.excerpt for row in rows for example in row.examples]
    assert len(excerpts) == 2
    assert all(excerpt.encode() and len(excerpt) <= 200 for excerpt in excerpts)


def test_a_flood_of_bad_lines_stops_early_and_a_bad_part_counts_as_its_share_of_the_whole(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"no json\n" * 3000)
    for share, bad in ((0.01, 1001), (0.0, 1)):
        with pytest.raises(ValueError, match=rf"{bad} of {bad} documents .*malformed_json: {bad}"):
            list(reader_of(max_bad_share=share).documents(files_of(tmp_path)))
    (tmp_path / "a.jsonl").write_bytes(b"no json\n" * 200 + lines(["x"]) * 19_800)
    texts, reader = read(tmp_path, max_bad_share=0.01)
    assert (len(texts), reader.bad) == (19_800, 200)
    with pytest.raises(ValueError, match="200 of 20000 documents"):
        read(tmp_path, max_bad_share=0.0099)


def test_counts_of_documents_dropped_by_other_rules_name_only_what_cannot_be_read():
    dropped = DroppedDocuments([DroppedRow("train", "text", rule, 1) for rule in ("reading/empty", "selection/x")])
    require_few_bad(7, dropped, 0.0)
    dropped.merge(DroppedDocuments([DroppedRow("train", "text", "reading/y", 1)]))
    require_few_bad(7, dropped, 0.1)
    with pytest.raises(ValueError, match=r"1 of 10 .*\(y: 1\)"):
        require_few_bad(7, dropped, 0.0)


def test_the_copy_of_a_shard_is_left_out_and_its_documents_are_counted(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(TEXTS if name != "c" else TEXTS[::-1]) + b"no json\n")
    texts, reader = read(tmp_path, max_bad_share=0.1)
    assert texts == [*TEXTS, *TEXTS[::-1]]
    assert reader.dropped.by_rule() == {"reading/duplicate_shard": 30, "reading/malformed_json": 3}
    (row,) = [row for row in reader.dropped.rows if row.rule.endswith("shard")]
    assert {example.file for example in row.examples} == {"b.jsonl"}
    assert row.bytes == len("".join(TEXTS).encode())
    assert (reader.seen, reader.bad) == (93, 3)


def test_a_file_that_changes_or_vanishes_before_or_while_it_is_read_is_named(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines(TEXTS))
    files = files_of(tmp_path)
    reading = reader_of().documents(files)
    next(reading)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    for documents_left in (reading, reader_of().documents(files)):
        with pytest.raises(ValueError, match=r"a\.jsonl has changed while it was read\. Start again"):
            list(documents_left)
    reading = reader_of().documents(files)
    next(reading)
    file.unlink()
    with pytest.raises(ValueError, match=r"a\.jsonl: FileNotFoundError"):
        list(reading)
    with pytest.raises(ValueError, match=r"a\.jsonl cannot be read"):
        list(reader_of().documents(files))
    file.mkdir()
    with pytest.raises(ValueError, match=r"a\.jsonl cannot be read.*directory"):
        list(reader_of().documents(files))


def test_files_of_a_bucket_are_fetched_read_and_deleted(tmp_path, s3_server, s3_bucket):
    for name, write in FORMATS.items():
        (tmp_path / "text" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "text" / name).write_bytes(write([name, *TEXTS]))
    fill(s3_server, s3_bucket, tmp_path / "text")
    held = []
    found = []
    for document in reader_of(tmp_path / "scratch").documents(files_of(s3_bucket)):
        found.append(document)
        held.append(len(list((tmp_path / "scratch").iterdir())))
    assert found == list(reader_of().documents(files_of(tmp_path / "text")))
    assert set(held) == {1}
    assert not list((tmp_path / "scratch").iterdir())
    with pytest.raises(ValueError, match="is not on this machine; expected a folder to fetch it into"):
        list(reader_of().documents(files_of(s3_bucket)))


def test_a_shard_of_a_bucket_that_changes_or_vanishes_is_named(tmp_path, s3_server, s3_bucket):
    (tmp_path / "a.jsonl").write_bytes(lines(TEXTS))
    fill(s3_server, s3_bucket, tmp_path)
    files = files_of(s3_bucket)
    (tmp_path / "a.jsonl").write_bytes(b"")
    fill(s3_server, s3_bucket, tmp_path)
    reader = reader_of(tmp_path / "scratch")
    with pytest.raises(
        ValueError, match=rf"{s3_bucket}/a\.jsonl has 0 bytes, expected {files[0].size}: it has changed"
    ):
        list(reader.documents(files))
    s3_client(s3_server).delete_object(Bucket=s3_bucket.removeprefix("s3://"), Key="a.jsonl")
    with pytest.raises(ValueError, match=rf"{s3_bucket}/a\.jsonl: FileNotFoundError"):
        list(reader.documents(files))
    assert not list((tmp_path / "scratch").iterdir())
