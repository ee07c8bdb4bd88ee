"""The goals of the fast ops, beside what was measured.

The goals are for one H200 at the sizes of the 3 B model with micro-batches of 4 x 4096; a record of another GPU is held
against them as well, one of a CPU is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from litespark.benchmarks.ops.fp8_runs import CASTS, DELAYED, FUSED, NORM, SWIGLU, WEIGHTS
from litespark.metrics.records.ops import BF16, CaseRecord, GoalRecord, OpsRecord, median
from litespark.ops.backend import REFERENCE
from litespark.planning.op_costs import MEMORY_BOUND

LEAST_SHARE = 0.85
# reading alone can be a little faster than copying; what is beyond is not a measurement of memory
_MOST_SHARE = 1.15
MOST_OVER_MATMULS = 1.05
LEAST_GAIN_OF_DOCUMENTS = 1.5
WHOLE_ROWS = "sdpa over whole rows"
MATMULS = "three matrix products"
SUM_OF_LOSSES = "sum of losses"
ATTENTION = "attention"
ATTENTION_WITHIN_DOCUMENTS = "attention within documents"
# what casts may add to a step of this model
MOST_CAST_MS = 6.0
CASTS_OF_MODEL = "llama3b"
CASTS_OF_TOKENS = 4 * 4096
PYTORCH_ATTENTION = ("varlen", "flex", "sdpa", REFERENCE)


_Measured = tuple[float | None, str]


def goals(record: OpsRecord, device_type: str) -> list[GoalRecord]:
    """Every goal with its verdict."""
    found = [
        _goal(record, op, op, f"at least {LEAST_SHARE:.0%} of the copy bandwidth, forward and backward",
              _share, LEAST_SHARE, at_least=True)
        for op in MEMORY_BOUND
    ] + [
        _goal(record, "linear_cross_entropy", SUM_OF_LOSSES, f"at most {MOST_OVER_MATMULS:.2f} of the time of its "
              "matrix products", _over_matmuls, MOST_OVER_MATMULS, at_least=False)
    ] + [
        _goal(record, "attention", case, f"{case}: what `auto` takes not slower than PyTorch's fastest",
              _over_pytorch, 1.0, at_least=False)
        for case in (ATTENTION, ATTENTION_WITHIN_DOCUMENTS)
    ] + [
        _goal(record, "attention", ATTENTION_WITHIN_DOCUMENTS, f"within documents at least {LEAST_GAIN_OF_DOCUMENTS} "
              f"times as fast as {WHOLE_ROWS}", _gain, LEAST_GAIN_OF_DOCUMENTS, at_least=True)
    ] + [_goal_of_casts(record)]  # fmt: skip
    if device_type == "cpu":
        reason = f"speed on a {device_type.upper()} says nothing about goals for a GPU"
        return [replace(goal, value=None, verdict="not measured", reason=reason) for goal in found]
    return found


def _goal(
    record: OpsRecord,
    op: str,
    case_name: str,
    text: str,
    measured: Callable[[CaseRecord], _Measured],
    threshold: float,
    *,
    at_least: bool,
) -> GoalRecord:
    case = next((case for case in record.cases if case.op == op and case.case == case_name), None)
    value: float | None = None
    if case is None:
        reason = "not measured yet" if op in record.ops else "it was not asked for"
    elif not case.timed():
        reason = "; ".join(f"{each.name}: {each.reason}" for each in case.variants if each.reason)
    else:
        value, reason = measured(case)
    if value is None:
        return GoalRecord(op, text, threshold, None, "not measured", reason)
    met = value >= threshold if at_least else value <= threshold
    return GoalRecord(op, text, threshold, value, "met" if met else "not met", reason)


def _goal_of_casts(record: OpsRecord) -> GoalRecord:
    """What casts cost beyond bf16 in a step of one micro-batch, each layer's times over all layers."""
    text = f"the casts of {CASTS_OF_MODEL} add at most {MOST_CAST_MS:g} ms to a step with delayed scales"
    if "fp8" not in record.ops:
        return GoalRecord("fp8", text, MOST_CAST_MS, None, "not measured", "it was not asked for")
    if record.model != CASTS_OF_MODEL or record.rows * record.seq_len != CASTS_OF_TOKENS:
        reason = f"got {record.model} with {record.rows * record.seq_len} tokens, expected {CASTS_OF_TOKENS}"
        return GoalRecord("fp8", text, MOST_CAST_MS, None, "not measured", reason)
    cases = {case.case: case for case in record.cases if case.op == "fp8"}
    # a layer has two norms; its remaining casts have nothing beside them in bf16
    parts = {
        "norms": (2, _time(cases, NORM, FUSED), _time(cases, NORM, BF16)),
        "SwiGLU": (1, _time(cases, SWIGLU, FUSED), _time(cases, SWIGLU, BF16)),
        "casts": (1, _time(cases, CASTS, DELAYED), 0.0),
        "weights": (1, _time(cases, WEIGHTS, DELAYED), _time(cases, WEIGHTS, BF16)),
    }
    found = {}
    for name, (count, with_casts, without) in parts.items():
        if with_casts is None or without is None or record.layers is None:
            why = next((each.reason for case in cases.values() for each in case.variants if each.reason), None)
            return GoalRecord("fp8", text, MOST_CAST_MS, None, "not measured", why or "not measured yet")
        found[name] = record.layers * count * (with_casts - without)
    value = sum(found.values())
    said = ", ".join(f"{name} {each:+.2f} ms" for name, each in found.items())
    return GoalRecord("fp8", text, MOST_CAST_MS, value, "met" if value <= MOST_CAST_MS else "not met", said)


