"""The record of `litespark bench profile`: the time of a step by kernel class, and the least time of each."""

from __future__ import annotations

from dataclasses import field
from typing import Literal, Self

from pydantic import model_validator

from litespark.metrics.records.base import Count, NotNegative, Positive, part, record
from litespark.metrics.records.origin import Record
from litespark.metrics.records.step import Protocol, RatesRecord, StepModel

IDLE = "idle"
# times are sums of many stretches in floating point
_TOLERANCE = 1e-6


@part
class KernelRecord:
    """One kernel, or on a CPU one op without the ops inside it.

    Attributes:
        name: as the profiler has it, cut where it is very long.
        launched_by: the op that launched it; None where that is not known, or it is that op.
        milliseconds: of a step, together.
        calls: in all profiled steps.
    """

    name: str
    launched_by: str | None
    milliseconds: NotNegative
    calls: Count


@part
class ClassRecord:
    """The time of one kernel class in a step.

    Attributes:
        kernel_class: as the roofline names it, or `other`: what no rule could tell.
        milliseconds: in which its kernels were busy; an instant that several kernels share is divided among them. Of
            `idle`: in which none was.
        roofline_milliseconds: the least; None for `other`, and where there are no rates.
        kernels: the longest ones.
    """

    kernel_class: str
    milliseconds: NotNegative
    roofline_milliseconds: NotNegative | None = None
    kernels: list[KernelRecord] = field(default_factory=list)

    @property
    def gap(self) -> float:
        """Milliseconds above the least."""
        return self.milliseconds - (self.roofline_milliseconds or 0.0)


@record
class ProfileRecord(Record):
    """Where the time of a variant's step went on one device.

    Attributes:
        variant, settings, about: what ran, as in the benchmark of steps.
        recompute: `none`, `swiglu` or `full`, as it ran.
        detail: what was decided in the process, such as the backend of each op.
        device_type: `cpu`, where ops are counted, or that of an accelerator, where kernels are.
        rates: that the rooflines are made of.
        tokens, attention_pairs: of all profiled steps: input tokens, and (query, key) pairs that the masks allowed.
        wall_milliseconds: of a step under the profiler, from one synchronisation to the next.
        unprofiled_milliseconds: median of a step of the same process without the profiler.
        classes: with `idle`; together they are the wall time.
    """

    model: StepModel
    protocol: Protocol
    variant: str
    settings: list[str]
    about: str
    recompute: str
    detail: str
    device_type: str
    rates: RatesRecord
    tokens: Count
    attention_pairs: Count
    wall_milliseconds: Positive
    unprofiled_milliseconds: Positive
    classes: list[ClassRecord]
    schema: Literal["litespark.bench.profile/2"] = field(default="litespark.bench.profile/2", kw_only=True)

    def by_gap(self) -> list[ClassRecord]:
        """The classes, that with most to win first."""
        return sorted(self.classes, key=lambda each: each.gap, reverse=True)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        names = [each.kernel_class for each in self.classes]
        if len(set(names)) < len(names) or IDLE not in names:
            raise ValueError(f"classes: got {', '.join(names)}, expected each once and {IDLE} among them")
        slack = _TOLERANCE * self.wall_milliseconds
        total = sum(each.milliseconds for each in self.classes)
        if abs(total - self.wall_milliseconds) > slack:
            raise ValueError(f"classes: got {total:.6f} ms together, expected {self.wall_milliseconds:.6f} of a step")
        for each in self.classes:
            kernels = sum(kernel.milliseconds for kernel in each.kernels)
            if kernels > each.milliseconds + slack:
                raise ValueError(
                    f"classes.{each.kernel_class}: got {each.milliseconds} ms, expected the {kernels} of its kernels"
                )
        return self
