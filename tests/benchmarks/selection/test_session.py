"""A session of the selection benchmark: what it prepares, which runs it takes, and what the same command continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from litespark.benchmarks.selection.reading import read_run
from litespark.benchmarks.selection.session import SelectionSettings, bench_selection, check
from litespark.benchmarks.training_runs.launch import Ended, Training
from litespark.cli.configs import compose, repository
from litespark.experiment.config import parts_from
from litespark.metrics.records.selection import SelectionRecord
from litespark.metrics.records.strict_json import RecordError
from tests.benchmarks.to_loss.finished_runs import finished, write_run
from tests.cli.conftest import logging_as_before
from tests.cli.tiny_run import tiny
from tests.data.selection.prose import prose

__all__ = ["logging_as_before"]

# a budget of four steps of four rows of 32 tokens
POINTS = ((2, 256, 5.0, 3.0), (4, 512, 10.0, 2.5))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clean documents."""
    path = tmp_path_factory.mktemp("text") / "clean.jsonl"
    path.write_text("".join(json.dumps({"text": prose(seed)}) + "\n" for seed in range(60)))
    return path


@dataclass
class Session:
    """A session whose runs end as told; `ends` gives (variant, seed) another end than `POINTS`."""

    text: Path
    below: Path
    ends: dict[tuple[str, int], Any] = field(default_factory=dict)
    trainings: list[Training] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def started(self) -> list[tuple[str, int]]:
        return [(each.name.split("-")[0], int(each.name.split("-")[1])) for each in self.trainings]

    def launch(self, training: Training) -> Ended:
        self.trainings.append(training)
        name, seed = self.started[-1]
        end = self.ends.get((name, seed), {})
        if isinstance(end, Ended):
            return end
        record = SelectionRecord.read(next(self.below.glob("results/*/*.json")))
        variant = next(each for each in record.variants if each.name == name)
        run = finished(*POINTS, target=1.0, manifest_hash=variant.manifest_hash, seed=seed)
        run.throughput.tokens = 512
        for key, value in end.items():
            setattr(run, key, value)
        write_run(training.folder, run, *POINTS)
        return Ended("finished")

    def __call__(
        self, *overrides: str, seeds: tuple[int, ...] = (1,), planted: float = 1.0
    ) -> tuple[SelectionRecord, Path]:
        words = [
            *tiny(self.below, trainer__validate_every=2),
            f"data.source={self.text}",
            "data/selection=none",
            "data.selection.exact_duplicates=true",
            "data.selection.languages=[en]",
            *overrides,
        ]
        return bench_selection(
            lambda given: parts_from(compose(given)),
            words,
            SelectionSettings(seeds, 100_000, planted),
            command=["litespark", "bench", "selection"],
            script=repository() / "train.py",
            output=self.below / "results",
            say=self.said.append,
            launch=self.launch,
        )


