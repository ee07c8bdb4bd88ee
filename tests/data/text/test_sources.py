"""Which files are read, what comes out of them, and what is refused."""

from __future__ import annotations

import gzip
import json
import os

import pytest
import zstandard

from litespark.data.text.sources import DocumentReader, resolve_source
from tests.data.corpus import documents, write_texts

TEXTS = documents(30)


def lines(texts, field="text"):
    return "".join(json.dumps({field: text, "meta": {}}) + "\n" for text in texts).encode()


def read(path, **options):
    reader = DocumentReader(**options)
    return list(reader.documents(resolve_source(str(path)).files)), reader


@pytest.mark.parametrize(
    "name, pack",
    [
        ("a.jsonl", lambda data: data),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.compress),
        ("frames.jsonl.zst", lambda data: zstandard.compress(data[:1000]) + zstandard.compress(data[1000:])),
    ],
)
def test_json_lines_come_back_whole(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(lines(TEXTS)))
    assert read(tmp_path / name)[0] == TEXTS
    (tmp_path / name).write_bytes(pack(lines(TEXTS, "content")))
    assert read(tmp_path / name, text_field="content")[0] == TEXTS


def test_a_last_line_without_its_end_counts_and_lines_may_be_longer_than_a_block(tmp_path):
    texts = ["x" * 3_000_000, "last"]
    (tmp_path / "a.jsonl").write_bytes(lines(texts)[:-1])
    assert read(tmp_path / "a.jsonl")[0] == texts


def test_a_folder_means_all_known_files_below_it_sorted(tmp_path):
    write_texts(tmp_path / "b", ["two"])
    (tmp_path / "a.jsonl").write_bytes(lines(["one"]))
    (tmp_path / "picture.png").write_bytes(b"\xff")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.txt").write_text("hidden")
    assert read(tmp_path)[0] == ["one", "two"]


def test_the_standard_library_has_no_tests_and_no_other_packages():
    source = resolve_source("standard_library")
    names = [file.name for file in source.files]
    assert names == sorted(names)
    assert "argparse.py" in names
    assert not [name for name in names if {"test", "tests", "site-packages"} & set(name.split("/"))]


BAD_LINES = {
    "invalid_utf8": b'{"text": "\xff"}',
    "malformed_json": b'{"text": ',
    "missing_text": b'{"body": "x"}',
    "text_not_a_string": b'{"text": 3}',
    "lone_surrogate": b'{"text": "\\ud800"}',
}


@pytest.mark.parametrize("reason", BAD_LINES)
def test_a_bad_line_costs_one_document_and_is_counted(tmp_path, reason):
    (tmp_path / "a.jsonl").write_bytes(lines(TEXTS) + BAD_LINES[reason] + b"\n" + lines(["after"]))
    texts, reader = read(tmp_path / "a.jsonl", max_bad_share=0.1)
    assert texts == [*TEXTS, "after"]
    assert reader.dropped == {reason: 1}
    with pytest.raises(ValueError, match=rf"1 of 32 documents .*{reason}.*a\.jsonl.*line 31.*max_bad_share"):
        read(tmp_path / "a.jsonl", max_bad_share=0.01)


def test_empty_documents_are_counted_but_are_not_bad(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(["", " \n", "text"]) + b"\n\n")
    texts, reader = read(tmp_path / "a.jsonl", max_bad_share=0.0)
    assert texts == ["text"]
    assert reader.dropped == {"empty": 2}


def test_a_flood_of_bad_lines_stops_before_the_end(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"no json\n" * 5000)
    reader = DocumentReader()
    with pytest.raises(ValueError, match="malformed_json: 1000"):
        list(reader.documents(resolve_source(str(tmp_path)).files))


def test_plain_text_that_is_not_utf8_is_counted(tmp_path):
    write_texts(tmp_path, TEXTS)
    (tmp_path / "z.txt").write_bytes(b"abc\xff")
    assert read(tmp_path, max_bad_share=0.1)[1].dropped == {"invalid_utf8": 1}
    with pytest.raises(ValueError, match=r"z\.txt.*invalid_utf8 at byte 3"):
        read(tmp_path)


@pytest.mark.parametrize("keep", [0.3, 0.95])
@pytest.mark.parametrize("name, pack", [("a.jsonl.zst", zstandard.compress), ("a.jsonl.gz", gzip.compress)])
def test_a_truncated_archive_is_named_and_refused(tmp_path, name, pack, keep):
    data = pack(lines(documents(3000)))
    (tmp_path / name).write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=rf"{name} is truncated"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz"])
def test_an_archive_that_is_none_is_named_and_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"plain text, not an archive")
    with pytest.raises(ValueError, match=rf"{name} is damaged or not what its name says"):
        read(tmp_path / name)


def test_unusable_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist\. Set data\.source"):
        resolve_source(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"does not exist\. Fetch it so"):
        resolve_source(str(tmp_path / "nowhere"), how_to_get="Fetch it so")
    with pytest.raises(ValueError, match=r"holds no file named \.txt"):
        resolve_source(str(tmp_path))
    with pytest.raises(ValueError, match="remote address; expected a local path"):
        resolve_source("s3://bucket/text")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        resolve_source(str(tmp_path / "pipe"))


def test_a_file_that_vanishes_is_named(tmp_path):
    source = resolve_source(str(write_texts(tmp_path, TEXTS)))
    (tmp_path / "0003.txt").unlink()
    with pytest.raises(ValueError, match=r"0003\.txt cannot be read"):
        list(DocumentReader().documents(source.files))
    (tmp_path / "0003.txt").mkdir()
    with pytest.raises(ValueError, match=r"0003\.txt cannot be read.*directory"):
        list(DocumentReader().documents(source.files))
