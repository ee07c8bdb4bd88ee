"""The records of the loop and of the ops come back as they were written, and refuse figures that contradict them."""

import dataclasses
import json

import pytest

from litespark.metrics.records.loop import LoopRecord, LossPair
from litespark.metrics.records.ops import CaseRecord, OpsRecord, TimeRecord, VariantRecord, derived
from litespark.metrics.records.sealing import write_values
from litespark.metrics.records.strict_json import RecordError
from tests.metrics.records.test_run import make_record


def loop_record(**changes) -> LoopRecord:
    run = make_record()
    values = {
        "time": "2026-01-31T12:00:00+00:00",
        "git_commit": "c0ffee",
        "git_dirty": False,
        "overrides": [],
        "environment": dataclasses.replace(run.environment, precision="fp32"),
        "model": run.model,
        "data": "text",
        "rows_per_step": 4,
        "micro_batches_per_step": 1,
        "steps_per_block": 2,
        "trainer_step_ms": [1.0, 3.0, 4.0, 4.0],
        "bare_step_ms": [1.0, 1.0, 4.0, 1.0],
        "early": LossPair(2, 5.0, 5.0),
        "final": LossPair(4, 4.0, 4.0),
    }
    return LoopRecord(**(values | changes))


def ops_record() -> OpsRecord:
    case = CaseRecord("swiglu", "swiglu", "2 x 4", 1000, 2000, copy_bytes_per_second=1e6)
    variant = VariantRecord("reference", False, None, TimeRecord(2.0, 1.9, 2.1, 9), TimeRecord(6.0, 5.9, 6.1, 9))
    vars(variant).update(derived(case, variant))
    case.variants = [variant, VariantRecord("liger", True, reason="not installed")]
    run = make_record()
    return OpsRecord("2026-01-31T12:00:00+00:00", "c0ffee", False, "f" * 16, [], run.environment, "tiny", 2, 4, 1.0,
                     ["swiglu"], 1e6, [case], complete=True)  # fmt: skip


def test_both_read_back_equal(tmp_path):
    for record in (loop_record(), ops_record()):
        record.write(tmp_path / "record.json")
        assert type(record).read(tmp_path / "record.json") == record


def test_shares_follow_from_times_by_hand():
    # 1000 bytes in 2 ms are half of 1e6 bytes/s; so are 2000 bytes in 4 ms
    assert derived(ops_record().cases[0], ops_record().cases[0].variants[0]) == {
        "share_forward": pytest.approx(0.5),
        "share_backward": pytest.approx(0.5),
        "tflops": None,
        "tflops_forward": None,
        "tflops_backward": None,
    }
    case = CaseRecord("attention", "attention", "", None, None, 10**9, 3 * 10**9)
    variant = VariantRecord("sdpa", False, True, TimeRecord(1.0, 1.0, 1.0, 5), TimeRecord(4.0, 4.0, 4.0, 5))
    rates = {name: value for name, value in derived(case, variant).items() if value is not None}
    assert rates == pytest.approx({"tflops": 1.0, "tflops_forward": 1.0, "tflops_backward": 1.0})


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"bare_step_ms": [1.0, 1.0, 4.0]}, "bare_step_ms: got '3 times'"),
        (
            {"bare_step_ms": [1.0, 1.0, 4.0, 0.0]},
            "bare_step_ms: got '4 times', expected 4 times, at least one, above 0",
        ),
        (
            {"environment": make_record().environment},
            "environment.precision: got '32-true', expected one of fp32, bf16",
        ),
        ({"steps_per_block": 3}, "steps_per_block: got 3, expected a divisor of 4 steps"),
    ],
)
def test_a_loop_record_that_contradicts_itself_is_refused_under_a_right_seal(tmp_path, changes, complaint):
    loop_record(**changes).write(tmp_path / "loop.json")
    with pytest.raises(RecordError, match=rf"loop\.json is not a valid litespark\.bench\.loop/2 record: {complaint}"):
        LoopRecord.read(tmp_path / "loop.json")


def test_an_ops_record_whose_share_does_not_follow_from_its_times_is_refused_under_a_right_seal(tmp_path):
    record = ops_record()
    record.cases[0].variants[0].share_forward = 0.9
    record.write(tmp_path / "ops.json")
    complaint = r"ops\.json .*cases\.swiglu\.variants\.reference\.share_forward: got 0\.9, expected 0\.5"
    with pytest.raises(RecordError, match=complaint):
        OpsRecord.read(tmp_path / "ops.json")
    record = ops_record()
    record.ops.append("rope")
    record.write(tmp_path / "ops.json")
    with pytest.raises(RecordError, match="complete: got True, expected a case of each of swiglu, rope"):
        OpsRecord.read(tmp_path / "ops.json")


def test_a_changed_digit_breaks_both_seals(tmp_path):
    for record in (loop_record(), ops_record()):
        path = tmp_path / "record.json"
        record.write(path)
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "git_commit": "decaf"}))
        with pytest.raises(RecordError, match="seal: got"):
            type(record).read(path)


def test_a_record_of_another_schema_is_refused(tmp_path):
    write_values({"schema": "litespark.bench.loop/9"}, tmp_path / "x.json")
    with pytest.raises(RecordError, match=r"got 'litespark.bench.loop/9', expected 'litespark.bench.loop/2'"):
        LoopRecord.read(tmp_path / "x.json")
