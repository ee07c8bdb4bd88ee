"""The benchmark's text lies as SlimPajama does, the larger corpus holds the smaller, and the hash names the text."""

import hashlib
import json

import pytest
import zstandard

from litespark.benchmarks.data.corpus import DOMAINS, documents, write_corpus


def texts(count):
    return iter([f"document {number}\n" + "word " * 40 for number in range(count)])


def read(path):
    lines = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().splitlines()
    return [json.loads(line) for line in lines]


def test_two_corpora_of_which_one_holds_the_other(tmp_path):
    record = write_corpus(tmp_path, text_bytes=8000, shards=2, texts=texts(500))
    once = {path.relative_to(tmp_path / "once"): path for path in (tmp_path / "once").rglob("*.zst")}
    four = {path.relative_to(tmp_path / "four_times"): path for path in (tmp_path / "four_times").rglob("*.zst")}
    assert sorted(map(str, once)) == [
        "train/chunk1/example_train_0.jsonl.zst", "train/chunk2/example_train_1.jsonl.zst",
        "validation/chunk1/example_holdout_0.jsonl.zst",
    ]  # fmt: skip
    assert len(four) == 9
    assert all(four[name].read_bytes() == path.read_bytes() for name, path in once.items())
    assert len({path.read_bytes() for path in four.values()}) == 9
    held = [row for name, path in sorted(once.items(), key=lambda item: item[0].parts[0] == "train") for row in
            read(path)]  # fmt: skip
    assert record.documents == len(held)
    assert record.text_bytes == sum(len(row["text"].encode()) for row in held)
    assert 8000 <= record.training_bytes < record.text_bytes
    assert record.shard_bytes == sum(path.stat().st_size for path in once.values())
    assert {row["meta"]["redpajama_set_name"] for row in held} == set(DOMAINS)
    assert "RedPajamaGithub" not in DOMAINS
    assert record.sha256 == hashlib.sha256(b"".join(row["text"].encode() + b"\0" for row in held)).hexdigest()


def test_too_little_text_is_refused_and_never_written_twice(tmp_path):
    with pytest.raises(ValueError, match=r"--megabytes: got 1, .*less than 4 times"):
        write_corpus(tmp_path, text_bytes=1_000_000, shards=2, texts=texts(500))


def test_the_installed_packages_come_in_documents_that_preparation_keeps():
    found = [text for text, _ in zip(documents(), range(300), strict=False)]
    assert len(found) == 300
    assert max(map(len, found)) <= 4000
    assert all(text.strip() and "\0" not in text for text in found)
    assert found == [text for text, _ in zip(documents(), range(300), strict=False)]
