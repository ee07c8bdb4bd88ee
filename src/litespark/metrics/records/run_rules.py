"""What a run record that is read from the ledger must not contradict; a run that goes on is not stopped by it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from litespark.metrics.records.run import RunRecord
from litespark.metrics.records.strict_json import RecordError


def check_figures(record: RunRecord) -> None:
    """Refuse a record whose figures do not follow from each other.

    Raises:
        RecordError: naming every contradiction.
    """
    if found := list(_contradictions(record)):
        raise RecordError("; ".join(found))


def _contradictions(record: RunRecord) -> Iterator[str]:
    throughput, energy, quality = record.throughput, record.energy, record.quality
    if quality.validation_loss is not None and not _alike(quality.perplexity, math.exp(quality.validation_loss)):
        expected = math.exp(quality.validation_loss)
        yield f"quality.perplexity: got {quality.perplexity}, expected exp(validation_loss) = {expected}"
    ordered = (
        ("throughput.step_ms_median", throughput.step_ms_median, "step_ms_p95", throughput.step_ms_p95),
        ("throughput.mfu_causal", throughput.mfu_causal, "mfu_full", throughput.mfu_full),
        ("throughput.mfu_causal", throughput.mfu_causal, "hfu_causal", throughput.hfu_causal),
        ("energy.train_joules", energy.train_joules, "all_in_joules", energy.all_in_joules),
    )
    for name, lower, other, upper in ordered:
        # both are figures of the same moment, so equal ones may differ in the last digit only
        if lower is not None and upper is not None and lower > upper * (1 + 1e-9):
            yield f"{name}: got {lower}, expected at most {other} = {upper}"
    if throughput.tokens_per_second is not None and throughput.step_ms_median and throughput.steps:
        # a mean over the steps past warm-up against a median: near, never equal
        expected = throughput.tokens / throughput.steps / throughput.step_ms_median * 1e3
        if not expected / 2 <= throughput.tokens_per_second <= expected * 2:
            rate = throughput.tokens_per_second
            yield f"throughput.tokens_per_second: got {rate}, expected about {expected}, tokens of a median step"
    if len(record.segments) == 1 and record.segments[0].last_step not in (None, throughput.steps):
        yield f"throughput.steps: got {throughput.steps}, expected last_step = {record.segments[0].last_step}"


def _alike(found: float | None, expected: float) -> bool:
    return found is not None and math.isclose(found, expected, rel_tol=1e-6)
