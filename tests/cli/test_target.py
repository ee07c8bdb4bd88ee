"""A run that ends at a target for its bits per byte, from the command line to run.json and a resume."""

import json

import pytest

from litespark.cli import main
from litespark.metrics import names
from litespark.run.record import RunRecord
from tests.cli.tiny_run import tiny

# reached within twenty of sixty steps on this text
TARGET = 2.5


def test_it_ends_at_the_first_validation_that_reaches_the_target_and_goes_on_to_a_lower_one(tmp_path, capsys):
    every = {"budget__steps": 60, "trainer__validate_every": 4, "trainer__log_every": 5, "optim__lr": "1e-2"}
    train = ["train", *tiny(tmp_path, **every, budget__target_bpb=TARGET)]
    assert main([*train, "name=ended"]) == 0
    run = tmp_path / "logs" / "runs" / "ended"
    record = RunRecord.read(run / "run.json")
    reached = record.target.reached
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    rows = {row["step"]: row for row in rows if names.VALIDATION_BITS_PER_BYTE in row}
    assert list(rows) == list(range(4, reached.step + 1, 4))
    *before, last = (row[names.VALIDATION_BITS_PER_BYTE] for row in rows.values())
    assert last <= TARGET < min(before)
    assert record.status == "finished"
    assert record.throughput.steps == record.segments[0].last_step == reached.step < 60
    assert reached.tokens == record.throughput.tokens == reached.step * 4 * 32
    assert reached.bits_per_byte == record.quality.bits_per_byte
    assert reached.train_seconds == rows[reached.step][names.TRAIN_SECONDS]
    # the moments between the last validation and the end are nobody's
    assert reached.train_seconds == pytest.approx(record.throughput.train_seconds, abs=0.2)
    assert (run / "checkpoints" / f"step-{reached.step:08d}").is_dir()
    step = reached.step
    assert main([*train, f"resume={run}"]) == 1
    assert f"bits per byte at step {step}; lower budget.target_bpb=2.5" in capsys.readouterr().err
    assert main([*train, "budget.target_bpb=2.0", f"resume={run}"]) == 0
    record = RunRecord.read(run / "run.json")
    assert record.target.bits_per_byte == 2.0
    assert record.target.reached.step > step
    assert [segment.reason for segment in record.segments] == ["start", "resume"]
