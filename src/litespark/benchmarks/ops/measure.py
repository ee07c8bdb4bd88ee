"""Each op, each backend that can run here, and what they are measured against: time, share of the limit, memory.

Variants of one case take turns, so that a ratio is taken within one run. A backend whose verification fails gets no
figure. Everything done is written after each op, and a second start continues with what is missing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from litespark.benchmarks.ops import goals
from litespark.benchmarks.ops.rivals import COMPILED, LIGER, compiled_reference, difference_from_reference, liger
from litespark.benchmarks.ops.yardsticks import matmuls
from litespark.device import device_of
from litespark.metrics.records.ops import CaseRecord, TimeRecord, VariantRecord, YardstickRecord
from litespark.ops.attention.documents import Documents
from litespark.ops.attention.sdpa import attention_sdpa, expected_kernel, kernel_taken
from litespark.ops.backend import BACKENDS, REFERENCE, load
from litespark.ops.cases import Case, cases, small
from litespark.ops.choice import reason_against
from litespark.ops.measuring import Step, measure
from litespark.ops.shapes import Place
from litespark.ops.timing import interleaved_milliseconds
from litespark.ops.verification import said, verify
from litespark.ops.work import Work, pairs_within_documents, pairs_within_rows, work


def measure_op(op: str, place: Place, *, seconds: float, bandwidth: float) -> list[CaseRecord]:
    """Every case of one op.

    Args:
        op: name in `BACKENDS`.
        place: where, and at which sizes.
        seconds: of each measurement, about: forward, and forward with backward, of all variants together.
        bandwidth: bytes per second of a copy.
    """
    # attention is measured within documents too, whether or not the run packs them
    place = replace(place, shapes=replace(place.shapes, documents=True))
    variants = _variants(op, place)
    found = []
    for case, least, yardsticks in _cases(op, place):
        record = CaseRecord(op, case.name, case.sizes, **vars(least), copy_bytes_per_second=bandwidth)
        found.append(record)
        _measure(record, Step(case, place), variants, yardsticks, seconds)
        if op == "attention":
            record.auto = _taken_by_auto(record, place)
        free(place.device)
    return found


def _taken_by_auto(case: CaseRecord, place: Place) -> str | None:
    """What `auto` takes among the backends that have a time, measured as `auto` does; None where nothing can run."""
    within = case.case == goals.ATTENTION_WITHIN_DOCUMENTS
    there = replace(place, shapes=replace(place.shapes, documents=within))
    times = measure(case.op, [each.name for each in case.timed()], there)
    return min(times, key=times.__getitem__, default=None)


@dataclass(frozen=True)
class _Variant:
    name: str
    function: Callable[..., Any] | None
    reason: str | None = None
    rival: bool = False
    verified: bool | None = None


def _variants(op: str, place: Place) -> list[_Variant]:
    """All that could run, those that cannot or must not with the reason."""
    found = []
    for name in BACKENDS[op]:
        reason = reason_against(op, name, place)
        if reason is not None or name == REFERENCE:
            found.append(_Variant(name, None if reason else load(op, name), reason))
            continue
        verifications = verify(op, name, place.shapes, place.device, place.dtype, autocast=place.autocast)
        failed = "; ".join(str(verification) for verification in verifications if not verification.passed)
        if failed or not verifications:
            found.append(_Variant(name, None, failed or "it was not verified", verified=False))
        else:
            found.append(_Variant(name, load(op, name), verified=True))
    for name, make in ((COMPILED, compiled_reference), (LIGER, liger)):
        function = make(op, place.device)
        if isinstance(function, str):
            found.append(_Variant(name, None, function, rival=True))
        else:
            found.append(_checked(_Variant(name, function, rival=True), op, place))
    return found


def _checked(variant: _Variant, op: str, place: Place) -> _Variant:
    """A rival without its function where its results are wrong; PyTorch's compiler is taken at its word."""
    if variant.name == COMPILED or variant.function is None:
        return variant
    try:
        wrong = difference_from_reference(variant.function, cases(op, small(place.shapes), place.device)[0], place)
    except Exception as error:  # noqa: BLE001 (somebody else's kernels may raise anything)
        wrong = said(error)
    return variant if wrong is None else _Variant(variant.name, None, wrong, rival=True, verified=False)


