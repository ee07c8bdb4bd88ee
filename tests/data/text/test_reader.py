"""What is no document: each reason counted, with file and line; files that change or vanish while they are read."""

from __future__ import annotations

import json
import os

import pytest

from litespark.data.dropped import DroppedDocuments, DroppedRow
from litespark.data.text.reader import DocumentReader, require_few_bad
from litespark.data.text.sources import corpus
from tests.data.corpus import config, documents, write_texts
from tests.data.s3_server import fill
from tests.data.text.contents import lines, table

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TEXTS = documents(30)


def files_of(path):
    return corpus(config(path, "unused")).training


def reader_of(scratch=None, split="train", **changes):
    return DocumentReader(config("unused", "unused", **changes), scratch=scratch, split=split)


def read(path, **changes):
    reader = reader_of(**changes)
    texts = [document.text for document in reader.documents(files_of(path))]
    require_few_bad(len(texts), reader.dropped, reader.config.max_bad_share)
    return texts, reader


def places(reader):
    return {
        row.rule.removeprefix("reading/"): [example.place for example in row.examples] for row in reader.dropped.rows
    }


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


@pytest.mark.parametrize(
    "name, bad, form", [("a.jsonl", BAD_RECORDS + BAD_LINES, b"%b"), ("a.json", BAD_RECORDS, b"[%b]")]
)
def test_a_bad_record_costs_one_document_and_is_counted_with_its_place(tmp_path, name, bad, form):
    good = [json.dumps({"text": text}).encode() for text in TEXTS[: len(bad)]]
    records = [record for pair in zip(good, (line for _, line in bad), strict=True) for record in pair]
    (tmp_path / name).write_bytes(form % (b"\n" if name == "a.jsonl" else b",").join(records))
    texts, reader = read(tmp_path, max_bad_share=0.5, max_line_bytes=1900)
    assert texts == TEXTS[: len(bad)]
    expected = {reason: [] for reason, _ in bad}
    for place, (reason, _) in enumerate(bad, start=1):
        expected[reason].append(2 * place)
    assert places(reader) == expected
    assert (reader.seen, reader.bad) == (2 * len(bad), len(bad))
    sizes = {row.rule: row.bytes for row in reader.dropped.rows}
    assert sizes["reading/missing_text"] == sum(len(line) for reason, line in bad if reason == "missing_text")
    assert sizes["reading/overlong"] == 2012


def test_a_bad_row_of_a_table_is_counted_in_the_same_way(tmp_path):
    values = [b"one", b"\xff", None, b"a\0b", b" ", b"x" * 2000, b"two"]
    # as others write it: pyarrow does not look whether a string is UTF-8
    column = pyarrow.Array.from_buffers(
        pyarrow.string(), len(values), pyarrow.array(values, type=pyarrow.binary()).buffers()
    )
    (tmp_path / "a.parquet").write_bytes(table(column))
    texts, reader = read(tmp_path / "a.parquet", max_bad_share=0.6, max_line_bytes=1900)
    assert texts == ["one", "two"]
    assert places(reader) == {"invalid_utf8": [2], "empty": [3, 5], "nul_character": [4], "overlong": [6]}
    (tmp_path / "a.csv").write_text('id,text\n1,one\n2\n3,"a"b\n4,two\n')
    texts, reader = read(tmp_path / "a.csv", max_bad_share=0.6)
    assert texts == ["one", "two"]
    assert places(reader) == {"missing_text": [3], "malformed_csv": [4]}


def test_a_plain_text_is_one_document_and_may_be_bad(tmp_path):
    write_texts(tmp_path, TEXTS)
    (tmp_path / "y.txt").write_bytes(b"abc\0")
    (tmp_path / "z.txt").write_bytes(b"abc\xff")
    texts, reader = read(tmp_path, max_bad_share=0.1)
    assert texts == TEXTS
    assert places(reader) == {"nul_character": [1], "invalid_utf8": [1]}
    with pytest.raises(
        ValueError, match=r"invalid_utf8: 1, nul_character: 1\).* in z\.txt line 1, y\.txt line 1\. Mend"
    ):
        read(tmp_path)


def test_empty_documents_are_counted_but_are_not_bad(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(["", " \n", None, "text"]) + b"\n\n")
    (tmp_path / "b.parquet").write_bytes(table(["two", None]))
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


def test_what_selection_drops_is_not_bad():
    rules = ("reading/empty", "selection/x", "reading/y")
    dropped = DroppedDocuments([DroppedRow("train", "text", rule, 1) for rule in rules])
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
    file.unlink()
    with pytest.raises(ValueError, match=r"a\.jsonl cannot be read"):
        list(reader_of().documents(files))


def test_files_of_a_bucket_are_fetched_read_and_deleted(tmp_path, s3_server, s3_bucket):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jsonl").write_bytes(lines(TEXTS))
    (tmp_path / "text" / "b.parquet").write_bytes(table(TEXTS[::-1]))
    fill(s3_server, s3_bucket, tmp_path / "text")
    held = []
    found = []
    for document in reader_of(tmp_path / "scratch").documents(files_of(s3_bucket)):
        found.append(document)
        held.append(len(list((tmp_path / "scratch").iterdir())))
    assert found == list(reader_of().documents(files_of(tmp_path / "text")))
    assert set(held) == {1}
    assert not list((tmp_path / "scratch").iterdir())
