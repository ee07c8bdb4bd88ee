"""The record of `litespark bench profile`: the time of a step by kernel class, and the least time of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from litespark.metrics.records.bench import Provenance
from litespark.metrics.records.sealing import SealedRecord
from litespark.metrics.records.step import Protocol, RatesRecord, StepModel
from litespark.metrics.records.strict_json import RecordError

SCHEMA = "litespark.bench.profile/1"
IDLE = "idle"

# times are sums of many stretches in floating point
_TOLERANCE = 1e-6


@dataclass
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
    milliseconds: float
    calls: int


@dataclass
class ClassRecord:
    """The time of one kernel class in a step.

    Attributes:
        kernel_class: as the floor names it, or `other`: what no rule could tell.
        milliseconds: in which its kernels were busy; an instant that several kernels share is divided among them. Of
            `idle`: in which none was.
        floor_milliseconds: the least; None for `other`, and where there are no rates.
        kernels: the longest ones.
    """

    kernel_class: str
    milliseconds: float
    floor_milliseconds: float | None = None
    kernels: list[KernelRecord] = field(default_factory=list)

    @property
    def gap(self) -> float:
        """Milliseconds above the least."""
        return self.milliseconds - (self.floor_milliseconds or 0.0)


@dataclass
class ProfileRecord(SealedRecord):
    """Where the time of a variant's step went on one device.

    Attributes:
        variant, settings, about: what ran, as in the benchmark of steps.
        recompute: `none`, `swiglu` or `full`, as it ran.
        detail: what was decided in the process, such as the backend of each op.
        device_type: `cpu`, where ops are counted, or that of an accelerator, where kernels are.
        rates: that the floors are made of.
        tokens, attention_pairs: of all profiled steps: input tokens, and (query, key) pairs that the masks allowed.
        wall_milliseconds: of a step under the profiler, from one synchronisation to the next.
        unprofiled_milliseconds: median of a step of the same process without the profiler.
        classes: with `idle`; together they are the wall time.
    """

    schema = SCHEMA

    provenance: Provenance
    model: StepModel
    protocol: Protocol
    variant: str
    settings: list[str]
    about: str
    recompute: str
    detail: str
    device_type: str
    rates: RatesRecord
    tokens: int
    attention_pairs: int
    wall_milliseconds: float
    unprofiled_milliseconds: float
    classes: list[ClassRecord] = field(default_factory=list)

    def by_gap(self) -> list[ClassRecord]:
        """The classes, that with most to win first."""
        return sorted(self.classes, key=lambda each: each.gap, reverse=True)

    def write(self, path: Path) -> None:
        """Write as sealed JSON.

        Raises:
            RecordError: it contradicts itself, or a value is of the wrong type or not finite.
        """
        self.check()
        super().write(path)

    def check(self) -> None:
        """The rules that types do not express.

        Raises:
            RecordError: one is broken; the message names the class.
        """
        names = [each.kernel_class for each in self.classes]
        if len(set(names)) < len(names) or IDLE not in names:
            raise RecordError(f"classes: got {', '.join(names)}, expected each once and {IDLE} among them")
        if not self.wall_milliseconds > 0 or not self.unprofiled_milliseconds > 0:
            raise RecordError(
                f"wall_milliseconds, unprofiled_milliseconds: got {self.wall_milliseconds} and "
                f"{self.unprofiled_milliseconds}, expected both above 0"
            )
        if self.tokens <= 0 or self.attention_pairs <= 0:
            raise RecordError(f"tokens, attention_pairs: got {self.tokens} and {self.attention_pairs}, expected some")
        total = sum(each.milliseconds for each in self.classes)
        if abs(total - self.wall_milliseconds) > _TOLERANCE * self.wall_milliseconds:
            raise RecordError(
                f"classes: got {total:.6f} ms together, expected the {self.wall_milliseconds:.6f} ms of the step"
            )
        for each in self.classes:
            kernels = sum(kernel.milliseconds for kernel in each.kernels)
            if each.milliseconds < 0 or kernels > each.milliseconds + _TOLERANCE * self.wall_milliseconds:
                raise RecordError(
                    f"classes.{each.kernel_class}: got {each.milliseconds} ms and kernels of {kernels} ms, expected no "
                    "less than its kernels"
                )
            where, floor = f"classes.{each.kernel_class}", each.floor_milliseconds
            if floor is not None and floor < 0:
                raise RecordError(f"{where}: got a floor of {floor}, expected 0 or more")
            if any(kernel.calls < 1 or kernel.milliseconds < 0 for kernel in each.kernels):
                raise RecordError(f"{where}: got a kernel without calls or below 0 ms, expected none")
