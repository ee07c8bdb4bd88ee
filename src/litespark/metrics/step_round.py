"""The figures of one process of `litespark bench step`, from its raw values, and the interval of several."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from litespark.metrics.mfu import possible
from litespark.metrics.records.step import RoundRecord, StepRecord
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
        return cls(statistics.median(values), min(values), max(values), len(values))


def round_figures(record: StepRecord, round_: RoundRecord) -> dict[str, float | None]:
    """One process that was measured, of its counted steps, at the (query, key) pairs that its masks allowed.

    Model TFLOP/s are causal, utilisations are of the vendor's dense bf16 peak. `mfu_measured` is of the matrix
    products' rate on this device; None above what can be true, since then something else ran while that was measured.
    """
    rates, model, seconds = record.rates, record.model, sum(round_.step_ms) / 1e3
    speed, mean_keys = round_.tokens / seconds, round_.attention_pairs / round_.tokens
    whole, full, recomputed = model.flops_per_token_causal, model.flops_per_token_full, model.flops_per_token_recomputed
    of_keys = flops_of_keys(whole, full, record.protocol.seq_len, mean_keys)
    causal: float = whole + of_keys
    hardware: float | None = causal
    if round_.recompute == "full":  # a second forward is a third of forward and backward
        hardware = None if recomputed is None else recomputed + of_keys * 4 / 3

    def share(flops: float | None, of: float | None) -> float | None:
        return None if flops is None or of is None else speed * flops / of

    # where the device has units for fp8, a variant in it may be twice as fast as the product, which is in bf16
    most = 1.0 if rates.fp8_matmul_flops is None else 2.0
    return {
        "tokens_per_second": speed,
        "tflops": speed * causal / 1e12,
        "mfu_causal": share(causal, rates.peak_flops),
        "mfu_full": share(full, rates.peak_flops),
        "hfu_causal": share(hardware, rates.peak_flops),
        "mfu_measured": possible(share(causal, rates.matmul_flops), most),
        "joules_per_token": None if round_.joules is None else round_.joules / round_.tokens,
        "watts": None if round_.joules is None else round_.joules / seconds,
    }
