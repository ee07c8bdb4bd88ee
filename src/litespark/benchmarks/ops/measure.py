"""Each op, each backend that can run here, and what they are measured against: time, share of the limit, memory."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from litespark.benchmarks.ops.contenders import Contender, Run, measure_case
from litespark.benchmarks.ops.rivals import COMPILED, LIGER, compiled_reference, difference_from_reference, liger
from litespark.metrics.records.ops import CaseRecord
from litespark.ops.attention.documents import Documents
from litespark.ops.attention.sdpa import attention_sdpa, expected_kernel, kernel_taken
from litespark.ops.backend import BACKENDS, REFERENCE, load
from litespark.ops.cases import Case, cases, small
from litespark.ops.choice import reason_against
from litespark.ops.measuring import Step
from litespark.ops.shapes import Place
from litespark.ops.verification import said, why_wrong
from litespark.planning.op_costs import OpCost, op_cost, pairs_within_documents, pairs_within_sequences

# what is timed beside the backends
WHOLE_SEQUENCES = "sdpa over whole sequences"
MATMULS = "three matrix products"


def measure_op(op: str, place: Place, *, seconds: float, bandwidth: float) -> list[CaseRecord]:
    """Every case of one op; `seconds` of each measurement, about, and `bandwidth` in bytes per second of a copy."""
    # attention is measured within documents too, whether or not the run packs them
    place = replace(place, shapes=replace(place.shapes, documents=True))
    measured = [*_backends(op, place), *_rivals(op, place)]
    records = []
    for case, cost, yardsticks in _cases(op, place):
        record = CaseRecord(op, case.name, case.sizes, **vars(cost), copy_bytes_per_second=bandwidth)
        records.append(record)
        step = Step(case, place)
        contenders = [
            contender if function is None else replace(contender, make=partial(_run, step, function))
            for contender, function in measured
        ]
        measure_case(record, contenders, yardsticks, place.device, seconds)
        if op == "attention":
            _name_kernel(record, step)
    return records


def _run(step: Step, function: Callable[..., Any]) -> Run:
    return Run(partial(step.forward, function), step.both(function))


_Found = list[tuple[Contender, Callable[..., Any] | None]]


def _backends(op: str, place: Place) -> _Found:
    """All that could run with their functions, those that cannot or must not with the reason."""
    contenders: _Found = []
    for name in BACKENDS[op]:
        reason, verified = reason_against(op, name, place), None
        if reason is None and name != REFERENCE:
            reason = why_wrong(op, name, place)
            verified = reason is None
        contenders.append((Contender(name, None, reason, verified=verified), None if reason else load(op, name)))
    return contenders


def _rivals(op: str, place: Place) -> _Found:
    """PyTorch's compiler, which is taken at its word, and Liger, whose results are compared."""
    contenders: _Found = []
    for name, rival in ((COMPILED, compiled_reference), (LIGER, liger)):
        function = rival(op, place.device)
        wrong = None
        if name == LIGER and not isinstance(function, str):
            try:
                wrong = difference_from_reference(function, cases(op, small(op, place.shapes), place.device)[0], place)
            except Exception as error:  # noqa: BLE001 (somebody else's kernels may raise anything)
                wrong = said(error)
        reason = function if isinstance(function, str) else wrong
        contender = Contender(name, None, reason, rival=True, verified=False if wrong else None)
        contenders.append((contender, None if isinstance(function, str) or wrong else function))
    return contenders


def _cases(op: str, place: Place) -> list[tuple[Case, OpCost, dict[str, Callable[[], object]]]]:
    """The uses of an op that a training step has, with their cost and what else to time beside them."""
    first, *others = cases(op, place.shapes, place.device)
    if op != "attention":
        return [(first, op_cost(op, place), matmuls(op, place))]
    (within,) = others
    assert within.documents is not None
    whole = Step(first, place).both(attention_sdpa)
    return [
        (first, op_cost(op, place, pairs_within_sequences(place.shapes)), {}),
        (within, op_cost(op, place, pairs_within_documents(within.documents.index)), {WHOLE_SEQUENCES: whole}),
    ]


def matmuls(op: str, place: Place) -> dict[str, Callable[[], object]]:
    """The three products of an op that is a linear layer with something around it, by themselves."""
    shapes = place.shapes
    sizes = {
        "linear_cross_entropy": (shapes.hidden_size, shapes.vocab_size),
        "swiglu_linear": (shapes.intermediate_size, shapes.hidden_size),
    }
    if op not in sizes:
        return {}
    inputs, outputs = sizes[op]
    generator = torch.Generator(place.device).manual_seed(0)
    x, weight, gradient = (
        torch.randn(size, generator=generator, device=place.device).to(place.dtype)
        for size in ((shapes.tokens, inputs), (outputs, inputs), (shapes.tokens, outputs))
    )
    return {MATMULS: lambda: (x @ weight.T, gradient @ weight, gradient.T @ x)}


def _name_kernel(record: CaseRecord, step: Step) -> None:
    """What PyTorch takes for `attention_sdpa` in this case, and whether that is what the device should take."""
    variant = next((variant for variant in record.variants if variant.name == "sdpa" and variant.forward), None)
    if variant is None:
        return
    expected = None

    def ask(query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None) -> Tensor:
        nonlocal expected
        variant.kernel = kernel_taken(query, key, value, documents)
        if documents is None:
            expected = expected_kernel(query.device, step.place.dtype, query.shape[-1])
        return query

    step.forward(ask)
    if expected is not None and variant.kernel != expected:
        variant.reason = f"PyTorch takes its {variant.kernel} kernel, where {expected} is expected of this device"
