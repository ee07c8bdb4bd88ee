"""What an ablation found: a table, and a waterfall from the baseline to the target."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from litespark.metrics.records.ablation import BASELINE, TARGET, AblationRecord
from litespark.metrics.step_round import Interval
from litespark.reports.ablation_rows import Ablation, Row, backends, from_record
from litespark.reports.plots import COLOURS, GREY, new_figure, save, set_title
from litespark.reports.quantities import percent, plain, rate, scaled
from litespark.reports.step import TIMES, measured_model, turns
from litespark.reports.table import Column, Table, texts

_GAIN, _LOSS, _END, _ENERGY = COLOURS[2], COLOURS[1], COLOURS[0], COLOURS[5]
# of a switch with which the same backends ran
_NOTHING = "#bbbbbb"
# share of the axis between the top of a bar and its label
_LABEL_GAP = 0.015


def of_record(record: AblationRecord) -> Table:
    """A row for the baseline and for each switch, with what was measured and how."""
    environment = record.environment
    about = [
        f"{measured_model(record)}; {record.protocol.data} data, {record.protocol.precision}",
        f"{environment.device_names}, torch {environment.torch}; {turns(record, 'combination')}",
    ]
    for switch in record.switches:
        keys = ", ".join(f"{each.key} {each.baseline} → {each.target}" for each in switch.keys)
        about.append(f"{switch.name}: {keys}")
    for name, on in ((BASELINE, frozenset[str]()), (TARGET, frozenset(record.names))):
        if (ran := backends(record.combination(on))) is not None:
            about.append(f"{name} ran {ran}")  # what `auto` came to
    return table(from_record(record), about)


def table(ablation: Ablation, about: list[str] | None = None) -> Table:
    """A row for the baseline and for each switch; of MFU the one of the vendor's peak where there is one."""
    mfu, of = "mfu_causal", ""
    if not any(row.repeats.of(mfu) for row in ablation.rows):
        mfu, of = "mfu_measured", " of matmul"
    columns = [
        *texts("switched on"), Column("tokens/s", rate), Column("× before", TIMES), Column("lost without it", percent),
        Column(f"MFU C{of}", percent), Column("J/token", lambda joules: scaled(joules, "J")),
        Column("J × before", TIMES), Column("peak MiB", "{:,.0f}".format),
        Column("Δ loss", lambda nats: "0" if nats == 0 else f"{nats:+.1e}"),
    ]  # fmt: skip
    rows = []
    for row in ablation.rows:
        memory = row.repeats.of("peak_memory_mib")
        rows.append((
            _name(row) + (" (=)" if row.unchanged else ""), row.tokens_per_second, row.gain, row.lost_without,
            row.repeats.of(mfu), row.joules_per_token, row.joules_ratio, memory and memory.high, row.loss_difference,
        ))  # fmt: skip
    return Table(columns, rows, about=about or [], notes=_notes(ablation))


def write_beside(record: AblationRecord, path: Path) -> Path:
    """Write the Markdown and the picture beside the record's file, under its name; returns the path of the picture."""
    title = record.model.name
    picture = save(waterfall(from_record(record), title), path.with_suffix(".png"))
    shown = f"![tokens/s from the baseline to the target]({picture.name})"
    page = f"# What bought what: {title}\n\n{of_record(record).markdown()}\n\n{shown}\n"
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    return picture


def _notes(ablation: Ablation) -> list[str]:
    """The whole from baseline to target, how to read the columns, and why something is not there."""
    counts = sorted({row.tokens_per_second.count for row in ablation.rows if row.tokens_per_second})
    many = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else "no"
    ratio, repeat = Column("", TIMES), ablation.repeat
    energy = "J/token not measured"
    if not ablation.joules_reason:
        energy = f"J/token × {ratio.cell(ablation.joules_ratio)}"
    notes = [
        f"target over baseline: tokens/s × {ratio.cell(ablation.gain)}; {energy}",
        f"each row has one switch more on than the row before; median of {many} "
        f"{repeat if counts == [1] else f'{repeat}s'} (lowest to highest), compared {repeat} by {repeat}; lost without "
        "it: share of the target's tokens/s; Δ loss: nats/token against the baseline",
    ]
    if ablation.joules_reason:
        notes.append(f"J/token: {ablation.joules_reason}")
    if any(row.unchanged for row in ablation.rows):
        notes.append("(=): nothing else ran with this switch here")
    return [*notes, *dict.fromkeys(note for row in ablation.rows for note in row.notes)]


