"""The record of the selection benchmark survives a round trip, and is refused where it contradicts itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litespark.metrics.records.ledger import read_record
from litespark.metrics.records.sealing import seal_of
from litespark.metrics.records.selection import SCHEMA, SelectionRecord
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.training_runs import RunFailure
from tests.metrics.selection_records import two_seeds


def test_a_written_record_reads_back_equal_and_the_ledger_knows_it(tmp_path: Path) -> None:
    found = two_seeds()
    found.variants[1].failures.append(RunFailure(2, "out of memory"))
    found.write(tmp_path / "record.json")
    assert SelectionRecord.read(tmp_path / "record.json") == found == read_record(tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text())["schema"] == SCHEMA


def test_a_change_by_hand_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    two_seeds().write(path)
    path.write_text(path.read_text().replace('"bits_per_byte": 1.9', '"bits_per_byte": 1.0'))
    with pytest.raises(RecordError, match=r"record\.json.*seal"):
        SelectionRecord.read(path)


def _run(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = values["variants"][1]["runs"][0]
    return found


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "variants: got the names": lambda values: values["variants"].pop(),
    r"seeds: got \[\]": lambda values: values.update(seeds=[]),
    "validation_hash: got several": lambda values: values["variants"][1].update(validation_hash="other"),
    r"variants\.all\.left_out: got rules": lambda values: values["variants"][0].update(
        left_out=values["variants"][1]["left_out"]
    ),
    "complete: got True": lambda values: values["variants"][1]["runs"].pop(),
    r"left_out: got 64 of clean, expected at most 60": lambda values: values["variants"][1]["left_out"][1].update(
        documents=64
    ),
    r"left_out: got spam, expected kinds": lambda values: values["variants"][1]["left_out"][0].update(kind="spam"),
    r"train_documents: got 61, expected 60": lambda values: values["variants"][1].update(train_documents=61),
    r"runs: got the seeds \[3, 2\]": lambda values: (_run(values).update(seed=3), values.update(complete=False)),
    r"runs\[seed 1\]\.tokens: got 900, expected 1000": lambda values: _run(values).update(tokens=900),
    r"curve\.tokens: got 900, expected 1000": lambda values: _run(values)["curve"][-1].update(tokens=900),
    r"train_seconds: got 3\.0, expected 100": lambda values: _run(values).update(train_seconds=3.0),
    r"bits_per_byte: got 1\.0, expected 2\.0": lambda values: _run(values).update(bits_per_byte=1.0),
    r"joules: got 1\.0, expected 1000": lambda values: _run(values).update(joules=1.0),
    r"joules: expected either joules or a reason": lambda values: _run(values).update(joules_reason="lost"),
    r"curve: got no validation": lambda values: _run(values).update(curve=[]),
    r"curve: got step 50 after step 100": lambda values: _run(values)["curve"].reverse(),
    r"curve: expected tokens, seconds and bits": lambda values: _run(values)["curve"][0].update(bits_per_byte=0.0),
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_a_contradiction_is_refused_also_under_a_new_seal(tmp_path: Path, message: str) -> None:
    path = tmp_path / "record.json"
    two_seeds().write(path)
    values = json.loads(path.read_text())
    CONTRADICTIONS[message](values)
    path.write_text(json.dumps(values | {"seal": seal_of(values)}))
    with pytest.raises(RecordError, match=message):
        SelectionRecord.read(path)
