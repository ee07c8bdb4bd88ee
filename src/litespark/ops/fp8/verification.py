"""How fp8 is verified: each piece, in all ways that a run may ask for it, and the products of the device's units."""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from litespark.ops.fp8.formats import E4M3, E5M2, Format
from litespark.ops.fp8.operands import MULTIPLE, Matrix, Operand, Quantisation, product
from litespark.ops.fp8.reference import PIECES as REFERENCE
from litespark.ops.fp8.reference import PIECES_APART, Pieces
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.fp8.verification_pieces import PLAIN, Piece, Way, kinds_of, pieces_to_verify, spoilt
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.tolerance import (
    LOW_PRECISION_BOUND,
    Difference,
    Trial,
    difference,
    fresh_memory_is_nan,
    relative_distance,
)

# of products whose sums are in fp32, rounded to bf16 at their end
_EXACT_SUMS_BOUND = 5e-3
_WRONG = float("inf")
# of its row's largest value: what may be left of a sum in fp32 that cancels, which near zero is many codes
_CANCELLED = 2.0**-18


class Bounds(NamedTuple):
    """What may differ: a share of codes; largest values and counts relatively."""

    codes: float
    amax: float
    counts: float


# a cast alone rounds once
EXACT = Bounds(0.0, 0.0, 0.0)
# sums in another order, in fp32
FUSED = Bounds(1e-3, 1e-5, 1e-2)
# the same, rounded to the dtype of activations before the cast: the largest value may be the next one of bf16
ROUNDED = Bounds(1e-3, 2.0**-7, 1e-2)


def piece_trials(pieces: Pieces, place: Place) -> Iterator[Trial]:
    """Every piece, for every kind of layer of a run at `place`; where it has no settings of fp8, of any run."""
    config, dtype = place.fp8, place.dtype
    kinds, gradients = kinds_of(config), (E5M2, E4M3) if config is None else (config.gradient_format,)
    for piece in pieces_to_verify(place, gradients):
        for kind in kinds:
            if not (piece.exact and kind == PLAIN):  # a cast to nothing
                compare = partial(_piece_compared, pieces, piece, kind, kinds, dtype)
                yield Trial(f"{piece.name}, {kind}", piece.sizes, compare)


def product_trials(
    shapes: StepShapes, device: torch.device, dtype: torch.dtype, config: Fp8Config | None = None
) -> Iterator[Trial]:
    """The three products of a linear layer on the fp8 units, at sizes cut to what the units take."""
    wanted = shapes.sequences * shapes.length, shapes.hidden_size, shapes.intermediate_size
    tokens, width, wide = (max(MULTIPLE, size - size % MULTIPLE) for size in wanted)
    for format in (E5M2, E4M3) if config is None else (config.gradient_format,):
        compare = partial(_products_compared, (tokens, width, wide), device, dtype, format)
        yield Trial(f"products, gradients {format.name}", f"{tokens} x {width} x {wide}", compare)


# ---------------------------------------------------------------- pieces


def _piece_compared(
    pieces: Pieces, piece: Piece, kind: str, kinds: tuple[str, ...], dtype: torch.dtype
) -> list[Difference]:
    return [
        replace(difference, tensor=f"{way.name}: {difference.tensor}" if way.name else difference.tensor)
        for way in piece.ways(kind, kinds)
        for difference in way_differences(pieces, piece, way, dtype)
    ]


def way_differences(pieces: Pieces, piece: Piece, way: Way, dtype: torch.dtype) -> Iterator[Difference]:
    """Everything that a piece makes and notes in one way, beside what the reference does."""
    inputs = {name: x for name, x in piece.inputs.items() if name != way.without}
    first = next(iter(inputs))
    if not way.finite:
        inputs[first] = spoilt(inputs[first])
    device = inputs[first].device
    noted, expected_notes = way.noting(device), way.noting(device)
    reference = REFERENCE if pieces.fusing else PIECES_APART
    expected = piece.call(reference, inputs, expected_notes, way.again, dtype)
    wide = expected
    if dtype != torch.float32:
        in_fp32 = {name: x.float() for name, x in inputs.items()}
        wide = piece.call(reference, in_fp32, way.noting(device), way.again, torch.float32)
    with fresh_memory_is_nan():
        # Triton's interpreter remarks on what is not finite
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        actual = piece.call(pieces, inputs, noted, way.again, dtype)
    for name, wanted in expected.items():
        quantisation = way.again if name == "product" else way.quantisation
        if isinstance(wanted, Operand):
            yield from _operands_compared(name, actual[name], wanted, wide[name], _bounds(piece, quantisation, pieces))
        elif isinstance(wanted, Tensor) and way.finite:
            yield _tensors_compared(name, actual[name], wanted, wide[name])
        elif wanted is None and actual[name] is not None:
            yield Difference(f"{name}, which nobody asked for", _WRONG, 0.0)
    bounds = _bounds(piece, way.quantisation, pieces)
    if noted.amax is not None and expected_notes.amax is not None:
        yield amax_difference(noted.amax, expected_notes.amax, bounds.amax)
    if noted.counts is not None and expected_notes.counts is not None:
        yield count_difference(noted.counts, expected_notes.counts, bounds.counts)


