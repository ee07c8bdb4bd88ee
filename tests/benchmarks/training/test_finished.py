"""What a finished run folder tells, and which folders are not believed."""

from dataclasses import replace

import pytest

from litespark.benchmarks.training.finished import read_run
from litespark.metrics.records.base import RecordError
from litespark.run.record import SegmentRecord, ThroughputRecord
from tests.benchmarks.training.sessions import finished, write_run
from tests.metrics.training_records import record, variant

REACHED = ((10, 1000, 5.0, 2.5), (20, 2000, 10.0, 1.9))


def read(folder, points=REACHED, *, target=2.0, found=None, watts=None, **changes):
    """The run of a folder with `found`, or a record of these points, for a benchmark with the target 2.0 or none."""
    found = found or finished(*points, target=target, manifest_hash="hash", watts=watts)
    for name, value in changes.items():
        setattr(found, name, value)
    wanted = None if target is None else 2.0
    benchmark = record(variant("ours"), variant("other"), budget=2000, target_bits_per_byte=wanted)
    benchmark.stream = replace(benchmark.stream, seq_len=32)
    write_run(folder, found, *points, watts=watts)
    return read_run(folder, benchmark, benchmark.variants[0], seed=1, position=3)


def test_a_run_tells_what_its_curve_took_and_how_it_went(tmp_path):
    segment = SegmentRecord("2026-01-31T12:00:00+00:00", 0)
    run = read(tmp_path, watts=50.0, segments=[segment, replace(segment, first_step=5)])
    assert (run.seed, run.position, run.processes) == (1, 3, 2)
    # all that was used up to the target, not up to the end of the process
    assert (run.all_in_joules, run.joules_method, run.joules_reason) == (1000.0, "counter", None)
    assert [(each.step, each.tokens, each.seconds, each.bits_per_byte, each.joules) for each in run.curve] == [
        (10, 1000, 5.0, 2.5, 250.0),
        (20, 2000, 10.0, 1.9, 500.0),
    ]
    assert read(tmp_path, target=None, watts=50.0).all_in_joules == 1500.0


def test_a_run_that_missed_its_target_tells_its_best_and_why_there_are_no_joules(tmp_path):
    """A validation counts once, as it was done last; one without bits is none."""
    run = read(tmp_path, ((10, 1000, 5.0, 2.1), (10, 1000, 5.5, 2.2), (15, 1500, 7.5, None), (20, 2000, 10.0, 2.4)))
    assert [(each.step, each.seconds, each.bits_per_byte) for each in run.curve] == [(10, 5.5, 2.2), (20, 10.0, 2.4)]
    assert (run.best_bits_per_byte, run.end.bits_per_byte, run.end.joules) == (2.2, 2.4, None)
    assert (run.all_in_joules, run.joules_reason) == (None, "no counter here")


EARLY = ((10, 2000, 5.0, 1.9),)


@pytest.mark.parametrize(
    ("points", "found", "message"),
    [
        (REACHED, {"manifest_hash": "other"}, r"data\.manifest_hash: got 'other', expected 'hash'.*cannot stand"),
        (REACHED, {"seed": 2}, "seed: got 2, expected 1"),
        (REACHED, {"length": 64}, "model.seq_len: got 64, expected 32"),
        (REACHED, {"target": None}, r"target\.bits_per_byte: got None, expected 2\.0"),
        (REACHED, {"status": "running"}, "status: got 'running', expected 'finished'"),
        (REACHED, {"throughput": ThroughputRecord(tokens=3000)}, "throughput.tokens: got 3000, expected 2000"),
        (REACHED, {"of": EARLY}, r"target\.reached\.step: got 10, expected 20"),
        ((), {"of": EARLY}, "holds no validation"),
        (((10, 1000, -1.0, 2.5), REACHED[1]), {}, r"seconds: got -1\.0"),
    ],
)
def test_a_run_of_something_else_or_whose_files_contradict_each_other_is_refused(tmp_path, points, found, message):
    made = {"target": 2.0, "manifest_hash": "hash"} | found
    after = {name: made.pop(name) for name in ("status", "throughput") if name in made}
    with pytest.raises(RecordError, match=message):
        read(tmp_path, points, found=finished(*made.pop("of", points), **made), **after)
