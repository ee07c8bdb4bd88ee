"""The record of parity survives a round trip and is refused where it was changed or contradicts itself."""

import json
from dataclasses import asdict

import pytest

from litespark.metrics.records.ledger import read_record
from litespark.metrics.records.parity import SCHEMA, ParityRecord
from litespark.metrics.records.sealing import seal_of
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.training_runs import RunFailure
from tests.metrics.parity_records import fp8_state, two_seeds


def test_a_written_record_reads_back_equal(tmp_path):
    found = two_seeds()
    found.variants[1].failures.append(RunFailure(2, "out of memory"))
    found.write(tmp_path / "record.json")
    assert ParityRecord.read(tmp_path / "record.json") == found == read_record(tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text())["schema"] == SCHEMA


CONTRADICTIONS = {
    r"tokens: got 300, expected 400 as the curve has it": ("tokens", 300),
    r"train_seconds: got 3\.0, expected 20": ("train_seconds", 3.0),
    r"bits_per_byte: got 0\.9, expected 1\.004": ("bits_per_byte", 0.9),
    r"joules: got 1\.0, expected 24": ("joules", 1.0),
    r"joules: expected either joules or a reason": ("joules_reason", "lost"),
    r"fp8: expected what became of the layers .* it is fp8": ("fp8", None),
    r"fp8: expected .* it is bf16": ("precision", "bf16"),
    r"curve: got no validation": ("curve", []),
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_a_run_that_contradicts_itself_is_refused_also_under_a_new_seal(tmp_path, message):
    path = tmp_path / "record.json"
    two_seeds().write(path)
    values = json.loads(path.read_text())
    field, value = CONTRADICTIONS[message]
    values["variants"][1]["runs"][0][field] = value
    path.write_text(json.dumps(values | {"seal": seal_of(values)}))
    with pytest.raises(RecordError, match=rf"variants\.fp8\.runs\[seed 1\]\.{message}"):
        ParityRecord.read(path)


def test_runs_of_other_lengths_are_no_parity():
    found = two_seeds()
    found.variants[1].runs[0].curve.pop()
    shorter = found.variants[1].runs[0]
    last = shorter.curve[-1]
    shorter.tokens, shorter.train_seconds, shorter.bits_per_byte = last.tokens, last.seconds, last.bits_per_byte
    shorter.joules = last.joules
    with pytest.raises(RecordError, match="tokens: got 300, expected 400 as in the runs before"):
        found.check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bound": 0.0}, "bound: got 0.0, expected a share"),
        ({"complete": False}, "complete: got False"),
        ({"seeds": [1]}, r"variants\.bf16\.runs: got the seeds \[1, 2\]"),
        ({"variants": []}, "variants: got the names"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(changes, message):
    found = two_seeds()
    for name, value in changes.items():
        setattr(found, name, value)
    with pytest.raises(RecordError, match=message):
        found.check()


def test_the_state_of_fp8_is_kept_whole(tmp_path):
    two_seeds().write(tmp_path / "record.json")
    state = ParityRecord.read(tmp_path / "record.json").variants[1].runs[0].fp8
    assert state is not None
    assert asdict(state) == asdict(fp8_state())
