"""Counted layers of families as one table: what each variant moves beside its products."""

from litespark.metrics.records.traffic import Counts, FamiliesRecord, FamilyTraffic, TrafficVariant
from litespark.reports.quantities import short
from litespark.reports.table import Column, Table, texts

_GIGA = 1e9
OURS = "litespark"


def table(record: FamiliesRecord) -> Table:
    """A row for each variant of each family, in the micro-batch that makes the gradients."""
    rows = [(family.model, variant.name, *_row(variant)) for family in record.families for variant in family.variants]
    columns = [
        *texts("model", "variant"),
        Column("kernels", lambda value: f"{value:,}"),
        *(Column(name, short) for name in ("outside GEMM GB", "attention GB", "GEMM GB", "all GB", "kept GB")),
    ]
    about = [
        f"A layer, forward and backward, of {record.sequences} x {record.seq_len} tokens, weights in fp32 under "
        f"{record.precision} autocast: counted, on no device"
    ]
    abouts = dict.fromkeys(
        f"{variant.name}: {variant.reason or variant.about}"
        for family in record.families
        for variant in family.variants
    )
    notes = [
        *abouts,
        "outside GEMM: all bytes but those of products: attention, norms, casts of weights, all else; a product that "
        "adds to what is there reads it, where others are added up outside",
        *(missed for family in record.families if (missed := behind(family)) is not None),
    ]
    return Table(columns, rows, about=about, notes=notes)


def outside_products(variant: TrafficVariant) -> int:
    """Bytes that a layer moves in the first micro-batch beside its products."""
    return sum(counts.moved for name, counts in _layer(variant).items() if name != "gemm")


def behind(family: FamilyTraffic) -> str | None:
    """Who moves fewer bytes outside products than ours does, and by how much; None: nobody."""
    moved = {variant.name: outside_products(variant) for variant in family.variants if variant.reason is None}
    ours = moved.get(OURS, 0)
    fewer = {name: ours / other - 1 for name, other in moved.items() if other < ours}
    words = ", ".join(f"{100 * more:.1f} % more than {name}" for name, more in fewer.items())
    return f"{family.model}: {OURS} moves {words}" if fewer else None


def _layer(variant: TrafficVariant) -> dict[str, Counts]:
    return {one.kernel_class: one.layer for one in variant.classes if one.phase == "first"}


def _row(variant: TrafficVariant) -> tuple[object, ...]:
    if variant.reason is not None:
        return (None,) * 6
    layer = _layer(variant)
    kept = next(one.layer for one in variant.saved if one.phase == "first")
    whole = sum(counts.moved for counts in layer.values())
    moved = outside_products(variant), layer["attention"].moved, layer["gemm"].moved, whole, kept
    return sum(counts.launches for counts in layer.values()), *(part / _GIGA for part in moved)
