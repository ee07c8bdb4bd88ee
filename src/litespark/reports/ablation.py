"""What an ablation found: a table, and a waterfall from the baseline to the target."""

from __future__ import annotations

from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from litespark.metrics.records.ablation import BASELINE, TARGET, AblationRecord
from litespark.metrics.step_round import Interval
from litespark.reports.ablation_rows import Ablation, Row, backends, from_record
from litespark.reports.plots import COLOURS, GREY, new_figure
from litespark.reports.quantities import percent, rate, scaled, short
from litespark.reports.step import TIMES, measured_model, turns
from litespark.reports.table import Column, Table, texts

# the same backends ran with a switch as without
_NOTHING = "#bbbbbb"


def of_record(record: AblationRecord) -> Table:
    """A row for the baseline and for each switch, with what was measured and how."""
    environment = record.environment
    about = [
        f"{measured_model(record)}; {record.protocol.data} data, {record.protocol.precision}",
        f"{environment.device_names}, torch {environment.torch}; {turns(record, 'combination')}",
    ]
    for switch in record.switches:
        keys = ", ".join(f"{setting.key} {setting.baseline} → {setting.target}" for setting in switch.keys)
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


def _notes(ablation: Ablation) -> list[str]:
    counts = sorted({row.tokens_per_second.count for row in ablation.rows if row.tokens_per_second})
    many = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]]))) if counts else "no"
    ratio, repeat, reason = Column("", TIMES).cell, ablation.repeat, ablation.joules_reason
    notes = [
        f"target over baseline: tokens/s × {ratio(ablation.gain)}; "
        f"J/token {'not measured' if reason else f'× {ratio(ablation.joules_ratio)}'}",
        f"each row has one switch more on than the row before; median of {many} "
        f"{repeat if counts == [1] else f'{repeat}s'} (lowest to highest), compared {repeat} by {repeat}; lost without "
        "it: share of the target's tokens/s; Δ loss: nats/token against the baseline",
        *([f"J/token: {reason}"] if reason else []),
        *(["(=): nothing else ran with this switch here"] if any(row.unchanged for row in ablation.rows) else []),
    ]
    return [*notes, *dict.fromkeys(note for row in ablation.rows for note in row.notes)]


def waterfall(ablation: Ablation, title: str = "") -> Figure:
    """Tokens/s of the baseline, what each switch adds to it, and tokens/s of the target; J/token where it was read.

    Whiskers go from the lowest repeat to the highest: at the ends of tokens/s, between of what was added, repeat by
    repeat. A switch whose gain was not measured has no bar, but words.
    """
    rows, energy = ablation.rows, any(row.joules_per_token for row in ablation.rows)
    figure, panels = new_figure(6.6 if energy else 4.6, *["tokens/s", "J/token"][: 1 + energy],
                                title=f"What bought what{f': {title}' if title else ''}")  # fmt: skip
    speed = panels[0]
    tops = [row.tokens_per_second.high for row in rows if row.tokens_per_second]
    tops += [before.tokens_per_second.median + row.added.high for before, row in pairwise(rows)
             if before.tokens_per_second and row.added]  # fmt: skip
    speed.set_ylim(0, 1.1 * max(tops, default=1.0))
    speed.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    for place, row in ((0, rows[0]), (len(rows), rows[-1])):
        _draw(speed, place, row.tokens_per_second, words=rate(row.repeats.median("tokens_per_second")))
    for place, (before, row) in enumerate(pairwise(rows), start=1):
        first, added = before.tokens_per_second, row.added
        if first is None or row.tokens_per_second is None or added is None or row.gain is None:
            _say(speed, place, "not compared")
            continue
        start, end = first.median, row.tokens_per_second.median
        colour = _NOTHING if row.unchanged else COLOURS[2] if end >= start else COLOURS[1]
        words = f"× {short(row.gain.median)}" + ("\nsame backends" if row.unchanged else "")
        _draw(speed, place, Interval(end, start + added.low, start + added.high, added.count), colour, start, words)
        speed.plot([place - 0.7, place + 0.3], [start, start], color=GREY, linewidth=0.7)
    if energy:
        for place, row in enumerate([*rows, rows[-1]]):
            _draw(panels[1], place, row.joules_per_token, COLOURS[5])
    names = [*map(_name, rows), TARGET]
    panels[-1].set_xticks(range(len(names)), names, rotation=30, ha="right")
    return figure


def _draw(
    axes: Axes, place: int, value: Interval | None, colour: str = COLOURS[0], start: float = 0.0, words: str = ""
) -> None:
    """A bar from `start` to the median with its whiskers, and words above both."""
    if value is None:
        _say(axes, place, "not measured")
        return
    axes.bar(place, value.median - start, bottom=start, width=0.6, color=colour)
    if value.count > 1:
        # where a repeat is missing on one side, the middle may lie outside
        reach = [[max(0.0, value.median - value.low)], [max(0.0, value.high - value.median)]]
        axes.errorbar(place, value.median, yerr=reach, color="black", capsize=3, linewidth=1)
    top = max(value.high, value.median, start)
    axes.annotate(words, (place, top), (0, 4), textcoords="offset points", ha="center", fontsize=8)


def _say(axes: Axes, place: int, words: str) -> None:
    axes.text(place, 0, words, rotation=90, ha="center", va="bottom", color=GREY, fontsize=8)


def _name(row: Row) -> str:
    return BASELINE if row.switch is None else f"+ {row.switch}"
