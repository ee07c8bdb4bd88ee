"""Rounding as all kernels do it, also where they are interpreted. No op of its own: nothing is launched from here."""

import triton
import triton.language as tl

from litespark.ops.fp8.formats import E4M3, E5M2
from litespark.ops.triton_support import interpreting

_E4M3_LARGEST, _E5M2_LARGEST = tl.constexpr(E4M3.largest), tl.constexpr(E5M2.largest)
_E4M3_SMALLEST, _E5M2_SMALLEST = tl.constexpr(E4M3.smallest), tl.constexpr(E5M2.smallest)
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
def scaled(values, inverse_scale):
    """fp32 values as their codes are made of them: infinities become NaN, which the conversion would saturate."""
    x = values * inverse_scale
    # x · 0 is NaN of what is not finite, and otherwise a zero with the sign of x
    return tl.fma(x, 0.0, x)


# The conversion itself saturates, rounds to nearest even and makes 0x7F of NaN (NVIDIA PTX ISA, "cvt"); Ada has it too,
# where Triton's own cast goes by way of fp16 and rounds twice. Of two values the first is in the lower byte.
_CONVERT = tl.constexpr("""{
    .reg .b16 low, high;
    cvt.rn.satfinite.FORMAT.f32 low, $2, $1;
    cvt.rn.satfinite.FORMAT.f32 high, $4, $3;
    mov.b32 $0, {low, high};
}""")
_TO_E4M3 = tl.constexpr(_CONVERT.value.replace("FORMAT", "e4m3x2"))
_TO_E5M2 = tl.constexpr(_CONVERT.value.replace("FORMAT", "e5m2x2"))


@triton.jit
def fp8_codes(x, MANTISSA_BITS: tl.constexpr):
    """The codes of `scaled` values as bytes, see `litespark.ops.fp8.formats.quantised`: e4m3 with 3 bits of mantissa,
    e5m2 with 2."""
    if INTERPRETED:
        return _rounded_codes(x, MANTISSA_BITS).to(tl.uint8)
    ASM: tl.constexpr = _TO_E4M3 if MANTISSA_BITS == 3 else _TO_E5M2
    return tl.inline_asm_elementwise(ASM, "=r,f,f,f,f", [x], dtype=tl.uint8, is_pure=True, pack=4)


@triton.jit
def fp8_words(four, MANTISSA_BITS: tl.constexpr):
    """The codes of four tensors of `scaled` values as int32, that of the first in the lowest byte."""
    if INTERPRETED:
        word = _rounded_codes(four[0], MANTISSA_BITS) | (_rounded_codes(four[1], MANTISSA_BITS) << 8)
        return word | (_rounded_codes(four[2], MANTISSA_BITS) << 16) | (_rounded_codes(four[3], MANTISSA_BITS) << 24)
    ASM: tl.constexpr = _TO_E4M3 if MANTISSA_BITS == 3 else _TO_E5M2
    args = [four[0], four[1], four[2], four[3]]
    return tl.inline_asm_elementwise(ASM, "=r,f,f,f,f", args, dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def _rounded_codes(x, MANTISSA_BITS: tl.constexpr):
    """The same as int32: Triton's interpreter has no conversion to fp8."""
    # exponent of the smallest normal value
    LEAST: tl.constexpr = -6 if MANTISSA_BITS == 3 else -14
    LARGEST: tl.constexpr = _E4M3_LARGEST if MANTISSA_BITS == 3 else _E5M2_LARGEST
    bits = x.to(tl.int32, bitcast=True)
    size = tl.minimum(tl.abs(x), LARGEST)
    # to add 1.5 · 2^23 of the steps between codes, and to take it away, rounds to nearest even
    power = tl.maximum((size.to(tl.int32, bitcast=True) >> 23), 127 + LEAST) << 23
    many = power.to(tl.float32, bitcast=True) * (1.5 * 2.0 ** (23 - MANTISSA_BITS))
    # the smallest normal value becomes that of fp32, whose first bits are then the code, also where it is subnormal
    like_fp32 = ((size + many) - many) * 2.0 ** (-126 - LEAST)
    codes = like_fp32.to(tl.int32, bitcast=True) >> (23 - MANTISSA_BITS)
    return tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7F, codes | ((bits >> 24) & 0x80))


@triton.jit
def highest_bits(values):
    """The largest absolute value of a tile as the bits of an fp32 number: NaN is above infinity, which is above all."""
    return tl.max(tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1), axis=0)


@triton.jit
def saturated(x, MANTISSA_BITS: tl.constexpr):
    """1 where a `scaled` value is beyond the largest code, else 0."""
    LARGEST: tl.constexpr = _E4M3_LARGEST if MANTISSA_BITS == 3 else _E5M2_LARGEST
    return (tl.abs(x) > LARGEST).to(tl.int32)


@triton.jit
def underflowed(x, MANTISSA_BITS: tl.constexpr):
    """1 where a `scaled` value that is not zero becomes zero, else 0."""
    SMALLEST: tl.constexpr = _E4M3_SMALLEST if MANTISSA_BITS == 3 else _E5M2_SMALLEST
    return ((tl.abs(x) > 0) & (tl.abs(x) <= SMALLEST / 2)).to(tl.int32)


@triton.jit
def add_counts(counts, saturated_values, underflowed_values):
    """Add the sums of two tiles to `counts` (2,)."""
    many, few = (tl.sum(tl.sum(saturated_values, axis=1), axis=0), tl.sum(tl.sum(underflowed_values, axis=1), axis=0))
    if many > 0:
        tl.atomic_add(counts, many.to(tl.int64), sem="relaxed")
    if few > 0:
        tl.atomic_add(counts + 1, few.to(tl.int64), sem="relaxed")


@triton.jit
def quantise_rows(values, inverse_scale, place, inside, counts, MANTISSA_BITS: tl.constexpr):
    """Codes (R, C) alone of a tile of any shape into `place`, and counts; `values` are fp32 and 0 outside."""
    x = scaled(values, inverse_scale)
    if counts is not None:
        add_counts(counts, saturated(x, MANTISSA_BITS), underflowed(x, MANTISSA_BITS))
    tl.store(place, fp8_codes(x, MANTISSA_BITS), mask=inside)
