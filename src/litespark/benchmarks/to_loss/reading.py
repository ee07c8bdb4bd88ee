"""What a finished run tells: its validations from `metrics.jsonl`, the rest from `run.json`."""

from __future__ import annotations

import json
import math
from pathlib import Path

from litespark.benchmarks.to_loss.training import RECORD_FILE
from litespark.metrics import names
from litespark.metrics.records.run import RunRecord
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.to_loss import CurvePoint, ToLossRun, ToLossStream

METRICS_FILE = "metrics.jsonl"


def read_run(folder: Path, *, seed: int, position: int, target: float, stream: ToLossStream) -> ToLossRun:
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
    record = RunRecord.read(folder / RECORD_FILE)
    expected = {
        "status": (record.status, "finished"),
        "seed": (record.seed, seed),
        "data.manifest_hash": (record.data.manifest_hash, stream.manifest_hash),
        "model.sequence_length": (record.model.sequence_length, stream.sequence_length),
        "target.bits_per_byte": (None if record.target is None else record.target.bits_per_byte, target),
    }
    for name, (got, wanted) in expected.items():
        if got != wanted:
            raise RecordError(
                f"{folder / RECORD_FILE}: {name}: got {got!r}, expected {wanted!r}; its figures cannot stand beside "
                "those of runs on that stream"
            )
    points = curve(folder)
    if not points:
        raise RecordError(f"{folder / METRICS_FILE} holds no validation, expected at least the one at the end")
    last = points[-1]
    reached = record.target.reached if record.target is not None else None
    if reached is not None and (reached.step, reached.tokens) != (last.step, last.tokens):
        raise RecordError(
            f"{folder / RECORD_FILE}: target.reached: got step {reached.step}, expected {last.step}, that of the last "
            f"validation in {METRICS_FILE}"
        )
    energy = record.energy
    return ToLossRun(
        seed=seed,
        position=position,
        reached=reached is not None,
        step=last.step,
        tokens=last.tokens,
        train_seconds=last.seconds,
        best_bits_per_byte=min(each.bits_per_byte for each in points),
        final_bits_per_byte=last.bits_per_byte,
        joules=last.joules,
        all_in_joules=energy.all_in_joules if reached is None else reached.all_in_joules,
        joules_method=energy.method if last.joules is not None else None,
        joules_reason=None if last.joules is not None else energy.reason or "the meter did not read all of the time",
        processes=len(record.segments),
        curve=points,
    )


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
