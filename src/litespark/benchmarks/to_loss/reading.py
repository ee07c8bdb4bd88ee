"""What a finished run took to the target."""

from __future__ import annotations

from pathlib import Path

from litespark.benchmarks.training_runs.finished import METRICS_FILE, joules_of, read_finished, require_equal
from litespark.benchmarks.training_runs.launch import RECORD_FILE
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.to_loss import ToLossRun
from litespark.metrics.records.training_runs import TrainedStream


def read_run(folder: Path, *, seed: int, position: int, target: float, stream: TrainedStream) -> ToLossRun:
    """The run in a folder.

    Args:
        folder: of the run, which has finished.
        seed, position: which run of the benchmark it is.
        target: bits per byte that it was to reach.
        stream: what it was to read.

    Raises:
        RecordError: the run is not finished, was trained on other data, with another seed or to another target, or its
            files contradict each other.
    """
    record, points = read_finished(folder, seed=seed, manifest_hash=stream.manifest_hash)
    expected = {
        "model.sequence_length": (record.model.sequence_length, stream.sequence_length),
        "target.bits_per_byte": (None if record.target is None else record.target.bits_per_byte, target),
    }
    require_equal(folder, expected)
    last = points[-1]
    reached = record.target.reached if record.target is not None else None
    if reached is not None and (reached.step, reached.tokens) != (last.step, last.tokens):
        raise RecordError(
            f"{folder / RECORD_FILE}: target.reached: got step {reached.step}, expected {last.step}, that of the last "
            f"validation in {METRICS_FILE}"
        )
    joules, method, reason = joules_of(record, last)
    return ToLossRun(
        seed=seed,
        position=position,
        reached=reached is not None,
        step=last.step,
        tokens=last.tokens,
        train_seconds=last.seconds,
        best_bits_per_byte=min(each.bits_per_byte for each in points),
        final_bits_per_byte=last.bits_per_byte,
        joules=joules,
        all_in_joules=record.energy.all_in_joules if reached is None else reached.all_in_joules,
        joules_method=method,
        joules_reason=reason,
        processes=len(record.segments),
        curve=points,
    )