@pytest.fixture(scope="module")
def shared(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Preparations that later sessions find; each makes its own runs."""
    return Session(text, tmp_path_factory.mktemp("shared"))


@pytest.fixture
def session(shared: Session) -> Session:
    for path in shared.below.glob("results/*/*.json"):
        path.unlink()
    return Session(shared.text, shared.below)


def override(training: Training, key: str) -> str:
    """The last word for a key: the one that counts."""
    return [word.partition("=")[2] for word in training.overrides if word.partition("=")[0] == key][-1]


def test_two_variants_differ_in_selection_alone_and_take_turns(session: Session) -> None:
    record, path = session(seeds=(1, 2))
    assert session.started == [("all", 1), ("selected", 1), ("selected", 2), ("all", 2)]
    everything, selected = record.variants
    assert record.complete
    assert SelectionRecord.read(path) == record
    assert everything.manifest_hash != selected.manifest_hash
    assert everything.validation_hash == selected.validation_hash
    assert everything.train_documents == sum(kind.documents for kind in record.corpus.kinds)
    assert {entry.rule for entry in selected.left_out} == {"exact_duplicate", "language"}
    gone = {
        kind: sum(each.documents for each in selected.left_out if each.kind == kind)
        for kind in ("exact_copy", "junk_script")
    }
    assert gone == {kind.kind: kind.documents for kind in record.corpus.kinds if kind.kind in gone}
    runs = {
        name: next(each for each, ran in zip(session.trainings, session.started, strict=True) if ran == (name, 1))
        for name in ("all", "selected")
    }
    differing = {word.partition("=")[0] for word in set(runs["all"].overrides) ^ set(runs["selected"].overrides)}
    # the reference trained the tokenizer that the other is given
    assert {key for key in differing if not key.startswith("data.selection.")} == {"data.tokenizer"}
    assert override(runs["all"], "data/selection") == "none"


def test_without_a_word_about_selection_it_is_that_for_the_web(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Sequence[str]] = []

    def refuse(words: Sequence[str]) -> None:
        given.append(words)
        raise ValueError("seen")

    monkeypatch.setattr(
        "litespark.benchmarks.selection.session.prepared", lambda compose, words, *others: refuse(others)
    )
    with pytest.raises(ValueError, match="seen"):
        bench_selection(
            lambda words: parts_from(compose(words)),
            [*tiny(session.below, trainer__validate_every=2), f"data.source={session.text}"],
            SelectionSettings(clean_bytes=100_000),
            command=[],
            script=session.below,
            output=session.below,
            say=session.said.append,
        )
    assert given[0][:2] == ("all", ("data/selection=none",))


def test_the_same_command_takes_what_is_missing(session: Session) -> None:
    session.ends = {("selected", 1): Ended("failed", "ended by SIGKILL")}
    record, path = session(seeds=(1, 2))
    assert not record.complete
    assert session.started == [("all", 1), ("selected", 1), ("all", 2)]
    assert [failure.error for failure in record.variants[1].failures] == ["ended by SIGKILL"]
    again = Session(session.text, session.below)
    record, found = again(seeds=(1, 2))
    assert (found, record.complete) == (path, True)
    assert again.started == [("selected", 1), ("selected", 2)]
    assert record.variants[0].prepare_seconds is None or record.variants[0].prepare_seconds > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 9}, "seed: got 9, expected 1; its figures cannot stand beside"),
        ({"status": "interrupted"}, "status: got 'interrupted', expected 'finished'"),
    ],
)
def test_a_run_that_is_not_the_one_asked_for_is_a_failure(
    session: Session, changes: dict[str, Any], message: str
) -> None:
    session.ends = {("selected", 1): changes}
    record, _ = session()
    assert message in record.variants[1].failures[0].error
    assert (record.variants[1].runs, record.complete) == ([], False)


def test_runs_of_unequal_tokens_are_refused(session: Session) -> None:
    from litespark.metrics.records.run import ThroughputRecord

    session.ends = {("selected", 1): {"throughput": ThroughputRecord(tokens=256)}}
    record, path = session()
    assert "tokens: got 256, expected 512" in record.variants[1].failures[0].error
    assert SelectionRecord.read(path) == record


def test_a_run_on_other_data_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", finished(*POINTS, target=1.0, manifest_hash="theirs"), *POINTS)
    with pytest.raises(RecordError, match="manifest_hash: got 'theirs', expected 'ours'"):
        read_run(tmp_path / "run", seed=1, position=0, manifest_hash="ours")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.validate_every=null"], "trainer.validate_every: got null, expected the steps"),
        (["name=mine"], "got resume=None and name=mine, expected neither"),
        (["strategy=ddp"], "expected one process and strategy=single"),
        (["variant={label: x}"], "got the override variant=.*expected plain ones"),
        (["data.selection.exact_duplicates=false", "data.selection.languages=[]"], "selects nothing, expected rules"),
    ],
)
def test_what_cannot_be_compared_is_refused(session: Session, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        session(*words)
    assert session.trainings == []


def test_synthetic_data_is_refused() -> None:
    with pytest.raises(ValueError, match="data=synthetic: there is nothing to select; expected text"):
        check(parts_from(compose(["data=synthetic"])), [])


@pytest.mark.slow
def test_a_real_run(session: Session) -> None:
    """Of the second variant, whose words are those of the first and more; the first is as told."""
    from litespark.benchmarks.training_runs.launch import train

    told = session.launch
    session.launch = lambda training: (train if training.name.startswith("selected") else told)(training)  # type: ignore[method-assign]
    record, _ = session()
    assert [variant.failures for variant in record.variants] == [[], []]
    assert record.complete
    assert [[point.tokens for point in variant.runs[0].curve] for variant in record.variants] == [[256, 512]] * 2
