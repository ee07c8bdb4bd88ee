"""What a finished run folder tells, and which folders are not believed."""

from dataclasses import replace

import pytest

from litespark.benchmarks.to_loss.reading import read_run
from litespark.metrics.records.run import SegmentRecord
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.training_runs import TrainedStream
from tests.benchmarks.to_loss.finished_runs import finished, write_run

STREAM = TrainedStream("text", "hash", 32, 4, 8, 10, 100_000)
REACHED = ((10, 1000, 5.0, 2.5), (20, 2000, 10.0, 1.9))
MISSED = ((10, 1000, 5.0, 2.2), (20, 2000, 10.0, 2.4))


def found(folder, points, *, record=None, watts=None, **changes):
    record = record or finished(*points, target=2.0, manifest_hash="hash", watts=watts)
    for name, value in changes.items():
        setattr(record, name, value)
    return read_run(
        write_run(folder, record, *points, watts=watts), seed=1, position=3, target=2.0, stream=STREAM
    )  # fmt: skip


def test_a_run_that_reached_the_target_tells_what_that_took(tmp_path):
    run = found(tmp_path, REACHED, watts=50.0)
    assert (run.seed, run.position, run.reached, run.processes) == (1, 3, True, 1)
    assert (run.step, run.tokens, run.train_seconds, run.joules) == (20, 2000, 10.0, 500.0)
    assert (run.best_bits_per_byte, run.final_bits_per_byte) == (1.9, 1.9)
    # all that was used up to there, not up to the end of the process
    assert (run.all_in_joules, run.joules_method, run.joules_reason) == (1000.0, "counter", None)
    assert [(each.step, each.tokens, each.seconds, each.joules) for each in run.curve] == [
        (10, 1000, 5.0, 250.0), (20, 2000, 10.0, 500.0)
    ]  # fmt: skip


def test_a_run_that_missed_it_tells_its_best_and_what_it_spent(tmp_path):
    run = found(tmp_path, MISSED)
    assert (run.reached, run.best_bits_per_byte, run.final_bits_per_byte) == (False, 2.2, 2.4)
    assert (run.tokens, run.train_seconds) == (2000, 10.0)
    assert (run.joules, run.all_in_joules, run.joules_reason) == (None, None, "no counter here")


def test_processes_are_counted(tmp_path):
    segment = SegmentRecord("2026-01-31T12:00:00+00:00", 0)
    assert found(tmp_path, REACHED, segments=[segment, replace(segment, first_step=5)]).processes == 2


def test_a_validation_that_was_repeated_counts_once_as_it_was_done_last(tmp_path):
    points = (REACHED[0], (10, 1000, 5.5, 2.4), REACHED[1])
    run = found(tmp_path, points)
    assert [(each.step, each.seconds, each.bits_per_byte) for each in run.curve] == [(10, 5.5, 2.4), (20, 10.0, 1.9)]


def test_a_validation_that_came_to_nothing_is_no_point(tmp_path):
    run = found(tmp_path, (REACHED[0], (15, 1500, 7.5, float("nan")), REACHED[1]))
    assert [each.step for each in run.curve] == [10, 20]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"manifest_hash": "other"}, r"data\.manifest_hash: got 'other', expected 'hash'"),
        ({"seed": 2}, "seed: got 2, expected 1"),
        ({"length": 64}, "model.sequence_length: got 64, expected 32"),
        ({"target": 1.95}, r"target\.bits_per_byte: got 1\.95, expected 2\.0"),
    ],
)
def test_a_run_on_another_stream_is_refused(tmp_path, changes, message):
    record = finished(*REACHED, **({"target": 2.0, "manifest_hash": "hash"} | changes))
    with pytest.raises(RecordError, match=f"{message}.*cannot stand beside"):
        found(tmp_path, REACHED, record=record)


def test_a_run_without_an_end_or_without_validations_is_refused(tmp_path):
    with pytest.raises(RecordError, match="status: got 'running', expected 'finished'"):
        found(tmp_path / "a", REACHED, status="running")
    record = finished(*REACHED, target=2.0, manifest_hash="hash")
    with pytest.raises(RecordError, match="holds no validation"):
        read_run(write_run(tmp_path / "b", record), seed=1, position=0, target=2.0, stream=STREAM)


def test_a_record_that_reached_it_elsewhere_than_its_metrics_is_refused(tmp_path):
    record = finished((10, 1000, 5.0, 1.9), target=2.0, manifest_hash="hash")
    with pytest.raises(RecordError, match=r"target\.reached: got step 10, expected 20"):
        found(tmp_path, REACHED, record=record)
