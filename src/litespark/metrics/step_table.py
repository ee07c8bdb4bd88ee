"""The arithmetic of `litespark bench step`: from the raw values of a record to rows, ratios and verdicts.

Tokens/s of a process are its counted tokens over the sum of its counted steps; a row has their median over the rounds
with the lowest and the highest. FLOPs per token follow the (query, key) pairs that were seen, so documents count as
they are. Ratios are taken round by round within one record and then their median.

A ratio stands only between rows that trained alike: losses on the held-out rows, after the same steps on the same
tokens, that differ by at most `LOSS_BOUND`. Other rounding (bf16, other kernels) moves the loss by less than a
thousandth in a benchmark's few steps, and fp8 by a few thousandths; a wrong gradient moves it by more. The losses of
the training steps, averaged, are held against each other in the same way where both have them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from litespark.metrics.records.run import EnvironmentRecord
from litespark.metrics.records.step import BASELINES, RoundRecord, StepRecord, VariantKind, VariantRecord
from litespark.metrics.step_round import Interval, RoundFigures, flops_per_token, round_figures, tokens_per_second
from litespark.metrics.throughput import quantile

__all__ = ["Goal", "Interval", "Ratio", "Row", "failures", "flops_per_token", "on_gpu", "ratios", "round_figures",
           "rows", "tokens_per_second", "trainer_goal"]  # fmt: skip

# relative difference of losses up to which rows have trained alike
LOSS_BOUND = 1e-2
# a row may seem faster than its floor by so much: the rates of the floor are measured too
FLOOR_TOLERANCE = 1.03
# of the benchmark's tokens/s that train.py itself has to reach on a GPU
TRAINER_GOAL = 0.97

Verdict = Literal["met", "NOT met", "not measured"]


@dataclass(frozen=True)
class Row:
    """One variant as the table has it; None: not measured.

    Attributes:
        recompute: as it ran; `out_of_memory_with`: the kinds that were tried before and did not fit.
        absent: why there are no figures; `out_of_memory`: that is why.
        failed: the error of a round that has no figures though others may have.
        rounds: that are counted.
        step_ms_median, step_ms_p95: over the counted steps of all rounds.
        tflops: model TFLOP/s, causal; mfu_causal, mfu_full, hfu_causal: shares of the vendor's dense bf16 peak.
        mfu_measured: share of the matrix products' rate that was measured on this device.
        joules_per_token, watts: of the counted steps; `joules_reason` where there are none.
        peak_memory_mib: the highest of the rounds.
        floor_ms: the least time of a step; share_of_floor: it over the median step.
        loss: nats per token on the held-out rows; loss_deviation: relative, from the median of all rows.
        train_loss: mean over all steps, warm-up included; train_loss_deviation: as above.
        doubts: why the figures are not to be believed or compared.
    """

    name: str
    kind: VariantKind
    about: str
    recompute: str | None = None
    out_of_memory_with: tuple[str, ...] = ()
    absent: str | None = None
    out_of_memory: bool = False
    failed: str | None = None
    rounds: int = 0
    tokens_per_second: Interval | None = None
    step_ms_median: float | None = None
    step_ms_p95: float | None = None
    tflops: float | None = None
    mfu_causal: float | None = None
    mfu_full: float | None = None
    hfu_causal: float | None = None
    mfu_measured: float | None = None
    joules_per_token: Interval | None = None
    joules_reason: str | None = None
    watts: float | None = None
    peak_memory_mib: float | None = None
    floor_ms: float | None = None
    share_of_floor: float | None = None
    loss: float | None = None
    loss_deviation: float | None = None
    train_loss: float | None = None
    train_loss_deviation: float | None = None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ratio:
    """One row over another: above 1 is faster in tokens/s, below 1 is less energy per token."""

    tokens_per_second: Interval
    joules_per_token: Interval | None
    joules_reason: str | None = None


@dataclass(frozen=True)
class Goal:
    """What train.py reaches of the benchmark's tokens/s, and the verdict."""

    threshold: float
    ratio: Interval | None
    verdict: Verdict
    reason: str | None = None


def rows(record: StepRecord) -> list[Row]:
    """A row for every variant, in the record's order."""
    middle = _median(loss for each in record.variants if (loss := _median(_losses(each))) is not None)
    trained = _median(loss for each in record.variants if (loss := _median(_train_losses(each))) is not None)
    return [_row(each, record, middle, trained) for each in record.variants]


