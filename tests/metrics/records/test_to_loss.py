"""The record of to-loss survives a round trip and is refused where it was changed or contradicts itself."""

import json
from dataclasses import replace

import pytest

from litespark.metrics.records.sealing import seal_of
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.to_loss import SCHEMA, ToLossRecord
from litespark.metrics.records.training_runs import RunFailure
from tests.metrics.to_loss_records import record, run, two_seeds


def test_a_written_record_reads_back_equal(tmp_path):
    found = two_seeds()
    found.variants[1].failures.append(RunFailure(2, "out of memory"))
    found.write(tmp_path / "record.json")
    assert ToLossRecord.read(tmp_path / "record.json") == found
    assert json.loads((tmp_path / "record.json").read_text())["schema"] == SCHEMA


def test_a_change_by_hand_is_refused(tmp_path):
    path = tmp_path / "record.json"
    two_seeds().write(path)
    path.write_text(path.read_text().replace('"train_seconds": 30.0', '"train_seconds": 3.0'))
    with pytest.raises(RecordError, match=r"record\.json.*seal"):
        ToLossRecord.read(path)


CONTRADICTIONS = {
    r"variants\.ours\.runs\[seed 1\]\.reached: got False": ("reached", False),
    r"tokens: got 400, expected 500 as the curve": ("tokens", 400),
    r"step: got 7, expected 50": ("step", 7),
    r"train_seconds: got 3\.0, expected 10": ("train_seconds", 3.0),
    r"best_bits_per_byte: got 1\.5, expected 1\.8": ("best_bits_per_byte", 1.5),
    r"final_bits_per_byte: got 1\.5": ("final_bits_per_byte", 1.5),
    r"joules: got 1\.0, expected 1500": ("joules", 1.0),
    r"joules: expected either joules or a reason": ("joules_reason", "lost"),
    r"joules: got 1500.*at most all_in_joules = 10": ("all_in_joules", 10.0),
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
    with pytest.raises(RecordError, match=message):
        ToLossRecord.read(path)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(100, 1.0, 1.9), (200, 2.0, 1.8)], "1.9 before the end, expected the run to end"),
        ([(200, 1.0, 3.0), (100, 2.0, 1.8)], "step 10 after step 20"),
        ([(100, 2.0, 3.0), (200, 1.0, 1.8)], "expected steps, tokens and seconds to grow"),
        ([(0, 0.0, 3.0), (200, 1.0, 1.8)], "tokens, seconds and bits per byte above 0"),
    ],
)
def test_a_curve_that_cannot_be_is_refused(points, message):
    found = two_seeds()
    found.variants[0].runs[0] = run(1, *points)
    with pytest.raises(RecordError, match=message):
        found.check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"complete": False}, "complete: got False"),
        ({"seeds": [1, 2, 3]}, "complete: got True"),
        ({"seeds": [1]}, r"variants\.reference\.runs: got the seeds \[1, 2\], expected some of \[1\]"),
        ({"seeds": []}, "seeds: got"),
        ({"variants": []}, "variants: got the names"),
        ({"target_bits_per_byte": 0.0}, "target_bits_per_byte"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(RecordError, match=message):
        replace(two_seeds(), **changes).check()


def test_names_and_seeds_stand_once():
    found = two_seeds()
    found.variants[1].name = "reference"
    with pytest.raises(RecordError, match="expected at least one and each once"):
        found.check()
    found = two_seeds()
    found.variants[0].runs[1].seed = 1
    with pytest.raises(RecordError):
        found.check()


def test_variants_take_turns_and_every_second_seed_is_reversed():
    found = record(*two_seeds().variants, seeds=(1, 2, 3))
    for variant in found.variants:
        variant.runs.clear()
    turns = [(variant.name, seed, position) for variant, seed, position in found.missing()]
    assert turns == [
        ("reference", 1, 0), ("ours", 1, 1), ("ours", 2, 0), ("reference", 2, 1), ("reference", 3, 0), ("ours", 3, 1)
    ]  # fmt: skip
