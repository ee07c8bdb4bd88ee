"""Preparation: what is written, that it is whole, and what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import litdata
import pytest

from litespark.data.manifest import Manifest
from litespark.data.prepare import same_text
from litespark.data.prepare.plan import plan_preparation
from litespark.data.prepare.prepare import prepare
from litespark.data.select.config import SelectionConfig
from litespark.data.text.splits import SplitRule
from tests.data.corpus import config, documents, write_texts
from tests.data.prepare.reading import texts, tokens


def test_every_document_is_in_one_split_and_the_manifest_counts_them(prepared):
    manifest = Manifest.read(prepared)
    found = {split: texts(prepared, split) for split in ("train", "validation")}
    assert sorted(found["train"] + found["validation"]) == sorted(documents(40))
    for split, counts in manifest.splits.items():
        assert counts.documents == len(found[split]) > 0
        assert counts.text_bytes == sum(len(text.encode()) for text in found[split])
        chunks = counts.domains["text"].chunks
        assert counts.tokens == len(tokens(prepared, split)) == sum(chunk.tokens for chunk in chunks)
        assert {chunk.tokens for chunk in chunks[:-1]} == {100}
    assert len(manifest.splits["train"].domains["text"].chunks) > 10


@pytest.mark.parametrize("vocab_size, data_format", [(300, "no_header_numpy:5"), (70_000, "no_header_numpy:2")])
def test_litdata_reads_the_same_tokens(tmp_path, vocab_size, data_format):
    source = write_texts(tmp_path / "text", documents(20))
    folder = prepare(config(source, tmp_path / "prepared", vocab_size=vocab_size), progress=False)
    expected = tokens(folder, "train")
    assert json.loads((folder / "train" / "text" / "index.json").read_text())["config"]["data_format"] == [data_format]
    dataset = litdata.StreamingDataset(
        str(folder / "train" / "text"), item_loader=litdata.TokensLoader(block_size=10), shuffle=False
    )
    read = [number for block in dataset for number in block.tolist()]
    # LitData drops what is left of the last chunk below a block; the others hold ten blocks each
    assert len(expected) - len(read) == len(expected) % 10
    assert read == expected[: len(read)]


def test_the_unigram_entropy_is_that_of_counting_by_hand(prepared):
    manifest = Manifest.read(prepared)
    train, validation = tokens(prepared, "train"), tokens(prepared, "validation")
    nats = [-math.log((train.count(token) + 1) / (len(train) + 300)) for token in validation]
    assert manifest.unigram_entropy == pytest.approx(sum(nats) / len(nats))
    bits = sum(nats) / math.log(2) / sum(len(text.encode()) for text in texts(prepared, "validation"))
    assert manifest.unigram_bits_per_byte() == pytest.approx(bits)


def test_where_evaluation_texts_lie_is_no_part_of_what_is_prepared_but_what_they_say_is(tmp_path):
    source = write_texts(tmp_path / "text", documents(10))

    def name(place: str, text: str) -> str:
        (tmp_path / place).mkdir()
        (tmp_path / place / "evaluation.txt").write_text(text)
        selection = SelectionConfig(decontaminate=(str(tmp_path / place),))
        return plan_preparation(config(source, tmp_path / "prepared", selection=selection)).name

    assert name("here", "a question") == name("there", "a question") != name("else", "another question")


def test_a_prepared_folder_is_a_source(prepared):
    assert prepare(config(prepared, prepared.parent / "elsewhere"), progress=False) == prepared
    assert not (prepared.parent / "elsewhere").exists()


def test_a_single_document_is_divided_at_a_line_break_whatever_its_file_is_called(tmp_path):
    book = "".join(f"line {number} of the book\n" for number in range(100))
    (tmp_path / "book.txt").write_text(book)
    folder = prepare(config(tmp_path / "book.txt", tmp_path / "prepared"), progress=False)
    renamed = (tmp_path / "book.txt").rename(tmp_path / "renamed.txt")
    assert prepare(config(renamed, tmp_path / "prepared"), progress=False) == folder
    (train,), (validation,) = texts(folder, "train"), texts(folder, "validation")
    assert train + validation == book
    assert train.endswith("\n")
    assert len(validation) / len(book) == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_split_rule_leaves_documents_on_both_sides(count, fraction):
    rule = SplitRule.fit(documents(count), fraction)
    assert {split for text in documents(count) for split, _ in rule.assign(text)} == {"train", "validation"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"validation_fraction": 1.0}, r"data\.validation_fraction: got 1\.0, expected a number above 0 and below 1"),
        ({"name": "../elsewhere"}, r"data\.name\b.*\.\./elsewhere"),
        ({"name": ".hidden"}, r"data\.name\b.*\.hidden"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config("text", "prepared", **changes)


def touched(source: Path) -> Path:
    for file in source.rglob("*"):
        os.utime(file, ns=(10**18, 10**18))
    return source


@pytest.mark.parametrize(
    "change",
    [
        touched,
        lambda source: Path(shutil.copytree(source, source.with_name("copied"), copy_function=shutil.copyfile)),
        lambda source: touched(source.rename(source.with_name("moved"))),
    ],
)
def test_the_same_text_touched_copied_or_moved_is_not_prepared_again(tmp_path, monkeypatch, change):
    source = write_texts(tmp_path / "text", documents(10))
    root = tmp_path / "prepared"
    folder = prepare(config(source, root), progress=False)
    now = change(source)
    assert prepare(config(now, root), progress=False) == folder
    assert [path.name for path in root.iterdir()] == [folder.name]
    # compared once: from then on their times are known
    monkeypatch.setattr(same_text, "content_hash", None)
    assert prepare(config(now, root), progress=False) == folder


def test_other_bytes_of_the_same_size_and_name_are_prepared_anew(tmp_path):
    source = write_texts(tmp_path / "text", documents(10))
    root = tmp_path / "prepared"
    first = prepare(config(source, root), progress=False)
    # touched and prepared elsewhere, it has another name and is the same data set
    second = prepare(config(touched(source), tmp_path / "elsewhere"), progress=False)
    assert first.name != second.name
    assert Manifest.read(first).hash == Manifest.read(second).hash
    file = source / "0000.txt"
    file.write_text(file.read_text().swapcase())
    third = prepare(config(source, root), progress=False)
    assert third != first
    assert Manifest.read(third).hash != Manifest.read(first).hash


@pytest.mark.parametrize("note", [b"", b'{"files": [1]}'])
def test_a_damaged_note_of_the_text_is_named_and_not_used(tmp_path, caplog, note):
    source = write_texts(tmp_path / "text", documents(2))
    first = prepare(config(source, tmp_path / "prepared"), progress=False)
    (damaged,) = first.glob(same_text.NOTE)
    damaged.write_bytes(note)
    assert prepare(config(touched(source), tmp_path / "prepared"), progress=False) != first
    assert f"{damaged} is damaged" in caplog.text


def test_what_was_decided_about_the_files_is_told_and_kept_in_the_manifest(tmp_path, capsys):
    folder = tmp_path / "hub"
    for split in ("train", "validation", "test"):
        lines = [json.dumps({"text": f"{split} {text}"}) + "\n" for text in documents(20)]
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "data" / f"{split}-00000-of-00001.jsonl").write_text("".join(lines))
    (folder / "README.md").write_text("# card")
    prepared = prepare(config(folder, tmp_path / "prepared"))
    told = capsys.readouterr().err
    assert "splits: from the source, 1 training and 1 validation files" in told
    assert "skipped README.md: documentation or metadata; data/test-00000-of-00001.jsonl: a test split" in told
    manifest = Manifest.read(prepared)
    assert {group["reason"]: group["names"] for group in manifest.listing["passed_over"]} == {
        "documentation or metadata": ["README.md"],
        "a test split, never used for training": ["data/test-00000-of-00001.jsonl"],
    }
    assert [manifest.splits[split].documents for split in ("train", "validation")] == [20, 20]
