"""Selection in a preparation: what is dropped is counted with its tokens, and units and processes change nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from litespark.data.config import PrepareConfig
from litespark.data.manifest import Manifest
from litespark.data.prepare import stages, unit
from litespark.data.prepare.prepare import prepare
from litespark.data.select.config import SelectionConfig
from litespark.data.text.document import Document
from litespark.data.tokenizer import Tokenizer
from tests.data.corpus import config, documents
from tests.data.prepare.reading import texts
from tests.data.prepare.records import KINDS, write_records

JUNK = [f"junk {number} " * 10 for number in range(12)]


class RefusesJunk:
    """In place of the real rules."""

    def __init__(self, config: SelectionConfig) -> None:
        self.any = config.any

    def refusal(self, document: Document) -> str | None:
        return "c4/junk" if self.any and document.text.startswith("junk") else None


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Good texts, junk, and the first good texts and junk once more; validation has junk, too."""
    monkeypatch.setattr(unit, "Selector", RefusesJunk)
    monkeypatch.setattr(stages, "Selector", RefusesJunk)
    good = documents(60)
    write_records(tmp_path / "text" / "train", [*good, *JUNK, *good[:10], *JUNK[:2]], files=7)
    write_records(tmp_path / "text" / "validation", [*documents(9, seed=1), *JUNK[:3], good[0]], files=1)
    return tmp_path / "text"


def settings(source: Path, root: Path, **selection: object) -> PrepareConfig:
    chosen = SelectionConfig(quality=("c4",), **selection)  # type: ignore[arg-type]
    return config(source, root, domain_field="meta.kind", selection=chosen, unit_bytes=3000)


def all_texts(folder: Path, split: str) -> list[str]:
    return sorted(text for kind in KINDS for text in texts(folder, split, kind))


def test_junk_and_all_but_the_first_of_duplicates_are_left_out_of_training_alone(source, tmp_path):
    folder = prepare(settings(source, tmp_path / "prepared", exact_duplicates=True), progress=False)
    assert all_texts(folder, "train") == sorted(documents(60))
    assert all_texts(folder, "validation") == sorted([*documents(9, seed=1), *JUNK[:3], documents(60)[0]])
    # the duplicates of junk go under the rule that refuses junk
    dropped = Manifest.read(folder).dropped
    assert dropped.by_rule() == {"selection/c4/junk": 14, "selection/exact_duplicate": 10}
    junk = [row for row in dropped.rows if row.rule.endswith("junk")]
    assert {(row.split, row.domain) for row in junk} == {("train", kind) for kind in KINDS}
    assert sum(row.bytes for row in junk) == sum(map(len, [*JUNK, *JUNK[:2]]))
    ids = Tokenizer.load(folder).encode_batch([*JUNK, *JUNK[:2]])
    assert sum(row.tokens for row in junk) == sum(len(each) + 1 for each in ids)
    examples = [example for row in dropped.rows for example in row.examples]
    files = {example.file for example in examples if not example.excerpt.startswith("junk")}
    assert files <= {"train/05.jsonl", "train/06.jsonl"}


def test_units_change_nothing_and_tokens_of_what_goes_need_not_be_counted(source, tmp_path):
    of_units = settings(source, tmp_path / "prepared", exact_duplicates=True)
    folders = [prepare(replace(of_units, unit_bytes=size), progress=False) for size in (1, 10**9)]
    uncounted = settings(source, tmp_path / "prepared", exact_duplicates=True, count_dropped_tokens=False)
    assert {row.tokens for row in Manifest.read(prepare(uncounted, progress=False)).dropped.rows} == {None}
    first, other = map(Manifest.read, folders)
    assert (other.dropped, other.unigram_entropy) == (first.dropped, first.unigram_entropy)
    assert len({tuple(all_texts(folder, "train")) for folder in folders}) == 1


def test_a_tokenizer_learns_from_what_stays(source, tmp_path, monkeypatch):
    seen: list[str] = []
    train = Tokenizer.train
    monkeypatch.setattr(
        Tokenizer, "train", lambda sample, vocab_size: train(seen.extend(sample) or seen, vocab_size=vocab_size)
    )
    prepare(settings(source, tmp_path / "prepared"), progress=False)
    assert seen
    assert not any(text.startswith("junk") for text in seen)


def test_the_real_rules_run_in_worker_processes_and_may_leave_nothing(tmp_path):
    pytest.importorskip("py3langid")
    source = write_records(tmp_path / "text", documents(20), files=2)  # none of them Finnish
    chosen = config(
        source, tmp_path / "prepared", selection=SelectionConfig(languages=("fi",)), unit_bytes=1, processes=2
    )
    with pytest.raises(
        ValueError, match=r"data\.selection left out all 1\d training documents \(selection/language: 1\d\)"
    ):
        prepare(chosen, progress=False)
