"""`litespark bench ops` for a reader: each backend of each op beside PyTorch and Liger."""

from litespark.metrics.records.ops import BF16, CaseRecord, OpFigures, OpsRecord, TimeRecord, VariantRecord
from litespark.ops.backend import REFERENCE
from litespark.reports.quantities import percent
from litespark.reports.table import Column, Table, texts

_MS = "{:.3f}".format


def tables(record: OpsRecord) -> list[Table]:
    bandwidth = record.copy_bytes_per_second
    about = f"{record.model}, {record.sequences} x {record.seq_len} tokens, {record.environment.precision}, " + (
        record.environment.device_names + (f", copies {bandwidth / 1e9:.0f} GB/s" if bandwidth is not None else "")
    )
    made = [Table([], [], about), *map(_case, record.cases)]
    if record.widths or record.pays:
        made.append(_widths(record))
    if record.optimizer:
        rows = [(one.name, one.time.median_ms, _spread(one.time), one.bytes_per_parameter) for one in record.optimizer]
        columns = [
            *texts("optimizer step"),
            Column("ms", _MS),
            Column("p10 to p90"),
            Column("bytes a parameter", "{:.1f}".format),
        ]
        made.append(Table(columns, rows, f"optimizer step ({record.optimizer_parameters} parameters)"))
    failures = [f"{failure.op} FAILED: {failure.error}" for failure in record.failures]
    return [*made, *([Table([], [], notes=failures)] if failures else [])]


def _case(case: CaseRecord) -> Table:
    """Times, how often as fast as the reference (fp8: as bf16), shares of the copy bandwidth or rates, and memory."""
    base = BF16 if case.op == "fp8" else REFERENCE
    times = {variant.name: variant.forward_backward for variant in case.variants}
    rows = [_variant(variant, case.figures(variant), times.get(base)) for variant in case.variants]
    rows += [(peer.name, None, peer.time.median_ms, None, None, None, None, "") for peer in case.yardsticks]
    columns = [
        *texts("variant"),
        Column("forward ms", _MS),
        Column("and backward ms", _MS),
        Column("p10 to p90"),
        Column(f"times {base}", "{:.2f}".format),
        Column("of copy, or TFLOP/s"),
        Column("peak MiB", "{:.0f}".format),
        *texts("why absent"),
    ]
    return Table(columns, rows, f"{case.case} ({case.sizes})")


def _variant(variant: VariantRecord, figures: OpFigures, base: TimeRecord | None) -> tuple[object, ...]:
    name, both = f"{variant.name} ({variant.kernel})" if variant.kernel else variant.name, variant.forward_backward
    if variant.forward is None or both is None:
        return name, None, None, None, None, None, None, variant.reason
    shares = [share for share in (figures.share_forward, figures.share_backward) if share is not None]
    rates = [rate for rate in (figures.tflops, figures.tflops_forward, figures.tflops_backward) if rate is not None]
    reached = " ".join(map(percent, shares)) or " ".join(f"{rate:.3g}" for rate in rates)
    faster = base and base.median_ms / both.median_ms
    return (name, variant.forward.median_ms, both.median_ms, _spread(both), faster, reached or None,
            variant.peak_memory_mib, variant.reason or "")  # fmt: skip


def _widths(record: OpsRecord) -> Table:
    tokens = record.sequences * record.seq_len
    names = [time.name for time in record.widths[0].times] if record.widths else []
    rows = [(str(width.width), *(time.time.median_ms for time in width.times)) for width in record.widths]
    notes = [
        f"fp8 pays at {tokens} tokens, {pays.recipe}: "
        + (f"no width: {pays.reason}" if pays.width is None else f"from width {pays.width} on")
        for pays in record.pays
    ]
    title = f"square linear layers, {tokens} tokens, ms of forward and backward"
    return Table([Column("width"), *(Column(name, _MS) for name in names)], rows, title, notes=notes)


def _spread(time: TimeRecord) -> str:
    return f"{time.p10_ms:.3f}-{time.p90_ms:.3f}"
