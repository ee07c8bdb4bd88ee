"""What each switch of an ablation bought, computed from the repeats of each combination of switches.

Everything is compared repeat by repeat (a round of a benchmark, a seed of a sweep), and then the median is taken with
the lowest and the highest, so that a machine that was slow in one round does not speak for or against a switch.
Combinations whose losses differ by more than `LOSS_BOUND` did not train alike, and their speeds are not compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import sub, truediv

from litespark.metrics import step_table
from litespark.metrics.records.ablation import AblationRecord, planned
from litespark.metrics.records.step import RoundRecord, StepRecord, VariantRecord
from litespark.metrics.step_round import Interval, round_figures
from litespark.metrics.step_table import LOSS_BOUND

Switches = frozenset[str]


@dataclass(frozen=True)
class Repeat:
    """One measurement of one combination; None: not measured.

    Attributes:
        number: what pairs it with those of other combinations: the round, or the seed.
        tokens_per_second: of all counted steps.
        mfu_causal: model FLOP/s over the vendor's peak; mfu_measured: over the measured rate of a matrix product.
        joules_per_token: of the counted steps.
        peak_memory_mib: largest allocation of the device.
        loss: nats per token on held-out rows, after the same steps.
    """

    number: int
    tokens_per_second: float | None = None
    mfu_causal: float | None = None
    mfu_measured: float | None = None
    joules_per_token: float | None = None
    peak_memory_mib: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Combination:
    """What was measured with some of the switches on.

    Attributes:
        name: of the variant.
        repeats: what was measured.
        notes: why nothing was, or in what it is not as planned.
        doubts: why its figures are not to be compared; such a combination has no ratios.
    """

    name: str
    repeats: tuple[Repeat, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def loss(self) -> float | None:
        """Nats per token, the median of the repeats; None where none has it."""
        losses = [each.loss for each in self.repeats if each.loss is not None]
        return statistics.median(losses) if losses else None


@dataclass(frozen=True)
class Row:
    """The baseline, or the step that switches `switch` on; every interval is over repeats, None: not measured.

    Attributes:
        switch: its name; None: the baseline.
        gain: tokens/s over those of the row before, as a ratio.
        added: tokens/s less those of the row before.
        lost_without: the share of the target's tokens/s that is lost where this switch alone is off.
        joules_ratio: J/token over those of the row before.
        peak_memory_mib: the largest of all repeats.
        loss_difference: nats per token above the baseline's loss.
        unchanged: the same backends ran with this switch as without it.
        notes: what is to be known of this row's combination and of the one without this switch.
    """

    switch: str | None
    tokens_per_second: Interval | None = None
    gain: Interval | None = None
    added: Interval | None = None
    lost_without: Interval | None = None
    mfu_causal: Interval | None = None
    mfu_measured: Interval | None = None
    joules_per_token: Interval | None = None
    joules_ratio: Interval | None = None
    peak_memory_mib: float | None = None
    loss_difference: Interval | None = None
    unchanged: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """An ablation: the baseline's row, then one for each switch, the last of which is the target.

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

    @property
    def switches(self) -> list[Row]:
        """The rows without the baseline."""
        return self.rows[1:]


Figure = Callable[[Repeat], float | None]
Compare = Callable[[float, float], float]


def _tokens_per_second(repeat: Repeat) -> float | None:
    return repeat.tokens_per_second


def _joules(repeat: Repeat) -> float | None:
    return repeat.joules_per_token


def _loss(repeat: Repeat) -> float | None:
    return repeat.loss


def table(
    switches: Sequence[str],
    combinations: Mapping[Switches, Combination],
    *,
    repeat: str,
    joules_reason: str | None = None,
    unchanged: Collection[str] = (),
) -> Table:
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
    rows = [_row(None, baseline, None, baseline, None, target)]
    for index, name in enumerate(switches):
        before, now = measured(frozenset(switches[:index])), measured(frozenset(switches[: index + 1]))
        without = measured(frozenset(switches) - {name})
        row = _row(name, now, before, baseline, without, target)
        if name in unchanged:
            said = f"{name}: the same backends ran with it and without it, so its figures are noise"
            row = replace(row, unchanged=True, notes=(said, *row.notes))
        rows.append(row)
    return Table(
        rows=rows,
        gain=_compared(target, baseline, _tokens_per_second, truediv),
        joules_ratio=_compared(target, baseline, _joules, truediv),
        repeat=repeat,
        joules_reason=None if any(row.joules_per_token for row in rows) else joules_reason or "not measured",
    )


