"""How far operands, largest values and counts of one set of pieces are from those of another.

Where both compute in fp32 and only sum up in another order, values next to the middle between two codes may get either
of them. So a share of codes may differ, by one; anything else is a fault.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from litespark.ops.fp8.formats import FORMATS
from litespark.ops.fp8.operands import Matrix
from litespark.ops.tolerance import Difference

_WRONG = float("inf")
# of its row's largest value: what may be left of a sum in fp32 that cancels, which near zero is many codes
_CANCELLED = 2.0**-18


def code_differences(
    name: str, actual: Matrix, expected: Matrix, share: float, scale_share: float
) -> Iterator[Difference]:
    """The share of codes that differ and that of scales that do; of codes infinity where a difference is a fault.

    Faults are codes further apart than one, unless the values are next to nothing in their row; NaN in one only;
    infinity; scales further apart than a factor of two; another shape, type or layout.

    Args:
        name: of the matrix.
        actual, expected: in fp8, (M, K).
        share, scale_share: what may differ.
    """
    scales, wanted = actual.scale, expected.scale
    assert wanted is not None
    if scales is None or scales.shape != wanted.shape or not _alike(actual.values, expected.values):
        yield Difference(name, _WRONG, share)
        return
    same = (scales == wanted) | (scales.isnan() & wanted.isnan())
    found, values = actual.wide(), expected.wide()
    both_nan = found.isnan() & values.isnan()
    distance = (found - values).abs()
    apart = (_ordered(actual.values) - _ordered(expected.values)).abs()
    # both round to nearest, one of them with the coarser scale
    format = next(each for each in FORMATS.values() if each.dtype == expected.values.dtype)
    rounding = values.abs() * 2.0**-format.mantissa_bits + torch.maximum(scales, wanted) * format.smallest
    near = torch.where(same, apart <= 1, distance <= rounding)
    cancelled = distance <= _CANCELLED * values.abs().nan_to_num().amax(dim=1, keepdim=True)
    ratio = scales / wanted
    fault = bool((~(near | cancelled | both_nan) | found.isinf() | (found.isnan() != values.isnan())).any())
    fault |= not bool((same | (ratio == 2) | (ratio == 0.5)).all())
    differing = ((apart != 0) & ~both_nan) | ~same
    yield Difference(name, _WRONG if fault else differing.double().mean().item(), share)
    yield Difference(f"scales of {name}", 1 - same.double().mean().item(), scale_share)


def amax_difference(name: str, actual: Tensor, expected: Tensor, bound: float) -> Difference:
    """Of two `amax_bits`, relative; NaN is like NaN, and infinity like infinity."""
    found, wanted = (bits.view(torch.float32).item() for bits in (actual, expected))
    if found == wanted or (found != found and wanted != wanted):
        return Difference(name, 0.0, bound)
    distance = abs(found - wanted) / wanted if wanted else _WRONG
    return Difference(name, distance if distance == distance else _WRONG, bound)


def count_difference(name: str, actual: Tensor, expected: Tensor, bound: float) -> Difference:
    """Of (2,) counts of what a cast loses: the greater of both differences, relative to what is expected."""
    found, wanted = actual.double(), expected.double()
    return Difference(name, ((found - wanted).abs() / wanted.clamp(min=1)).max().item(), bound)


def _alike(codes: Tensor, expected: Tensor) -> bool:
    return codes.shape == expected.shape and codes.dtype == expected.dtype and codes.is_contiguous()


def _ordered(codes: Tensor) -> Tensor:
    """Whole numbers in the order of the values, neighbours next to each other, both zeros alike."""
    bits = codes.view(torch.int8).to(torch.int16)
    size = bits & 0x7F
    return torch.where(bits < 0, -size, size)
