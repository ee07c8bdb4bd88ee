"""Rounding as all kernels do it, also where they are interpreted. No op of its own: nothing is launched from here."""

from __future__ import annotations

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
