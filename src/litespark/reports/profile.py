"""A profile as a table and as a picture: each kernel class beside its roofline, that with most to win first."""

from matplotlib.figure import Figure

from litespark.metrics.records.profile import IDLE, KernelRecord, ProfileRecord
from litespark.reports.plots import COLOURS, GREY, new_figure
from litespark.reports.quantities import percent, scaled, short
from litespark.reports.table import Column, Table, texts

_LONGEST_NAME = 58
# of the step: what a class may be below its roofline without a word
_NOISE = 0.01


def table(record: ProfileRecord) -> Table:
    rows: list[tuple[object, ...]] = []
    for part in record.by_gap():
        first, *more = [_kernel(kernel, record.protocol.steps) for kernel in part.kernels] or [""]
        share = part.milliseconds / record.wall_milliseconds
        rows.append((part.kernel_class, part.milliseconds, share, part.roofline_milliseconds, part.gap, first))
        rows += [(*[""] * 5, kernel) for kernel in more]
    rooflines = [part.roofline_milliseconds for part in record.classes if part.roofline_milliseconds is not None]
    roofline = sum(rooflines) if rooflines else None
    gap = None if roofline is None else record.wall_milliseconds - roofline
    rows.append(("step", record.wall_milliseconds, 1.0, roofline, gap, ""))
    columns = [
        *texts("class"),
        Column("ms a step", short),
        Column("share", percent),
        Column("roofline ms", short),
        Column("above it ms", short),
        *texts("longest kernels (ms, calls a step)"),
    ]
    protocol, model = record.protocol, record.model
    layers = f"{model.num_layers} of {model.layers_whole} layers" if model.num_layers < model.layers_whole else "whole"
    about = [
        f"{record.variant}: {record.about}; recompute {record.recompute}; {record.detail}",
        f"{model.name} ({layers}), {protocol.accumulate} x {protocol.micro_batch_size} x {protocol.seq_len} "
        f"tokens a step, {protocol.precision}, {record.provenance.environment.devices[0].name}",
    ]
    return Table(columns, rows, about=about, notes=_notes(record))


def figure(record: ProfileRecord) -> Figure:
    classes = [part for part in record.by_gap() if part.milliseconds > 0 or part.roofline_milliseconds]
    title = f"Where the step's time goes: {record.variant}, {record.model.name}, {record.protocol.precision}"
    drawn, (axes,) = new_figure(1.6 + 0.45 * len(classes), "", title=title)
    colours = {IDLE: GREY, "other": COLOURS[3]}
    for place, part in enumerate(classes):
        roofline, label = part.roofline_milliseconds or 0.0, short(part.milliseconds)
        axes.barh(place - 0.19, part.milliseconds, 0.36, color=colours.get(part.kernel_class, COLOURS[0]), zorder=2)
        axes.barh(place + 0.19, roofline, 0.36, color="white", edgecolor=GREY, hatch="////", linewidth=0.8, zorder=2)
        if roofline:
            label += f" (roofline {short(roofline)})"
        axes.annotate(
            label,
            (max(part.milliseconds, roofline), place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(classes)), [part.kernel_class for part in classes])
    axes.invert_yaxis()  # the largest gap on top
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.28)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds of a step (hatched: the roofline)")
    return drawn


def _kernel(kernel: KernelRecord, steps: int) -> str:
    name = " ".join(kernel.name.split())
    if len(name) > _LONGEST_NAME:
        # what an elementwise kernel computes stands at the end of its name, behind what it is made from
        half = (_LONGEST_NAME - 1) // 2
        name = f"{name[:half]}…{name[-half:]}"
    by = f" by {kernel.launched_by}" if kernel.launched_by not in (None, kernel.name) else ""
    return f"{short(kernel.milliseconds)} {short(kernel.calls / steps)}x {name}{by}"


def _notes(record: ProfileRecord) -> list[str]:
    rates = record.rates
    attention = "that of products" if rates.attention_flops is None else scaled(rates.attention_flops, "FLOP/s")
    what = "ops of the CPU, each without those inside it" if record.device_type == "cpu" else "kernels of the GPU"
    notes = [
        f"time of {what}; idle: none ran; other: not told by its name or by what launched it",
        f"a step under the profiler takes {short(record.wall_milliseconds)} ms, without it "
        f"{short(record.unprofiled_milliseconds)} ms",
        f"roofline at the rates of this device: products {scaled(rates.matmul_flops, 'FLOP/s')}, attention "
        f"{attention}, copies {scaled(rates.copy_bytes, 'B/s')}",
    ]
    if below := [part.kernel_class for part in record.classes if part.gap < -_NOISE * record.wall_milliseconds]:
        notes.append(
            f"below its roofline: {', '.join(below)}: the step reached more than the rates that were measured before "
            "it; measure again while nothing else runs"
        )
    return notes
