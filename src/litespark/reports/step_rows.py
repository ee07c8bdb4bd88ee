"""The arithmetic of `litespark bench step`: from the raw values of a record to rows and ratios.

A ratio stands only between rows that trained alike: losses on the held-out sequences, after the same steps on the same
tokens, that differ by at most `LOSS_BOUND`, and so the mean losses of the training steps. Other rounding (bf16, other
kernels) moves the loss by less than a thousandth in a benchmark's few steps, and fp8 by a few thousandths; a wrong
gradient moves it by more.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from litespark.metrics.records.step import BASELINES, RoundRecord, StepRecord, VariantRecord
from litespark.metrics.step_round import Interval, round_figures
from litespark.metrics.throughput import quantile
from litespark.reports.repeats import Repeats, median

# relative difference of losses up to which rows have trained alike
LOSS_BOUND = 1e-2
# a row may seem faster than its roofline by so much: the rates of the roofline are measured too
ROOFLINE_TOLERANCE = 1.03
_LOSSES = {"loss": ("losses", "its loss"), "train_loss": ("training losses", "the mean loss of its training steps")}


@dataclass(frozen=True)
class Row:
    """One variant; None: not measured. Its `repeats` are `round_figures`, peak_memory_mib, loss, train_loss by round.

    `failed` is the error of a round that has no figures though others may, `out_of_memory_with` are the kinds of
    recomputation that did not fit.
    """

    name: str
    about: str
    failed: str | None
    out_of_memory_with: tuple[str, ...]
    absent: str | None = None
    repeats: Repeats = field(default_factory=Repeats)
    recompute: str | None = None
    step_ms: float | None = None
    p95_ms: float | None = None
    roofline_ms: float | None = None
    joules_reason: str | None = None
    doubts: tuple[str, ...] = ()

    @property
    def tokens_per_second(self) -> Interval | None:
        return self.repeats.of("tokens_per_second")

    @property
    def share_of_roofline(self) -> float | None:
        return None if self.roofline_ms is None or self.step_ms is None else self.roofline_ms / self.step_ms


class Ratio(NamedTuple):
    """One row over another: above 1 is faster in tokens/s, below 1 is less energy per token."""

    tokens_per_second: Interval
    joules_per_token: Interval | None
    joules_reason: str | None


def rows(record: StepRecord) -> dict[str, Row]:
    repeats = {variant.name: _repeats(variant, record) for variant in record.variants}
    middle = {loss: median(repeat.median(loss) for repeat in repeats.values()) for loss in _LOSSES}
    return {variant.name: _row(variant, repeats[variant.name], record, middle) for variant in record.variants}


def ratios(record: StepRecord, name: str) -> dict[str, Ratio | str]:
    return {baseline: ratio(record, name, baseline) for baseline in BASELINES}


def ratio(record: StepRecord, name: str, other: str) -> Ratio | str:
    """One variant over another, round by round, or the reason why there is no ratio."""
    table = rows(record)
    if other not in table:
        return "not part of this benchmark"
    ours, theirs = table[name], table[other]
    for row in (theirs, ours):
        if row.absent is not None or row.doubts:
            return f"{row.name}: {row.absent or row.doubts[0]}"
    for figure, (what, _) in _LOSSES.items():
        one, another = ours.repeats.median(figure), theirs.repeats.median(figure)
        if one is not None and another is not None and abs(one - another) > LOSS_BOUND * abs(another):
            return f"trained differently: {what} {one:.4f} and {another:.4f}"
    speed = ours.repeats.over(theirs.repeats, "tokens_per_second")
    energy = ours.repeats.over(theirs.repeats, "joules_per_token")
    if speed is None:
        return f"{other}: no round in which both were measured"
    return Ratio(speed, energy, None if energy else ours.joules_reason or theirs.joules_reason)


def failures(record: StepRecord) -> dict[str, str]:
    """The error of each variant that could run and has a round without figures, out of memory aside."""
    could_run = [variant for variant in record.variants if variant.reason is None]
    return {variant.name: error for variant in could_run if (error := _failed(variant))}


def _counted(variant: VariantRecord) -> list[RoundRecord]:
    measured = variant.measured
    return [process for process in measured if process.recompute == measured[-1].recompute]


def _repeats(variant: VariantRecord, record: StepRecord) -> Repeats:
    figures = {
        process.round: {
            **round_figures(record, process),
            "peak_memory_mib": process.peak_memory_mib,
            "loss": process.loss,
            "train_loss": statistics.fmean(process.train_loss) if process.train_loss else None,
        }
        for process in _counted(variant)
    }
    if any(figure["mfu_measured"] is None for figure in figures.values()):
        # one round that passes the product refutes its rate, for the others too
        figures = {number: {**figure, "mfu_measured": None} for number, figure in figures.items()}
    return Repeats(figures)


def _row(variant: VariantRecord, repeats: Repeats, record: StepRecord, middle: Mapping[str, float | None]) -> Row:
    kept, failed = _counted(variant), _failed(variant)
    full = [process for process in variant.rounds if process.outcome == "out of memory"]
    without = tuple(dict.fromkeys(process.recompute for process in full))
    if not kept:
        absent = variant.reason or failed or "not run yet"
        if variant.rounds and variant.rounds[-1].outcome == "out of memory":
            absent = f"out of memory, also with recompute {without[-1]}"
        return Row(variant.name, variant.about, failed, without, absent)
    times = [time for process in kept for time in process.step_ms]
    step_ms, roofline_ms = statistics.median(times), _roofline_ms(variant, record.protocol.seq_len, kept)
    doubts = []
    if roofline_ms is not None and (share := roofline_ms / step_ms) > ROOFLINE_TOLERANCE:
        doubts.append(f"impossible: {share:.2f} times as fast as the roofline, so the measurement or a rate is wrong")
    for figure, (_, what) in _LOSSES.items():
        loss, usual = repeats.median(figure), middle[figure]
        if loss is not None and usual and abs(loss / usual - 1) > LOSS_BOUND:
            away = f"{100 * (loss / usual - 1):+.2f} %"
            doubts.append(f"trained differently: {what} is {away} from the median of the variants")
    reason = next((process.joules_reason for process in kept if process.joules_reason), None)
    return Row(variant.name, variant.about, failed, without, None, repeats, kept[-1].recompute, step_ms,
               quantile(times, 0.95), roofline_ms, reason, tuple(doubts))  # fmt: skip


def _roofline_ms(variant: VariantRecord, length: int, kept: list[RoundRecord]) -> float | None:
    if not variant.roofline:
        return None
    pairs, tokens = (sum(getattr(process, name) for process in kept) for name in ("attention_pairs", "tokens"))
    seen = pairs / tokens / ((length + 1) / 2)
    return sum(part.milliseconds * (seen if part.kernel_class == "attention" else 1.0) for part in variant.roofline)


def _failed(variant: VariantRecord) -> str | None:
    good = {process.round for process in variant.measured}
    errors = [process.error for process in variant.rounds if process.outcome == "failed" and process.round not in good]
    return f"failed: {errors[-1]}" if errors else None
