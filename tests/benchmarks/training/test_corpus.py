"""The corpus of the benchmark: prose of docstrings or given text, held out by split or hash, written whole."""

import json
from pathlib import Path

import pytest

from litespark.benchmarks.training.corpus import CorpusSettings, build_corpus
from litespark.benchmarks.training.corpus import prose as prose_of
from litespark.data.config import PrepareConfig
from tests.data.select.prose import prose

SOURCE = '''
"""This module opens the garden gate in the morning, and closes it again when the evening comes.

It is a short one:

    >>> gate.open()
    True

Parameters are not of interest to anybody who only wants to read about gates and gardens.
"""

class Gate:
    """The gate of the garden is made of iron and has been there since the house was built.

    :param width: of the gate, :class:`int` or `float` or ``None``, see [1]_, (2), {3}: ``width <= 10 * sqrt(x)``.
    """

    def open(self):
        """This module opens the garden gate in the morning, and closes it again when the evening comes."""
'''


def build(source: object, below: Path, clean_bytes: int = 1_000_000, seed: int = 1, **others: object):
    values = {"seq_len": 32, "micro_batch_size": 1, "vocab_size": 300, "root": "unused", "source": str(source)}
    settings = CorpusSettings(clean_bytes=clean_bytes, planted_seed=seed)
    return build_corpus(PrepareConfig(**values | others), settings, below=below)  # type: ignore[arg-type]


def records(folder: Path, split: str) -> list[dict[str, str]]:
    return [json.loads(line) for path in (folder / split).glob("*.jsonl") for line in path.read_text().splitlines()]


@pytest.fixture
def given(tmp_path: Path) -> Path:
    path = tmp_path / "given.jsonl"
    path.write_text("".join(json.dumps({"content": prose(seed)}) + "\n" for seed in range(80)))
    return path


def test_prose_is_the_sentences_of_docstrings_each_once() -> None:
    assert prose_of("def f(x):\n    return x  # The gate of the garden is made of iron and has been there since.") == ""
    assert prose_of(SOURCE).splitlines() == [
        "This module opens the garden gate in the morning, and closes it again when the evening comes.",
        "Parameters are not of interest to anybody who only wants to read about gates and gardens.",
        "The gate of the garden is made of iron and has been there since the house was built.",
    ]


def test_given_text_is_divided_and_only_training_text_has_junk(given: Path, tmp_path: Path) -> None:
    folder, found = build(given, tmp_path / "out", text_field="content")
    training, validation = records(folder, "train"), records(folder, "validation")
    clean = [record["text"] for record in training if record["kind"] == "clean"]
    held_out = [record["text"] for record in validation]
    assert {record["kind"] for record in validation} == {"clean"}
    assert sorted(clean + held_out) == sorted(prose(seed) for seed in range(80))
    assert 4 <= len(held_out) <= 12
    assert {kind.kind: kind.documents for kind in found.kinds}["clean"] == len(clean)
    assert sum(kind.documents for kind in found.kinds) == len(training)
    assert (found.validation_documents, found.validation_bytes) == (len(held_out), sum(map(len, held_out)))


def test_splits_of_the_source_stay_apart_and_text_on_both_sides_validates_only(tmp_path: Path) -> None:
    for split, seeds in (("train", range(40)), ("validation", range(38, 44))):
        (tmp_path / "in" / split).mkdir(parents=True)
        for seed in seeds:
            (tmp_path / "in" / split / f"{seed}.txt").write_text(prose(seed))
    folder, _ = build(tmp_path / "in", tmp_path / "out")
    clean = {record["text"] for record in records(folder, "train") if record["kind"] == "clean"}
    assert clean == {prose(seed) for seed in range(38)}
    assert {record["text"] for record in records(folder, "validation")} == {prose(seed) for seed in range(38, 44)}


def test_the_same_corpus_is_found_again_and_another_is_another(given: Path, tmp_path: Path) -> None:
    one, described = build(given, tmp_path / "out", clean_bytes=40_000, text_field="content")
    assert 36_000 < sum(kind.bytes for kind in described.kinds if kind.kind == "clean") < 46_000
    written = {path: path.stat().st_mtime_ns for path in one.rglob("*.jsonl")}
    assert build(given, tmp_path / "out", clean_bytes=40_000, text_field="content") == (one, described)
    assert {path: path.stat().st_mtime_ns for path in one.rglob("*.jsonl")} == written
    other, _ = build(given, tmp_path / "out", seed=2, text_field="content")
    assert other != one
    assert {path.name for path in (tmp_path / "out").iterdir()} == {one.name, other.name}


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(prose(1))
    with pytest.raises(ValueError, match="got 0 clean documents for training and 1 for validation of 500 bytes"):
        build(tmp_path / "one.txt", tmp_path / "out")
