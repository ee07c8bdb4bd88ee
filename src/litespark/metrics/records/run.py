"""The run record ``run.json``: what was run, where, and what was measured, as dataclasses with a strict JSON form.

``None`` (null in the file) means "not measured"; 0 is a measurement. Reading checks every field: a missing or unknown
key, or a value of the wrong type, is a ``ValueError`` that names the field. Writing is atomic, so that a reader never
sees half a record, and sealed (``sealing``), so that a reader sees a change by hand.
"""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from litespark.metrics.records.run_fp8 import Fp8Record, check_fp8
from litespark.metrics.records.run_ops import OpRecord
from litespark.metrics.records.run_target import TargetRecord
from litespark.metrics.records.sealing import SEAL, check_seal, naming, read_values, write_values
from litespark.metrics.records.strict_json import RecordError, decode, encode, wrong

SCHEMA = "litespark.run/5"
_OF_PRETRAINING: dict[str, Any] = {"loss_unit": "nats/token", "task_metrics": []}
# schema -> the fields that came after it, as a record without them is read
_LATER_FIELDS: dict[str, dict[str, Any]] = {
    "litespark.run/1": {"ops": [], "target": None, "fp8": None, **_OF_PRETRAINING},
    "litespark.run/2": {"target": None, "fp8": None, **_OF_PRETRAINING},
    "litespark.run/3": {"fp8": None, **_OF_PRETRAINING},
    "litespark.run/4": _OF_PRETRAINING,
}
_WITHOUT_SEAL = ("litespark.run/1", "litespark.run/2")

Status = Literal["running", "finished", "interrupted", "failed"]


@dataclass
class ModelRecord:
    """The model's size and its FLOPs per token (forward and backward, no recompute) in both attention conventions."""

    name: str
    parameters: int
    matmul_parameters: int
    flops_per_token_causal: float
    flops_per_token_full: float
    seq_len: int


@dataclass
class DataRecord:
    """The prepared data set; entropy in nats per token, the floor that a model must beat to have learned context.

    It is None for a task whose loss is not that of text.
    """

    name: str
    manifest_hash: str
    vocab_size: int
    train_tokens: int
    validation_tokens: int
    unigram_entropy: float | None
    unigram_bits_per_byte: float | None = None


@dataclass
class DeviceRecord:
    """One device in use; the UUID only as a hash, enough to tell two devices apart."""

    name: str
    uuid_hash: str | None = None
    power_limit_watts: float | None = None


@dataclass
class EnvironmentRecord:
    """Versions and hardware of the run."""

    python: str
    torch: str
    platform: str
    cpu: str
    world_size: int
    precision: str
    triton: str | None = None
    lightning: str | None = None
    litdata: str | None = None
    devices: list[DeviceRecord] = field(default_factory=list)
    driver: str | None = None


@dataclass
class ThroughputRecord:
    """Speed over the whole run, all ranks together; shares and utilisations are fractions, peaks FLOP/s per device."""

    tokens: int = 0
    steps: int = 0
    train_seconds: float = 0.0
    tokens_per_second: float | None = None
    step_ms_median: float | None = None
    step_ms_p95: float | None = None
    data_wait_share: float | None = None
    mfu_causal: float | None = None
    mfu_full: float | None = None
    hfu_causal: float | None = None
    mfu_measured_peak: float | None = None
    peak_flops: float | None = None
    peak_source: str | None = None
    measured_peak_flops: float | None = None
    peak_memory_gib: float | None = None


@dataclass
class PhaseJoules:
    """Joules of each ledger; idle holds start-up as well."""

    train: float | None = None
    evaluate: float | None = None
    checkpoint: float | None = None
    idle: float | None = None


@dataclass
class EnergyRecord:
    """Energy of the run: train-only and all-in, how it was read, and the reason when it was not."""

    label: str = "energy"
    method: str | None = None
    reason: str | None = None
    coverage: float | None = None
    train_joules: float | None = None
    all_in_joules: float | None = None
    phases: PhaseJoules = field(default_factory=PhaseJoules)
    joules_per_token_train: float | None = None
    joules_per_token_all_in: float | None = None
    average_power_watts: float | None = None
    tokens_per_second_per_watt: float | None = None
    dropped_readings: int = 0


@dataclass
class ProjectionSettings:
    """What the user told us about price, grid and building; nothing is assumed where nothing was told."""

    price_per_kwh: float | None = None
    grid_kg_per_kwh: float | None = None
    pue: float | None = None


@dataclass
class ProjectionRecord:
    """The measured rates carried on to the token target."""

    target_tokens: int | None = None
    hours: float | None = None
    kwh: float | None = None
    cost: float | None = None
    currency: str | None = None
    co2e_kg: float | None = None
    settings: ProjectionSettings = field(default_factory=ProjectionSettings)


