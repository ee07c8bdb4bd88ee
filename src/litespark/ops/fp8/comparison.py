"""How far operands, largest values and counts of one set of pieces are from those of another.

Where both sum up in fp32 in another order, values next to the middle between two codes may get either of them. So a
share of codes may differ, by one; anything else is a fault.
"""

from __future__ import annotations

import torch
from torch import Tensor

from litespark.ops.fp8.operands import Matrix
from litespark.ops.tolerance import Difference

_WRONG = float("inf")
# of its row's largest value: what may be left of a sum in fp32 that cancels, which near zero is many codes
_CANCELLED = 2.0**-18


def code_difference(name: str, actual: Matrix, expected: Matrix, share: float) -> Difference:
    """The share of codes of (M, K) that differ, of which `share` may; infinity where a difference is a fault.

    Faults are codes further apart than one, unless the values are next to nothing in their row; NaN in one only;
    infinity; another scale, shape, type or layout.
    """
    codes, wanted = actual.values, expected.values
    alike = codes.shape == wanted.shape and codes.dtype == wanted.dtype and codes.is_contiguous()
    scale, other = (None if each.scale is None else each.scale.nan_to_num(-1.0).item() for each in (actual, expected))
    if not alike or scale != other:
        return Difference(name, _WRONG, share)
    found, values = actual.wide(), expected.wide()
    both_nan = found.isnan() & values.isnan()
    apart = (_ordered(codes) - _ordered(wanted)).abs()
    cancelled = (found - values).abs() <= _CANCELLED * values.abs().nan_to_num().amax(dim=1, keepdim=True)
    fault = ~((apart <= 1) | cancelled | both_nan) | found.isinf() | (found.isnan() != values.isnan())
    differing = (apart != 0) & ~both_nan
    return Difference(name, _WRONG if bool(fault.any()) else differing.double().mean().item(), share)


def amax_difference(actual: Tensor, expected: Tensor, bound: float) -> Difference:
    """Of two `amax_bits`, relative; NaN is like NaN, and infinity like infinity."""
    found, wanted = (bits.view(torch.float32).item() for bits in (actual, expected))
    if found == wanted or (found != found and wanted != wanted):
        return Difference("amax", 0.0, bound)
    distance = abs(found - wanted) / wanted if wanted else _WRONG
    return Difference("amax", distance if distance == distance else _WRONG, bound)


def count_difference(actual: Tensor, expected: Tensor, bound: float) -> Difference:
    """Of (2,) counts of what a cast loses: the greater of both differences, relative to what is expected."""
    found, wanted = actual.double(), expected.double()
    return Difference("counts", ((found - wanted).abs() / wanted.clamp(min=1)).max().item(), bound)


def _ordered(codes: Tensor) -> Tensor:
    """Whole numbers in the order of the values, neighbours next to each other, both zeros alike."""
    bits = codes.view(torch.int8).to(torch.int16)
    size = bits & 0x7F
    return torch.where(bits < 0, -size, size)
