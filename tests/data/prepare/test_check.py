"""`check_prepared`: every fault in a prepared folder is named; what does not belong to it is no fault."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from litespark.data.manifest import Manifest
from litespark.data.prepare.check import check_prepared
from litespark.data.tokenizer import Tokenizer
from tests.data.corpus import documents


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy that can be damaged."""
    return Path(shutil.copytree(prepared, tmp_path / "copy"))


def test_a_folder_as_it_was_written_is_sound_and_what_does_not_belong_to_it_is_named(folder):
    assert check_prepared(folder) == (Manifest.read(folder), [])
    (folder / "train" / "text" / "chunk-9-0.bin").write_bytes(b"stray")
    (folder / ".work").mkdir()
    (folder / ".work" / "left").touch()
    assert check_prepared(folder)[1] == [".work/left", "train/text/chunk-9-0.bin"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def swap(path: Path) -> None:
    other = path.with_name("chunk-0-2.bin")
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("train/text/chunk-0-1.bin", flip, r"train/text/chunk-0-1\.bin has SHA-256 \w+; the manifest says"),
        ("train/text/chunk-0-1.bin", swap, r"train/text/chunk-0-2\.bin has"),
        ("train/text/chunk-0-1.bin", Path.unlink, r"chunk-0-1\.bin is missing; the manifest lists it with \d+ bytes"),
        ("tokenizer.json", Path.unlink, r"tokenizer\.json is missing"),
        ("tokenizer.json", flip, r"tokenizer\.json cannot be read"),
    ],
)
def test_a_fault_is_named(folder, name, damage, message):
    damage(folder / name)
    with pytest.raises(ValueError, match=message):
        check_prepared(folder)


def test_all_faults_are_named_at_once_up_to_ten(folder):
    (folder / "train/text/chunk-0-0.bin").write_bytes(b"short")
    flip(folder / "train/text/chunk-0-3.bin")
    (folder / "validation/text/chunk-0-0.bin").unlink()
    with pytest.raises(ValueError, match=r"chunk-0-0\.bin has 5 bytes.*chunk-0-3\.bin has SHA.*chunk-0-0\.bin is miss"):
        check_prepared(folder)
    for chunk in (folder / "train").rglob("chunk-*.bin"):
        chunk.unlink()
    with pytest.raises(ValueError, match=r"; and \d+ more\. Copy these files again"):
        check_prepared(folder)


def test_another_tokenizer_is_found(folder):
    Tokenizer.train(documents(5), vocab_size=300).save(folder)
    with pytest.raises(ValueError, match="is not the tokenizer that"):
        check_prepared(folder)