def ratios(record: StepRecord, name: str) -> dict[str, Ratio | str]:
    """A variant over each of the four baselines, always all of them; in place of a ratio the reason for its absence.

    Raises:
        ValueError: the record has no variant of that name.
    """
    ours = record.variant(name)
    if ours is None:
        known = ", ".join(each.name for each in record.variants)
        raise ValueError(f"variant: got {name!r}, expected one of the record's: {known}")
    table = {row.name: row for row in rows(record)}
    found: dict[str, Ratio | str] = {}
    for baseline in BASELINES:
        theirs = record.variant(baseline)
        found[baseline] = "not part of this benchmark" if theirs is None else _ratio(record, ours, theirs, table)
    return found


def trainer_goal(record: StepRecord) -> Goal:
    """Whether train.py keeps up with the benchmark's own loop over the same parts; a goal for GPUs."""
    trainer = next((each for each in record.variants if each.kind == "train.py"), None)
    ours = record.variant("litespark")
    if trainer is None or ours is None:
        missing = "train.py" if trainer is None else "litespark"
        return Goal(TRAINER_GOAL, None, "not measured", f"{missing} is not part of this benchmark")
    found = _ratio(record, trainer, ours, {row.name: row for row in rows(record)})
    if isinstance(found, str):
        return Goal(TRAINER_GOAL, None, "not measured", found)
    reached = found.tokens_per_second
    if not on_gpu(record.provenance.environment):
        return Goal(TRAINER_GOAL, reached, "not measured", "the goal is one for GPUs")
    return Goal(TRAINER_GOAL, reached, "met" if reached.median >= TRAINER_GOAL else "NOT met")


def failures(record: StepRecord) -> dict[str, str]:
    """The error of each variant that could run and has a round without figures, out of memory aside."""
    found = {each.name: _failed(each) for each in record.variants if each.reason is None}
    return {name: error for name, error in found.items() if error is not None}


def on_gpu(environment: EnvironmentRecord) -> bool:
    """Whether the devices are others than the host's processor."""
    return environment.devices[0].name != environment.cpu


def counted(variant: VariantRecord) -> list[RoundRecord]:
    """The rounds that make the row: those measured with the recomputation that the last of them had."""
    measured = variant.measured
    return [each for each in measured if each.recompute == measured[-1].recompute]


def _row(variant: VariantRecord, record: StepRecord, middle_loss: float | None, middle_train_loss: float | None) -> Row:
    kept = counted(variant)
    failed = _failed(variant)
    without = tuple(dict.fromkeys(each.recompute for each in variant.rounds if each.outcome == "out of memory"))
    if not kept:
        out_of_memory = bool(variant.rounds) and variant.rounds[-1].outcome == "out of memory"
        absent = variant.reason or (
            f"out of memory, also with recompute {without[-1]}" if out_of_memory else failed or "not run yet"
        )
        return Row(variant.name, variant.kind, variant.about, out_of_memory_with=without, absent=absent,
                   out_of_memory=out_of_memory, failed=failed)  # fmt: skip
    length = record.protocol.seq_len
    figures = [round_figures(record, each, variant.hardware_flops_per_token) for each in kept]

    def of_rounds(figure: Callable[[RoundFigures], float | None]) -> list[float]:
        """A figure of the rounds that have it."""
        return [value for each in figures if (value := figure(each)) is not None]

    def median(figure: Callable[[RoundFigures], float | None]) -> float | None:
        return _median(of_rounds(figure))

    times = [time for each in kept for time in each.step_ms]
    median_step = statistics.median(times)
    floor_ms = _floor_ms(variant, length, kept)
    loss, train_loss = _median(_losses(variant)), _median(_train_losses(variant))
    share = None if floor_ms is None else floor_ms / median_step
    deviation, train_deviation = _deviation(loss, middle_loss), _deviation(train_loss, middle_train_loss)
    energies = of_rounds(lambda each: each.joules_per_token)
    return Row(
        name=variant.name,
        kind=variant.kind,
        about=variant.about,
        recompute=kept[-1].recompute,
        out_of_memory_with=without,
        failed=failed,
        rounds=len(kept),
        tokens_per_second=Interval.of([each.tokens_per_second for each in figures]),
        step_ms_median=median_step,
        step_ms_p95=quantile(times, 0.95),
        tflops=median(lambda each: each.tflops),
        mfu_causal=median(lambda each: each.mfu_causal),
        mfu_full=median(lambda each: each.mfu_full),
        hfu_causal=median(lambda each: each.hfu_causal),
        # one round that passes the product refutes its rate, for the others too
        mfu_measured=None
        if any(each.mfu_measured is None for each in figures)
        else median(lambda each: each.mfu_measured),
        joules_per_token=Interval.of(energies) if energies else None,
        joules_reason=None if energies else next((each.joules_reason for each in kept if each.joules_reason), None),
        watts=median(lambda each: each.watts),
        peak_memory_mib=max((each.peak_memory_mib for each in kept if each.peak_memory_mib is not None), default=None),
        floor_ms=floor_ms,
        share_of_floor=share,
        loss=loss,
        loss_deviation=deviation,
        train_loss=train_loss,
        train_loss_deviation=train_deviation,
        doubts=_doubts(share, deviation, train_deviation),
    )


