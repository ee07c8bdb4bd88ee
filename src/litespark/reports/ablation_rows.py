"""What each switch of an ablation bought, from the repeats of each combination of switches.

Combinations whose losses differ by more than `LOSS_BOUND` did not train alike, and their speeds are not compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import sub, truediv

from litespark.metrics.records.ablation import AblationRecord, planned
from litespark.metrics.records.step import VariantRecord
from litespark.metrics.step_round import Interval
from litespark.reports import step_rows
from litespark.reports.repeats import NOTHING, Repeats
from litespark.reports.step_rows import LOSS_BOUND

Switches = frozenset[str]


@dataclass(frozen=True)
class Combination:
    """What was measured with some of the switches on.

    Attributes:
        repeats: tokens_per_second, joules_per_token, mfu_causal (of the vendor's peak), mfu_measured (of the rate of a
            matrix product), peak_memory_mib and loss (nats per token on held-out sequences) by round or by seed.
        notes: why nothing was, or in what it is not as planned.
        doubts: why its figures are not to be compared; such a combination has no ratios.
    """

    name: str
    repeats: Repeats = NOTHING
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """The baseline, or the step that switches `switch` on; every interval is over repeats, None: not measured.

    Attributes:
        switch: its name; None: the baseline.
        repeats: with this switch and those before it.
        gain: tokens/s over those of the row before, as a ratio; added: less them, as a difference.
        lost_without: the share of the target's tokens/s that is lost where this switch alone is off.
        joules_ratio: J/token over those of the row before.
        loss_difference: nats per token above the baseline's loss.
        unchanged: the same backends ran with this switch as without it.
        notes: what is to be known of this row's combination and of the one without this switch.
    """

    switch: str | None
    repeats: Repeats
    gain: Interval | None
    added: Interval | None
    lost_without: Interval | None
    joules_ratio: Interval | None
    loss_difference: Interval | None
    unchanged: bool
    notes: tuple[str, ...]

    @property
    def tokens_per_second(self) -> Interval | None:
        """Of all counted steps."""
        return self.repeats.of("tokens_per_second")

    @property
    def joules_per_token(self) -> Interval | None:
        """Of the counted steps."""
        return self.repeats.of("joules_per_token")


@dataclass(frozen=True)
class Ablation:
    """The baseline's row, then one for each switch, the last of which is the target.

    Attributes:
        gain: tokens/s of the target over those of the baseline, as a ratio; joules_ratio: the same of J/token.
        repeat: what a repeat is: `round` or `seed`.
        joules_reason: why no J/token is there; None where any is.
    """

    rows: list[Row]
    gain: Interval | None
    joules_ratio: Interval | None
    repeat: str
    joules_reason: str | None


def ablation(
    switches: Sequence[str],
    combinations: Mapping[Switches, Combination],
    *,
    repeat: str,
    joules_reason: str | None = None,
    unchanged: Collection[str] = (),
) -> Ablation:
    """The ablation of `switches`, in the order in which they were switched on.

    Args:
        switches: their names.
        combinations: what was measured with which of them on; one that is missing has no figures.
        repeat: what a repeat is.
        joules_reason: why J/token is absent, where it is.
        unchanged: switches with which the same backends ran as without.
    """
    names = {each.on: each.name for each in planned(switches)}

    def measured(on: Switches) -> Combination:
        return combinations.get(on, Combination(names[on], notes=(f"{names[on]}: not measured",)))

    baseline, target = measured(frozenset()), measured(frozenset(switches))
    rows = [Row(None, baseline.repeats, None, None, None, None, None, False, baseline.notes)]
    for index, name in enumerate(switches):
        before, now = measured(frozenset(switches[:index])), measured(frozenset(switches[: index + 1]))
        without = measured(frozenset(switches) - {name})
        notes = [f"{name}: the same backends ran with it and without it, so its figures are noise"]
        # without the last switch is the row before
        unlike = [_unlike(now, before), None if without is before else _unlike(without, target)]
        notes = [*notes[: name in unchanged], *now.notes, *without.notes, *(note for note in unlike if note)]
        rows.append(
            Row(
                name,
                now.repeats,
                gain=_compared(now, before, "tokens_per_second"),
                added=_compared(now, before, "tokens_per_second", sub),
                lost_without=_compared(without, target, "tokens_per_second", lambda part, whole: 1 - part / whole),
                joules_ratio=_compared(now, before, "joules_per_token"),
                loss_difference=now.repeats.over(baseline.repeats, "loss", sub),
                unchanged=name in unchanged,
                notes=tuple(dict.fromkeys(notes)),
            )
        )
    return Ablation(
        rows=rows,
        gain=_compared(target, baseline, "tokens_per_second"),
        joules_ratio=_compared(target, baseline, "joules_per_token"),
        repeat=repeat,
        joules_reason=None if any(row.joules_per_token for row in rows) else joules_reason or "not measured",
    )


def from_record(record: AblationRecord) -> Ablation:
    """The ablation of a benchmark's record; its repeats are rounds."""
    rows = step_rows.rows(record)
    of_variants = {each.on: rows[record.combination(each.on).name] for each in planned(record.names)}
    combinations = {on: Combination(row.name, row.repeats, _notes(row), row.doubts) for on, row in of_variants.items()}
    ran = [backends(record.combination(frozenset(record.names[:count]))) for count in range(len(record.names) + 1)]
    return ablation(
        record.names,
        combinations,
        repeat="round",
        joules_reason=next((row.joules_reason for row in of_variants.values() if row.joules_reason), None),
        # `auto` may decide on what the baseline has
        unchanged=[
            switch.name
            for switch, before, now in zip(record.switches, ran, ran[1:], strict=False)
            if now is not None and now == before and all(each.key.startswith("ops.") for each in switch.keys)
        ],
    )


def backends(variant: VariantRecord) -> str | None:
    """What the ops of a variant's processes decided on, without the reasons behind it; None where nothing was run."""
    details = [each.detail.partition("; ")[0] for each in variant.measured if each.detail is not None]
    return details[-1] if details else None


def _notes(row: step_rows.Row) -> tuple[str, ...]:
    """In what a variant is not as planned."""
    notes = [note for note in (row.absent, row.failed) if note is not None]
    if row.out_of_memory_with and row.absent is None:
        notes.append(
            f"out of memory with recompute {row.out_of_memory_with[0]}, measured with {row.recompute}: not the switch "
            "alone"
        )
    return tuple(f"{row.name}: {note}" for note in dict.fromkeys([*notes, *row.doubts]))


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