def _cases(op: str, place: Place) -> list[tuple[Case, Work, dict[str, Callable[[], object]]]]:
    """The uses of an op that a training step has, with their work and what else to time beside them."""
    shapes = place.shapes
    first, *others = cases(op, shapes, place.device)
    if op != "attention":
        products = matmuls(op, place)
        yardsticks = {} if products is None else {goals.MATMULS: products}
        return [(first, work(op, place), yardsticks)]
    (within,) = others
    assert within.documents is not None
    whole = Step(first, place).both(attention_sdpa)
    return [
        (first, work(op, place, pairs_within_rows(shapes)), {}),
        (within, work(op, place, pairs_within_documents(within.documents.index)), {goals.WHOLE_ROWS: whole}),
    ]


def _measure(
    record: CaseRecord,
    step: Step,
    variants: Sequence[_Variant],
    yardsticks: dict[str, Callable[[], object]],
    seconds: float,
) -> None:
    device = step.place.device
    forward: dict[str, Callable[[], object]] = {}
    both: dict[str, Callable[[], object]] = {}
    for variant in variants:
        found = VariantRecord(variant.name, variant.rival, variant.verified, reason=variant.reason)
        record.variants.append(found)
        if variant.function is None:
            continue
        try:
            run = step.both(variant.function)
            found.peak_memory_mib = peak_mib(run, device)
            if variant.name == "sdpa":
                _name_kernel(found, step)
        except Exception as error:  # noqa: BLE001 (out of memory, or a limit of one backend; the others go on)
            found.reason = f"at these sizes it raised {said(error)}"
        else:
            forward[variant.name], both[variant.name] = partial(step.forward, variant.function), run
            continue
        free(device)  # only here has the error let go of the tensors
    fill_in(record, forward, both, yardsticks, device, seconds)


def fill_in(
    record: CaseRecord,
    forward: dict[str, Callable[[], object]],
    both: dict[str, Callable[[], object]],
    yardsticks: dict[str, Callable[[], object]],
    device: torch.device,
    seconds: float,
) -> None:
    """Time the variants of a case by their names, and yardsticks in turns with their forward and backward passes."""
    times = {name: summary(each) for name, each in timed(forward, device, seconds).items()}
    times_both = {name: summary(each) for name, each in timed(both | yardsticks, device, seconds).items()}
    for found in record.variants:
        found.forward, found.forward_backward = times.get(found.name), times_both.get(found.name)
    record.yardsticks += [YardstickRecord(name, times_both[name]) for name in yardsticks if name in times_both]


def timed(runs: dict[str, Callable[[], object]], device: torch.device, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of the repeats of each run, which take turns."""
    return interleaved_milliseconds(runs, device, seconds=seconds) if runs else {}


def _name_kernel(found: VariantRecord, step: Step) -> None:
    """What PyTorch takes for `attention_sdpa` in this case, and whether that is what the device should take."""
    expected = None

    def ask(query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None) -> Tensor:
        nonlocal expected
        found.kernel = kernel_taken(query, key, value, documents)
        if documents is None:
            expected = expected_kernel(query.device, step.place.dtype, query.shape[-1])
        return query

    step.forward(ask)
    if expected is not None and found.kernel != expected:
        found.reason = f"PyTorch takes its {found.kernel} kernel, where {expected} is expected of this device"


def peak_mib(run: Callable[[], object], device: torch.device) -> float | None:
    """What a run allocates beyond what is there before, in MiB; None where the device does not count it."""
    run()  # what is compiled or cached at the first call is not the op's
    there = device_of(device)
    there.synchronise()
    there.reset_peak()
    before = there.allocated_bytes()
    run()
    there.synchronise()
    peak = there.peak_bytes()
    return None if peak is None or before is None else (peak - before) / 2**20


def summary(times: list[float]) -> TimeRecord:
    """Median and spread of repeats in milliseconds."""
    ordered = sorted(times)
    last = len(ordered) - 1
    return TimeRecord(statistics.median(ordered), ordered[round(0.1 * last)], ordered[round(0.9 * last)], len(ordered))


def free(device: torch.device) -> None:
    """Give memory back that nothing holds any more."""
    device_of(device).empty_cache()
