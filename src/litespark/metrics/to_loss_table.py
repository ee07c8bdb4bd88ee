"""The arithmetic of `litespark bench to-loss`: what it took to the target, and that over what the reference took.

Figures are taken over the runs that reached the target, with their number; ratios seed by seed where both did, and
then their median. A run that did not reach it has no figure here: what it would have taken is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from litespark.metrics.records.to_loss import ToLossRecord, ToLossRun, ToLossVariant
from litespark.metrics.step_round import Interval


@dataclass(frozen=True)
class ToLossRow:
    """One variant; None where no run that counts has the figure.

    Attributes:
        runs, reached: how many there are, and how many reached the target.
        tokens, seconds, joules: to the target.
        tokens_ratio, seconds_ratio, joules_ratio: over the reference's of the same seed; below 1 is less.
        best_bits_per_byte: of all runs, the lowest; final_bits_per_byte: at the end of each.
        joules_reason: why there are no joules.
        missed: of runs that did not reach the target, the words that say so.
        error: of the last run that failed and was not repeated.
    """

    name: str
    settings: tuple[str, ...]
    runs: int
    reached: int
    tokens: Interval | None
    seconds: Interval | None
    joules: Interval | None
    tokens_ratio: Interval | None
    seconds_ratio: Interval | None
    joules_ratio: Interval | None
    best_bits_per_byte: float | None
    final_bits_per_byte: Interval | None
    joules_reason: str | None
    missed: tuple[str, ...]
    error: str | None


def rows(record: ToLossRecord) -> list[ToLossRow]:
    """One row a variant, the reference first."""
    return [_row(variant, record) for variant in record.variants]


def _row(variant: ToLossVariant, record: ToLossRecord) -> ToLossRow:
    reached = [each for each in variant.runs if each.reached]
    reference = record.variants[0]

    def ratio(figure: Callable[[ToLossRun], float | None]) -> Interval | None:
        pairs = [(figure(ours), figure(theirs)) for ours, theirs in _both(variant, reference)]
        return _interval(ours / theirs for ours, theirs in pairs if ours is not None and theirs)

    reasons = [each.joules_reason for each in variant.runs if each.joules_reason is not None]
    failed = [each.error for each in variant.failures if variant.run(each.seed) is None]
    return ToLossRow(
        name=variant.name,
        settings=tuple(variant.settings),
        runs=len(variant.runs),
        reached=len(reached),
        tokens=_interval(_tokens(each) for each in reached),
        seconds=_interval(_seconds(each) for each in reached),
        joules=_interval(each.joules for each in reached if each.joules is not None),
        tokens_ratio=ratio(_tokens),
        seconds_ratio=ratio(_seconds),
        joules_ratio=ratio(lambda each: each.joules),
        best_bits_per_byte=min((each.best_bits_per_byte for each in variant.runs), default=None),
        final_bits_per_byte=_interval(each.final_bits_per_byte for each in variant.runs),
        joules_reason=reasons[0] if reasons else None,
        missed=tuple(_missed(each) for each in variant.runs if not each.reached),
        error=failed[-1] if failed else None,
    )


def _both(variant: ToLossVariant, reference: ToLossVariant) -> Iterable[tuple[ToLossRun, ToLossRun]]:
    """The runs of a variant and of the reference with one seed, where both reached the target."""
    for ours in variant.runs:
        theirs = reference.run(ours.seed)
        if theirs is not None and ours.reached and theirs.reached:
            yield ours, theirs


def _missed(run: ToLossRun) -> str:
    return (
        f"seed {run.seed}: best {run.best_bits_per_byte:.4f} bits/byte within {run.tokens:,} tokens and "
        f"{run.train_seconds:,.1f} s"
    )


def _tokens(run: ToLossRun) -> float:
    return float(run.tokens)


def _seconds(run: ToLossRun) -> float:
    return run.train_seconds


def _interval(values: Iterable[float]) -> Interval | None:
    found = list(values)
    return Interval.of(found) if found else None
