"""The arithmetic of variants × seeds: what each variant reached, and what that took, beside the first variant.

Differences and ratios are taken seed by seed, where both have a run, and then their median. The goal to which costs
are counted is the record's target; over equal tokens it is what the first variant reached at its end with that seed. A
run that did not get there has no cost: what it would have taken is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from litespark.metrics.records.training import TrainedRun, TrainedVariant, TrainingRecord, Validation
from litespark.metrics.step_round import Interval


@dataclass(frozen=True)
class Compared:
    """A figure, and that over the first variant's of the same seed; None: no run that counts has it."""

    value: Interval | None
    ratio: Interval | None


@dataclass(frozen=True)
class TrainingRow:
    """One variant; None where no run that counts has the figure.

    Attributes:
        runs: how many there are; compared: those beside which the first variant has one with the same seed.
        bits_per_byte: at the end.
        difference: (ours - the first's) / the first's bits per byte at the end, over equal tokens; below 0 is better.
        late_difference: the largest of it, by size, over all validations in the second half of the tokens.
        within: whether the difference is at most the bound with every seed; None: no bound, or nothing to compare.
        tokens_per_second, joules_per_token: of training steps, over whole runs.
        reached: how many runs reached the goal, of `judged`.
        tokens, seconds, joules: to the goal.
        missed: of runs that did not reach a target, what they did reach.
        simulated: fp8 was simulated, so that its time is not that of fp8.
        moves: how often a layer left its fp8 recipe or came back, over all runs.
        joules_reason: why there are no joules; error: of the last run that failed and was not repeated.
    """

    name: str
    settings: tuple[str, ...]
    runs: int
    compared: int
    bits_per_byte: Interval | None
    difference: Interval | None
    late_difference: float | None
    within: bool | None
    tokens_per_second: Compared
    joules_per_token: Compared
    reached: int
    judged: int
    tokens: Compared
    seconds: Compared
    joules: Compared
    missed: tuple[str, ...]
    simulated: bool
    moves: int
    joules_reason: str | None
    error: str | None


def rows(record: TrainingRecord) -> list[TrainingRow]:
    """One row a variant, the first one first."""
    return [_row(variant, record) for variant in record.variants]


def _row(variant: TrainedVariant, record: TrainingRecord) -> TrainingRow:
    first, target = record.variants[0], record.target_bits_per_byte
    pairs = [(run, other) for run in variant.runs if (other := first.run(run.seed)) is not None]
    ends = [(run.end, other.end) for run, other in pairs]
    costs = [(run.seed, point) for run in variant.runs if (point := cost(run, record)) is not None]
    bases = {run.seed: point for run in first.runs if (point := cost(run, record)) is not None}
    to_goal = [(point, bases[seed]) for seed, point in costs if seed in bases]
    difference = None
    if target is None:
        difference = _interval(ours.bits_per_byte / theirs.bits_per_byte - 1 for ours, theirs in ends)

    def at_the_end(figure: Callable[[Validation], float | None]) -> Compared:
        return _compared((run.end for run in variant.runs), ends, figure)

    def to_the_goal(figure: Callable[[Validation], float | None]) -> Compared:
        return _compared((point for _, point in costs), to_goal, figure)

    reasons = [run.joules_reason for run in [*variant.runs, *first.runs] if run.joules_reason is not None]
    failed = [each.error for each in variant.failures if variant.run(each.seed) is None]
    states = [run.fp8 for run in variant.runs if run.fp8 is not None]
    return TrainingRow(
        name=variant.name,
        settings=tuple(variant.settings),
        runs=len(variant.runs),
        compared=len(pairs),
        bits_per_byte=_interval(run.end.bits_per_byte for run in variant.runs),
        difference=difference,
        late_difference=max((each for pair in pairs for each in late_differences(*pair)), key=abs, default=None),
        within=None if difference is None or record.bound is None else difference.high <= record.bound,
        tokens_per_second=at_the_end(lambda point: point.tokens / point.seconds),
        joules_per_token=at_the_end(lambda point: None if point.joules is None else point.joules / point.tokens),
        reached=len(costs),
        judged=len(pairs) if target is None else len(variant.runs),
        tokens=to_the_goal(lambda point: point.tokens),
        seconds=to_the_goal(lambda point: point.seconds),
        joules=to_the_goal(lambda point: point.joules),
        missed=() if target is None else tuple(_missed(run) for run in variant.runs if cost(run, record) is None),
        simulated=any(state.simulated for state in states),
        moves=sum(len(state.moves) for state in states),
        joules_reason=reasons[0] if variant.runs and reasons else None,
        error=failed[-1] if failed else None,
    )


def cost(run: TrainedRun, record: TrainingRecord) -> Validation | None:
    """The validation of a run that reached the goal; None where none did, or there is no goal with its seed."""
    goal = record.target_bits_per_byte
    if goal is None:
        first = record.variants[0].run(run.seed)
        if first is None:
            return None
        if run is first:
            return run.end
        goal = first.end.bits_per_byte
    return next((point for point in run.curve if point.bits_per_byte <= goal), None)


def late_differences(run: TrainedRun, other: TrainedRun) -> list[float]:
    """Relative differences of bits per byte where both runs were validated at equal tokens, in their second half."""
    theirs = {point.tokens: point.bits_per_byte for point in other.curve}
    return [
        point.bits_per_byte / theirs[point.tokens] - 1
        for point in run.curve
        if point.tokens in theirs and 2 * point.tokens >= run.end.tokens
    ]


def _missed(run: TrainedRun) -> str:
    return (
        f"seed {run.seed}: best {run.best_bits_per_byte:.4f} bits/byte within {run.end.tokens:,} tokens and "
        f"{run.end.seconds:,.1f} s"
    )


def _compared(
    points: Iterable[Validation],
    pairs: Iterable[tuple[Validation, Validation]],
    figure: Callable[[Validation], float | None],
) -> Compared:
    figures = [(figure(ours), figure(theirs)) for ours, theirs in pairs]
    return Compared(
        _interval(value for point in points if (value := figure(point)) is not None),
        _interval(ours / theirs for ours, theirs in figures if ours is not None and theirs),
    )


def _interval(values: Iterable[float]) -> Interval | None:
    found = list(values)
    return Interval.of(found) if found else None
