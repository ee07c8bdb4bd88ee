"""The arithmetic of variants × seeds: what each variant reached, and what that took, beside the first variant.

Differences and ratios are taken seed by seed, where both have a run. The goal to which costs are counted is the
record's target; over equal tokens it is what the first variant reached at its end with that seed. A run that did not
get there has no cost: what it would have taken is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

from litespark.metrics.records.training import TrainedRun, TrainedVariant, TrainingRecord, Validation
from litespark.metrics.step_round import Interval
from litespark.reports.repeats import Repeats


@dataclass(frozen=True)
class TrainingRow:
    """One variant beside the first one; None where no run that counts has the figure.

    `repeats` has by seed bits_per_byte at the end, tokens_per_second and joules_per_token of training steps, and the
    tokens, seconds and joules to the goal, `first` those of the first variant. `difference` is the relative one of bits
    per byte at the end over equal tokens, `late_difference` the largest of the second half; `within` the bound with
    every seed. Of `judged` runs `reached` got to the goal; `missed` is what the others did reach.
    """

    variant: TrainedVariant
    repeats: Repeats
    first: Repeats
    difference: Interval | None
    late_difference: float | None
    within: bool | None
    reached: int
    judged: int
    missed: tuple[str, ...]
    joules_reason: str | None

    @property
    def name(self) -> str:
        return self.variant.name

    @property
    def simulated(self) -> bool:
        """Whether fp8 was, so that its time is not that of fp8."""
        return any(run.fp8.simulated for run in self.variant.runs if run.fp8 is not None)

    def of(self, figure: str) -> Interval | None:
        """A figure over the seeds."""
        return self.repeats.of(figure)

    def ratio(self, figure: str) -> Interval | None:
        """A figure over the first variant's of the same seed."""
        return self.repeats.over(self.first, figure)


def rows(record: TrainingRecord) -> dict[str, TrainingRow]:
    """One row a variant by its name, the first one first."""
    return {variant.name: _row(variant, record) for variant in record.variants}


def _cost(run: TrainedRun, record: TrainingRecord) -> Validation | None:
    """The validation of a run that reached the goal; None where none did, or there is no goal with its seed."""
    first, goal = record.variants[0].run(run.seed), record.target_bits_per_byte
    if goal is None:
        if first is None or run is first:
            return None if first is None else first.end
        goal = first.end.bits_per_byte
    return next((point for point in run.curve if point.bits_per_byte <= goal), None)


def _late_differences(run: TrainedRun, other: TrainedRun) -> list[float]:
    """Relative differences of bits per byte where both runs were validated at equal tokens, in their second half."""
    theirs = {point.tokens: point.bits_per_byte for point in other.curve}
    late = [point for point in run.curve if point.tokens in theirs and 2 * point.tokens >= run.end.tokens]
    return [point.bits_per_byte / theirs[point.tokens] - 1 for point in late]


def _repeats(variant: TrainedVariant, record: TrainingRecord) -> Repeats:
    figures: dict[int, dict[str, float | None]] = {}
    for run in variant.runs:
        end, to_goal = run.end, _cost(run, record)
        figures[run.seed] = {
            "bits_per_byte": end.bits_per_byte,
            "tokens_per_second": end.tokens / end.seconds,
            "joules_per_token": None if end.joules is None else end.joules / end.tokens,
        }
        if to_goal is not None:
            figures[run.seed] |= {"tokens": to_goal.tokens, "seconds": to_goal.seconds, "joules": to_goal.joules}
    return Repeats(figures)


def _row(variant: TrainedVariant, record: TrainingRecord) -> TrainingRow:
    first, equal_tokens = record.variants[0], record.target_bits_per_byte is None
    repeats, theirs = _repeats(variant, record), _repeats(first, record)
    pairs = [(run, other) for run in variant.runs if (other := first.run(run.seed)) is not None]
    missed = [run for run in variant.runs if _cost(run, record) is None]
    difference = None
    if equal_tokens:
        difference = repeats.over(theirs, "bits_per_byte", lambda ours, others: ours / others - 1)
    reasons = [run.joules_reason for run in [*variant.runs, *first.runs] if variant.runs and run.joules_reason]
    missed_at = [
        f"seed {run.seed}: best {run.best_bits_per_byte:.4f} bits/byte within {run.end.tokens:,} tokens and "
        f"{run.end.seconds:,.1f} s"
        for run in missed
    ]
    return TrainingRow(
        variant, repeats, theirs, difference,
        late_difference=max((each for pair in pairs for each in _late_differences(*pair)), key=abs, default=None),
        within=None if difference is None or record.bound is None else difference.high <= record.bound,
        reached=len(variant.runs) - len(missed),
        judged=len(pairs) if equal_tokens else len(variant.runs),
        missed=() if equal_tokens else tuple(missed_at),
        joules_reason=next(iter(reasons), None),
    )  # fmt: skip
