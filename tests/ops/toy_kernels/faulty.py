"""Configurations that must be caught."""

import triton
import triton.language as tl

from litespark.ops.triton_support import Compilation, Target
from tests.ops.toy_kernels.sound import COPY, MATMUL, blocks, matmul


@triton.jit
def wrong(x, y, n, BLOCK: tl.constexpr):
    """Adds vectors of different lengths."""
    tl.store(y + tl.arange(0, BLOCK), tl.load(x + tl.arange(0, BLOCK)) + tl.arange(0, 2 * BLOCK))


def compilations(target: Target) -> list[Compilation]:
    # one warp has too few registers for the sum; AMD has more of them
    columns, inner = (128, 64) if target.backend == "hip" else (64, 16)
    return [
        Compilation("wrong", wrong, COPY, {"BLOCK": 64}),
        Compilation("large", matmul, MATMUL, blocks(128, 256, 128), num_warps=8, num_stages=4),
        Compilation("spilling", matmul, MATMUL, blocks(128, columns, inner), num_warps=1, num_stages=2),
        Compilation("unaligned", matmul, MATMUL, blocks(128, 128, 32), num_stages=2, unaligned=("N", "K")),
        Compilation("unknown argument", matmul, MATMUL | {"M": "i32"}, blocks(128, 128, 64)),
        Compilation("left out", matmul, MATMUL, {"M_BLOCK": 64, "N_BLOCK": 64}),
    ]
