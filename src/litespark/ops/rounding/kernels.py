"""Rounding as all kernels do it, also where they are interpreted. No op of its own: nothing is launched from here."""

from typing import Any

import triton
import triton.language as tl

from litespark.ops.triton_support import interpreting

INTERPRETED = tl.constexpr(interpreting())


@triton.jit
def rounded(values, dtype: tl.constexpr):
    """fp32 values in another dtype, rounded to nearest even: Triton's interpreter would cut off the bits of bf16."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = values.to(tl.uint32, bitcast=True)
        bits = tl.where(values == values, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FC0)
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return values.to(dtype)


@triton.jit
def fp8_codes(values, inverse_scale, LARGEST: tl.constexpr, MANTISSA_BITS: tl.constexpr):
    """The codes of fp32 values as bytes, see `litespark.ops.fp8.formats.quantised`: e4m3 with 3 bits of mantissa, e5m2
    with 2. `inverse_scale` is a power of two."""
    scaled = values * inverse_scale
    finite = (scaled.to(tl.int32, bitcast=True) & 0x7F800000) != 0x7F800000
    inside = tl.minimum(tl.maximum(scaled, -LARGEST), LARGEST)
    if INTERPRETED:
        codes = _rounded_codes(inside, MANTISSA_BITS)
    else:
        if _through_fp16():
            inside = rounded_to_odd(inside, MANTISSA_BITS)
        if MANTISSA_BITS == 3:
            codes = inside.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
        else:
            codes = inside.to(tl.float8e5).to(tl.uint8, bitcast=True)
    return tl.where(finite, codes, 0x7F).to(tl.uint8)


@tl.core.builtin
def _through_fp16(_semantic: Any = None) -> Any:
    """Whether Triton casts fp32 to fp8 by way of fp16 on the target that it compiles for, as it does before Hopper:
    what is rounded twice may end a code away. (`target_info.cuda_capability_geq` asks for the device at hand.)"""
    architecture = _semantic.builder.options.arch
    return tl.constexpr(architecture.startswith("sm") and int(architecture[2:]) < 90)


@triton.jit
def rounded_to_odd(values, MANTISSA_BITS: tl.constexpr):
    """fp32 values with two bits of mantissa more than their codes will have, the last of them set if anything was cut
    off: what fp16 holds exactly, also below its normal values, and what rounds to the same codes.

    Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: verified algorithms using rounding to odd", IEEE
    Transactions on Computers 57 (2008)."""
    LAST: tl.constexpr = 1 << (21 - MANTISSA_BITS)
    bits = values.to(tl.int32, bitcast=True)
    cut = bits & -LAST
    return tl.where(cut == bits, bits, cut | LAST).to(tl.float32, bitcast=True)


@triton.jit
def _rounded_codes(values, MANTISSA_BITS: tl.constexpr):
    """Codes of finite values within the format, rounded to nearest even in whole numbers: Triton's interpreter loses
    what is below the normal values of fp8."""
    # exponent of the smallest normal value, -6 or -14
    LEAST: tl.constexpr = -6 if MANTISSA_BITS == 3 else -14
    bits = values.to(tl.int32, bitcast=True)
    sign = (bits >> 24) & 0x80
    size = bits & 0x7FFFFFFF
    exponent = tl.maximum((size >> 23) - 127, LEAST)
    significand = (size & 0x7FFFFF) | 0x800000
    # how many of the 23 bits of an fp32 mantissa go; fp32's own subnormal values are far below half of the smallest
    shift = tl.minimum(23 - MANTISSA_BITS + exponent - ((size >> 23) - 127), 25)
    half = (1 << (shift - 1)) - 1
    rounded_significand = (significand + half + ((significand >> shift) & 1)) >> shift
    # a significand that reaches the next power of two carries into the exponent by itself
    codes = rounded_significand + ((exponent - LEAST) << MANTISSA_BITS)
    return (codes | sign).to(tl.uint8)


@triton.jit
def tile_amax(values):
    """The largest absolute value of a tile as the bits of an fp32 number: NaN is above infinity, which is above all."""
    return tl.max(tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1), axis=0)


@triton.jit
def count_saturation_and_underflow(values, inverse_scale, counts, LARGEST: tl.constexpr, SMALLEST: tl.constexpr):
    """Add to counts[0] how many finite values saturate in the cast, to counts[1] how many become zero in it."""
    size = tl.abs(values * inverse_scale)
    finite = (size.to(tl.int32, bitcast=True) & 0x7F800000) != 0x7F800000
    saturated = tl.sum(tl.sum(((size > LARGEST) & finite).to(tl.int32), axis=1), axis=0)
    underflowed = tl.sum(tl.sum(((size > 0) & (size <= SMALLEST / 2)).to(tl.int32), axis=1), axis=0)
    if saturated > 0:
        tl.atomic_add(counts, saturated.to(tl.int64), sem="relaxed")
    if underflowed > 0:
        tl.atomic_add(counts + 1, underflowed.to(tl.int64), sem="relaxed")
