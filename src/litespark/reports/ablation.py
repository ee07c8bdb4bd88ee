"""What an ablation found: a table as text and as Markdown, and a waterfall from the baseline to the target."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from litespark.metrics.ablation_table import Row, Table, backends, from_record
from litespark.metrics.records.ablation import BASELINE, TARGET, AblationRecord
from litespark.metrics.step_round import Interval
from litespark.metrics.step_table import failures
from litespark.reports.plots import COLOURS, DOTS_PER_INCH, GREY, WIDTH_INCHES
from litespark.reports.quantities import percent, plain, rate, scaled
from litespark.reports.tables import markdown_table
from litespark.reports.text_blocks import aligned, bulleted

NONE = "—"
_GAIN, _LOSS, _END = COLOURS[2], COLOURS[1], COLOURS[0]
# of a switch with which the same backends ran
_NOTHING = "#bbbbbb"
# share of the axis between the top of a bar and its label
_LABEL_GAP = 0.015


def text(record: AblationRecord) -> str:
    """The table and what is to be known beside it, for a terminal."""
    table = from_record(record)
    lines = [*_about(record), "", *aligned([header(table), *cells(table)], text_columns=None), "", *summary(table)]
    return "\n".join(lines)


def markdown(record: AblationRecord, picture: str | None = None) -> str:
    """The same as Markdown, with the picture in the file of that name."""
    table = from_record(record)
    shown = [] if picture is None else [f"![tokens/s from the baseline to the target]({picture})"]
    parts = [
        f"# What bought what: {record.step.model.name}",
        bulleted(_about(record)),
        table_as_markdown(table),
        *shown,
    ]
    return "\n\n".join(parts) + "\n"


def write_beside(record: AblationRecord, path: Path) -> Path:
    """Write the Markdown and the picture beside the record's file, under its name; returns the path of the picture."""
    picture = save_waterfall(from_record(record), path.with_suffix(".png"), title=record.step.model.name)
    path.with_suffix(".md").write_text(markdown(record, picture.name), encoding="utf-8")
    return picture


def failed(record: AblationRecord) -> bool:
    """Whether a combination that could run has a round without figures, out of memory aside."""
    return bool(failures(record.step))


def table_as_markdown(table: Table) -> str:
    """The table, and below it what is to be known beside it."""
    return "\n\n".join([markdown_table(header(table), cells(table)), bulleted(summary(table))])


def header(table: Table) -> tuple[str, ...]:
    """The columns; of MFU the one of the vendor's peak where there is one."""
    return (
        "switched on", "tokens/s", "× before", "lost without it", f"MFU C{'' if _vendor(table) else ' of matmul'}",
        "J/token", "J × before", "peak MiB", "Δ loss",
    )  # fmt: skip


def cells(table: Table) -> list[tuple[str, ...]]:
    """One row for the baseline and one for each switch."""
    return [_cells(row, vendor=_vendor(table)) for row in table.rows]


def summary(table: Table) -> list[str]:
    """The whole from baseline to target, how to read the columns, and why something is not there."""
    counts = sorted({row.tokens_per_second.count for row in table.rows if row.tokens_per_second})
    many = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else "no"
    energy = "J/token not measured" if table.joules_reason else f"J/token × {_interval(table.joules_ratio, _times)}"
    lines = [
        f"target over baseline: tokens/s × {_interval(table.gain, _times)}; {energy}",
        f"each row has one switch more on than the row before; median of {many} "
        f"{table.repeat if counts == [1] else f'{table.repeat}s'} (lowest to highest), compared {table.repeat} by "
        f"{table.repeat}; lost without it: share of the target's tokens/s; Δ loss: nats/token against the baseline",
    ]
    if table.joules_reason:
        lines.append(f"J/token: {table.joules_reason}")
    if any(row.unchanged for row in table.rows):
        lines.append("(=): nothing else ran with this switch here")
    return [*lines, *dict.fromkeys(note for row in table.rows for note in row.notes)]


def waterfall(table: Table, title: str = "") -> Figure:
    """Tokens/s of the baseline, what each switch adds to it, and tokens/s of the target; J/token where it was read.

    Whiskers go from the lowest repeat to the highest. A switch whose gain was not measured has no bar and says so.
    """
    energy = any(row.joules_per_token for row in table.rows)
    figure = Figure(figsize=(WIDTH_INCHES, 6.6 if energy else 4.6), layout="constrained")
    grid = figure.subplots(2 if energy else 1, 1, sharex=True, squeeze=False, height_ratios=[2, 1] if energy else None)
    _draw_speed(grid[0][0], table)
    if energy:
        _draw_energy(grid[1][0], table)
    axes = grid[-1][0]
    axes.set_xticks(range(len(table.rows) + 1), [*map(_name, table.rows), TARGET], rotation=30, ha="right")
    figure.suptitle(f"What bought what{f': {title}' if title else ''}", x=0.01, ha="left", fontsize=12,
                    fontweight="bold")  # fmt: skip
    return figure


