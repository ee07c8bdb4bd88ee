"""A kernel that casts to fp8, stated for every target; not all of them can."""

import triton
import triton.language as tl

from litespark.ops.triton_support import Compilation, Target


@triton.jit
def cast_to_fp8(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at).to(tl.float8e4nv).to(tl.uint8, bitcast=True))


def compilations(target: Target) -> list[Compilation]:
    return [Compilation("cast to fp8", cast_to_fp8, {"x": "*fp32", "y": "*u8"}, {"BLOCK": 1024})]
