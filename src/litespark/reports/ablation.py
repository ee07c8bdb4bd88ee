"""What each switch of an ablation bought, from the repeats of each combination: a table, and a waterfall.

Combinations whose losses differ by more than `LOSS_BOUND` did not train alike, and their speeds are not compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import sub, truediv

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from litespark.metrics.records.ablation import BASELINE, TARGET, AblationRecord, planned
from litespark.metrics.records.step import VariantRecord
from litespark.metrics.step_round import Interval
from litespark.reports import step_rows
from litespark.reports.plots import COLOURS, GREY, new_figure
from litespark.reports.quantities import percent, rate, scaled, short
from litespark.reports.repeats import Repeats
from litespark.reports.step import TIMES, measured_model, turns
from litespark.reports.step_rows import LOSS_BOUND
from litespark.reports.table import Column, Table, texts

Switches = frozenset[str]
# the same backends ran with a switch as without
_NOTHING = "#bbbbbb"


@dataclass(frozen=True)
class Combination:
    """What was measured with some of the switches on, by round or by seed; one with `doubts` has no ratios."""

    name: str
    repeats: Repeats = field(default_factory=Repeats)
    backends: str | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """The baseline, or the step that switches `switch` on; every interval is over repeats, None: not measured.

    `gain`, `added` (tokens/s) and `joules_ratio` are against the row before, `loss_difference` is against the baseline,
    and `lost_without` is the share of the target's tokens/s that is lost where this switch alone is off.
    """

    switch: str | None
    repeats: Repeats
    notes: tuple[str, ...]
    gain: Interval | None = None
    added: Interval | None = None
    lost_without: Interval | None = None
    joules_ratio: Interval | None = None
    loss_difference: Interval | None = None
    unchanged: bool = False

    @property
    def name(self) -> str:
        return BASELINE if self.switch is None else f"+ {self.switch}"

    @property
    def tokens_per_second(self) -> Interval | None:
        return self.repeats.of("tokens_per_second")

    @property
    def joules_per_token(self) -> Interval | None:
        return self.repeats.of("joules_per_token")


@dataclass(frozen=True)
class Ablation:
    """The baseline's row, then one for each switch, the last of which is the target; and the target over the baseline.

    A `repeat` is a round or a seed; `joules_reason` is None where any J/token is there.
    """

    rows: list[Row]
    gain: Interval | None
    joules_ratio: Interval | None
    repeat: str
    joules_reason: str | None


def ablation(
    switches: Mapping[str, Sequence[str]],
    combinations: Mapping[Switches, Combination],
    repeat: str,
    joules_reason: str | None = None,
) -> Ablation:
    """The ablation of `switches` (names with their config keys), in the order in which they were switched on.

    `combinations` is what was measured with which of them on; one that is missing has no figures.
    """
    order = list(switches)
    names = {combination.on: combination.name for combination in planned(order)}

    def measured(on: Switches) -> Combination:
        return combinations.get(on, Combination(names[on], notes=(f"{names[on]}: not measured",)))

    baseline, target = measured(frozenset()), measured(frozenset(order))
    rows = [Row(None, baseline.repeats, baseline.notes)]
    for index, (name, keys) in enumerate(switches.items()):
        before, now = measured(frozenset(order[:index])), measured(frozenset(order[: index + 1]))
        without = measured(frozenset(order) - {name})
        # `auto` may decide on what the baseline has
        same = now.backends is not None and now.backends == before.backends
        unchanged = same and all(key.startswith("ops.") for key in keys)
        notes = [f"{name}: the same backends ran with it and without it, so its figures are noise"] if unchanged else []
        # without the last switch is the row before
        unlike = [_unlike(now, before), None if without is before else _unlike(without, target)]
        notes += [*now.notes, *without.notes, *filter(None, unlike)]
        rows.append(
            Row(
                name,
                now.repeats,
                tuple(dict.fromkeys(notes)),
                gain=_compared(now, before, "tokens_per_second"),
                added=_compared(now, before, "tokens_per_second", sub),
                lost_without=_compared(without, target, "tokens_per_second", lambda part, whole: 1 - part / whole),
                joules_ratio=_compared(now, before, "joules_per_token"),
                loss_difference=now.repeats.over(baseline.repeats, "loss", sub),
                unchanged=unchanged,
            )
        )
    gain, joules_ratio = (_compared(target, baseline, figure) for figure in ("tokens_per_second", "joules_per_token"))
    reason = None if any(row.joules_per_token for row in rows) else joules_reason or "not measured"
    return Ablation(rows, gain, joules_ratio, repeat, reason)


def from_record(record: AblationRecord) -> Ablation:
    rows, combinations = step_rows.rows(record), {}
    for plan in planned(record.names):
        variant = record.combination(plan.on)
        row = rows[variant.name]
        notes = [row.absent, row.failed, *row.doubts]
        if row.out_of_memory_with and row.absent is None:
            with_, then = row.out_of_memory_with[0], row.recompute
            notes.insert(2, f"out of memory with recompute {with_}, measured with {then}: not the switch alone")
        said = tuple(f"{row.name}: {note}" for note in dict.fromkeys(notes) if note is not None)
        combinations[plan.on] = Combination(row.name, row.repeats, _backends(variant), said, row.doubts)
    reasons = [rows[combination.name].joules_reason for combination in combinations.values()]
    switches = {switch.name: [key.key for key in switch.keys] for switch in record.switches}
    return ablation(switches, combinations, "round", next(filter(None, reasons), None))


def _backends(variant: VariantRecord) -> str | None:
    details = [process.detail.partition("; ")[0] for process in variant.measured if process.detail is not None]
    return details[-1] if details else None


def _unlike(one: Combination, other: Combination) -> str | None:
    """Why the speeds of two combinations are not compared, where they have not trained alike."""
    ours, theirs = one.repeats.median("loss"), other.repeats.median("loss")
    if ours is None or theirs is None or abs(ours - theirs) <= LOSS_BOUND * abs(theirs):
        return None
    return f"{one.name} and {other.name} trained differently: losses {ours:.4f} and {theirs:.4f}; not compared"


def _compared(
    one: Combination, other: Combination, figure: str, compare: Callable[[float, float], float] = truediv
) -> Interval | None:
    unlike = one.doubts or other.doubts or _unlike(one, other)
    return None if unlike else one.repeats.over(other.repeats, figure, compare)


# ---------------------------------------------------------------- for a reader


def of_record(record: AblationRecord) -> Table:
    environment = record.environment
    about = [
        f"{measured_model(record)}; {record.protocol.data} data, {record.protocol.precision}",
        f"{environment.device_names}, torch {environment.torch}; {turns(record, 'combination')}",
    ]
    for switch in record.switches:
        keys = ", ".join(f"{setting.key} {setting.baseline} → {setting.target}" for setting in switch.keys)
        about.append(f"{switch.name}: {keys}")
    for name, on in ((BASELINE, frozenset[str]()), (TARGET, frozenset(record.names))):
        if (ran := _backends(record.combination(on))) is not None:
            about.append(f"{name} ran {ran}")  # what `auto` chose
    return table(from_record(record), about)


def table(ablation: Ablation, about: Sequence[str] = ()) -> Table:
    """A row for the baseline and for each switch; of MFU the one of the vendor's peak where there is one."""
    vendors = any(row.repeats.of("mfu_causal") for row in ablation.rows)
    mfu, title = ("mfu_causal", "MFU C") if vendors else ("mfu_measured", "MFU C of matmul")
    columns = [
        *texts("switched on"),
        Column("tokens/s", rate),
        Column("× before", TIMES),
        Column("lost without it", percent),
        Column(title, percent),
        Column("J/token", lambda joules: scaled(joules, "J")),
        Column("J × before", TIMES),
        Column("peak MiB", "{:,.0f}".format),
        Column("Δ loss", lambda nats: "0" if nats == 0 else f"{nats:+.1e}"),
    ]
    rows = []
    for row in ablation.rows:
        memory = row.repeats.of("peak_memory_mib")
        rows.append((
            row.name + (" (=)" if row.unchanged else ""), row.tokens_per_second, row.gain, row.lost_without,
            row.repeats.of(mfu), row.joules_per_token, row.joules_ratio, memory and memory.high, row.loss_difference,
        ))  # fmt: skip
    return Table(columns, rows, about=about, notes=_notes(ablation))


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
    ]
    if reason:
        notes.append(f"J/token: {reason}")
    if any(row.unchanged for row in ablation.rows):
        notes.append("(=): nothing else ran with this switch here")
    return [*notes, *dict.fromkeys(note for row in ablation.rows for note in row.notes)]


def waterfall(ablation: Ablation, title: str = "") -> Figure:
    """Tokens/s of the baseline, what each switch adds to it, and tokens/s of the target; J/token where it was read.

    Whiskers go from the lowest repeat to the highest. A switch whose gain was not measured has no bar, but words.
    """
    rows, energy = ablation.rows, any(row.joules_per_token for row in ablation.rows)
    figure, panels = new_figure(
        6.6 if energy else 4.6,
        *["tokens/s", "J/token"][: 1 + energy],
        title=f"What bought what{f': {title}' if title else ''}",
    )
    speed = panels[0]
    tops = [row.tokens_per_second.high for row in rows if row.tokens_per_second]
    tops += [
        before.tokens_per_second.median + row.added.high
        for before, row in pairwise(rows)
        if before.tokens_per_second and row.added
    ]
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
    names = [*(row.name for row in rows), TARGET]
    panels[-1].set_xticks(range(len(names)), names, rotation=30, ha="right")
    return figure


def _draw(
    axes: Axes, place: int, value: Interval | None, colour: str = COLOURS[0], start: float = 0.0, words: str = ""
) -> None:
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
