"""The record of `litespark bench step`: every process that ran a variant, step by step.

Only what was measured is stored. Rows, ratios and shares are computed from it (`litespark.reports.step_rows`).
"""

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
from litespark.metrics.records.origin import DeviceState, Record, check_joules

# the four that ratios are always given against, in this order
BASELINES = ("standard", "sdpa", "compiled", "compiled_fp8")

VariantKind = Literal["huggingface", "litespark", "bare", "train.py"]
Outcome = Literal["measured", "out of memory", "failed"]


@part
class StepModel:
    """The model that was measured; `num_layers` is below `layers_whole` where the whole does not fit the device.

    FLOPs are per token of a sequence of `seq_len` tokens, forward and backward, of the layers that were measured;
    `flops_per_token_recomputed` is the causal figure with what full recomputation runs again.
    """

    name: str
    parameters: Count
    num_layers: Count
    layers_whole: Count
    flops_per_token_causal: Positive
    flops_per_token_full: Positive
    flops_per_token_recomputed: MeasuredPositive = None


@part
class Protocol:
    """How it was measured; the same for every variant.

    `warmup_steps` are not counted, `steps` are, both of each process. `precision` is that of the products; masters and
    optimizer states are fp32. `loss_sequences` are held-out sequences on which each process takes its loss at the end.
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
    loss_sequences: Count


@part
class RatesRecord:
    """FLOP/s and bytes/s that this device reaches, measured in the process that started the benchmark.

    Products are in the precision of the run; attention is of the fastest, in model FLOP/s (12·H·Dh a pair and layer);
    a copy's bytes are read and written together. The peak is the vendor's dense bf16 figure.
    """

    matmul_flops: MeasuredPositive = None
    attention_flops: MeasuredPositive = None
    copy_bytes: MeasuredPositive = None
    fp8_matmul_flops: MeasuredPositive = None
    peak_flops: MeasuredPositive = None
    peak_source: str | None = None


@part
class RooflinePart:
    """The least time of one kernel class in a step, in milliseconds."""

    kernel_class: str
    milliseconds: NotNegative


@part
class RoundRecord(JsonFile):
    """One fresh process of one variant; tokens, pairs and joules are of all counted steps together.

    Attributes:
        position: among the processes of its round.
        error: one line where the outcome is not "measured", and nothing else is there then.
        recompute: `none`, `swiglu` or `full`, as it ran.
        step_ms: each counted step, on a GPU by its own clock.
        attention_pairs: (query, key) pairs that the masks allowed.
        train_loss: nats per token of each step, warm-up included; `loss` on the held-out sequences after all of them.
        tokens_hash: of the tokens and labels of all steps; None of `train.py`, which does not show them.
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


@part
class VariantRecord:
    """One variant and its processes.

    `settings` make it from the benchmark's config, `about` is one line for readers, `reason` is why it cannot run here
    at all. The roofline is in the precision that it computes in.
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
        return [process for process in self.rounds if process.outcome == "measured"]

    def has_all(self, rounds: int) -> bool:
        """Whether nothing is left to run: every round is there, or even full recomputation is out of memory."""
        if self.reason is not None or {process.round for process in self.measured} >= set(range(rounds)):
            return True
        return any(process.outcome == "out of memory" and process.recompute == "full" for process in self.rounds)


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
        return all(variant.has_all(self.protocol.rounds) for variant in self.variants)

    def asked(self) -> tuple[object, ...]:
        variants = [(variant.name, variant.kind, variant.settings, variant.reason) for variant in self.variants]
        return self.model, self.protocol, variants

    def variant(self, name: str) -> VariantRecord | None:
        return next((variant for variant in self.variants if variant.name == name), None)

    @model_validator(mode="after")
    def _compares_like_with_like(self) -> Self:
        measured = [(variant, process) for variant in self.variants for process in variant.measured]
        for variant, process in measured:
            where = f"variants.{variant.name}.rounds[{process.round}]."
            if (problem := next(self._problems(process, [other for _, other in measured]), None)) is not None:
                raise ValueError(where + problem)
            check_joules(process.joules, process.joules_reason, where)
        return self

    def _problems(self, process: RoundRecord, others: list[RoundRecord]) -> Iterator[str]:
        if not process.tokens or not process.attention_pairs or process.loss is None or process.loss < 0:
            got = f"got {process.tokens}, {process.attention_pairs} pairs and loss {process.loss}"
            yield f"tokens: {got}, expected all of them"
        counts = others[0].tokens, others[0].attention_pairs
        if (process.tokens, process.attention_pairs) != counts:
            got = f"got {process.tokens} and {process.attention_pairs} pairs"
            yield f"tokens: {got}, expected {counts} as in every process"
        tokens_hash = next((other.tokens_hash for other in others if other.tokens_hash), None)
        if process.tokens_hash not in (None, tokens_hash):
            yield f"tokens_hash: got {process.tokens_hash}, expected {tokens_hash}: all variants take the same tokens"
