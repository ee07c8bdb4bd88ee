"""The op fp8: each linear layer of a block with and without its casts, what casts on its way, and where fp8 pays.

Speed of simulated products says nothing and is never recorded: without fp8 units every figure is absent, with the
reason.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from litespark.benchmarks.ops.contenders import Contender, Run, measure_case, timed
from litespark.benchmarks.ops.fp8_runs import (
    APART,
    CASTS,
    DELAYED,
    FUSED,
    FUSED_CASTS,
    NORM,
    PLAIN_THEN_CAST,
    PRODUCTS,
    SWIGLU,
    TENSORWISE,
    WEIGHTS,
    Fp8Runs,
)
from litespark.benchmarks.ops.rivals import TORCHAO, torchao_linear
from litespark.device import device_of
from litespark.metrics.records.ops import BF16, CaseRecord, PaysRecord, WidthRecord, YardstickRecord, least_paying
from litespark.models.llama.config import LlamaConfig
from litespark.ops.backend import BACKENDS, REFERENCE, load
from litespark.ops.choice import reason_against
from litespark.ops.fp8.limits import without_units
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import RECIPES, Fp8Config
from litespark.ops.linear.state import why_not as why_not_at_these_sizes
from litespark.ops.measuring import those_that_run
from litespark.ops.shapes import Place
from litespark.ops.verification import failures, said, verify_products, why_wrong
from litespark.planning.op_costs import op_cost

# square linear layers; multiples of 128, around the widths of models from 160 million parameters to 30 billion
WIDTHS = (768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)

_LINEAR = (BF16, PRODUCTS, DELAYED, APART, TENSORWISE)
_PRODUCER = (BF16, PLAIN_THEN_CAST, FUSED, TENSORWISE)
# of which it is told where they pay; `delayed` has here no op beside it that would cast on its way
_PAYING = (PRODUCTS, APART, TENSORWISE)


def measure_fp8(
    config: LlamaConfig, fp8: Fp8Config, place: Place, *, seconds: float, bandwidth: float
) -> tuple[list[CaseRecord], list[WidthRecord], list[PaysRecord]]:
    """Everything about fp8 at the sizes of a run: all recipes, with the format of gradients of `fp8`.

    `seconds` of each measurement, about; `bandwidth` in bytes per second of a copy.
    """
    place = replace(place, fp8=None)  # everything is verified, not only what this run asks for
    absent = why_absent(place)
    pieces, against, verified = (None, absent, None) if absent else _fastest_pieces(place)
    runs = None if pieces is None else Fp8Runs(place, pieces, fp8.gradients)
    cases = []
    for record, variants, make in _cases(config, place):
        record.copy_bytes_per_second = bandwidth
        cases.append(record)
        contenders = [Contender(name, None, against, verified=verified) for name in variants]
        if runs is not None:
            contenders = [
                Contender(name, partial(Run, run.forward, run.both), verified=None if name == BF16 else True)
                for name, run in make(runs).items()
            ]
        if record.forward_flops is not None:  # a linear layer
            sizes = config.linear_shapes()[record.case.removeprefix("linear ")]
            contenders.append(_torchao(*sizes, place, against))
        measure_case(record, contenders, {}, place.device, seconds)
    widths = [] if runs is None else [_width(width, runs, seconds / 2) for width in WIDTHS]
    return cases, widths, [_pays(widths, name, against) for name in _PAYING]


def why_absent(place: Place) -> str | None:
    """Why nothing about fp8 is measured there; None where it is."""
    if (reason := without_units(place.device)) is not None:
        return f"{reason}, and the speed of simulated products says nothing"
    if place.dtype != torch.bfloat16:
        return "fp8 is measured beside bf16; set precision=bf16"
    return why_not_at_these_sizes(place.shapes)


def _fastest_pieces(place: Place) -> tuple[Pieces | None, str | None, bool | None]:
    """The first pieces that can run and are right; without any the reasons, and whether a verification failed."""
    if wrong := failures(verify_products(place)):
        return None, "; ".join(map(str, wrong)), False
    reasons, verified = [], None
    for name in (name for name in BACKENDS["fp8"] if name != REFERENCE):
        reason = reason_against("fp8", name, place)
        if reason is None:
            reason, verified = why_wrong("fp8", name, place), False
            if reason is None:
                return load("fp8", name), None, True
        reasons.append(f"{name}: {reason}")
    return None, "; ".join(reasons), verified


_Case = tuple[CaseRecord, Sequence[str], Callable[[Fp8Runs], dict[str, Run]]]


def _cases(config: LlamaConfig, place: Place) -> Iterator[_Case]:
    """A record to fill, its variants, and what makes their runs."""
    shapes, tokens = place.shapes, place.shapes.tokens
    sizes = config.linear_shapes()
    for name, (N, K) in sizes.items():
        flops = 2 * tokens * K * N
        record = CaseRecord("fp8", f"linear {name}", f"{tokens} tokens, {K} to {N}")
        record.forward_flops, record.backward_flops = flops, 2 * flops
        yield record, _LINEAR, partial(Fp8Runs.linear, name=name, outputs=N, inputs=K)
    # the least bytes of a fused op are those of the op in bf16: two codes take the place of a narrow value
    for op, case, width, runs in (
        ("add_rms_norm", NORM, shapes.hidden_size, Fp8Runs.norm),
        ("swiglu", SWIGLU, shapes.intermediate_size, Fp8Runs.swiglu),
    ):
        cost = op_cost(op, place)
        record = CaseRecord("fp8", case, f"{tokens} x {width}", cost.forward_bytes, cost.backward_bytes)
        yield record, _PRODUCER, runs
    inputs = [K for name, (_, K) in sizes.items() if f"{name}.input" not in FUSED_CASTS]
    gradients = [N for name, (N, _) in sizes.items() if f"{name}.gradient" not in FUSED_CASTS]
    words = f"{tokens} x {', '.join(map(str, inputs))} forward, {', '.join(map(str, gradients))} backward"
    casts = CaseRecord("fp8", CASTS, words, 4 * tokens * sum(inputs), 4 * tokens * sum(gradients))
    yield casts, RECIPES, lambda runs: runs.casts(inputs, gradients)
    count = sum(N * K for N, K in sizes.values())
    weights = CaseRecord("fp8", WEIGHTS, f"{count} parameters, once an optimizer step", 6 * count, 0)
    yield weights, (BF16, *RECIPES), lambda runs: runs.weights(list(sizes.values()))


def _torchao(outputs: int, inputs: int, place: Place, against: str | None) -> Contender:
    try:
        made = against or torchao_linear(inputs, outputs, place.device)
    except Exception as error:  # noqa: BLE001 (another's code; ours is still to be measured)
        made = f"it raised {said(error)}"
    if isinstance(made, str):
        return Contender(TORCHAO, None, made, rival=True)
    weight, layer = made
    x = torch.randn(place.shapes.tokens, inputs, device=place.device, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn(place.shapes.tokens, outputs, device=place.device, dtype=torch.bfloat16)

    def forward() -> torch.Tensor:
        with device_of(place.device).autocast(torch.bfloat16):
            return layer(x)

    run = Run(forward, lambda: torch.autograd.grad(forward(), [x, weight], gradient))
    return Contender(TORCHAO, partial(Run, run.forward, run.both), rival=True)


def _width(width: int, runs: Fp8Runs, seconds: float) -> WidthRecord:
    device = runs.place.device
    made = runs.linear(None, width, width)
    times = timed(those_that_run(made, lambda name: made[name].both), device, seconds)
    device_of(device).empty_cache()
    return WidthRecord(width, [YardstickRecord(name, time) for name, time in times.items()])


def _pays(widths: Sequence[WidthRecord], name: str, against: str | None) -> PaysRecord:
    width = least_paying(widths, name)
    if widths and width is None:
        why = "it did not run" if widths[-1].median(name) is None else "bf16 is faster"
        against = f"{why} at the largest width that was measured, {widths[-1].width}"
    return PaysRecord(name, width, against)
