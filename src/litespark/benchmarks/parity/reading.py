"""What a finished run learned from its tokens."""

from __future__ import annotations

from pathlib import Path

from litespark.benchmarks.training_runs.finished import joules_of, read_finished, require_equal
from litespark.metrics.records.parity import ParityRun
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.training_runs import TrainedStream, spends


def read_run(folder: Path, *, seed: int, position: int, stream: TrainedStream) -> ParityRun:
    """The run in a folder.

    Args:
        folder: of the run, which has finished.
        seed, position: which run of the benchmark it is.
        stream: what it was to read, to the last token.

    Raises:
        RecordError: the run is not finished, was trained on other data, with another seed or on fewer tokens.
    """
    record, points = read_finished(folder, seed=seed, manifest_hash=stream.manifest_hash)
    last = points[-1]
    expected = {
        "model.sequence_length": (record.model.sequence_length, stream.sequence_length),
        "tokens of the last validation": (last.tokens, record.throughput.tokens),
    }
    require_equal(folder, expected)
    if not spends(last.tokens, stream.budget_tokens, stream.batch_rows * stream.sequence_length):
        raise RecordError(f"{folder}: got {last.tokens} tokens, expected the {stream.budget_tokens} of the budget")
    joules, method, reason = joules_of(record, last)
    return ParityRun(
        seed=seed,
        position=position,
        precision=record.environment.precision,
        tokens=last.tokens,
        train_seconds=last.seconds,
        bits_per_byte=last.bits_per_byte,
        joules=joules,
        joules_method=method,
        joules_reason=reason,
        skipped_steps=record.quality.skipped_steps,
        fp8=record.fp8,
        processes=len(record.segments),
        curve=points,
    )
