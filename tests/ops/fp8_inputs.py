"""Inputs and comparisons that tests of fp8 share."""

import math
from fractions import Fraction

import torch
from torch import Tensor

from litespark.ops.fp8.formats import E4M3, E5M2, Format

# what `torch.float32` has where something changes: both sides of each power of two, of 0.875 of it, and the ends
_EXPONENTS = torch.arange(-148.0, 128.0, dtype=torch.float64)
_TURNS = torch.cat([torch.exp2(_EXPONENTS), 0.875 * torch.exp2(_EXPONENTS)]).float()
_SPECIAL = torch.tensor([0.0, 1e-45, torch.finfo(torch.float32).max, float("inf"), float("nan")])
EDGES = torch.cat([_TURNS, *(torch.nextafter(_TURNS, torch.tensor(to)) for to in (0.0, float("inf"))), _SPECIAL])


def value_of_code(format: Format, code: int) -> Fraction | None:
    """What a code from 0 to 127 stands for by the standard, arXiv:2209.05433; None where it is no number."""
    mantissa_bits, bias = {"e4m3": (3, 7), "e5m2": (2, 15)}[format.name]
    exponent, mantissa = code >> mantissa_bits, code % 2**mantissa_bits
    if (format is E4M3 and code == 127) or (format is E5M2 and exponent == 31):
        return None
    if exponent == 0:
        return Fraction(mantissa, 2**mantissa_bits) * Fraction(2) ** (1 - bias)
    return (1 + Fraction(mantissa, 2**mantissa_bits)) * Fraction(2) ** (exponent - bias)


def every_value(dtype: torch.dtype) -> Tensor:
    """All 65536 of bf16 or fp16, NaN and infinities too."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Bit for bit, and the same shapes; the failure names all that differ."""
    assert actual.keys() == expected.keys()

    def same(one: Tensor, other: Tensor) -> bool:
        if one.is_floating_point():
            return one.shape == other.shape and torch.equal(one.nan_to_num(-7.0), other.nan_to_num(-7.0))
        return torch.equal(one, other)

    different = [name for name in expected if not same(actual[name], expected[name])]
    assert not different, {name: (actual[name], expected[name]) for name in different}


def around_ties(format: Format) -> Tensor:
    """(N, 4): fp32 values at, just beside and somewhat beside each code and each middle of two."""
    codes = torch.arange(256, dtype=torch.uint8).view(format.dtype).float()
    codes = codes[codes.isfinite()].unique()
    points = torch.cat([codes, (codes[1:] + codes[:-1]) / 2])
    beside = [torch.nextafter(points, torch.tensor(to)) for to in (-math.inf, math.inf)]
    return torch.stack([points, *beside, points * (1 + 2.0**-12)], dim=1)
