"""The record of `litespark bench ops`: every time that was taken, what it is held against, and the goals.

None (null in the file) means "not measured", and then `reason` says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from litespark.metrics.records.run import EnvironmentRecord
from litespark.metrics.records.sealing import SealedRecord
from litespark.metrics.records.strict_json import wrong

SCHEMA = "litespark.bench.ops/3"
# what fp8 is measured beside
BF16 = "bf16"


@dataclass
class TimeRecord:
    """Milliseconds of one call: the median of the repeats, and the tenth and ninetieth percentile."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    repeats: int


@dataclass
class VariantRecord:
    """One implementation of one case; no times where it cannot run or its results are wrong, see `reason`.

    Attributes:
        name: a backend, or "torch.compile", or "liger"; of fp8 how the casts are made, or "bf16".
        rival: not one of our backends.
        verified: agrees with the fp32 reference on this device; None where that was not tried, as for the reference.
        forward, forward_backward: the backward pass is the difference.
        share_forward, share_backward: least bytes over time over the copy bandwidth, where memory bounds the op.
        tflops, tflops_forward, tflops_backward: least operations over time, where matrix products bound it; the two
            passes apart for attention and fp8 alone, since a loss may make its gradients on the way forward.
        peak_memory_mib: allocated by forward and backward beyond inputs and gradients given; None: not counted here.
        kernel: the kernel that PyTorch takes, for sdpa.
        reason: why something is absent or not as expected.
    """

    name: str
    rival: bool = False
    verified: bool | None = None
    forward: TimeRecord | None = None
    forward_backward: TimeRecord | None = None
    share_forward: float | None = None
    share_backward: float | None = None
    tflops: float | None = None
    tflops_forward: float | None = None
    tflops_backward: float | None = None
    peak_memory_mib: float | None = None
    kernel: str | None = None
    reason: str | None = None


@dataclass
class YardstickRecord:
    """Something else, timed in turns with the variants: three matrix products or each of them, attention over whole
    rows."""

    name: str
    time: TimeRecord


@dataclass
class CaseRecord:
    """One use of one op.

    Attributes:
        forward_bytes, backward_bytes, forward_flops, backward_flops: the least that it can do, see `Work`.
        copy_bytes_per_second: what the shares are of; each start measures it anew.
        auto: the backend that `auto` takes here, by its own short measurement; attention only.
    """

    op: str
    case: str
    sizes: str
    forward_bytes: int | None = None
    backward_bytes: int | None = None
    forward_flops: int | None = None
    backward_flops: int | None = None
    copy_bytes_per_second: float | None = None
    variants: list[VariantRecord] = field(default_factory=list)
    yardsticks: list[YardstickRecord] = field(default_factory=list)
    auto: str | None = None

    def timed(self) -> list[VariantRecord]:
        """Our backends that have a time, the fastest in training first."""
        found = [each for each in self.variants if not each.rival and each.forward_backward is not None]
        return sorted(found, key=lambda each: median(each.forward_backward))


@dataclass
class WidthRecord:
    """Forward and backward of a linear layer of that many features in and out, over the micro-batch's tokens."""

    width: int
    times: list[YardstickRecord] = field(default_factory=list)

    def median(self, name: str) -> float | None:
        """Milliseconds by that name; None where it was not timed."""
        return next((each.time.median_ms for each in self.times if each.name == name), None)


@dataclass
class PaysRecord:
    """The least width from which on fp8 with its casts is faster than bf16.

    Attributes:
        recipe: how the casts are made, a name of the times of `WidthRecord`.
        width: faster there and at every larger width that was measured; None: see `reason`.
    """

    recipe: str
    width: int | None
    reason: str | None = None


@dataclass
class OptimizerRecord:
    """Clip and AdamW of one optimizer step; bytes per parameter are time times copy bandwidth."""

    name: str
    time: TimeRecord
    bytes_per_parameter: float


@dataclass
class FailureRecord:
    """An op whose measurement raised; the next start tries it again."""

    op: str
    error: str


@dataclass
class GoalRecord:
    """A goal, what came of it ("met", "not met", "not measured") and why."""

    op: str
    goal: str
    threshold: float
    value: float | None
    verdict: str
    reason: str | None = None