def _bounds(piece: Piece, quantisation: Quantisation | None, pieces: Pieces) -> Bounds:
    if piece.exact:
        return EXACT
    return FUSED if pieces.fusing and quantisation is not None and quantisation.fused else ROUNDED


def _operands_compared(
    name: str, actual: object, expected: Operand, wide: object, bounds: Bounds
) -> Iterator[Difference]:
    for layout in ("rows", "columns"):
        got, wanted, exact = (getattr(operand, layout, None) for operand in (actual, expected, wide))
        what = f"{layout} of {name}"
        if got is None and wanted is None:
            continue
        if got is None or wanted is None or got.in_fp8 != wanted.in_fp8:
            yield Difference(what, _WRONG, 0.0)
        elif wanted.in_fp8:
            yield code_difference(what, got, wanted, bounds.codes)
        else:
            assert isinstance(exact, Matrix)
            yield _tensors_compared(what, got.values, wanted.values, exact.values)


def _tensors_compared(name: str, actual: object, expected: Tensor, wide: object) -> Difference:
    assert isinstance(wide, Tensor)
    if not isinstance(actual, Tensor) or actual.dtype != expected.dtype:
        return Difference(name, _WRONG, 0.0)
    if expected.dtype == torch.float32:
        return difference(name, actual, expected, None)
    return difference(name, actual, wide, expected)


# ---------------------------------------------------------------- products


def _products_compared(
    sizes: tuple[int, int, int], device: torch.device, dtype: torch.dtype, format: Format
) -> list[Difference]:
    generator = torch.Generator(device=device).manual_seed(0)
    tokens, width, wide = sizes

    def operand(rows: int, columns: int, cast_to: Format) -> Operand:
        return REFERENCE.cast(torch.randn(rows, columns, generator=generator, device=device), Quantisation(cast_to))

    x, weight, gradient = operand(tokens, width, E4M3), operand(wide, width, E4M3), operand(tokens, wide, format)
    products = (
        # forward with fewer bits, backward without; the gradient of a weight has the dtype of its master
        ("output", x.rows, weight.rows, dtype, True, LOW_PRECISION_BOUND),
        ("gradient of the input", gradient.rows, weight.columns, dtype, False, _EXACT_SUMS_BOUND),
        ("gradient of the weight", gradient.columns, x.columns, torch.float32, False, _EXACT_SUMS_BOUND),
    )
    differences = []
    for name, left, right, to, fast, bound in products:
        expected = product(left, right, torch.float32, simulate=True, fast=fast)
        actual = product(left, right, to, simulate=False, fast=fast)
        distance = relative_distance(actual, expected) if actual.dtype == to else _WRONG
        differences.append(Difference(name, distance, bound))
    return differences


# ---------------------------------------------------------------- comparing


def code_difference(name: str, actual: Matrix, expected: Matrix, share: float) -> Difference:
    """The share of codes of (M, K) that differ, of which `share` may; infinity where a difference is a fault.

    Sums in another order give values next to the middle between two codes either of them. Faults are codes further
    apart, unless the values are next to nothing in their row; NaN in one only; infinity; another scale, shape or type.
    """
    codes, wanted = actual.values, expected.values
    alike = codes.shape == wanted.shape and codes.dtype == wanted.dtype and codes.is_contiguous()
    scales = (operand.scale for operand in (actual, expected))
    scale, other = (None if scale is None else scale.nan_to_num(-1.0).item() for scale in scales)
    if not alike or scale != other:
        return Difference(name, _WRONG, share)
    got, values = actual.wide(), expected.wide()
    both_nan = got.isnan() & values.isnan()
    apart = (_ordered(codes) - _ordered(wanted)).abs()
    cancelled = (got - values).abs() <= _CANCELLED * values.abs().nan_to_num().amax(dim=1, keepdim=True)
    fault = ~((apart <= 1) | cancelled | both_nan) | got.isinf() | (got.isnan() != values.isnan())
    differing = (apart != 0) & ~both_nan
    return Difference(name, _WRONG if bool(fault.any()) else differing.double().mean().item(), share)


def amax_difference(actual: Tensor, expected: Tensor, bound: float) -> Difference:
    """Of two `amax_bits`, relative; NaN is like NaN, and infinity like infinity."""
    got, wanted = (bits.view(torch.float32).item() for bits in (actual, expected))
    if got == wanted or (got != got and wanted != wanted):
        return Difference("amax", 0.0, bound)
    distance = abs(got - wanted) / wanted if wanted else _WRONG
    return Difference("amax", distance if distance == distance else _WRONG, bound)


def count_difference(actual: Tensor, expected: Tensor, bound: float) -> Difference:
    """Of (2,) counts of what a cast loses: the greater of both differences, relative to what is expected."""
    got, wanted = actual.double(), expected.double()
    return Difference("counts", ((got - wanted).abs() / wanted.clamp(min=1)).max().item(), bound)


def _ordered(codes: Tensor) -> Tensor:
    """Whole numbers in the order of the values, neighbours next to each other, both zeros alike."""
    bits = codes.view(torch.int8).to(torch.int16)
    size = bits & 0x7F
    return torch.where(bits < 0, -size, size)
