"""The record of a run, `run.json`: what was run, where, and what was measured."""

from collections.abc import Iterator
from dataclasses import field, replace
from typing import Literal

from litespark.metrics.records.base import (
    Count,
    CountFromZero,
    Measured,
    MeasuredPositive,
    MeasuredShare,
    NotNegative,
    Positive,
    part,
    record,
)
from litespark.metrics.records.origin import Record, Time, utc_now
from litespark.run.record_fp8 import Fp8Record
from litespark.run.record_ops import ChoiceRecord, OpRecord

Status = Literal["running", "finished", "interrupted", "failed"]


@part
class ModelRecord:
    """The model's size, and FLOPs per token (forward and backward, no recompute) in both attention conventions."""

    name: str
    parameters: Count
    matmul_parameters: CountFromZero
    flops_per_token_causal: Positive
    flops_per_token_full: Positive
    seq_len: Count
    # how the weights began, as `Parts.initial_weights`; None in records from before
    initial_weights: str | None = None


@part
class AdapterRecord:
    """What is trained of a frozen model; bytes are of weights, gradients and optimizer states, of all devices together,
    and `full_state_bytes` what they would be if all of the model were trained."""

    kind: Literal["lora", "dora"]
    rank: Count
    trained_parameters: Count
    state_bytes: Count
    full_state_bytes: Count


@part
class DataRecord:
    """The prepared data set; entropy in nats per token, which a model must beat to have learned context."""

    name: str
    manifest_hash: str
    vocab_size: Count
    train_tokens: CountFromZero
    validation_tokens: CountFromZero
    unigram_entropy: Measured
    unigram_bits_per_byte: Measured = None


@part
class ThroughputRecord:
    """Speed over the whole run, all ranks together; peaks in FLOP/s per device. Examples are what a task after
    pre-training learns from: conversations, pairs or completions, as the record's ``example`` says."""

    tokens: CountFromZero = 0
    steps: CountFromZero = 0
    examples: CountFromZero | None = None
    train_seconds: NotNegative = 0.0
    tokens_per_second: Measured = None
    step_ms_median: Measured = None
    step_ms_p95: Measured = None
    data_wait_share: MeasuredShare = None
    mfu_causal: Measured = None
    mfu_full: Measured = None
    hfu_causal: Measured = None
    mfu_measured_peak: Measured = None
    peak_flops: MeasuredPositive = None
    peak_source: str | None = None
    measured_peak_flops: MeasuredPositive = None
    peak_memory_gib: Measured = None


@part
class PhaseJoules:
    """Joules of each phase; idle holds start-up as well, reference is the pass of a reference model before it,
    rollout samples completions and reward rates them."""

    train: Measured = None
    evaluate: Measured = None
    checkpoint: Measured = None
    idle: Measured = None
    reference: Measured = None
    rollout: Measured = None
    reward: Measured = None


@part
class EnergyRecord:
    """Energy of training steps and all-in, how it was read, or the reason why not. That of an example is of training
    steps, rollouts and rewards."""

    label: str = "energy"
    method: str | None = None
    reason: str | None = None
    coverage: MeasuredShare = None
    train_joules: Measured = None
    all_in_joules: Measured = None
    phases: PhaseJoules = field(default_factory=PhaseJoules)
    joules_per_token_train: Measured = None
    joules_per_token_all_in: Measured = None
    joules_per_example: Measured = None
    average_power_watts: Measured = None
    tokens_per_second_per_watt: Measured = None
    dropped_readings: CountFromZero = 0


@part
class ProjectionSettings:
    """What the user stated of price, grid and building; nothing is assumed where nothing was."""

    price_per_kwh: float | None = None
    grid_kg_per_kwh: float | None = None
    pue: float | None = None


@part
class ProjectionRecord:
    """The measured rates carried on to the token target."""

    target_tokens: int | None = None
    hours: Measured = None
    kwh: Measured = None
    cost: Measured = None
    currency: str | None = None
    co2e_kg: Measured = None
    settings: ProjectionSettings = field(default_factory=ProjectionSettings)


@part
class QualityRecord:
    """What the model learned; losses in the run's ``loss_unit``, the sample a text that it generated."""

    train_loss: Measured = None
    validation_loss: Measured = None
    perplexity: Measured = None
    bits_per_byte: Measured = None
    token_accuracy: Measured = None
    skipped_steps: CountFromZero = 0
    sample: str | None = None


