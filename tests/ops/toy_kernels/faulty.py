"""Configurations that must be caught."""

import triton
import triton.language as tl

from litespark.ops.triton_support import Launches, Target
from tests.ops.toy_kernels.sound import VECTOR, multiply


@triton.jit
def wrong(x, y, n, BLOCK: tl.constexpr):
    """Adds vectors of different lengths."""
    tl.store(y + tl.arange(0, BLOCK), tl.load(x + tl.arange(0, BLOCK)) + tl.arange(0, 2 * BLOCK))


def launches(target: Target) -> Launches:
    # one warp has too few registers for the sum; AMD has more of them
    columns, inner = (128, 64) if target.backend == "hip" else (64, 16)
    return [
        ("", lambda: wrong[(1,)](VECTOR, VECTOR, 64, BLOCK=64)),
        ("large", multiply((128, 256, 128), num_warps=8, num_stages=4)),
        ("spilling", multiply((128, columns, inner), num_warps=1, num_stages=2)),
        ("unaligned", multiply((128, 128, 32), 4095, num_stages=2)),
    ]