@dataclass
class OpsRecord(SealedRecord):
    """One measurement on one device.

    Attributes:
        time: when it began.
        source_hash: of the code that was measured, since a commit alone does not know of changes beside it.
        overrides: of the config, as the user gave them.
        seconds: of each measurement, about.
        copy_bytes_per_second: read and written together by a large copy in the process of the last start.
        ops: those asked for; what is done of them is in `cases` and `optimizer`.
        optimizer_parameters: how many the optimizer step was measured on.
        layers: of the model, which are not measured one by one.
        widths, pays: from which width on fp8 pays; measured with the op fp8.
        complete: everything asked for is there.
    """

    schema = SCHEMA

    time: str
    git_commit: str | None
    git_dirty: bool | None
    source_hash: str
    overrides: list[str]
    environment: EnvironmentRecord
    model: str
    rows: int
    seq_len: int
    seconds: float
    ops: list[str]
    copy_bytes_per_second: float | None = None
    cases: list[CaseRecord] = field(default_factory=list)
    optimizer: list[OptimizerRecord] = field(default_factory=list)
    optimizer_parameters: int | None = None
    layers: int | None = None
    widths: list[WidthRecord] = field(default_factory=list)
    pays: list[PaysRecord] = field(default_factory=list)
    failures: list[FailureRecord] = field(default_factory=list)
    goals: list[GoalRecord] = field(default_factory=list)
    complete: bool = False

    @property
    def red(self) -> list[VariantRecord]:
        """Our backends whose verification failed."""
        return [each for case in self.cases for each in case.variants if not each.rival and each.verified is False]

    def done(self, op: str) -> bool:
        """Whether an op needs no more measuring."""
        return any(case.op == op for case in self.cases) or (op == "optimizer" and bool(self.optimizer))

    def same_measurement(self, other: OpsRecord) -> bool:
        """Whether `other` may be continued as this one: same code, settings, versions and device."""

        def identity(record: OpsRecord) -> tuple[Any, ...]:
            return (record.git_commit, record.source_hash, record.overrides, record.environment, record.model,
                    record.rows, record.seq_len, record.seconds, record.ops)  # fmt: skip

        return identity(self) == identity(other)

    def check(self) -> None:
        """The shares and rates, and the widths from which on fp8 pays, have to be those that follow from the times.

        Raises:
            RecordError: one does not.
        """
        for case in self.cases:
            for variant in case.variants:
                followed = derived(case, variant)
                for name, expected in followed.items():
                    found = getattr(variant, name)
                    if not _alike(found, expected):
                        where = f"cases.{case.case}.variants.{variant.name}.{name}"
                        raise wrong(where, found, f"{expected}, which follows from the times")
        for each in self.pays:
            least = least_paying(self.widths, each.recipe)
            if each.width != least:
                raise wrong(f"pays.{each.recipe}.width", each.width, f"{least}, which follows from the times")
        if self.complete and not all(self.done(op) for op in self.ops):
            raise wrong("complete", True, f"a case of each of {', '.join(self.ops)}")


def derived(case: CaseRecord, variant: VariantRecord) -> dict[str, float | None]:
    """Shares of the copy bandwidth and TFLOP/s of a variant, from its times and the case's least work.

    A backward pass too short to be told from noise has none.
    """
    names = ("share_forward", "share_backward", "tflops", "tflops_forward", "tflops_backward")
    found: dict[str, float | None] = dict.fromkeys(names)
    if variant.forward is None or variant.forward_backward is None:
        return found
    forward = variant.forward.median_ms / 1e3
    backward = variant.forward_backward.median_ms / 1e3 - forward
    bandwidth = case.copy_bytes_per_second
    if case.forward_bytes is not None and case.backward_bytes is not None and bandwidth is not None:
        found["share_forward"] = case.forward_bytes / forward / bandwidth
        found["share_backward"] = case.backward_bytes / backward / bandwidth if backward > 0 else None
    if case.forward_flops is not None and case.backward_flops is not None:
        found["tflops"] = (case.forward_flops + case.backward_flops) / (forward + backward) / 1e12
        if case.op in ("attention", "fp8"):
            found["tflops_forward"] = case.forward_flops / forward / 1e12
            found["tflops_backward"] = case.backward_flops / backward / 1e12 if backward > 0 else None
    return found


def least_paying(widths: Sequence[WidthRecord], recipe: str) -> int | None:
    """The least width at which `recipe` is faster than bf16, and at every larger one that was measured as well."""
    found = None
    for each in sorted(widths, key=lambda each: each.width, reverse=True):
        mine, plain = each.median(recipe), each.median(BF16)
        if mine is None or plain is None or mine >= plain:
            break
        found = each.width
    return found


def _alike(found: float | None, expected: float | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return math.isclose(found, expected, rel_tol=1e-9)


def median(time: TimeRecord | None) -> float:
    """Its median; infinite where there is none."""
    return float("inf") if time is None else time.median_ms
