"""A profile as a table and as a picture: each kernel class beside its floor, that with most to win first."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from litespark.metrics.records.profile import IDLE, ClassRecord, KernelRecord, ProfileRecord
from litespark.reports.plots import COLOURS, DOTS_PER_INCH, GREY, WIDTH_INCHES
from litespark.reports.quantities import ABSENT, is_measured, percent, plain, scaled
from litespark.reports.text_blocks import aligned

_LONGEST_NAME = 58
_HEADER = ("class", "ms a step", "share", "floor ms", "above it ms", "longest kernels (ms, calls a step)")
# of the step: what a class may be below its floor without a word
_NOISE = 0.01
_TEXT_COLUMNS = (0, 5)


def text(record: ProfileRecord) -> str:
    """The table for the terminal: classes by what they take above their floor, each with its longest kernels."""
    rows: list[tuple[str, ...]] = [_HEADER]
    for each in record.by_gap():
        kernels = [_kernel(kernel, record.protocol.steps) for kernel in each.kernels] or [""]
        rows.append((*_figures(each, record), kernels[0]))
        rows += [("", "", "", "", "", kernel) for kernel in kernels[1:]]
    rows.append((*_total(record), ""))
    return "\n".join([*_head(record), "", *aligned(rows, _TEXT_COLUMNS), "", *_notes(record)])


def picture(record: ProfileRecord, path: Path) -> None:
    """Draw milliseconds of a step by class beside the floor, into a PNG.

    Raises:
        OSError: the file cannot be written.
    """
    classes = [each for each in record.by_gap() if each.milliseconds > 0 or each.floor_milliseconds]
    figure = Figure(figsize=(WIDTH_INCHES, 1.6 + 0.45 * len(classes)), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    for place, each in enumerate(classes):
        axes.barh(place - 0.19, each.milliseconds, 0.36, color=_colour(each), zorder=2)
        floor, said = each.floor_milliseconds, plain(each.milliseconds, digits=3)
        if is_measured(floor):
            axes.barh(place + 0.19, floor, 0.36, color="white", edgecolor=GREY, hatch="////", linewidth=0.8, zorder=2)
            said += f" (floor {plain(floor, digits=3)})" if each.kernel_class != IDLE else ""
        at = (max(each.milliseconds, floor or 0.0), place)
        axes.annotate(said, at, xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(classes)), [each.kernel_class for each in classes])
    axes.invert_yaxis()  # the largest gap on top
    axes.margins(x=0.28)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds of a step (hatched: the floor)")
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    title = f"Where the step's time goes: {record.variant}, {record.model.name}, {record.protocol.precision}"
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _colour(each: ClassRecord) -> str:
    return {IDLE: GREY, "other": COLOURS[3]}.get(each.kernel_class, COLOURS[0])


def _head(record: ProfileRecord) -> list[str]:
    protocol, model = record.protocol, record.model
    layers = f"{model.num_layers} of {model.layers_whole} layers" if model.num_layers < model.layers_whole else "whole"
    return [
        f"{record.variant}: {record.about}; recompute {record.recompute}; {record.detail}",
        f"{model.name} ({layers}), {protocol.accumulate} x {protocol.micro_batch_size} x {protocol.seq_len} "
        f"tokens a step, {protocol.precision}, {record.provenance.environment.devices[0].name}",
    ]


def _figures(each: ClassRecord, record: ProfileRecord) -> tuple[str, ...]:
    return (
        each.kernel_class,
        plain(each.milliseconds, digits=3),
        percent(each.milliseconds / record.wall_milliseconds),
        "-" if each.floor_milliseconds is None else plain(each.floor_milliseconds, digits=3),
        plain(each.gap, digits=3),
    )


def _total(record: ProfileRecord) -> tuple[str, ...]:
    floors = [each.floor_milliseconds for each in record.classes if each.floor_milliseconds is not None]
    floor = sum(floors) if floors else None
    return (
        "step",
        plain(record.wall_milliseconds, digits=3),
        "100 %",
        ABSENT if floor is None else plain(floor, digits=3),
        ABSENT if floor is None else plain(record.wall_milliseconds - floor, digits=3),
    )


def _kernel(kernel: KernelRecord, steps: int) -> str:
    name = " ".join(kernel.name.split())
    if len(name) > _LONGEST_NAME:
        # what an elementwise kernel computes stands at the end of its name, behind what it is made from
        half = (_LONGEST_NAME - 1) // 2
        name = f"{name[:half]}…{name[-half:]}"
    by = f" by {kernel.launched_by}" if kernel.launched_by not in (None, kernel.name) else ""
    return f"{plain(kernel.milliseconds, digits=3)} {plain(kernel.calls / steps, digits=3)}x {name}{by}"


def _notes(record: ProfileRecord) -> list[str]:
    rates = record.rates
    attention = "that of products" if rates.attention_flops is None else scaled(rates.attention_flops, "FLOP/s")
    what = "ops of the CPU, each without those inside it" if record.device_type == "cpu" else "kernels of the GPU"
    below = [each.kernel_class for each in record.classes if each.gap < -_NOISE * record.wall_milliseconds]
    faster = f"below its floor: {', '.join(below)}: the step reached more than the rates that were measured before it"
    return [
        f"time of {what}; idle: none ran; other: not told by its name or by what launched it",
        f"a step under the profiler takes {plain(record.wall_milliseconds, digits=3)} ms, without it "
        f"{plain(record.unprofiled_milliseconds, digits=3)} ms",
        f"floor at the rates of this device: products {scaled(rates.matmul_flops, 'FLOP/s')}, attention {attention}, "
        f"copies {scaled(rates.copy_bytes, 'B/s')}",
        *([f"{faster}; measure again while nothing else runs"] if below else []),
    ]
