"""The figures of a finished run: its record, and its validations from `metrics.jsonl`."""

from pathlib import Path

from litespark.metrics import names
from litespark.metrics.records.base import RecordError, as_record_error
from litespark.metrics.records.training import TrainedRun, TrainedVariant, TrainingRecord, Validation
from litespark.run.folder import METRICS, RECORD
from litespark.run.metric_rows import read_metrics
from litespark.run.record import RunRecord


def read_run(folder: Path, record: TrainingRecord, variant: TrainedVariant, seed: int, position: int) -> TrainedRun:
    """The run in a folder, for its place in the record; RecordError where it cannot stand beside the others."""
    saved = RunRecord.read(folder / RECORD)
    curve = validations(folder)
    if not curve:
        raise RecordError(
            f"{folder / METRICS} holds no validation with bits per byte, expected at least the one at the end; "
            "data=synthetic has none, since its ids stand for no text"
        )
    end, target = curve[-1], saved.target
    reached = target.reached if target is not None else None
    expected = {
        "status": (saved.status, "finished"),
        "seed": (saved.seed, seed),
        "data.manifest_hash": (saved.data.manifest_hash, (variant.prepared or record.stream).manifest_hash),
        "model.seq_len": (saved.model.seq_len, record.stream.seq_len),
        "target.bits_per_byte": (None if target is None else target.bits_per_byte, record.target_bits_per_byte),
        "throughput.tokens": (saved.throughput.tokens, end.tokens),
        "target.reached.step": (end.step if reached is None else reached.step, end.step),
    }
    for name, (got, wanted) in expected.items():
        if got != wanted:
            place = f"{folder / RECORD}: {name}"
            raise RecordError(f"{place}: got {got!r}, expected {wanted!r}; it cannot stand beside the other runs")
    reason = None if end.joules is not None else saved.energy.reason or "the meter did not read all of the time"
    with as_record_error():
        return TrainedRun(
            seed=seed,
            position=position,
            precision=saved.environment.precision,
            curve=curve,
            all_in_joules=(saved.energy if reached is None else reached).all_in_joules,
            joules_method=None if end.joules is None else saved.energy.method,
            joules_reason=reason,
            skipped_steps=saved.quality.skipped_steps,
            fp8=saved.fp8,
            processes=len(saved.segments),
        )


def validations(folder: Path) -> list[Validation]:
    """Every validation that a run logged, in order; one that a resume repeated counts once, as it was done last."""
    values: dict[int, Validation] = {}
    for row in read_metrics(folder):
        bits = row.get(names.VALIDATION_BITS_PER_BYTE)
        if bits is None:
            continue
        with as_record_error():
            tokens, seconds = row[names.PROGRESS_TOKENS], row[names.TRAIN_SECONDS]
            values[row["step"]] = Validation(
                step=row["step"], tokens=tokens, seconds=seconds, bits_per_byte=bits, joules=row.get(names.TRAIN_JOULES)
            )
    return [values[step] for step in sorted(values)]
