"""The record of `litespark bench profile`: the time of a step by kernel class, and the least time of each."""

from dataclasses import field
from typing import Literal

from litespark.metrics.records.base import Count, NotNegative, Positive, part, record
from litespark.metrics.records.origin import Record
from litespark.metrics.records.step import Protocol, RatesRecord, StepModel

IDLE = "idle"


@part
class KernelRecord:
    """One kernel, or on a CPU one op without the ops inside it: milliseconds of a step, calls in all profiled steps.

    `launched_by` is None where the op is not known, or it is that op.
    """

    name: str
    launched_by: str | None
    milliseconds: NotNegative
    calls: Count


@part
class ClassRecord:
    """The time of one kernel class in a step, the least that it can take, and its longest kernels.

    `idle` is what all of them leave of the step. `other` is what no rule could tell, and has no least time.
    """

    kernel_class: str
    milliseconds: NotNegative
    roofline_milliseconds: NotNegative | None = None
    kernels: list[KernelRecord] = field(default_factory=list)

    @property
    def gap(self) -> float:
        return self.milliseconds - (self.roofline_milliseconds or 0.0)


@record
class ProfileRecord(Record):
    """Where the time of a variant's step went on one device; fields as in the benchmark of steps.

    On a `cpu` ops are counted, on an accelerator kernels. `tokens` and `attention_pairs` are of all profiled steps, the
    wall time is of one, from one synchronisation to the next; the classes together, with `idle`, are the wall time.
    `unprofiled_milliseconds` is the median of a step of the same process without the profiler.
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
        return sorted(self.classes, key=lambda part: part.gap, reverse=True)