def _time(cases: dict[str, CaseRecord], case: str, variant: str) -> float | None:
    found = next((each for each in cases[case].variants if each.name == variant), None) if case in cases else None
    return None if found is None or found.forward_backward is None else found.forward_backward.median_ms


def _share(case: CaseRecord) -> _Measured:
    best = case.timed()[0]
    figures = case.figures(best)
    if figures.share_forward is None or figures.share_backward is None:
        return None, f"{best.name}: the backward pass took no time that could be told from the forward pass"
    both = f"{best.name}: {figures.share_forward:.0%} forward, {figures.share_backward:.0%} backward"
    if max(figures.share_forward, figures.share_backward) > _MOST_SHARE:
        return None, f"{both}: more than memory can give, so the measurement is wrong"
    return min(figures.share_forward, figures.share_backward), both


def _over_matmuls(case: CaseRecord) -> _Measured:
    best, products = case.timed()[0], _yardstick(case, MATMULS)
    if products is None:
        return None, "its matrix products were not timed"
    return median(best.forward_backward) / products, f"{best.name}, forward and backward, over {products:.2f} ms"


def _over_pytorch(case: CaseRecord) -> _Measured:
    timed = case.timed()
    theirs = [each for each in timed if each.name in PYTORCH_ATTENTION]
    if not theirs:
        return None, "no backend of PyTorch's own was timed"
    # not the fastest, which cannot be slower than anything: what `auto` found in its own time
    taken = next((each for each in timed if each.name == case.auto), None)
    if taken is None:
        return None, "what `auto` takes was not found out"
    return median(taken.forward_backward) / median(theirs[0].forward_backward), f"{taken.name} over {theirs[0].name}"


def _gain(case: CaseRecord) -> _Measured:
    whole, best = _yardstick(case, WHOLE_ROWS), case.timed()[0]
    if whole is None:
        return None, f"{WHOLE_ROWS} was not timed"
    return whole / median(best.forward_backward), f"{best.name} against {whole:.2f} ms"


def _yardstick(case: CaseRecord, name: str) -> float | None:
    return next((each.time.median_ms for each in case.yardsticks if each.name == name), None)
