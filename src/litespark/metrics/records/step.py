"""The record of `litespark bench step`: every process that ran a variant, step by step.

Only what was measured is stored. Rows, ratios and shares are computed from it (`litespark.reports.step_rows`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import Literal, Self

from pydantic import model_validator

from litespark.metrics.records.base import (
    Count,
    CountFromZero,
    JsonFile,
    Measured,
    MeasuredPositive,
    NotNegative,
    Positive,
    part,
    record,
)
from litespark.metrics.records.origin import DeviceState, Record

# the four that ratios are always given against, in this order
BASELINES = ("standard", "sdpa", "compiled", "compiled_fp8")

VariantKind = Literal["huggingface", "litespark", "bare", "train.py"]
Outcome = Literal["measured", "out of memory", "failed"]


@part
class StepModel:
    """The model that was measured; `num_layers` is below `layers_whole` where the whole does not fit the device.

    FLOPs are per token of a row of `seq_len` tokens, forward and backward, of the layers that were measured;
    `flops_per_token_recomputed` is the causal figure with what full recomputation runs again, the others are without.
    """

    name: str
    parameters: Count
    num_layers: Count
    layers_whole: Count
    flops_per_token_causal: Positive
    flops_per_token_full: Positive
    flops_per_token_recomputed: MeasuredPositive = None

    def hardware_flops(self, recompute: str) -> float | None:
        """Causal FLOPs per token with what is run again: only `full` makes matrix products a second time."""
        return self.flops_per_token_recomputed if recompute == "full" else self.flops_per_token_causal

    @model_validator(mode="after")
    def _causal_is_the_least(self) -> Self:
        if self.num_layers > self.layers_whole:
            raise ValueError(f"num_layers: got {self.num_layers}, expected at most layers_whole = {self.layers_whole}")
        most = min(self.flops_per_token_full, self.flops_per_token_recomputed or self.flops_per_token_full)
        if self.flops_per_token_causal > most:
            raise ValueError(f"flops_per_token_causal: got {self.flops_per_token_causal}, expected at most {most}")
        return self


@part
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

    micro_batch_size: Count
    accumulate: Count
    seq_len: Count
    warmup_steps: CountFromZero
    steps: Count
    rounds: Count
    data: str
    document_mask: bool
    precision: str
    loss_rows: Count


@part
class RatesRecord:
    """What this device reaches, measured in the process that started the benchmark; None: not measured.

    Attributes:
        matmul_flops: FLOP/s of a large matrix product in the precision of the run.
        attention_flops: model FLOP/s (12·H·Dh per pair and layer) of the fastest attention, forward and backward.
        copy_bytes: bytes/s of a large copy, read and written together.
        fp8_matmul_flops: FLOP/s of a large product in fp8, beside a run in bf16 on a device with the units.
        peak_flops, peak_source: the vendor's dense bf16 figure and where it stands; None for a device without one.
    """

    matmul_flops: MeasuredPositive = None
    attention_flops: MeasuredPositive = None
    copy_bytes: MeasuredPositive = None
    fp8_matmul_flops: MeasuredPositive = None
    peak_flops: MeasuredPositive = None
    peak_source: str | None = None

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if (self.peak_flops is None) != (self.peak_source is None):
            raise ValueError(f"peak_flops: got {self.peak_flops} from {self.peak_source}, expected both or neither")
        return self


@part
class RooflinePart:
    """The least time of one kernel class in a step, in milliseconds."""

    kernel_class: str
    milliseconds: NotNegative


@part
class RoundRecord(JsonFile):
    """One fresh process of one variant.

    Attributes:
        round: from 0; position: of this process among those of its round, from 0.
        outcome: `measured`, or why there are no times; `error`: its one line then.
        recompute: `none`, `swiglu` or `full`, as it ran.
        step_ms: each counted step, on a GPU by its own clock.
        tokens: input tokens of all counted steps, from the batches.
        attention_pairs: (query, key) pairs that the masks allowed in them, summed over rows.
        joules: of all counted steps together; `joules_reason`: why there are none, `joules_method`: how they were read.
        peak_memory_mib: largest allocation of the device; None: not counted here.
        train_loss: nats per token of each step, warm-up included.
        loss: nats per token on the held-out rows, after all steps.
        tokens_hash: of the tokens and labels of all steps in their order; None where the process does not see them
            (`train.py`).
        seconds_before: from the start of the process to the first counted step, compilation included.
        detail: what was decided in the process, such as the backend of each op.
        before, after: the state of the device around the counted steps; None without NVML.
    """

    round: CountFromZero
    position: CountFromZero
    outcome: Outcome
    recompute: str
    error: str | None = None
    step_ms: list[Positive] = field(default_factory=list)
    tokens: CountFromZero = 0
    attention_pairs: CountFromZero = 0
    joules: MeasuredPositive = None
    joules_method: str | None = None
    joules_reason: str | None = None
    peak_memory_mib: MeasuredPositive = None
    train_loss: list[float] = field(default_factory=list)
    loss: Measured = None
    tokens_hash: str | None = None
    seconds_before: Measured = None
    detail: str | None = None
    before: DeviceState | None = None
    after: DeviceState | None = None

    @model_validator(mode="after")
    def _has_figures_or_an_error(self) -> Self:
        figures = bool(self.step_ms or self.tokens or self.joules or self.loss is not None)
        measured = self.outcome == "measured"
        if measured != figures or measured == (self.error is not None):
            raise ValueError(f"outcome: got {self.outcome!r}, expected figures where it is measured, else an error")
        return self


@part
class VariantRecord:
    """One variant and its processes.

    Attributes:
        name: as in tables; `kind`: what it is made of.
        settings: the overrides that make it from the benchmark's config; empty for the Hugging Face ones.
        about: one line that says what it is.
        reason: why it cannot run here at all; None where it can.
        roofline: the least time of a step by kernel class, in the precision it computes in.
    """

    name: str
    kind: VariantKind
    settings: list[str]
    about: str
    reason: str | None = None
    roofline: list[RooflinePart] = field(default_factory=list)
    rounds: list[RoundRecord] = field(default_factory=list)

    @property
    def measured(self) -> list[RoundRecord]:
        """The processes that have times."""
        return [each for each in self.rounds if each.outcome == "measured"]

    def has_all(self, rounds: int) -> bool:
        """Whether nothing is left to run: every round is there, or even full recomputation is out of memory."""
        if self.reason is not None or {each.round for each in self.measured} >= set(range(rounds)):
            return True
        return any(each.outcome == "out of memory" and each.recompute == "full" for each in self.rounds)


@record
class StepRecord(Record):
    """One benchmark of whole training steps on one device."""

    model: StepModel
    protocol: Protocol
    rates: RatesRecord
    variants: list[VariantRecord] = field(default_factory=list)
    schema: Literal["litespark.bench.step/2"] = field(default="litespark.bench.step/2", kw_only=True)

    @property
    def complete(self) -> bool:
        """Whether every variant that can run has all its rounds."""
        return all(variant.has_all(self.protocol.rounds) for variant in self.variants)

    def asked(self) -> tuple[object, ...]:
        """What was to be measured."""
        variants = [(each.name, each.kind, each.settings, each.reason) for each in self.variants]
        return self.model, self.protocol, variants

    def variant(self, name: str) -> VariantRecord | None:
        """The variant of that name."""
        return next((each for each in self.variants if each.name == name), None)

    @model_validator(mode="after")
    def _compares_like_with_like(self) -> Self:
        names = [each.name for each in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"variants: got the names {names}, expected each once")
        for variant in self.variants:
            rounds = [each.round for each in variant.measured]
            if len(set(rounds)) < len(rounds) or (variant.rounds and variant.reason is not None):
                raise ValueError(
                    f"variants.{variant.name}: got the rounds {rounds} and {variant.reason!r}, expected each once, and "
                    "none beside a reason why there are none"
                )
            for each in variant.measured:
                if (problem := next(self._problems(each), None)) is not None:
                    raise ValueError(f"variants.{variant.name}.rounds[{each.round}].{problem}")
        return self

    def _problems(self, each: RoundRecord) -> Iterator[str]:
        """What is wrong with a process, by itself and beside the first one of the record."""
        protocol = self.protocol
        if each.round >= protocol.rounds:
            yield f"round: got {each.round}, expected at most {protocol.rounds - 1}"
        if len(each.step_ms) != protocol.steps:
            yield f"step_ms: got {len(each.step_ms)} times, expected {protocol.steps}"
        if not each.tokens or not each.attention_pairs or each.loss is None or each.loss < 0:
            yield f"tokens: got {each.tokens}, {each.attention_pairs} pairs and loss {each.loss}, expected all of them"
        if len(each.train_loss) not in (0, protocol.warmup_steps + protocol.steps):
            yield f"train_loss: got {len(each.train_loss)}, expected one of each step, warm-up included, or none"
        if (each.joules is None) == (each.joules_reason is None):
            yield "joules: expected either joules or a reason why there are none"
        others = [other for variant in self.variants for other in variant.measured]
        counts = others[0].tokens, others[0].attention_pairs
        if (each.tokens, each.attention_pairs) != counts:
            yield f"tokens: got {each.tokens} and {each.attention_pairs} pairs, expected {counts} as in every process"
        known = next((other.tokens_hash for other in others if other.tokens_hash), None)
        if each.tokens_hash not in (None, known):
            yield f"tokens_hash: got {each.tokens_hash}, expected {known}: all variants take the same tokens"
