"""A profile as a table and as a picture: each kernel class beside its roofline, that with most to win first."""

from __future__ import annotations

from pathlib import Path

from litespark.metrics.records.profile import IDLE, KernelRecord, ProfileRecord
from litespark.reports.plots import COLOURS, GREY, new_figure, save, set_title
from litespark.reports.quantities import is_measured, percent, plain, scaled
from litespark.reports.table import Column, Table, texts

_LONGEST_NAME = 58
# of the step: what a class may be below its roofline without a word
_NOISE = 0.01


def table(record: ProfileRecord) -> Table:
    """Classes by what they take above their roofline, each with its longest kernels."""
    rows: list[tuple[object, ...]] = []
    for each in record.by_gap():
        kernels = [_kernel(kernel, record.protocol.steps) for kernel in each.kernels] or [""]
        share = each.milliseconds / record.wall_milliseconds
        rows.append((each.kernel_class, each.milliseconds, share, each.roofline_milliseconds, each.gap, kernels[0]))
        rows += [(*[""] * 5, kernel) for kernel in kernels[1:]]
    rooflines = [each.roofline_milliseconds for each in record.classes if each.roofline_milliseconds is not None]
    roofline = sum(rooflines) if rooflines else None
    gap = None if roofline is None else record.wall_milliseconds - roofline
    rows.append(("step", record.wall_milliseconds, 1.0, roofline, gap, ""))
    columns = [*texts("class"), Column("ms a step", _digits), Column("share", percent), Column("roofline ms", _digits),
               Column("above it ms", _digits), *texts("longest kernels (ms, calls a step)")]  # fmt: skip
    protocol, model = record.protocol, record.model
    layers = f"{model.num_layers} of {model.layers_whole} layers" if model.num_layers < model.layers_whole else "whole"
    about = [
        f"{record.variant}: {record.about}; recompute {record.recompute}; {record.detail}",
        f"{model.name} ({layers}), {protocol.accumulate} x {protocol.micro_batch_size} x {protocol.seq_len} "
        f"tokens a step, {protocol.precision}, {record.provenance.environment.devices[0].name}",
    ]
    return Table(columns, rows, about=about, notes=_notes(record))


def picture(record: ProfileRecord, path: Path) -> None:
    """Draw milliseconds of a step by class beside the roofline, into a PNG.

    Raises:
        OSError: the file cannot be written.
    """
    classes = [each for each in record.by_gap() if each.milliseconds > 0 or each.roofline_milliseconds]
    figure, (axes,) = new_figure([""], 1.6 + 0.45 * len(classes))
    colours = {IDLE: GREY, "other": COLOURS[3]}
    for place, each in enumerate(classes):
        axes.barh(place - 0.19, each.milliseconds, 0.36, color=colours.get(each.kernel_class, COLOURS[0]), zorder=2)
        roofline, label = each.roofline_milliseconds, _digits(each.milliseconds)
        if is_measured(roofline):
            axes.barh(
                place + 0.19, roofline, 0.36, color="white", edgecolor=GREY, hatch="////", linewidth=0.8, zorder=2
            )
            label += f" (roofline {_digits(roofline)})" if each.kernel_class != IDLE else ""
        at = (max(each.milliseconds, roofline or 0.0), place)
        axes.annotate(label, at, xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(classes)), [each.kernel_class for each in classes])
    axes.invert_yaxis()  # the largest gap on top
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.28)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds of a step (hatched: the roofline)")
    set_title(axes, f"Where the step's time goes: {record.variant}, {record.model.name}, {record.protocol.precision}")
    save(figure, path)


def _digits(value: float) -> str:
    return plain(value, digits=3)


def _kernel(kernel: KernelRecord, steps: int) -> str:
    name = " ".join(kernel.name.split())
    if len(name) > _LONGEST_NAME:
        # what an elementwise kernel computes stands at the end of its name, behind what it is made from
        half = (_LONGEST_NAME - 1) // 2
        name = f"{name[:half]}…{name[-half:]}"
    by = f" by {kernel.launched_by}" if kernel.launched_by not in (None, kernel.name) else ""
    return f"{_digits(kernel.milliseconds)} {_digits(kernel.calls / steps)}x {name}{by}"


def _notes(record: ProfileRecord) -> list[str]:
    rates = record.rates
    attention = "that of products" if rates.attention_flops is None else scaled(rates.attention_flops, "FLOP/s")
    what = "ops of the CPU, each without those inside it" if record.device_type == "cpu" else "kernels of the GPU"
    notes = [
        f"time of {what}; idle: none ran; other: not told by its name or by what launched it",
        f"a step under the profiler takes {_digits(record.wall_milliseconds)} ms, without it "
        f"{_digits(record.unprofiled_milliseconds)} ms",
        f"roofline at the rates of this device: products {scaled(rates.matmul_flops, 'FLOP/s')}, attention "
        f"{attention}, copies {scaled(rates.copy_bytes, 'B/s')}",
    ]
    if below := [each.kernel_class for each in record.classes if each.gap < -_NOISE * record.wall_milliseconds]:
        notes.append(
            f"below its roofline: {', '.join(below)}: the step reached more than the rates that were measured before "
            "it; measure again while nothing else runs"
        )
    return notes
