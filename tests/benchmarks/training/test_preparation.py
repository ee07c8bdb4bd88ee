"""A session with a corpus: both preparations, what may differ between them, and what the same command continues."""

import json
from pathlib import Path

import pytest

from litespark.benchmarks.training.corpus import CorpusSettings
from litespark.benchmarks.training.preparation import with_and_without
from litespark.benchmarks.training.runs import Training
from litespark.benchmarks.training.variants import SELECTION
from litespark.child_process import Ended
from litespark.metrics.records.training import TrainingRecord
from tests.benchmarks.training.sessions import Session, cleared
from tests.data.select.prose import prose

RULES = ("data/selection=none", "data.selection.exact_duplicates=true", "data.selection.languages=[en]")


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    """A folder with clean documents; preparations of earlier sessions are found in it."""
    folder = tmp_path_factory.mktemp("house")
    (folder / "text.txt").touch()
    (folder / "clean.jsonl").write_text("".join(json.dumps({"text": prose(seed)}) + "\n" for seed in range(60)))
    return folder


class Selecting(Session):
    def __call__(self, *overrides: str, seeds: tuple[int, ...] = (1,)) -> tuple[TrainingRecord, Path]:
        words = [f"data.source={self.house / 'clean.jsonl'}", *RULES, *overrides]
        return super().__call__(*words, seeds=seeds, corpus=CorpusSettings(clean_bytes=100_000))


@pytest.fixture
def session(house: Path) -> Selecting:
    return Selecting(cleared(house), SELECTION)


def override(training: Training, key: str) -> str:
    """The last word for a key: the one that counts."""
    return [word.partition("=")[2] for word in training.overrides if word.partition("=")[0] == key][-1]


def test_two_variants_differ_in_selection_alone_and_take_turns(session: Selecting) -> None:
    record, path = session(seeds=(1, 2))
    assert session.started == [("all", 1), ("selected", 1), ("selected", 2), ("all", 2)]
    assert record.complete
    assert TrainingRecord.read(path) == record
    assert record.corpus is not None
    everything, selected = (variant.prepared for variant in record.variants)
    assert everything.manifest_hash == record.stream.manifest_hash != selected.manifest_hash
    assert everything.validation_hash == selected.validation_hash
    assert everything.train_documents == sum(kind.documents for kind in record.corpus.kinds)
    assert {entry.rule for entry in selected.dropped} == {"exact_duplicate", "language"}
    planted = {kind.kind: kind.documents for kind in record.corpus.kinds}
    for kind in ("exact_copy", "junk_script"):
        assert sum(entry.documents for entry in selected.dropped if entry.kind == kind) == planted[kind]
    of_all, of_selected = session.trainings[:2]
    differing = {word.partition("=")[0] for word in set(of_all.overrides) ^ set(of_selected.overrides)}
    # the first variant trained the tokenizer that the other is given
    keys = {key for key in differing if not key.startswith(("data.selection.", "data/selection"))}
    assert keys - {"seed"} == {"data.tokenizer"}
    assert override(of_all, "data/selection") == "none"


def test_the_same_command_takes_what_is_missing_and_finds_what_was_prepared(session: Selecting) -> None:
    session.ends = {("selected", 1): Ended("failed", "ended by SIGKILL")}
    record, path = session(seeds=(1, 2))
    assert session.started == [("all", 1), ("selected", 1), ("all", 2)]
    assert not record.complete
    session.ends, session.trainings = {}, []
    record, found = session(seeds=(1, 2))
    assert (found, record.complete) == (path, True)
    assert session.started == [("selected", 1), ("selected", 2)]


def test_a_selection_that_selects_nothing_is_refused(session: Selecting) -> None:
    with pytest.raises(ValueError, match="selects nothing, expected rules"):
        session("data.selection.exact_duplicates=false", "data.selection.languages=[]")
    assert session.trainings == []


def test_without_a_word_about_selection_it_is_that_for_the_web() -> None:
    web, none = ("data/selection=web",), ("data/selection=none",)
    for given, expected in (((), web), (RULES, RULES)):
        others, (everything, selected) = with_and_without(["data=text", "optim.lr=1e-3", *given])
        assert others == ["data=text", "optim.lr=1e-3"]
        assert (everything.settings, selected.settings) == (none, expected)


@pytest.mark.slow
def test_a_real_run(session: Selecting) -> None:
    """Of the second variant, whose words are those of the first and more; the first is as told."""
    from litespark.benchmarks.training.runs import train

    told = session.launch
    session.launch = lambda training: (train if training.name.startswith("selected") else told)(training)  # type: ignore[method-assign]
    record, _ = session()
    assert [variant.failures for variant in record.variants] == [[], []]
    assert [[point.tokens for point in variant.runs[0].curve] for variant in record.variants] == [[256, 512]] * 2