def from_record(record: AblationRecord) -> Table:
    """The ablation of a benchmark's record; its repeats are rounds."""
    rows = {row.name: row for row in step_table.rows(record.step)}
    combinations = {}
    for each in planned(record.names):
        variant = record.variant(each.on)
        row = rows[variant.name]
        repeats = tuple(_repeat(record.step, round_) for round_ in step_table.counted(variant))
        combinations[each.on] = Combination(variant.name, repeats, _notes(row), row.doubts)
    reasons = [each.joules_reason for variant in record.step.variants for each in variant.measured]
    return table(
        record.names,
        combinations,
        repeat="round",
        joules_reason=next((each for each in reasons if each is not None), None),
        unchanged=_without_effect(record),
    )


def _notes(row: step_table.Row) -> tuple[str, ...]:
    """In what a variant is not as planned."""
    notes = [each for each in (row.absent, row.failed) if each is not None]
    if row.out_of_memory_with and row.absent is None:
        notes.append(
            f"out of memory with recompute {row.out_of_memory_with[0]}, measured with {row.recompute}: not the switch "
            "alone"
        )
    return tuple(f"{row.name}: {each}" for each in dict.fromkeys([*notes, *row.doubts]))


def _without_effect(record: AblationRecord) -> list[str]:
    """Switches of ops with which the same backends ran as without: `auto` may decide on what the baseline has."""
    found = []
    for index, switch in enumerate(record.switches):
        before, now = (backends(record.variant(frozenset(record.names[:count]))) for count in (index, index + 1))
        if all(each.key.startswith("ops.") for each in switch.keys) and now is not None and now == before:
            found.append(switch.name)
    return found


def backends(variant: VariantRecord) -> str | None:
    """What the ops of a variant's processes decided on, without the reasons behind it; None where nothing was run."""
    details = [each.detail.partition("; ")[0] for each in variant.measured if each.detail is not None]
    return details[-1] if details else None


def _repeat(step: StepRecord, each: RoundRecord) -> Repeat:
    figures = round_figures(step, each)
    return Repeat(
        number=each.round,
        tokens_per_second=figures.tokens_per_second,
        mfu_causal=figures.mfu_causal,
        mfu_measured=figures.mfu_measured,
        joules_per_token=figures.joules_per_token,
        peak_memory_mib=each.peak_memory_mib,
        loss=each.loss,
    )


def _row(
    switch: str | None,
    now: Combination,
    before: Combination | None,
    baseline: Combination,
    without: Combination | None,
    target: Combination,
) -> Row:
    memory = [each.peak_memory_mib for each in now.repeats if each.peak_memory_mib is not None]
    # without the last switch is the row before
    unlike = [_unlike(now, before), None if without is before else _unlike(without, target)]
    of_without = () if without is None else without.notes
    return Row(
        switch=switch,
        tokens_per_second=_over(now, _tokens_per_second),
        gain=_compared(now, before, _tokens_per_second, truediv),
        added=_compared(now, before, _tokens_per_second, sub),
        lost_without=_compared(without, target, _tokens_per_second, lambda part, whole: 1 - part / whole),
        mfu_causal=_over(now, lambda each: each.mfu_causal),
        mfu_measured=_over(now, lambda each: each.mfu_measured),
        joules_per_token=_over(now, _joules),
        joules_ratio=_compared(now, before, _joules, truediv),
        peak_memory_mib=max(memory, default=None),
        loss_difference=None if switch is None else _paired(now, baseline, _loss, sub),
        notes=tuple(dict.fromkeys([*now.notes, *of_without, *(each for each in unlike if each)])),
    )


def _over(combination: Combination, figure: Figure) -> Interval | None:
    """A figure over the repeats that have it."""
    values = [value for each in combination.repeats if (value := figure(each)) is not None]
    return Interval.of(values) if values else None


def _unlike(one: Combination | None, other: Combination | None) -> str | None:
    """Why the speeds of two combinations are not compared, where they have not trained alike."""
    if one is None or other is None or one.loss is None or other.loss is None:
        return None
    if abs(one.loss - other.loss) <= LOSS_BOUND * abs(other.loss):
        return None
    return f"{one.name} and {other.name} trained differently: losses {one.loss:.4f} and {other.loss:.4f}; not compared"


def _compared(one: Combination | None, other: Combination | None, figure: Figure, compare: Compare) -> Interval | None:
    """Speeds or energies compared; None where that would say nothing."""
    if one is None or other is None or one.doubts or other.doubts or _unlike(one, other):
        return None
    return _paired(one, other, figure, compare)


def _paired(one: Combination, other: Combination, figure: Figure, compare: Compare) -> Interval | None:
    """Two combinations compared repeat by repeat, over the repeats that both have."""
    theirs = {each.number: value for each in other.repeats if (value := figure(each)) is not None}
    values = [
        compare(value, theirs[each.number])
        for each in one.repeats
        if (value := figure(each)) is not None and each.number in theirs
    ]
    return Interval.of(values) if values else None