@part
class TaskMetric:
    """What the last validation of a task measured beside ``QualityRecord``."""

    name: str
    value: Measured


@part
class ReachedRecord:
    """The first validation at or below the target; seconds and train joules are those of training steps."""

    step: CountFromZero
    tokens: CountFromZero
    bits_per_byte: float
    train_seconds: NotNegative
    train_joules: Measured = None
    all_in_joules: Measured = None


@part
class TargetRecord:
    """The bits per byte at which the run was to end."""

    bits_per_byte: float
    reached: ReachedRecord | None = None


@part
class SegmentRecord:
    """One stretch from a start or resume to its end, and why it began or ended.

    A resume may be another program on other devices than the start, which the record's provenance describes.
    """

    started: Time
    first_step: CountFromZero
    ended: Time | None = None
    last_step: CountFromZero | None = None
    reason: str = "start"
    command: list[str] = field(default_factory=list)
    git_commit: str | None = None
    world_size: int | None = None


@record
class RunRecord(Record):
    """The whole of ``run.json``; ``task_metrics`` are those that only the task of the run has."""

    name: str
    task: str
    seed: int
    model: ModelRecord
    data: DataRecord
    throughput: ThroughputRecord = field(default_factory=ThroughputRecord)
    energy: EnergyRecord = field(default_factory=EnergyRecord)
    projection: ProjectionRecord = field(default_factory=ProjectionRecord)
    quality: QualityRecord = field(default_factory=QualityRecord)
    task_metrics: list[TaskMetric] = field(default_factory=list)
    target: TargetRecord | None = None
    adapter: AdapterRecord | None = None
    fp8: Fp8Record | None = None
    ops: list[OpRecord] = field(default_factory=list)
    choices: list[ChoiceRecord] = field(default_factory=list)
    segments: list[SegmentRecord] = field(default_factory=list)
    status: Status = "running"
    error: str | None = None
    ended: Time | None = None
    loss_unit: str = "nats/token"
    example: str | None = None
    schema: Literal["litespark.run/6"] = field(default="litespark.run/6", kw_only=True)

    @property
    def started(self) -> str:
        return self.provenance.time

    @property
    def complete(self) -> bool:
        return self.status == "finished"

    def stands_at(self, status: Status, error: str | None = None) -> None:
        """Note that the run goes on, or ended now."""
        self.status, self.error = status, error
        self.ended = None if status == "running" else utc_now()

    def take_end(self, sample: str | None, projection: ProjectionRecord) -> None:
        """Take what follows the last step; without a sample that of an earlier process stands."""
        self.projection = projection
        if sample is not None:
            self.quality = replace(self.quality, sample=sample)

    def contradictions(self) -> Iterator[str]:
        """Figures that do not follow from each other; such a record is not published, but no run stops for it."""
        speed, energy = self.throughput, self.energy
        for section, name, other in (
            ("throughput", "step_ms_median", "step_ms_p95"),
            ("throughput", "mfu_causal", "mfu_full"),
            ("throughput", "mfu_causal", "hfu_causal"),
            ("energy", "train_joules", "all_in_joules"),
        ):
            lower, upper = (getattr(getattr(self, section), figure) for figure in (name, other))
            if lower is not None and upper is not None and lower > upper * (1 + 1e-9):
                yield f"{section}.{name}: got {lower}, expected at most {other} = {upper}"
        if energy.train_joules is None and energy.reason is None:
            yield "energy.train_joules: got neither joules nor a reason why there are none"
        if speed.tokens_per_second is not None and speed.step_ms_median and speed.steps:
            # a mean over the steps past warm-up against a median: near, never equal
            expected = speed.tokens / speed.steps / speed.step_ms_median * 1e3
            if not expected / 2 <= speed.tokens_per_second <= expected * 2:
                yield f"throughput.tokens_per_second: got {speed.tokens_per_second}, expected about {expected}"
        if len(self.segments) == 1 and self.segments[0].last_step not in (None, speed.steps):
            yield f"throughput.steps: got {speed.steps}, expected last_step = {self.segments[0].last_step}"
