"""The records of `litespark bench traffic`: what a step moves, launches, multiplies and keeps: counts."""

from dataclasses import field
from typing import Literal, get_args

from litespark.metrics.records.base import Count, part, record
from litespark.metrics.records.origin import Record

# the micro-batch that makes the gradients of a step, each that adds to them, and what follows the last
TrafficPhase = Literal["first", "later", "optimizer"]
PHASES: tuple[TrafficPhase, ...] = get_args(TrafficPhase)


@part
class Counts:
    """Bytes, calls of ops from the host, kernels, and FLOPs of products, with those among them that are made again.

    They are signed: outside of the layers there may be less, where a layer does what the model without one does too.
    """

    read: int = 0
    written: int = 0
    calls: int = 0
    launches: int = 0
    flops: int = 0
    recomputed: int = 0

    @property
    def moved(self) -> int:
        return self.read + self.written

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: mine + getattr(other, name) for name, mine in vars(self).items()})

    def __mul__(self, factor: int) -> "Counts":
        return Counts(**{name: factor * mine for name, mine in vars(self).items()})

    def __sub__(self, other: "Counts") -> "Counts":
        return self + other * -1


@part
class ClassTraffic:
    """One kernel class in one phase: of each layer, and of the rest of the model together."""

    phase: TrafficPhase
    kernel_class: str
    layer: Counts
    rest: Counts


@part
class SavedBytes:
    """What a micro-batch keeps from its forward for its backward pass."""

    phase: TrafficPhase
    layer: int
    rest: int


@part
class TrafficVariant:
    """What one variant does; `reason` instead of figures where it was not counted."""

    name: str
    about: str
    reason: str | None = None
    classes: list[ClassTraffic] = field(default_factory=list)
    saved: list[SavedBytes] = field(default_factory=list)


@record
class TrafficRecord(Record):
    """What is counted does not depend on the machine: its environment names versions, and "counted" as the device."""

    model: str
    parameters: Count
    num_layers: Count
    micro_batch_size: Count
    accumulate: Count
    seq_len: Count
    document_mask: bool
    precision: str
    variants: list[TrafficVariant]
    schema: Literal["litespark.bench.traffic/1"] = field(default="litespark.bench.traffic/1", kw_only=True)

    def times(self, phase: TrafficPhase) -> int:
        """How often a step has the phase."""
        return self.accumulate - 1 if phase == "later" else 1

    def by_class(self, variant: TrafficVariant, *phases: TrafficPhase) -> dict[str, Counts]:
        """Kernel class -> its counts in a whole step, or in some phases of it."""
        sums: dict[str, Counts] = {}
        for one in variant.classes:
            if one.phase in (phases or PHASES):
                whole = one.layer * self.num_layers + one.rest
                sums[one.kernel_class] = sums.get(one.kernel_class, Counts()) + whole * self.times(one.phase)
        return sums

    def asked(self) -> tuple[object, ...]:
        return (self.provenance.config_hash,)


@part
class FamilyTraffic:
    """A layer of a model of one family, in every variant."""

    family: str
    model: str
    variants: list[TrafficVariant]


@record
class FamiliesRecord(Record):
    """Layers of families side by side; "rest" of a class is the model without its layers."""

    sequences: Count
    seq_len: Count
    precision: str
    families: list[FamilyTraffic]
    schema: Literal["litespark.bench.families/1"] = field(default="litespark.bench.families/1", kw_only=True)

    def asked(self) -> tuple[object, ...]:
        return (self.provenance.config_hash,)
