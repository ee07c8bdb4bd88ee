"""The arithmetic of `litespark bench parity`: by how much each variant learns more or less than the first one.

Differences and ratios are taken seed by seed, where both have a run, and then their median. What decides is the worst
seed: a variant is within the bound when it is with every seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from litespark.metrics.records.parity import ParityRecord, ParityRun, ParityVariant
from litespark.metrics.step_round import Interval


@dataclass(frozen=True)
class ParityRow:
    """One variant; None where no run that counts has the figure.

    Attributes:
        runs: how many there are; compared: those beside which the first variant has one with the same seed.
        bits_per_byte: at the end, all tokens trained.
        difference: (ours - the first's) / the first's bits per byte at the end; below 0 is better.
        worst_difference: the highest of it over all validations in the second half of the tokens, by size.
        within: whether the difference is at most the bound with every seed; None: nothing to compare.
        seconds_ratio, joules_ratio: over the first variant's; below 1 is less.
        tokens_per_second: in training steps.
        simulated: its products were simulated, so that its time is not that of fp8.
        moves: how often a layer left its recipe or came back, over all runs.
        joules_reason: why there are no joules.
        error: of the last run that failed and was not repeated.
    """

    name: str
    settings: tuple[str, ...]
    runs: int
    compared: int
    bits_per_byte: Interval | None
    difference: Interval | None
    worst_difference: float | None
    within: bool | None
    tokens_per_second: Interval | None
    seconds_ratio: Interval | None
    joules: Interval | None
    joules_ratio: Interval | None
    simulated: bool
    moves: int
    joules_reason: str | None
    error: str | None


def rows(record: ParityRecord) -> list[ParityRow]:
    """One row a variant, the first one first."""
    return [_row(variant, record) for variant in record.variants]


def _row(variant: ParityVariant, record: ParityRecord) -> ParityRow:
    pairs = [(run, other) for run in variant.runs if (other := record.variants[0].run(run.seed)) is not None]

    def ratio(figure: Callable[[ParityRun], float | None]) -> Interval | None:
        figures = [(figure(run), figure(other)) for run, other in pairs]
        return _interval(ours / theirs for ours, theirs in figures if ours is not None and theirs)

    difference = _interval(run.bits_per_byte / other.bits_per_byte - 1 for run, other in pairs)
    failed = [each.error for each in variant.failures if variant.run(each.seed) is None]
    states = [run.fp8 for run in variant.runs if run.fp8 is not None]
    return ParityRow(
        name=variant.name,
        settings=tuple(variant.settings),
        runs=len(variant.runs),
        compared=len(pairs),
        bits_per_byte=_interval(run.bits_per_byte for run in variant.runs),
        difference=difference,
        worst_difference=max((each for pair in pairs for each in late_differences(*pair)), key=abs, default=None),
        within=None if difference is None else difference.high <= record.bound,
        tokens_per_second=_interval(run.tokens / run.train_seconds for run in variant.runs),
        seconds_ratio=ratio(lambda run: run.train_seconds),
        joules=_interval(run.joules for run in variant.runs if run.joules is not None),
        joules_ratio=ratio(lambda run: run.joules),
        simulated=any(state.simulated for state in states),
        moves=sum(len(state.moves) for state in states),
        joules_reason=next((run.joules_reason for run in variant.runs if run.joules_reason is not None), None),
        error=failed[-1] if failed else None,
    )


def late_differences(run: ParityRun, other: ParityRun) -> list[float]:
    """Relative differences of bits per byte where both runs were validated at equal tokens, in their second half."""
    theirs = {point.tokens: point.bits_per_byte for point in other.curve}
    return [
        point.bits_per_byte / theirs[point.tokens] - 1
        for point in run.curve
        if point.tokens in theirs and 2 * point.tokens >= run.tokens
    ]


def _interval(values: Iterable[float]) -> Interval | None:
    found = list(values)
    return Interval.of(found) if found else None
