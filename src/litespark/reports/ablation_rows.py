"""What each switch of an ablation bought, from the repeats of each combination of switches.

Combinations whose losses differ by more than `LOSS_BOUND` did not train alike, and their speeds are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import sub, truediv

from litespark.metrics.records.ablation import AblationRecord, planned
from litespark.metrics.records.step import VariantRecord
from litespark.metrics.step_round import Interval
from litespark.reports import step_rows
from litespark.reports.repeats import Repeats
from litespark.reports.step_rows import LOSS_BOUND

Switches = frozenset[str]


@dataclass(frozen=True)
class Combination:
    """What was measured with some of the switches on.

    `repeats` has tokens_per_second, joules_per_token, mfu_causal, mfu_measured, peak_memory_mib and loss by round or by
    seed, `backends` what the ops decided on; one with `doubts` has no ratios.
    """

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
    *,
    repeat: str,
    joules_reason: str | None = None,
) -> Ablation:
    """The ablation of `switches` (names with their config keys), in the order in which they were switched on.

    `combinations` is what was measured with which of them on; one that is missing has no figures.
    """
    order = list(switches)
    names = {each.on: each.name for each in planned(order)}

    def measured(on: Switches) -> Combination:
        return combinations.get(on, Combination(names[on], notes=(f"{names[on]}: not measured",)))

    baseline, target = measured(frozenset()), measured(frozenset(order))
    rows = [Row(None, baseline.repeats, baseline.notes)]
    for index, (name, keys) in enumerate(switches.items()):
        before, now = measured(frozenset(order[:index])), measured(frozenset(order[: index + 1]))
        without = measured(frozenset(order) - {name})
        same = now.backends is not None and now.backends == before.backends
        # `auto` may decide on what the baseline has
        unchanged = same and all(key.startswith("ops.") for key in keys)
        notes = [f"{name}: the same backends ran with it and without it, so its figures are noise"] if unchanged else []
        # without the last switch is the row before
        unlike = [_unlike(now, before), None if without is before else _unlike(without, target)]
        notes += [*now.notes, *without.notes, *filter(None, unlike)]
        rows.append(
            Row(
                name, now.repeats, tuple(dict.fromkeys(notes)),
                gain=_compared(now, before, "tokens_per_second"),
                added=_compared(now, before, "tokens_per_second", sub),
                lost_without=_compared(without, target, "tokens_per_second", lambda part, whole: 1 - part / whole),
                joules_ratio=_compared(now, before, "joules_per_token"),
                loss_difference=now.repeats.over(baseline.repeats, "loss", sub),
                unchanged=unchanged,
            )
        )  # fmt: skip
    gain, joules_ratio = (_compared(target, baseline, figure) for figure in ("tokens_per_second", "joules_per_token"))
    reason = None if any(row.joules_per_token for row in rows) else joules_reason or "not measured"
    return Ablation(rows, gain, joules_ratio, repeat, reason)


def from_record(record: AblationRecord) -> Ablation:
    """The ablation of a benchmark's record; its repeats are rounds."""
    rows, combinations = step_rows.rows(record), {}
    for plan in planned(record.names):
        variant = record.combination(plan.on)
        row = rows[variant.name]
        combinations[plan.on] = Combination(row.name, row.repeats, backends(variant), _notes(row), row.doubts)
    reasons = [rows[each.name].joules_reason for each in combinations.values()]
    switches = {switch.name: [each.key for each in switch.keys] for switch in record.switches}
    return ablation(switches, combinations, repeat="round", joules_reason=next(filter(None, reasons), None))


def backends(variant: VariantRecord) -> str | None:
    """What the ops of a variant's processes decided on, without the reasons behind it; None where nothing was run."""
    details = [each.detail.partition("; ")[0] for each in variant.measured if each.detail is not None]
    return details[-1] if details else None


def _notes(row: step_rows.Row) -> tuple[str, ...]:
    notes = [row.absent, row.failed]
    if row.out_of_memory_with and row.absent is None:
        with_, then = row.out_of_memory_with[0], row.recompute
        notes.append(f"out of memory with recompute {with_}, measured with {then}: not the switch alone")
    return tuple(f"{row.name}: {note}" for note in dict.fromkeys([*notes, *row.doubts]) if note is not None)


def _unlike(one: Combination, other: Combination) -> str | None:
    """Why the speeds of two combinations are not compared, where they have not trained alike."""
    ours, theirs = one.repeats.median("loss"), other.repeats.median("loss")
    if ours is None or theirs is None or abs(ours - theirs) <= LOSS_BOUND * abs(theirs):
        return None
    return f"{one.name} and {other.name} trained differently: losses {ours:.4f} and {theirs:.4f}; not compared"


def _compared(
    one: Combination, other: Combination, figure: str, compare: Callable[[float, float], float] = truediv
) -> Interval | None:
    """Speeds or energies compared repeat by repeat; None where that would show nothing."""
    if one.doubts or other.doubts or _unlike(one, other):
        return None
    return one.repeats.over(other.repeats, figure, compare)
