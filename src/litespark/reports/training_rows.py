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

    Attributes:
        repeats: by seed, over whole runs bits_per_byte at the end, tokens_per_second and joules_per_token of training
            steps; and the tokens, seconds and joules to the goal. first: those of the first variant.
        difference: (ours - the first's) / the first's bits per byte at the end, over equal tokens; below 0 is better.
        late_difference: the largest of it, by size, over all validations in the second half of the tokens.
        within: whether the difference is at most the bound with every seed; None: no bound, or nothing to compare.
        reached: how many runs reached the goal, of `judged`; missed: what those that did not did reach.
        simulated: fp8 was simulated, so that its time is not that of fp8.
        moves: how often a layer left its fp8 recipe or came back, over all runs.
        joules_reason: why there are no joules; error: of the last run that failed and was not repeated.
    """

    name: str
    settings: tuple[str, ...]
    repeats: Repeats
    first: Repeats
    difference: Interval | None
    late_difference: float | None
    within: bool | None
    reached: int
    judged: int
    missed: tuple[str, ...]
    simulated: bool
    moves: int
    joules_reason: str | None
    error: str | None

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
    failed = [failure.error for failure in variant.failures if variant.run(failure.seed) is None]
    states = [run.fp8 for run in variant.runs if run.fp8 is not None]
    return TrainingRow(
        name=variant.name,
        settings=tuple(variant.settings),
        repeats=repeats,
        first=theirs,
        difference=difference,
        late_difference=max((each for pair in pairs for each in _late_differences(*pair)), key=abs, default=None),
        within=None if difference is None or record.bound is None else difference.high <= record.bound,
        reached=len(variant.runs) - len(missed),
        judged=len(pairs) if equal_tokens else len(variant.runs),
        missed=() if equal_tokens else tuple(
            f"seed {run.seed}: best {run.best_bits_per_byte:.4f} bits/byte within {run.end.tokens:,} tokens and "
            f"{run.end.seconds:,.1f} s"
            for run in missed
        ),
        simulated=any(state.simulated for state in states),
        moves=sum(len(state.moves) for state in states),
        joules_reason=reasons[0] if reasons else None,
        error=failed[-1] if failed else None,
    )  # fmt: skip
