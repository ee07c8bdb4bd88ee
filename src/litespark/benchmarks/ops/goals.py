"""The goals of the fast ops: for one H200 at the sizes of the 3 B model; other GPUs are held against them as well."""

from collections.abc import Callable
from typing import NamedTuple

from litespark.benchmarks.ops.fp8_runs import CASTS, DELAYED, FUSED, NORM, SWIGLU, WEIGHTS
from litespark.metrics.records.ops import BF16, CaseRecord, GoalRecord, OpsRecord, median
from litespark.ops.backend import REFERENCE
from litespark.planning.op_costs import MEMORY_BOUND

# reading alone can be a little faster than copying; what is beyond is not a measurement of memory
_MOST_SHARE = 1.15
WHOLE_SEQUENCES = "sdpa over whole sequences"
MATMULS = "three matrix products"
ATTENTION_WITHIN_DOCUMENTS = "attention within documents"
# what casts may add is meant for a step of this model
_CASTS_OF_MODEL = "llama3b"
_CASTS_OF_TOKENS = 4 * 4096
_PYTORCH_ATTENTION = ("varlen", "flex", "sdpa", REFERENCE)

# a value, or None; and of what it is, or why there is none
_Measured = tuple[float | None, str]


class _Goal(NamedTuple):
    op: str
    case: str
    text: str
    threshold: float
    at_least: bool  # else at most
    measured: Callable[[CaseRecord], _Measured]


def goals(record: OpsRecord) -> list[GoalRecord]:
    """Every goal with its verdict."""
    verdicts = [_verdict(record, goal, *_value(record, goal)) for goal in _GOALS]
    return [*verdicts, _verdict(record, _Goal("fp8", "", _CASTS, 6.0, False, _share), *_added_by_casts(record))]


def _verdict(record: OpsRecord, goal: _Goal, value: float | None, reason: str) -> GoalRecord:
    if record.environment.on_cpu:
        value, reason = None, "speed on a CPU says nothing about goals for a GPU"
    if value is None:
        return GoalRecord(goal.op, goal.text, goal.threshold, None, "not measured", reason)
    met = value >= goal.threshold if goal.at_least else value <= goal.threshold
    return GoalRecord(goal.op, goal.text, goal.threshold, value, "met" if met else "not met", reason)


def _value(record: OpsRecord, goal: _Goal) -> _Measured:
    case = next((case for case in record.cases if (case.op, case.case) == (goal.op, goal.case)), None)
    if case is None:
        return None, "not measured yet" if goal.op in record.ops else "it was not asked for"
    if not case.timed():
        return None, "; ".join(f"{variant.name}: {variant.reason}" for variant in case.variants if variant.reason)
    return goal.measured(case)


def _added_by_casts(record: OpsRecord) -> _Measured:
    """What casts cost beyond bf16 in a step of one micro-batch, all layers together."""
    if "fp8" not in record.ops:
        return None, "it was not asked for"
    if record.model != _CASTS_OF_MODEL or record.sequences * record.seq_len != _CASTS_OF_TOKENS:
        return None, f"got {record.model} with {record.sequences * record.seq_len} tokens, expected {_CASTS_OF_TOKENS}"
    cases = {case.case: case for case in record.cases if case.op == "fp8"}
    # a layer has two norms; its remaining casts have nothing beside them in bf16
    parts = {
        "norms": (2, _time(cases, NORM, FUSED), _time(cases, NORM, BF16)),
        "SwiGLU": (1, _time(cases, SWIGLU, FUSED), _time(cases, SWIGLU, BF16)),
        "casts": (1, _time(cases, CASTS, DELAYED), 0.0),
        "weights": (1, _time(cases, WEIGHTS, DELAYED), _time(cases, WEIGHTS, BF16)),
    }
    casts = {}
    for name, (count, with_casts, without) in parts.items():
        if with_casts is None or without is None or record.layers is None:
            why = next((variant.reason for case in cases.values() for variant in case.variants if variant.reason), None)
            return None, why or "not measured yet"
        casts[name] = record.layers * count * (with_casts - without)
    return sum(casts.values()), ", ".join(f"{name} {added:+.2f} ms" for name, added in casts.items())


def _time(cases: dict[str, CaseRecord], case: str, variant: str) -> float | None:
    variants = cases[case].variants if case in cases else []
    both = next((contender.forward_backward for contender in variants if contender.name == variant), None)
    return None if both is None else both.median_ms


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
    theirs = next((variant for variant in timed if variant.name in _PYTORCH_ATTENTION), None)
    if theirs is None:
        return None, "no backend of PyTorch's own was timed"
    # not the fastest, which cannot be slower than anything: what `auto` found in its own time
    taken = next((variant for variant in timed if variant.name == case.auto), None)
    if taken is None:
        return None, "what `auto` takes was not found out"
    return median(taken.forward_backward) / median(theirs.forward_backward), f"{taken.name} over {theirs.name}"


def _gain(case: CaseRecord) -> _Measured:
    whole, best = _yardstick(case, WHOLE_SEQUENCES), case.timed()[0]
    if whole is None:
        return None, f"{WHOLE_SEQUENCES} was not timed"
    return whole / median(best.forward_backward), f"{best.name} against {whole:.2f} ms"


def _yardstick(case: CaseRecord, name: str) -> float | None:
    return next((yardstick.time.median_ms for yardstick in case.yardsticks if yardstick.name == name), None)


_SHARE = "at least 85% of the copy bandwidth, forward and backward"
_PRODUCTS = "at most 1.05 of the time of its matrix products"
_NOT_SLOWER = "what `auto` takes not slower than PyTorch's fastest"
_ATTENTIONS = ("attention", ATTENTION_WITHIN_DOCUMENTS)
_CASTS = f"the casts of {_CASTS_OF_MODEL} add at most 6 ms to a step with delayed scales"
_FASTER = f"within documents at least 1.5 times as fast as {WHOLE_SEQUENCES}"
_GOALS = (
    *(_Goal(op, op, _SHARE, 0.85, True, _share) for op in MEMORY_BOUND),
    _Goal("linear_cross_entropy", "sum of losses", _PRODUCTS, 1.05, False, _over_matmuls),
    *(_Goal("attention", case, f"{case}: {_NOT_SLOWER}", 1.0, False, _over_pytorch) for case in _ATTENTIONS),
    _Goal("attention", ATTENTION_WITHIN_DOCUMENTS, _FASTER, 1.5, True, _gain),
)
