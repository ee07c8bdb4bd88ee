"""The record of trained variants survives a round trip and is refused where its runs cannot stand side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.training import RunFailure, TrainingRecord
from tests.metrics.training_records import equal_tokens, record, selecting, to_target, variant

MADE = {"equal": equal_tokens, "target": to_target, "corpus": selecting}
Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize("made", MADE)
def test_a_written_record_reads_back_equal(tmp_path: Path, made: str) -> None:
    found = MADE[made]()
    found.variants[1].failures.append(RunFailure(seed=2, error="out of memory"))
    found.write(tmp_path / "record.json")
    assert TrainingRecord.read(tmp_path / "record.json") == found
    assert json.loads((tmp_path / "record.json").read_text())["schema"] == "litespark.bench.training/1"


def _run(values: dict[str, Any]) -> dict[str, Any]:
    """Ours with seed 1."""
    return dict(values["variants"][1]["runs"][0])


def _changed_run(**changes: Any) -> Change:
    return lambda values: values["variants"][1]["runs"].__setitem__(0, _run(values) | changes)


def _changed_point(place: int, **changes: Any) -> Change:
    return lambda values: values["variants"][1]["runs"][0]["curve"][place].update(changes)


def _prepared(of: int, **changes: Any) -> Change:
    return lambda values: values["variants"][of]["prepared"].update(changes)


REFUSED: list[tuple[str, Change, str]] = [
    ("equal", lambda values: values.update(schema="litespark.bench.training/2"), r"schema: got"),
    ("equal", lambda values: values.pop("stream"), "stream: got .*required"),
    ("equal", lambda values: values.update(more=1), "more: got 1: .*not permitted"),
    ("equal", lambda values: values.update(seeds=[]), "seeds: got"),
    ("equal", lambda values: values.update(seeds=[1, 1, 2]), r"seeds: got \[1, 1, 2\], expected each once"),
    ("equal", lambda values: values.update(seeds=[1]), r"variants\.bf16\.runs: got the seeds \[1, 2\]"),
    ("equal", lambda values: values.update(variants=[]), "variants: got"),
    ("equal", lambda values: values["variants"][1].update(name="bf16"), "got the names .* expected each once"),
    ("equal", lambda values: values.update(bound=0.0), "bound: got 0.0"),
    ("equal", lambda values: values["stream"].update(budget_tokens=300), "got 400, expected the 300 of the budget"),
    ("equal", lambda values: _run(values)["curve"].pop(), "seed 1: tokens: got 300, expected the 400 of the budget"),
    ("equal", _changed_point(-1, tokens=395), "tokens: got 395, expected 400 as before"),
    ("equal", _changed_point(-1, tokens="400"), r"variants\.1\.runs\.0\.curve\.3\.tokens: got '400'"),
    ("equal", _changed_point(0, bits_per_byte=float("nan")), "bits_per_byte: got nan"),
    ("equal", _changed_point(0, bits_per_byte=0.0), "bits_per_byte: got 0.0"),
    ("equal", _changed_point(0, step=99), "got step 20 after step 99, expected steps, tokens and seconds to grow"),
    ("equal", _changed_point(0, seconds=99.0), "expected steps, tokens and seconds to grow"),
    ("equal", _changed_point(-1, joules=None), "joules: expected either joules or a reason"),
    ("equal", _changed_run(joules_reason="lost"), "joules: expected either joules or a reason"),
    ("equal", _changed_run(all_in_joules=10.0), "joules: got 240.0, expected at most all_in_joules = 10"),
    ("equal", _changed_run(fp8=None), "fp8: expected what became of the layers .* it is fp8"),
    ("equal", _changed_run(precision="bf16"), "fp8: expected .* it is bf16"),
    ("equal", _changed_run(curve=[]), "curve: got"),
    ("target", lambda values: values.update(target_bits_per_byte=0.0), "target_bits_per_byte: got 0.0"),
    ("target", lambda values: values.update(target_bits_per_byte=2.45), "2.4 before the end, expected the run to end"),
    ("target", lambda values: values.update(target_bits_per_byte=1.0), "got 1000, expected the 100000 of the budget"),
    ("corpus", _prepared(1, validation_hash="other"), "validation_hash: got several"),
    ("corpus", lambda values: _prepared(0, dropped=values["variants"][1]["prepared"]["dropped"])(values), "everything"),
    ("corpus", _prepared(1, train_documents=61), r"selected\.train_documents: got 61, expected 60"),
    ("corpus", lambda values: values["variants"][1]["prepared"]["dropped"][1].update(documents=64), "got 64 of clean"),
    ("corpus", lambda values: values["corpus"]["kinds"][1].update(kind="spam"), "36 of junk, expected at most 0"),
    ("corpus", lambda values: values.update(corpus=None), "prepared: expected it of every variant"),
]


@pytest.mark.parametrize(("made", "change", "message"), REFUSED, ids=[message for _, _, message in REFUSED])
def test_what_cannot_be_compared_is_refused(tmp_path: Path, made: str, change: Change, message: str) -> None:
    path = tmp_path / "record.json"
    MADE[made]().write(path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(RecordError, match=rf"record\.json is not a valid TrainingRecord record: .*{message}"):
        TrainingRecord.read(path)


def test_what_would_not_be_read_is_not_written(tmp_path: Path) -> None:
    found = equal_tokens()
    found.variants[1].runs[0].curve.pop()
    for write in (found.check, lambda: found.write(tmp_path / "record.json")):
        with pytest.raises(RecordError, match="expected the 400 of the budget"):
            write()
    assert not (tmp_path / "record.json").exists()


def test_variants_take_turns_and_every_second_seed_is_reversed() -> None:
    found = record(variant("one"), variant("two"), seeds=(1, 2, 3), budget=100)
    turns = [(each.name, seed, position) for each, seed, position in found.missing()]
    assert turns == [("one", 1, 0), ("two", 1, 1), ("two", 2, 0), ("one", 2, 1), ("one", 3, 0), ("two", 3, 1)]
    assert not found.complete
    assert equal_tokens().complete
