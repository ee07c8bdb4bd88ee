"""A counted step as two tables, and beside it the time that it cannot be below at stated rates, a bound."""

from dataclasses import dataclass

from litespark.metrics.records.traffic import PHASES, Counts, TrafficPhase, TrafficRecord, TrafficVariant
from litespark.reports.quantities import plain, short
from litespark.reports.table import Column, Table, texts

_GIGA, _TERA = 1e9, 1e12
_PRODUCTS = ("gemm", "gemm_fp8")


@dataclass(frozen=True)
class Rates:
    """What a device reaches in practice, in FLOP/s and bytes/s, and seconds between kernels; of one H200.

    Attention: with the products that its backward pass makes again counted.
    """

    gemm: float = 790e12
    gemm_fp8: float = 1350e12
    attention: float = 510e12
    bytes: float = 4.3e12
    gap: float = 0.0

    def seconds(self, kernel_class: str, counts: Counts) -> float:
        """The larger of the time to move the bytes and the time to compute, and the gaps between kernels."""
        flops = {"gemm_fp8": self.gemm_fp8, "attention": self.attention}.get(kernel_class, self.gemm)
        return max(counts.moved / self.bytes, counts.flops / flops) + counts.launches * self.gap


def tables(record: TrafficRecord, rates: Rates | None = None) -> list[Table]:
    """All variants side by side, then each class of the first of them."""
    rates = rates or Rates()
    counted = [variant for variant in record.variants if variant.reason is None]
    return [_variants(record, rates), *(_classes(record, variant, rates) for variant in counted[:1])]


def bound(record: TrafficRecord, variant: TrafficVariant, rates: Rates) -> float:
    """Milliseconds that a step takes at least: the sum over its classes."""
    return 1e3 * sum(rates.seconds(name, counts) for name, counts in record.by_class(variant).items())


def _variants(record: TrafficRecord, rates: Rates) -> Table:
    rows: list[tuple[object, ...]] = []
    for variant in record.variants:
        if variant.reason is None:
            layers = [_layer(variant, phase) for phase in PHASES]
            rows += [(variant.name, f"{phase}, a layer", *row) for phase, row in zip(PHASES, layers, strict=True)]
            rows.append((variant.name, "step, whole", *_step(record, variant)))
        else:
            rows.append((variant.name, "", *[None] * 8))
    columns = [
        *texts("variant", "part"),
        *(Column(name, _count) for name in ("kernels", "op calls")),
        *(Column(name, short) for name in ("GEMM GB", "attention GB", "rest GB", "all GB", "kept GB", "TFLOP again")),
    ]
    about = [
        f"{record.model}, {record.num_layers} layers, {record.accumulate} x {record.micro_batch_size} x "
        f"{record.seq_len} tokens a step, {record.precision}: counted, on no device"
    ]
    bounds = [
        f"{variant.name} {plain(bound(record, variant, rates))} ms"
        for variant in record.variants
        if variant.reason is None
    ]
    notes = [
        *(f"{variant.name}: {variant.reason or variant.about}" for variant in record.variants),
        "first: the micro-batch that makes the gradients of a step; later: each that adds to them; optimizer: what "
        "follows the last; kept: from the forward to the backward pass",
        f"bound (not measured) of a step at {_rates(rates)}: {', '.join(bounds)}",
    ]
    return Table(columns, rows, about=about, notes=notes)


def _layer(variant: TrafficVariant, phase: TrafficPhase) -> tuple[object, ...]:
    counts = {one.kernel_class: one.layer for one in variant.classes if one.phase == phase}
    kept = next(one.layer for one in variant.saved if one.phase == phase)
    return _row(counts, kept)


def _step(record: TrafficRecord, variant: TrafficVariant) -> tuple[object, ...]:
    kept = max(one.layer * record.num_layers + one.rest for one in variant.saved)
    return _row(record.by_class(variant), kept)


def _row(counts: dict[str, Counts], kept: int) -> tuple[object, ...]:
    whole = sum(counts.values(), Counts())
    products = sum(counts[name].moved for name in _PRODUCTS if name in counts)
    attention = counts.get("attention", Counts()).moved
    parts = products, attention, whole.moved - products - attention, whole.moved, kept
    return whole.launches, whole.calls, *(part / _GIGA for part in parts), whole.recomputed / _TERA


def _classes(record: TrafficRecord, variant: TrafficVariant, rates: Rates) -> Table:
    rows: list[tuple[object, ...]] = []
    step = record.by_class(variant)
    for name in sorted(step, key=lambda name: -step[name].moved):
        by_phase = [
            sum((one.layer for one in variant.classes if (one.kernel_class, one.phase) == (name, phase)), Counts())
            for phase in PHASES
        ]
        layer = [counts.moved / _GIGA for counts in by_phase]
        counts = step[name]
        whole = counts.launches, counts.read / _GIGA, counts.written / _GIGA, counts.flops / _TERA
        rows.append((name, *layer, *whole, 1e3 * rates.seconds(name, counts)))
    columns = [
        *texts("class"),
        *(Column(f"{phase} GB a layer", short) for phase in PHASES),
        Column("kernels a step", _count),
        *(Column(name, short) for name in ("read GB", "written GB", "TFLOP", "bound ms")),
    ]
    notes = [
        "weights: casts of weights and of their gradients, and sums of gradients; copies: casts of activations and the "
        "embedding; gemm_fp8: products in fp8"
    ]
    return Table(columns, rows, title=f"{variant.name} by kernel class", notes=notes)


def _rates(rates: Rates) -> str:
    flops = ", ".join(
        f"{name} {plain(getattr(rates, name) / _TERA)} TFLOP/s" for name in ("gemm", "gemm_fp8", "attention")
    )
    return f"{flops}, memory {plain(rates.bytes / _TERA)} TB/s and {plain(1e6 * rates.gap)} µs between kernels"


def _count(value: int) -> str:
    return f"{value:,}"
