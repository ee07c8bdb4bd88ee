"""What the run record says of fp8 survives a round trip, is checked, and may be absent from older records."""

import json

import pytest

from litespark.metrics.records.run import RecordError, RunRecord
from litespark.metrics.records.run_fp8 import Fp8MoveRecord, Fp8PlaceRecord, Fp8Record, Fp8SharesRecord
from tests.metrics.records.test_run import change, make_record

DOWN = "blocks.1.mlp.down"


def fp8_record(**changes) -> Fp8Record:
    """Two blocks of four layers, one of which moved to bf16."""
    values = {
        "recipe": "delayed",
        "gradients": "e5m2",
        "simulated": False,
        "backend": "triton",
        "kinds": ["qkv", "output", "gate_up", "down"],
        "layers": 2,
        "bf16_first": 0,
        "bf16_last": 0,
        "linears": 8,
        "in_fp8": 7,
        "fallback": "bf16",
        "overflow_bound": 0.001,
        "underflow_bound": 0.25,
        "readings": 5,
        "moved": [Fp8PlaceRecord(DOWN, "bf16")],
        "moves": [Fp8MoveRecord(30, DOWN, "delayed", "bf16", "overflow", 3, f"{DOWN}.input", 0.02, 0.001)],
        "shares": [Fp8SharesRecord(f"{DOWN}.input", 30, 0.02, 0.0, 0.03, 0.001)],
    }
    return Fp8Record(**(values | changes))


def test_a_record_of_a_run_in_fp8_reads_back_equal(tmp_path):
    record = make_record(fp8=fp8_record())
    record.write(tmp_path / "run.json")
    assert RunRecord.read(tmp_path / "run.json") == record


@pytest.mark.parametrize("number", [1, 2, 3])
def test_records_from_before_fp8_are_read_as_runs_without_it(number):
    later = {1: ("ops", "target", "fp8"), 2: ("target", "fp8"), 3: ("fp8",)}[number]
    values = {key: value for key, value in make_record().to_dict().items() if key not in later}
    found = RunRecord.from_dict({**values, "schema": f"litespark.run/{number}"})
    assert found == make_record()


def test_a_record_of_before_is_still_held_to_its_seal(tmp_path):
    """The third schema was the first with seals."""
    path = tmp_path / "run.json"
    values = make_record().to_dict()
    del values["fp8"]
    path.write_text(json.dumps({**values, "schema": "litespark.run/3"}))
    with pytest.raises(RecordError, match="seal: got None"):
        RunRecord.read(path)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("fp8.in_fp8", 8, r"fp8\.in_fp8: got 8, expected 8 linears but 1 that moved to bf16"),
        ("fp8.shares.0.overflow", 1.5, r"fp8\.shares\[0\]\.overflow: got 1.5, expected a share"),
        ("fp8.shares.0.underflow_highest", -0.1, r"fp8\.shares\[0\]\.underflow_highest: got -0.1"),
        ("fp8.moves.0.tensor", 3, r"fp8\.moves\[0\]\.tensor: got 3, expected a text"),
        ("fp8.recipe", ..., r"fp8\.recipe: missing"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_its_field(where, value, message):
    values = change(make_record(fp8=fp8_record()).to_dict(), where, value)
    with pytest.raises(RecordError, match=message):
        RunRecord.from_dict(values)
