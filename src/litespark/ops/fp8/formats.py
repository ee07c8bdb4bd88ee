"""The two fp8 formats, the scales that bring tensors into their range, and the cast: the specification of all of it.

Micikevicius et al., "FP8 Formats for Deep Learning", arXiv:2209.05433. A tensor is held as codes and a scale, with
value = code · scale. Scales are powers of two, so that a cast rounds once and gives the same codes everywhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# exponents of scales: both the scale and its reciprocal stay normal fp32 numbers
LEAST_EXPONENT, GREATEST_EXPONENT = -126, 126


@dataclass(frozen=True)
class Format:
    """An fp8 format."""

    name: str  # "e4m3" or "e5m2": bits of exponent and mantissa
    dtype: torch.dtype  # PyTorch's
    largest: float  # the largest finite value
    smallest: float  # the smallest value above zero; half of it, and less, rounds to zero
    top_exponent: int  # of `largest`, which is 0.875 · 2^top_exponent in both formats
    mantissa_bits: int  # of a normal value


E4M3 = Format("e4m3", torch.float8_e4m3fn, 448.0, 2.0**-9, 9, 3)
E5M2 = Format("e5m2", torch.float8_e5m2, 57344.0, 2.0**-16, 16, 2)
FORMATS = {format.name: format for format in (E4M3, E5M2)}


def power_of_two_scale(amax: Tensor, format: Format) -> Tensor:
    """The smallest power of two by which values up to `amax` (fp32) can be divided to lie within the format; fp32.

    Computed from the bits of `amax`, hence exact. 1 where `amax` is 0, NaN where it is not finite.
    """
    fraction, exponent = torch.frexp(amax)
    # amax = fraction · 2^exponent against largest = 0.875 · 2^top_exponent
    exponent = exponent - format.top_exponent + (fraction > 0.875).to(exponent.dtype)
    # put together from bits: ldexp multiplies by a power of PyTorch's, which no device promises to be exact
    exponent = exponent.clamp(LEAST_EXPONENT, GREATEST_EXPONENT)
    scale = ((exponent + 127) << 23).to(torch.int32).view(torch.float32)
    scale = torch.where(amax == 0, torch.ones_like(scale), scale)
    return torch.where(torch.isfinite(amax), scale, torch.full_like(scale, torch.nan))


def quantised(values: Tensor, scale: Tensor, format: Format) -> Tensor:
    """The codes of `values`: divided by the scales (powers of two), cut off at the largest, rounded to nearest even.

    What is not finite becomes NaN, infinities too, so that it reaches the loss and the step is skipped.
    """
    scaled = values.float() / scale
    inside = scaled.clamp(-format.largest, format.largest)
    # Casting NaN gives NaN in both formats; older PyTorch makes other codes of infinities and of what is too large.
    return torch.where(torch.isfinite(scaled), inside, torch.full_like(inside, torch.nan)).to(format.dtype)


def saturation_and_underflow(values: Tensor, scale: Tensor, format: Format) -> Tensor:
    """(2,) int64: how many finite values saturate in the cast, and how many that are not zero become zero."""
    size = (values.float() / scale).abs()
    saturated = (size > format.largest) & torch.isfinite(size)
    underflowed = (size > 0) & (size <= format.smallest / 2)
    return torch.stack([saturated.sum(), underflowed.sum()])


def amax_bits(values: Tensor) -> Tensor:
    """The largest absolute value as the bits of an fp32 number, () int32.

    As whole numbers these bits have the order of the values, with infinity above all numbers and NaN above infinity.
    """
    bits = values.detach().float().abs().contiguous().view(torch.int32)
    return bits.amax() if bits.numel() else bits.new_zeros(())