def _floor_ms(variant: VariantRecord, length: int, kept: Sequence[RoundRecord]) -> float | None:
    """The floor of a step, its attention at the pairs that were seen instead of those of whole causal rows."""
    if not variant.floor:
        return None
    pairs, tokens = sum(each.attention_pairs for each in kept), sum(each.tokens for each in kept)
    seen = pairs / tokens / ((length + 1) / 2)
    return sum(part.milliseconds * (seen if part.kernel_class == "attention" else 1.0) for part in variant.floor)


def _doubts(share: float | None, deviation: float | None, train_deviation: float | None) -> tuple[str, ...]:
    found = []
    if share is not None and share > FLOOR_TOLERANCE:
        found.append(f"impossible: {share:.2f} times as fast as the floor, so the measurement or a rate is wrong")
    if deviation is not None and abs(deviation) > LOSS_BOUND:
        found.append(f"trained differently: its loss is {100 * deviation:+.2f} % from the median of the variants")
    if train_deviation is not None and abs(train_deviation) > LOSS_BOUND:
        said = f"{100 * train_deviation:+.2f} % from the median of the variants"
        found.append(f"trained differently: the mean loss of its training steps is {said}")
    return tuple(found)


def _ratio(record: StepRecord, ours: VariantRecord, theirs: VariantRecord, table: dict[str, Row]) -> Ratio | str:
    for each in (theirs, ours):
        row = table[each.name]
        if row.absent is not None:
            return f"{each.name}: {row.absent}"
        if row.doubts:
            return f"{each.name}: {row.doubts[0]}"
    mine, its = table[ours.name], table[theirs.name]
    for what, one, other in (("losses", mine.loss, its.loss), ("training losses", mine.train_loss, its.train_loss)):
        if one is not None and other is not None and abs(one - other) > LOSS_BOUND * abs(other):
            return f"trained differently: {what} {one:.4f} and {other:.4f}"
    if ours.name == theirs.name:
        return "itself"
    their_rounds = {each.round: each for each in counted(theirs)}
    pairs = [(each, their_rounds[each.round]) for each in counted(ours) if each.round in their_rounds]
    if not pairs:
        return f"{theirs.name}: no round in which both were measured"
    figures = [(round_figures(record, first), round_figures(record, second)) for first, second in pairs]
    speed = Interval.of([first.tokens_per_second / second.tokens_per_second for first, second in figures])
    energy = [
        first.joules_per_token / second.joules_per_token
        for first, second in figures
        if first.joules_per_token is not None and second.joules_per_token is not None
    ]
    if not energy:
        reasons = [each.joules_reason for pair in pairs for each in pair if each.joules_reason]
        return Ratio(speed, None, reasons[0] if reasons else None)
    return Ratio(speed, Interval.of(energy))


def _failed(variant: VariantRecord) -> str | None:
    """The error of the last round that failed and was not made up for."""
    good = {each.round for each in variant.measured}
    errors = [each.error for each in variant.rounds if each.outcome == "failed" and each.round not in good]
    return f"failed: {errors[-1]}" if errors else None


def _losses(variant: VariantRecord) -> list[float]:
    return [each.loss for each in counted(variant) if each.loss is not None]


def _train_losses(variant: VariantRecord) -> list[float]:
    """The mean over all steps of each round that has them."""
    return [statistics.fmean(each.train_loss) for each in counted(variant) if each.train_loss]


def _deviation(value: float | None, middle: float | None) -> float | None:
    return None if value is None or not middle else value / middle - 1


def _median(values: Iterable[float]) -> float | None:
    there = list(values)
    return statistics.median(there) if there else None
