"""What training in fp8 has to reach in `litespark bench step`: goals for the model of 3 B on one H200.

They are held against the fastest of our variants in fp8 that trained like the others; its loss stands beside it in the
table.
"""

from __future__ import annotations

from dataclasses import dataclass

from litespark.metrics.records.step import StepRecord, VariantRecord
from litespark.metrics.step_table import Row, Verdict, on_gpu, ratios, rows

MODEL = "llama3b"
# input tokens of a micro-batch, in whole rows
TOKENS = 4 * 4096
DEVICE = "H200"
# tokens/s of ours in fp8 over those of the baseline
LEAST_RATIOS = {"compiled_fp8": 1.15, "compiled": 1.4}
LEAST_TOKENS_PER_SECOND = (40e3, 44e3)


@dataclass(frozen=True)
class Fp8Goal:
    """A goal, what came of it, and why or of which variant."""

    goal: str
    threshold: float
    value: float | None
    verdict: Verdict
    reason: str


def fp8_goals(record: StepRecord) -> list[Fp8Goal]:
    """Every goal with its verdict; none where no variant of ours is in fp8."""
    table = {row.name: row for row in rows(record)}
    ours = [table[each.name] for each in record.variants if in_fp8(each, record)]
    if not ours:
        return []
    fastest, against = _fastest(ours)
    against = _elsewhere(record) or against
    found = []
    for baseline, least in LEAST_RATIOS.items():
        goal = f"ours in fp8 at least {least:g} times as fast as {baseline}"
        if fastest is None or against is not None:
            found.append(_not_measured(goal, least, against))
            continue
        ratio = ratios(record, fastest.name)[baseline]
        if isinstance(ratio, str):
            found.append(_not_measured(goal, least, ratio))
        else:
            found.append(_judged(goal, least, ratio.tokens_per_second.median, fastest))
    for speed in LEAST_TOKENS_PER_SECOND:
        goal = f"ours in fp8 at least {speed:,.0f} tokens/s on one {DEVICE}"
        devices = [each.name for each in record.provenance.environment.devices]
        elsewhere = None if DEVICE in devices[0] else f"this device is {devices[0]}"
        if fastest is None or fastest.tokens_per_second is None or against or elsewhere:
            found.append(_not_measured(goal, speed, against or elsewhere))
        else:
            found.append(_judged(goal, speed, fastest.tokens_per_second.median, fastest))
    return found


def in_fp8(variant: VariantRecord, record: StepRecord) -> bool:
    """Whether a variant of ours asks for fp8 in its settings, or all do; simulated or not."""
    if variant.kind != "litespark":
        return False
    asked = [each.partition("=")[2] for each in variant.settings if each.startswith(("precision=", "precision.name="))]
    return (asked or [record.protocol.precision])[-1] == "fp8"


def _fastest(ours: list[Row]) -> tuple[Row | None, str | None]:
    """The fastest that may be compared; without one the reason."""
    able = [row for row in ours if row.tokens_per_second is not None and not row.doubts]
    if not able:
        first = ours[0]
        return None, f"{first.name}: {first.absent or first.doubts[0]}"
    return max(able, key=lambda row: row.tokens_per_second.median if row.tokens_per_second else 0.0), None


def _elsewhere(record: StepRecord) -> str | None:
    """Why the goals are not for this record; None where they are."""
    model, protocol = record.model, record.protocol
    tokens = protocol.micro_batch_size * protocol.seq_len
    if not on_gpu(record.provenance.environment):
        return "the goals are for GPUs"
    if (model.name, model.num_layers, tokens, protocol.document_mask) != (MODEL, model.layers_whole, TOKENS, False):
        return (
            f"got {model.num_layers} of {model.layers_whole} layers of {model.name} with {tokens} tokens a "
            f"micro-batch, expected all of {MODEL} with {TOKENS} in whole rows"
        )
    return None


def _judged(goal: str, threshold: float, value: float, row: Row) -> Fp8Goal:
    return Fp8Goal(goal, threshold, value, "met" if value >= threshold else "NOT met", row.name)


def _not_measured(goal: str, threshold: float, reason: str | None) -> Fp8Goal:
    return Fp8Goal(goal, threshold, None, "not measured", reason or "no figures yet")
