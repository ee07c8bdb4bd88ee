"""The record of `litespark bench step`: every process that ran a variant, step by step, and what it is held against.

Only what was measured is stored. Rows, ratios and shares are computed from it (`litespark.reports.step_rows`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from litespark.metrics.records.bench import DeviceState, Provenance
from litespark.metrics.records.sealing import SealedRecord
from litespark.metrics.records.step_rules import check_steps

SCHEMA = "litespark.bench.step/1"
# the four that ratios are always given against, in this order
BASELINES = ("standard", "sdpa", "compiled", "compiled_fp8")

VariantKind = Literal["huggingface", "litespark", "train.py"]
Outcome = Literal["measured", "out of memory", "failed"]


@dataclass
class StepModel:
    """The model that was measured; `layers` is below `layers_whole` where the whole does not fit the device.

    FLOPs are per token of a row of `seq_len` tokens, forward and backward, of the layers that were measured;
    `flops_per_token_recomputed` is the causal figure with what full recomputation runs again, the others are without.
    """

    name: str
    parameters: int
    num_layers: int
    layers_whole: int
    flops_per_token_causal: float
    flops_per_token_full: float
    flops_per_token_recomputed: float | None = None


@dataclass
class Protocol:
    """How it was measured; the same for every variant.

    Attributes:
        micro_batch_size: B; accumulate: micro-batches a step; seq_len: S.
        warmup_steps, steps: of each process: not counted, and counted.
        rounds: asked for; every second round runs the variants in reversed order.
        data: name of the data; document_mask: whether attention stays within documents.
        precision: of the products; masters and optimizer states are fp32 in every variant.
        loss_rows: held-out rows on which each process takes its loss, after all its steps.
    """

    micro_batch_size: int
    accumulate: int
    seq_len: int
    warmup_steps: int
    steps: int
    rounds: int
    data: str
    document_mask: bool
    precision: str
    loss_rows: int


@dataclass
class RatesRecord:
    """What this device reaches, measured in the process that started the benchmark; None: not measured.

    Attributes:
        matmul_flops: FLOP/s of a large matrix product in the precision of the run.
        attention_flops: model FLOP/s (12·H·Dh per pair and layer) of the fastest attention, forward and backward.
        copy_bytes: bytes/s of a large copy, read and written together.
        fp8_matmul_flops: FLOP/s of a large product in fp8, beside a run in bf16 on a device with the units.
        peak_flops, peak_source: the vendor's dense bf16 figure and where it stands; None for a device without one.
    """

    matmul_flops: float | None = None
    attention_flops: float | None = None
    copy_bytes: float | None = None
    fp8_matmul_flops: float | None = None
    peak_flops: float | None = None
    peak_source: str | None = None


@dataclass
class FloorPart:
    """The least time of one kernel class in a step, in milliseconds."""

    kernel_class: str
    milliseconds: float


@dataclass
class RoundRecord:
    """One fresh process of one variant.

    Attributes:
        round: from 0; position: of this process among those of its round, from 0.
        outcome: `measured`, or why there are no times; `error`: its one line then.
        recompute: `none`, `swiglu` or `full`, as it ran.
        step_ms: each counted step, on a GPU by its own clock.
        tokens: input tokens of all counted steps, from the batches.
        attention_pairs: (query, key) pairs that the masks allowed in them, summed over rows.
        joules: of all counted steps together; `joules_reason` says why there are none, `joules_method` how.
        peak_memory_mib: largest allocation of the device; None where it is not counted.
        train_loss: nats per token of each step, warm-up included.
        loss: nats per token on the held-out rows, after all steps.
        tokens_hash: of the tokens and labels of all steps in their order; None where the process does not see them
            (`train.py`).
        seconds_before: from the start of the process to the first counted step, compilation included.
        detail: what was decided in the process, such as the backend of each op.
        before, after: the state of the device around the counted steps; None without NVML.
    """

    round: int
    position: int
    outcome: Outcome
    recompute: str
    error: str | None = None
    step_ms: list[float] = field(default_factory=list)
    tokens: int = 0
    attention_pairs: int = 0
    joules: float | None = None
    joules_method: str | None = None
    joules_reason: str | None = None
    peak_memory_mib: float | None = None
    train_loss: list[float] = field(default_factory=list)
    loss: float | None = None
    tokens_hash: str | None = None
    seconds_before: float | None = None
    detail: str | None = None
    before: DeviceState | None = None
    after: DeviceState | None = None


@dataclass
class VariantRecord:
    """One variant and its processes.

    Attributes:
        name: as in tables; `kind`: what it is made of.
        settings: the overrides that make it from the benchmark's config; empty for the Hugging Face ones.
        about: one line that says what it is.
        reason: why it cannot run here at all; None where it can.
        hardware_flops_per_token: with what its recomputation runs again (causal); None where that is not known.
        floor: the least time of a step by kernel class, in the precision it computes in.
    """

    name: str
    kind: VariantKind
    settings: list[str]
    about: str
    reason: str | None = None
    hardware_flops_per_token: float | None = None
    floor: list[FloorPart] = field(default_factory=list)
    rounds: list[RoundRecord] = field(default_factory=list)

    @property
    def measured(self) -> list[RoundRecord]:
        """The processes that have times."""
        return [each for each in self.rounds if each.outcome == "measured"]


@dataclass
class StepRecord(SealedRecord):
    """One benchmark of whole training steps on one device; `complete`: every variant has all its rounds."""

    schema = SCHEMA

    provenance: Provenance
    model: StepModel
    protocol: Protocol
    rates: RatesRecord
    variants: list[VariantRecord] = field(default_factory=list)
    complete: bool = False

    def variant(self, name: str) -> VariantRecord | None:
        """The variant of that name."""
        return next((each for each in self.variants if each.name == name), None)

    def check(self) -> None:
        """The rules that types do not express.

        Raises:
            RecordError: one is broken; the message names the variant and the round.
        """
        check_steps(self)
