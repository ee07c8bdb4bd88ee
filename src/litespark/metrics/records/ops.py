"""The record of `litespark bench ops`: every time that was taken, and what it is held against."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from litespark.metrics.records.base import Count, CountFromZero, Measured, MeasuredPositive, Positive, part, record
from litespark.metrics.records.origin import Record

# what fp8 is measured beside
BF16 = "bf16"


@part
class TimeRecord:
    """Milliseconds of one call: the median of the repeats, and the tenth and ninetieth percentile."""

    median_ms: Positive
    p10_ms: Positive
    p90_ms: Positive
    repeats: Count


@dataclass(frozen=True)
class OpFigures:
    """What follows from the times of a variant and the least work of its case.

    Shares of the copy bandwidth where memory bounds the op, TFLOP/s where matrix products do; of the two passes apart
    for attention and fp8 alone, since a loss may make its gradients on the way forward.
    """

    share_forward: float | None = None
    share_backward: float | None = None
    tflops: float | None = None
    tflops_forward: float | None = None
    tflops_backward: float | None = None


@record
class VariantRecord:
    """One implementation of one case; no times where it cannot run or its results are wrong, see `reason`.

    Attributes:
        name: a backend, or "torch.compile", or "liger"; of fp8 how the casts are made, or "bf16".
        rival: not one of our backends.
        verified: agrees with the fp32 reference on this device; None where that was not tried.
        peak_memory_mib: allocated by forward and backward beyond inputs and gradients given.
        kernel: that PyTorch takes, for sdpa.
    """

    name: str
    rival: bool = False
    verified: bool | None = None
    forward: TimeRecord | None = None
    forward_backward: TimeRecord | None = None
    peak_memory_mib: Measured = None
    kernel: str | None = None
    reason: str | None = None


@part
class YardstickRecord:
    """Something else, timed in turns with the variants: matrix products, attention over whole sequences."""

    name: str
    time: TimeRecord


@record
class CaseRecord:
    """One use of one op and the least work that it can do (see `OpCost`)."""

    op: str
    case: str
    sizes: str
    forward_bytes: CountFromZero | None = None
    backward_bytes: CountFromZero | None = None
    forward_flops: CountFromZero | None = None
    backward_flops: CountFromZero | None = None
    copy_bytes_per_second: MeasuredPositive = None
    variants: list[VariantRecord] = field(default_factory=list)
    yardsticks: list[YardstickRecord] = field(default_factory=list)

    def figures(self, variant: VariantRecord) -> OpFigures:
        """Shares of the copy bandwidth and TFLOP/s; a backward pass too short to be told from noise has none."""
        if variant.forward is None or variant.forward_backward is None:
            return OpFigures()
        forward = variant.forward.median_ms / 1e3
        both = variant.forward_backward.median_ms / 1e3
        backward = both - forward

        def over(work: int | None, seconds: float, of: float | None) -> float | None:
            return None if work is None or of is None or seconds <= 0 else work / seconds / of

        share_forward = over(self.forward_bytes, forward, self.copy_bytes_per_second)
        share_backward = over(self.backward_bytes, backward, self.copy_bytes_per_second)
        if self.forward_flops is None or self.backward_flops is None:
            return OpFigures(share_forward, share_backward)
        tflops = over(self.forward_flops + self.backward_flops, both, 1e12)
        if self.op not in ("attention", "fp8"):
            return OpFigures(share_forward, share_backward, tflops)
        passes = over(self.forward_flops, forward, 1e12), over(self.backward_flops, backward, 1e12)
        return OpFigures(share_forward, share_backward, tflops, *passes)


@part
class WidthRecord:
    """Forward and backward of a linear layer of that many features in and out, over the micro-batch's tokens."""

    width: int
    times: list[YardstickRecord] = field(default_factory=list)

    def median(self, name: str) -> float | None:
        """Milliseconds by that name; None where it was not timed."""
        return next((time.time.median_ms for time in self.times if time.name == name), None)


@part
class PaysRecord:
    """The least width from which on fp8 with the casts of a recipe is faster than bf16; None: see `reason`."""

    recipe: str
    width: int | None
    reason: str | None = None


@part
class OptimizerRecord:
    """Clip and AdamW of one optimizer step; bytes per parameter are time times copy bandwidth."""

    name: str
    time: TimeRecord
    bytes_per_parameter: Positive


@part
class FailureRecord:
    """An op whose measurement raised; the next start tries it again."""

    op: str
    error: str


@record
class OpsRecord(Record):
    """One measurement of about `seconds` each on one device.

    `ops` are those asked for; `copy_bytes_per_second` (read and written together) is of the last start's process;
    `widths` and `pays` are measured with the op fp8.
    """

    model: str
    sequences: Count
    seq_len: Count
    seconds: Positive
    ops: list[str]
    copy_bytes_per_second: MeasuredPositive = None
    cases: list[CaseRecord] = field(default_factory=list)
    optimizer: list[OptimizerRecord] = field(default_factory=list)
    optimizer_parameters: int | None = None
    widths: list[WidthRecord] = field(default_factory=list)
    pays: list[PaysRecord] = field(default_factory=list)
    failures: list[FailureRecord] = field(default_factory=list)
    schema: Literal["litespark.bench.ops/5"] = field(default="litespark.bench.ops/5", kw_only=True)

    @property
    def complete(self) -> bool:
        return all(self.done(op) for op in self.ops)

    def asked(self) -> tuple[object, ...]:
        return self.model, self.sequences, self.seq_len, self.seconds, self.ops

    @property
    def red(self) -> list[VariantRecord]:
        variants = [variant for case in self.cases for variant in case.variants]
        return [variant for variant in variants if not variant.rival and variant.verified is False]

    def done(self, op: str) -> bool:
        return any(case.op == op for case in self.cases) or (op == "optimizer" and bool(self.optimizer))


def least_paying(widths: Sequence[WidthRecord], recipe: str) -> int | None:
    """The least width at which `recipe` is faster than bf16, and at every larger one that was measured as well."""
    least = None
    for times in sorted(widths, key=lambda variant: variant.width, reverse=True):
        mine, plain = times.median(recipe), times.median(BF16)
        if mine is None or plain is None or mine >= plain:
            break
        least = times.width
    return least
