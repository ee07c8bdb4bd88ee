"""What a finished run tells: its record, and its validations from `metrics.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from litespark.benchmarks.training_runs.launch import RECORD_FILE
from litespark.metrics import names
from litespark.metrics.records.run import RunRecord
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.training_runs import CurvePoint

METRICS_FILE = "metrics.jsonl"


def require_equal(folder: Path, values: Mapping[str, tuple[object, object]]) -> None:
    """Raise RecordError where a value of the run's record, (got, expected) by name, is not the expected one."""
    for name, (got, expected) in values.items():
        if got != expected:
            raise RecordError(
                f"{folder / RECORD_FILE}: {name}: got {got!r}, expected {expected!r}; its figures cannot stand beside "
                "those of the other runs"
            )


def read_finished(folder: Path, *, seed: int, manifest_hash: str) -> tuple[RunRecord, list[CurvePoint]]:
    """The record and the validations, at least one, of a run.

    Args:
        folder: of the run.
        seed: that it was to be trained with.
        manifest_hash: of the data that it was to read.

    Raises:
        RecordError: the run is not finished, has another seed or other data, or no validation.
    """
    record = RunRecord.read(folder / RECORD_FILE)
    expected = {
        "status": (record.status, "finished"),
        "seed": (record.seed, seed),
        "data.manifest_hash": (record.data.manifest_hash, manifest_hash),
    }
    require_equal(folder, expected)
    points = curve(folder)
    if not points:
        raise RecordError(
            f"{folder / METRICS_FILE} holds no validation with bits per byte, expected at least the one at the end; "
            "data=synthetic has none, since its ids stand for no text"
        )
    return record, points


def joules_of(record: RunRecord, last: CurvePoint) -> tuple[float | None, str | None, str | None]:
    """(train joules up to a validation, how they were read, why there are none) of a run."""
    if last.joules is not None:
        return last.joules, record.energy.method, None
    return None, None, record.energy.reason or "the meter did not read all of the time"


def curve(folder: Path) -> list[CurvePoint]:
    """Every validation that a run logged, in order; one that a resume repeated counts once, as it was done last."""
    found: dict[int, CurvePoint] = {}
    for line in (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        bits = row.get(names.VALIDATION_BITS_PER_BYTE)
        if bits is None or not math.isfinite(bits):
            continue
        found[row["step"]] = CurvePoint(
            step=row["step"],
            tokens=row[names.PROGRESS_TOKENS],
            seconds=row[names.TRAIN_SECONDS],
            bits_per_byte=bits,
            joules=row.get(names.TRAIN_JOULES),
        )
    return [found[step] for step in sorted(found)]
