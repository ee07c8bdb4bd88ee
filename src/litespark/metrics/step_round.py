"""The figures of one process of `litespark bench step`, from its raw values, and the interval of several."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from litespark.metrics.mfu import possible
from litespark.metrics.records.step import RoundRecord, StepModel, StepRecord
from litespark.planning.flops import flops_of_keys


@dataclass(frozen=True)
class Interval:
    """The median of the repeats, the lowest and the highest, and how many there are."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """The interval of at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class RoundFigures:
    """One process; None: not measured.

    Attributes:
        tokens_per_second: counted tokens over the time of the counted steps.
        tflops: model TFLOP/s, causal; mfu_causal, mfu_full, hfu_causal: shares of the vendor's dense bf16 peak.
        mfu_measured: share of the matrix products' rate that was measured on this device; None above what can be true,
            since then something else ran while that rate was measured.
        joules_per_token, watts: of the counted steps.
    """

    tokens_per_second: float
    tflops: float
    mfu_causal: float | None
    mfu_full: float | None
    hfu_causal: float | None
    mfu_measured: float | None
    joules_per_token: float | None
    watts: float | None


def round_figures(record: StepRecord, round_: RoundRecord) -> RoundFigures:
    """The figures of one process that was measured.

    Args:
        record: of which the round is one; model, lengths and rates are taken from it.
        round_: with times.
    """
    rates, model = record.rates, record.model
    seconds = sum(round_.step_ms) / 1e3
    speed = tokens_per_second(round_)

    def share(flops: float | None, of: float | None) -> float | None:
        return None if flops is None or of is None else speed * flops / of

    causal = flops_per_token(model, record.protocol.seq_len, round_)
    # where the device has units for fp8, a variant in it may be twice as fast as the product, which is in bf16
    most = 1.0 if rates.fp8_matmul_flops is None else 2.0
    hardware = model.hardware_flops(round_.recompute)
    if hardware is not None:
        hardware = hardware_flops_per_token(hardware, model, record.protocol.seq_len, round_)
    return RoundFigures(
        tokens_per_second=speed,
        tflops=speed * causal / 1e12,
        mfu_causal=share(causal, rates.peak_flops),
        mfu_full=share(model.flops_per_token_full, rates.peak_flops),
        hfu_causal=share(hardware, rates.peak_flops),
        mfu_measured=possible(share(causal, rates.matmul_flops), most),
        joules_per_token=None if round_.joules is None else round_.joules / round_.tokens,
        watts=None if round_.joules is None else round_.joules / seconds,
    )


def tokens_per_second(round_: RoundRecord) -> float:
    """Counted tokens over the time of the counted steps."""
    return round_.tokens / (sum(round_.step_ms) / 1e3)


def flops_per_token(model: StepModel, length: int, round_: RoundRecord) -> float:
    """Causal model FLOPs per token at the pairs that the round's masks allowed."""
    return model.flops_per_token_causal + _of_keys(model, length, round_)


def hardware_flops_per_token(hardware: float, model: StepModel, length: int, round_: RoundRecord) -> float:
    """`hardware`, which is of whole causal rows, at the pairs that were seen: a second forward is a third of all."""
    again = 4 / 3 if round_.recompute == "full" else 1.0
    return hardware + again * _of_keys(model, length, round_)


def _of_keys(model: StepModel, length: int, round_: RoundRecord) -> float:
    mean_keys = round_.attention_pairs / round_.tokens
    return flops_of_keys(model.flops_per_token_causal, model.flops_per_token_full, length, mean_keys)
