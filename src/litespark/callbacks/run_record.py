"""Keeps `run.json` true while the run goes on: what has been measured up to the last window, and how it ended."""

import math
import time
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from litespark.callbacks.cost_of_quality import CostOfQuality
from litespark.callbacks.energy import EnergyMonitor
from litespark.callbacks.fp8 import Fp8Monitor
from litespark.callbacks.metrics_logger import MetricsLogger
from litespark.callbacks.steps import StepCallback
from litespark.callbacks.throughput import ThroughputMonitor
from litespark.metrics import names
from litespark.metrics.energy_by_phase import energy_section
from litespark.metrics.records.origin import utc_now
from litespark.run.folder import RECORD
from litespark.run.record import QualityRecord, RunRecord, SegmentRecord, Status, TaskMetric, ThroughputRecord
from litespark.training.module import TrainingModule

# of a validation, what `QualityRecord` has fields for
_IN_QUALITY = {
    "validation_loss": names.VALIDATION_LOSS,
    "perplexity": names.VALIDATION_PERPLEXITY,
    "bits_per_byte": names.VALIDATION_BITS_PER_BYTE,
    "token_accuracy": names.VALIDATION_TOKEN_ACCURACY,
}


@dataclass(eq=False, repr=False)
class RunRecorder(StepCallback):
    """Writes the record at the start, at each log interval and at the end, on rank 0."""

    folder: Path
    record: RunRecord  # what is known before the first step, with the segments of earlier processes
    segment: SegmentRecord  # the stretch that begins now
    _: KW_ONLY
    throughput: ThroughputMonitor
    energy: EnergyMonitor
    metrics: MetricsLogger
    quality: CostOfQuality
    fp8: Fp8Monitor | None
    seconds_between_writes: float = 5.0
    _module: TrainingModule | None = field(default=None, init=False)
    _written: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        super().__init__(self.throughput.every)

    def train_started(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        self.attach(module)
        self.update("running")

    def attach(self, module: TrainingModule) -> None:
        """Begin this process's stretch, unless it has begun; a resume with no step left to take never trains."""
        if self._module is None:
            self._module = module
            reason = "resume" if self.record.segments else "start"
            self.segment = replace(self.segment, started=utc_now(), first_step=module.steps_taken, reason=reason)
            self.record.segments.append(self.segment)

    def step_ended(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        now = time.monotonic()
        if self.due(module) and now - self._written >= self.seconds_between_writes:
            self._written = now
            self.update("running")

    def update(self, status: Status, error: str | None = None) -> None:
        """Bring the record up to date and write it; on other ranks than 0 nothing happens."""
        if not self.metrics.mesh.is_first:
            return
        record = self.record
        record.stands_at(status, error)
        record.target = self.quality.target
        if self._module is not None:  # else the steps never began, and what earlier processes measured stands
            record.segments[-1] = replace(record.segments[-1], last_step=self._module.steps_taken, ended=record.ended)
            record.throughput = self._throughput()
            speed = record.throughput
            record.energy = energy_section(self.energy.totals, self.energy.meter, speed.train_seconds, speed.examples)
            record.quality = self._quality()
            record.task_metrics = self._task_metrics()
            if self.fp8 is not None and self.fp8.record is not None:
                record.fp8 = self.fp8.record
        record.write(self.folder / RECORD)

    def _throughput(self) -> ThroughputRecord:
        assert self._module is not None
        summary, mfu = self.throughput.summary(), self.throughput.mfu
        of_summary = [field.name for field in fields(ThroughputRecord) if hasattr(summary, field.name)]
        shares = mfu.shares(summary.tokens_per_second, summary.attention_pairs_per_token, summary.devices)
        return ThroughputRecord(
            **{name: getattr(summary, name) for name in of_summary},
            examples=self._module.examples_seen or None,
            mfu_causal=shares.get(names.MFU_CAUSAL),
            mfu_full=shares.get(names.MFU_FULL),
            hfu_causal=shares.get(names.HFU_CAUSAL),
            mfu_measured_peak=shares.get(names.MFU_MEASURED_PEAK),
            peak_flops=None if mfu.rates.peak is None else mfu.rates.peak.flops,
            peak_source=None if mfu.rates.peak is None else mfu.rates.peak.source,
            measured_peak_flops=mfu.measured_peak,
            peak_memory_gib=self.throughput.peak_memory_gib,
        )

    def _task_metrics(self) -> list[TaskMetric]:
        """What the last validation measured beside what every record has."""
        assert self._module is not None
        of_domains = tuple(f"{known}/" for known in _IN_QUALITY.values())
        return [
            TaskMetric(name.removeprefix("validation/"), value)
            for name, value in sorted(self._module.validation.items())
            if name not in _IN_QUALITY.values() and not name.startswith(of_domains)
        ]

    def _quality(self) -> QualityRecord:
        assert self._module is not None
        latest = self.metrics.latest
        measured: dict[str, Any] = {field: latest.get(name) for field, name in _IN_QUALITY.items()}
        measured |= {"train_loss": latest.get(names.TRAIN_LOSS), "skipped_steps": self._module.skipped_steps}
        return replace(self.record.quality, **measured)
