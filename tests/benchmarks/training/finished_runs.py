"""Run folders as train.py leaves them, with figures that are written by hand."""

from __future__ import annotations

import json
from pathlib import Path

from litespark.metrics import names
from litespark.run.record import (
    DataRecord,
    EnergyRecord,
    ModelRecord,
    ReachedRecord,
    RunRecord,
    TargetRecord,
    ThroughputRecord,
)
from tests.metrics.records.hand_made import make_record

# (step, tokens, train seconds, bits per byte)
Point = tuple[int, int, float, float]


def finished(
    *points: Point,
    manifest_hash: str,
    target: float | None = None,
    seed: int = 1,
    length: int = 32,
    watts: float | None = None,
) -> RunRecord:
    """The record of a run with these validations, which ends at the first that reaches the target."""
    step, tokens, seconds, bits = points[-1]
    joules = None if watts is None else watts * seconds
    reached = ReachedRecord(step, tokens, bits, seconds, joules, None if joules is None else 2 * joules)
    return make_record(
        seed=seed,
        status="finished",
        model=ModelRecord("tiny", 10, 8, 48.5, 50.0, length),
        data=DataRecord("text", manifest_hash, 256, 1000, 100, 3.5),
        throughput=ThroughputRecord(tokens=tokens),
        target=None if target is None else TargetRecord(target, reached if bits <= target else None),
        energy=EnergyRecord(
            method=None if watts is None else "counter",
            reason="no counter here" if watts is None else None,
            train_joules=joules,
            all_in_joules=None if joules is None else 3 * joules,
        ),
    )


def write_run(folder: Path, record: RunRecord, *points: Point, watts: float | None = None) -> Path:
    """Write a record and the rows of its validations, with a row of training between them."""
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder / "run.json")
    lines = []
    for step, tokens, seconds, bits in points:
        lines.append({"step": step - 1, names.PROGRESS_TOKENS: tokens - 1, names.TRAIN_LOSS: 3.0})
        row = {"step": step, names.PROGRESS_TOKENS: tokens, names.TRAIN_SECONDS: seconds}
        row[names.VALIDATION_BITS_PER_BYTE] = bits
        lines.append(row if watts is None else row | {names.TRAIN_JOULES: watts * seconds})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