def save_waterfall(table: Table, path: Path, title: str = "") -> Path:
    """Write the picture; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    waterfall(table, title).savefig(path, dpi=DOTS_PER_INCH)
    return path


def _about(record: AblationRecord) -> list[str]:
    step = record.step
    protocol, environment = step.protocol, step.provenance.environment
    layers = f"{step.model.num_layers} layers"
    if step.model.num_layers < step.model.layers_whole:
        layers = f"{step.model.num_layers} of its {step.model.layers_whole} layers, NOT the whole model"
    switches = [
        f"{switch.name}: " + ", ".join(f"{each.key} {each.baseline} → {each.target}" for each in switch.keys)
        for switch in record.switches
    ]
    return [
        f"{step.model.name}, {layers}; {protocol.micro_batch_size} rows of {protocol.seq_len} tokens, "
        f"micro-batches a step: {protocol.accumulate}; {protocol.data} data, {protocol.precision}",
        f"{', '.join(each.name for each in environment.devices)}, torch {environment.torch}; a fresh process for each "
        f"combination and round, every second round reversed; {protocol.warmup_steps} steps of warm-up, "
        f"{protocol.steps} counted; {protocol.rounds} rounds asked for, "
        + ("all there" if record.complete else "NOT all there: the same command continues"),
        *switches,
        *_ran(record),
    ]


def _ran(record: AblationRecord) -> list[str]:
    """What `auto` came to in the two ends."""
    ends = ((BASELINE, frozenset[str]()), (TARGET, frozenset(record.names)))
    ran = {name: backends(record.variant(on)) for name, on in ends}
    return [f"{name} ran {said}" for name, said in ran.items() if said is not None]


def _cells(row: Row, *, vendor: bool) -> tuple[str, ...]:
    return (
        _name(row) + (" (=)" if row.unchanged else ""),
        _interval(row.tokens_per_second, rate),
        _interval(row.gain, _times),
        _interval(row.lost_without, percent),
        _interval(row.mfu_causal if vendor else row.mfu_measured, percent),
        _interval(row.joules_per_token, lambda value: scaled(value, "J")),
        _interval(row.joules_ratio, _times),
        NONE if row.peak_memory_mib is None else f"{row.peak_memory_mib:,.0f}",
        _interval(row.loss_difference, lambda value: "0" if value == 0 else f"{value:+.1e}"),
    )


def _vendor(table: Table) -> bool:
    return any(row.mfu_causal for row in table.rows)


def _times(value: float) -> str:
    return f"{value:.3f}"


def _interval(interval: Interval | None, said: Callable[[float], str]) -> str:
    """The median, and in brackets the lowest and highest where they are told apart."""
    if interval is None:
        return NONE
    low, high = said(interval.low), said(interval.high)
    return said(interval.median) + (f" ({low} to {high})" if low != high else "")


def _name(row: Row) -> str:
    return BASELINE if row.switch is None else f"+ {row.switch}"


def _draw_speed(axes: Axes, table: Table) -> None:
    """Bars at the ends from zero, those between from the median of the row before to that of their own.

    The whiskers of the ends are of tokens/s, those between of what was added, repeat by repeat.
    """
    _style(axes, "tokens/s")
    rows = table.rows
    tops = [row.tokens_per_second.high for row in rows if row.tokens_per_second]
    tops += [before.tokens_per_second.median + row.added.high for before, row in pairwise(rows)
             if before.tokens_per_second and row.added]  # fmt: skip
    top = max(tops, default=1.0)
    axes.set_ylim(0, 1.1 * top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value, digits=3)))
    _draw_end(axes, 0, rows[0].tokens_per_second, top)
    for place, (before, row) in enumerate(pairwise(rows), start=1):
        first, last, added = before.tokens_per_second, row.tokens_per_second, row.added
        if first is None or last is None or added is None or row.gain is None:
            axes.text(place, 0.02 * top, "not compared", rotation=90, ha="center", va="bottom", color=GREY, fontsize=8)
            continue
        start, end = first.median, last.median
        colour = _NOTHING if row.unchanged else _GAIN if end >= start else _LOSS
        axes.bar(place, end - start, bottom=start, width=0.6, color=colour)
        _whiskers(axes, place, end, start + added.low, start + added.high, added.count)
        axes.plot([place - 0.7, place + 0.3], [start, start], color=GREY, linewidth=0.7)
        height = max(start + added.high, start, end) + _LABEL_GAP * top
        said = f"× {row.gain.median:.3g}" + ("\nsame backends" if row.unchanged else "")
        axes.text(place, height, said, ha="center", va="bottom", fontsize=8)
    _draw_end(axes, len(rows), rows[-1].tokens_per_second, top)


def _draw_end(axes: Axes, place: int, speed: Interval | None, top: float) -> None:
    if speed is None:
        axes.text(place, 0.02 * top, "not measured", rotation=90, ha="center", va="bottom", color=GREY, fontsize=8)
        return
    axes.bar(place, speed.median, width=0.6, color=_END)
    _whiskers(axes, place, speed.median, speed.low, speed.high, speed.count)
    axes.text(place, speed.high + _LABEL_GAP * top, rate(speed.median), ha="center", va="bottom", fontsize=8)


def _draw_energy(axes: Axes, table: Table) -> None:
    _style(axes, "J/token")
    for place, row in enumerate([*table.rows, table.rows[-1]]):
        energy = row.joules_per_token
        if energy is None:
            axes.text(place, 0, "not measured", rotation=90, ha="center", va="bottom", color=GREY, fontsize=8)
            continue
        axes.bar(place, energy.median, width=0.6, color=COLOURS[5])
        _whiskers(axes, place, energy.median, energy.low, energy.high, energy.count)


def _whiskers(axes: Axes, place: int, middle: float, low: float, high: float, count: int) -> None:
    if count > 1:
        # where a repeat is missing on one side, the middle may lie outside
        reach = [[max(0.0, middle - low)], [max(0.0, high - middle)]]
        axes.errorbar(place, middle, yerr=reach, color="black", capsize=3, linewidth=1)


def _style(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.grid(visible=True, axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
