"""The op fp8: each linear layer of a block with and without its casts, what casts on its way, and where fp8 pays.

Speed of simulated products says nothing and is never recorded: without fp8 units every figure is absent, with the
reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from litespark.benchmarks.ops.contenders import Contender, Run, free, measure_case, summary, that_run, timed
from litespark.benchmarks.ops.fp8_runs import (
    APART,
    BF16,
    CASTS,
    DELAYED,
    FUSED,
    NORM,
    PLAIN_THEN_CAST,
    PRODUCTS,
    SWIGLU,
    TENSORWISE,
    WEIGHTS,
    Inputs,
    Linear,
    cast_runs,
    norm_runs,
    swiglu_runs,
    weight_runs,
)
from litespark.benchmarks.ops.rivals import TORCHAO, torchao_linear
from litespark.metrics.records.ops import (
    CaseRecord,
    PaysRecord,
    WidthRecord,
    YardstickRecord,
    least_paying,
)
from litespark.models.llama.config import LlamaConfig
from litespark.ops.backend import BACKENDS, REFERENCE, load
from litespark.ops.choice import reason_against
from litespark.ops.fp8.limits import without_units
from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.settings import RECIPES, Fp8Config
from litespark.ops.linear.state import why_not as why_not_at_these_sizes
from litespark.ops.shapes import Place
from litespark.ops.verification import said, verify, verify_products
from litespark.planning.fp8_casts import FUSED_CASTS

OP = "fp8"
# square linear layers; multiples of 128, around the widths of models from 160 million parameters to 30 billion
WIDTHS = (768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)

_LINEAR = (BF16, PRODUCTS, DELAYED, APART, TENSORWISE)
_PRODUCER = (BF16, PLAIN_THEN_CAST, FUSED, TENSORWISE)
# of which it is told where they pay; `delayed` has here no op beside it that would cast on its way
_PAYING = (PRODUCTS, APART, TENSORWISE)


@dataclass
class Fp8Figures:
    """What there is to say of fp8 on a device, for `OpsRecord`."""

    cases: list[CaseRecord] = field(default_factory=list)
    widths: list[WidthRecord] = field(default_factory=list)
    pays: list[PaysRecord] = field(default_factory=list)


@dataclass(frozen=True)
class _Case:
    """A record to fill, and what makes its runs; `products` and `rival` of a linear layer alone."""

    record: CaseRecord
    variants: Sequence[str]
    runs: Callable[[Pieces], dict[str, Run]]
    products: Callable[[Pieces], dict[str, Callable[[], object]]] | None = None
    rival: Callable[[], Run | str] | None = None


def measure_fp8(config: LlamaConfig, fp8: Fp8Config, place: Place, *, seconds: float, bandwidth: float) -> Fp8Figures:
    """Everything about fp8 at the sizes of a run.

    Args:
        config: the model.
        fp8: whose format of gradients is taken; recipes are all measured.
        place: where, and at which sizes; in bf16.
        seconds: of each measurement, about.
        bandwidth: bytes per second of a copy.
    """
    figures = Fp8Figures()
    absent = why_absent(place)
    pieces, against, verified = (None, absent, None) if absent else _fastest_pieces(place)
    for case in [*_linears(config, fp8, place), *_producers(fp8, place), *_casts(config, fp8, place)]:
        case.record.copy_bytes_per_second = bandwidth
        figures.cases.append(case.record)
        contenders = _contenders(case, pieces, against, verified)
        products = {} if case.products is None or pieces is None else case.products(pieces)
        measure_case(case.record, contenders, lambda run: run, products, place.device, seconds)
    if pieces is not None:
        figures.widths = [_width(width, pieces, fp8, place, seconds / 2) for width in WIDTHS]
    figures.pays = [_pays(figures.widths, name, against) for name in _PAYING]
    return figures


def _contenders(case: _Case, pieces: Pieces | None, against: str | None, verified: bool | None) -> list[Contender]:
    if pieces is None:
        contenders = [Contender(name, None, against, verified=verified) for name in case.variants]
    else:
        runs = case.runs(pieces)
        contenders = [Contender(name, run, verified=None if name == BF16 else True) for name, run in runs.items()]
    if case.rival is not None:
        rival = against if pieces is None else _tried(case.rival)
        absent = rival if isinstance(rival, str) else None
        contenders.append(Contender(TORCHAO, None if absent else rival, absent, rival=True))
    return contenders


def why_absent(place: Place) -> str | None:
    """Why nothing about fp8 is measured there; None where it is."""
    if (reason := without_units(place.device)) is not None:
        return f"{reason}, and the speed of simulated products says nothing"
    if place.dtype != torch.bfloat16:
        return "fp8 is measured beside bf16; set precision=bf16"
    return why_not_at_these_sizes(place.shapes)


def _fastest_pieces(place: Place) -> tuple[Pieces | None, str | None, bool | None]:
    """The first pieces that can run and are right; without any the reasons, and whether a verification failed.

    Nor are there any where the products of the fp8 units themselves are wrong.
    """
    wrong_products = [
        str(verification)
        for verification in verify_products(place.shapes, place.device, place.dtype)
        if not verification.passed
    ]
    if wrong_products:
        return None, "; ".join(wrong_products), False
    reasons, wrong = [], False
    for name in BACKENDS[OP]:
        if name == REFERENCE:
            continue
        reason = reason_against(OP, name, place)
        if reason is None:
            verifications = verify(OP, name, place.shapes, place.device, place.dtype, autocast=place.autocast)
            failed = [str(verification) for verification in verifications if not verification.passed]
            if verifications and not failed:
                return load(OP, name), None, True
            reason, wrong = "; ".join(failed) or "it was not verified", True
        reasons.append(f"{name}: {reason}")
    return None, "; ".join(reasons), False if wrong else None


def _linears(config: LlamaConfig, fp8: Fp8Config, place: Place) -> list[_Case]:
    return [_linear(name, *sizes, fp8, place) for name, sizes in config.linear_shapes().items()]


def _linear(name: str, outputs: int, inputs: int, fp8: Fp8Config, place: Place) -> _Case:
    tokens = _tokens(place)
    flops = 2 * tokens * inputs * outputs
    record = CaseRecord(OP, f"linear {name}", f"{tokens} tokens, {inputs} to {outputs}")
    record.forward_flops, record.backward_flops = flops, 2 * flops

    def made(pieces: Pieces) -> Linear:
        return Linear(name, tokens, inputs, outputs, pieces, fp8.gradients, place.device)

    return _Case(
        record,
        _LINEAR,
        lambda pieces: made(pieces).runs(),
        lambda pieces: made(pieces).single_products(),
        lambda: _torchao(tokens, inputs, outputs, place.device),
    )


def _torchao(tokens: int, inputs: int, outputs: int, device: torch.device) -> Run | str:
    made = torchao_linear(inputs, outputs, device)
    if isinstance(made, str):
        return made
    weight, layer = made
    random = Inputs(device)
    x, gradient = random.normal(tokens, inputs).requires_grad_(), random.normal(tokens, outputs)

    def forward() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return layer(x)

    return Run(forward, lambda: torch.autograd.grad(forward(), [x, weight], gradient))


def _producers(fp8: Fp8Config, place: Place) -> list[_Case]:
    """Least bytes are those of a fused one: what the op in bf16 has, two codes in place of a narrow value."""
    shapes, tokens, stream = place.shapes, _tokens(place), 4 if place.autocast else 2
    normed, product = tokens * shapes.hidden_size, tokens * shapes.intermediate_size
    norm = CaseRecord(
        OP, NORM, f"{tokens} x {shapes.hidden_size}", normed * (2 * stream + 4), normed * (3 * stream + 4)
    )
    swiglu = CaseRecord(OP, SWIGLU, f"{tokens} x {shapes.intermediate_size}", product * 6, product * 10)
    return [
        _Case(norm, _PRODUCER, lambda pieces: norm_runs(place, pieces, fp8.gradients)),
        _Case(swiglu, _PRODUCER, lambda pieces: swiglu_runs(place, pieces, fp8.gradients)),
    ]


def _casts(config: LlamaConfig, fp8: Fp8Config, place: Place) -> list[_Case]:
    sizes, tokens = config.linear_shapes(), _tokens(place)
    inputs = [K for name, (_, K) in sizes.items() if f"{name}.input" not in FUSED_CASTS]
    gradients = [N for name, (N, _) in sizes.items() if f"{name}.gradient" not in FUSED_CASTS]
    said = f"{tokens} x {', '.join(map(str, inputs))} forward, {', '.join(map(str, gradients))} backward"
    casts = CaseRecord(OP, CASTS, said, 4 * tokens * sum(inputs), 4 * tokens * sum(gradients))
    count = sum(N * K for N, K in sizes.values())
    weights = CaseRecord(OP, WEIGHTS, f"{count} parameters, once an optimizer step", 6 * count, 0)
    return [
        _Case(casts, RECIPES, lambda pieces: cast_runs(place, (inputs, gradients), pieces, fp8.gradients)),
        _Case(weights, (BF16, *RECIPES), lambda pieces: weight_runs(list(sizes.values()), pieces, place.device)),
    ]


def _tried(call: Callable[[], Run | str]) -> Run | str:
    """What it returns, or what it raised: out of memory, or a limit of one variant; the others go on."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 (libraries and kernels may raise anything)
        return said(error)


def _width(width: int, pieces: Pieces, fp8: Fp8Config, place: Place, seconds: float) -> WidthRecord:
    runs = Linear(None, _tokens(place), width, width, pieces, fp8.gradients, place.device).runs()
    times = timed(that_run({name: run.both for name, run in runs.items()}), place.device, seconds)
    free(place.device)
    return WidthRecord(width, [YardstickRecord(name, summary(each)) for name, each in times.items()])


def _pays(widths: Sequence[WidthRecord], name: str, against: str | None) -> PaysRecord:
    width = least_paying(widths, name)
    if widths and width is None:
        largest = widths[-1]
        said = "it did not run" if largest.median(name) is None else "bf16 is faster"
        against = f"{said} at the largest width that was measured, {largest.width}"
    return PaysRecord(name, width, against)


def _tokens(place: Place) -> int:
    return place.shapes.rows * place.shapes.length