@dataclass
class QualityRecord:
    """What the model learned; losses in the run's ``loss_unit``, the sample a text the model generated."""

    train_loss: float | None = None
    validation_loss: float | None = None
    perplexity: float | None = None
    bits_per_byte: float | None = None
    token_accuracy: float | None = None
    skipped_steps: int = 0
    sample: str | None = None


@dataclass
class TaskMetric:
    """What the last validation of a task measured beside ``QualityRecord``."""

    name: str
    value: float | None


@dataclass
class SegmentRecord:
    """One stretch from a start or resume to its end; ``reason`` says why it began or ended, in the run's own words.

    ``command``, ``git_commit`` and ``world_size`` are those of this stretch: a resume may be another program on other
    devices than the start that the record itself describes.
    """

    started: str
    first_step: int
    ended: str | None = None
    last_step: int | None = None
    reason: str = "start"
    command: list[str] = field(default_factory=list)
    git_commit: str | None = None
    world_size: int | None = None


@dataclass
class RunRecord:
    """The whole of ``run.json``; times are ISO 8601 in UTC, ``fp8`` is null in a run without.

    ``loss_unit`` is that of losses, and ``task_metrics`` are the metrics that only the task of the run has.
    """

    name: str
    task: str
    started: str
    command: list[str]
    config_hash: str
    seed: int
    model: ModelRecord
    data: DataRecord
    environment: EnvironmentRecord
    throughput: ThroughputRecord = field(default_factory=ThroughputRecord)
    energy: EnergyRecord = field(default_factory=EnergyRecord)
    projection: ProjectionRecord = field(default_factory=ProjectionRecord)
    quality: QualityRecord = field(default_factory=QualityRecord)
    task_metrics: list[TaskMetric] = field(default_factory=list)
    target: TargetRecord | None = None
    fp8: Fp8Record | None = None
    ops: list[OpRecord] = field(default_factory=list)
    segments: list[SegmentRecord] = field(default_factory=list)
    status: Status = "running"
    error: str | None = None
    ended: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    loss_unit: str = "nats/token"
    schema: str = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values; a non-finite number becomes null where the field may be null.

        Raises:
            RecordError: a value has the wrong type, or is not finite where a number is required.
        """
        values: dict[str, Any] = encode(self, RunRecord, "")
        _check_rules(self)
        return values

    @classmethod
    def from_dict(cls, values: object) -> "RunRecord":
        """The record from parsed JSON.

        Raises:
            RecordError: naming the field that is missing, unknown or has a wrong value.
        """
        if isinstance(values, dict) and isinstance(later := _LATER_FIELDS.get(str(values.get("schema"))), dict):
            values = {**values, **later, "schema": SCHEMA}
        if isinstance(values, dict) and values.get("schema", SCHEMA) != SCHEMA:
            raise RecordError(
                f"schema: got {values['schema']!r}, expected {SCHEMA!r}; read it with the version that wrote it"
            )
        record: RunRecord = decode(values, cls, "")
        _check_rules(record)
        return record

    def write(self, path: Path) -> None:
        """Write to ``path`` whole or not at all, sealed.

        Raises:
            RecordError: as ``to_dict``; nothing is written then.
        """
        write_values(self.to_dict(), path)

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Read and check ``path``.

        Raises:
            RecordError: the file is not strict JSON, was changed after it was written, or is not a valid record; the
                message names file and field.
            OSError: the file cannot be read.
        """
        with naming(path, "run"):
            values = read_values(path)
            if values.get("schema") not in _WITHOUT_SEAL:
                check_seal(values)
            return cls.from_dict({key: value for key, value in values.items() if key != SEAL})


def utc_now() -> str:
    """The time now as the record writes it: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def finite_or_none(value: float | None) -> float | None:
    """``value``, or None where it is None, NaN or infinite: a number that JSON can hold, or "not measured"."""
    return value if value is not None and math.isfinite(value) else None


def _check_rules(record: RunRecord) -> None:
    """The rules that types do not express."""
    times = {"started": record.started, "ended": record.ended}
    for index, segment in enumerate(record.segments):
        times |= {f"segments[{index}].started": segment.started, f"segments[{index}].ended": segment.ended}
    for where, text in times.items():
        if text is not None and not _is_time(text):
            raise wrong(where, text, "an ISO 8601 time with its time zone, as 2026-01-31T12:00:00+00:00")
    coverage = record.energy.coverage
    if coverage is not None and not 0 <= coverage <= 1:
        raise wrong("energy.coverage", coverage, "a fraction from 0 to 1")
    counts = {
        "throughput.tokens": record.throughput.tokens,
        "throughput.steps": record.throughput.steps,
        "energy.dropped_readings": record.energy.dropped_readings,
        "quality.skipped_steps": record.quality.skipped_steps,
    }
    for where, count in counts.items():
        if count < 0:
            raise wrong(where, count, "a count of 0 or more")
    if record.fp8 is not None:
        check_fp8(record.fp8)


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