def waterfall(ablation: Ablation, title: str = "") -> Figure:
    """Tokens/s of the baseline, what each switch adds to it, and tokens/s of the target; J/token where it was read.

    Whiskers go from the lowest repeat to the highest. A switch whose gain was not measured has no bar, but words.
    """
    energy = any(row.joules_per_token for row in ablation.rows)
    figure, panels = new_figure(["tokens/s", "J/token"] if energy else ["tokens/s"], 6.6 if energy else 4.6, [2, 1])
    _draw_speed(panels[0], ablation.rows)
    if energy:
        for place, row in enumerate([*ablation.rows, ablation.rows[-1]]):
            _draw_bar(panels[1], place, row.joules_per_token, _ENERGY)
    ticks = [*map(_name, ablation.rows), TARGET]
    panels[-1].set_xticks(range(len(ticks)), ticks, rotation=30, ha="right")
    set_title(panels[0], f"What bought what{f': {title}' if title else ''}")
    return figure


def _draw_speed(axes: Axes, rows: list[Row]) -> None:
    """Bars at the ends from zero, those between from the median of the row before to that of their own.

    The whiskers of the ends are of tokens/s, those between of what was added, repeat by repeat.
    """
    tops = [row.tokens_per_second.high for row in rows if row.tokens_per_second]
    tops += [before.tokens_per_second.median + row.added.high for before, row in pairwise(rows)
             if before.tokens_per_second and row.added]  # fmt: skip
    top = max(tops, default=1.0)
    axes.set_ylim(0, 1.1 * top)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value, digits=3)))
    for place, row in ((0, rows[0]), (len(rows), rows[-1])):
        speed = row.tokens_per_second
        _draw_bar(axes, place, speed, _END)
        if speed is not None:
            axes.text(place, speed.high + _LABEL_GAP * top, rate(speed.median), ha="center", va="bottom", fontsize=8)
    for place, (before, row) in enumerate(pairwise(rows), start=1):
        first, last, added = before.tokens_per_second, row.tokens_per_second, row.added
        if first is None or last is None or added is None or row.gain is None:
            _say(axes, place, 0.02 * top, "not compared")
            continue
        start, end = first.median, last.median
        colour = _NOTHING if row.unchanged else _GAIN if end >= start else _LOSS
        axes.bar(place, end - start, bottom=start, width=0.6, color=colour)
        _whiskers(axes, place, Interval(end, start + added.low, start + added.high, added.count))
        axes.plot([place - 0.7, place + 0.3], [start, start], color=GREY, linewidth=0.7)
        height = max(start + added.high, start, end) + _LABEL_GAP * top
        words = f"× {row.gain.median:.3g}" + ("\nsame backends" if row.unchanged else "")
        axes.text(place, height, words, ha="center", va="bottom", fontsize=8)


def _draw_bar(axes: Axes, place: int, value: Interval | None, colour: str) -> None:
    if value is None:
        _say(axes, place, 0, "not measured")
        return
    axes.bar(place, value.median, width=0.6, color=colour)
    _whiskers(axes, place, value)


def _whiskers(axes: Axes, place: int, value: Interval) -> None:
    if value.count > 1:
        # where a repeat is missing on one side, the middle may lie outside
        reach = [[max(0.0, value.median - value.low)], [max(0.0, value.high - value.median)]]
        axes.errorbar(place, value.median, yerr=reach, color="black", capsize=3, linewidth=1)


def _say(axes: Axes, place: int, height: float, words: str) -> None:
    axes.text(place, height, words, rotation=90, ha="center", va="bottom", color=GREY, fontsize=8)


def _name(row: Row) -> str:
    return BASELINE if row.switch is None else f"+ {row.switch}"
