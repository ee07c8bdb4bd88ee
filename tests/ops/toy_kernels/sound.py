"""Kernels whose needs are known."""

import triton
import triton.language as tl

from litespark.ops.triton_support import Compilation, Target


@triton.jit
def copy(x, y, n, BLOCK: tl.constexpr):
    """Needs no shared memory and hardly a register."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < n), mask=at < n)


@triton.jit
def block_of(start, SIZE: tl.constexpr):
    """Called by a kernel, never launched."""
    return start + tl.arange(0, SIZE)


@triton.jit
def matmul(a, b, c, N, K, M_BLOCK: tl.constexpr, N_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr):
    """Holds one block of a and b per stage in shared memory and a block of c in registers."""
    rows = block_of(tl.program_id(0) * M_BLOCK, M_BLOCK)
    columns = block_of(tl.program_id(1) * N_BLOCK, N_BLOCK)
    total = tl.zeros((M_BLOCK, N_BLOCK), tl.float32)
    for start in range(0, K, K_BLOCK):
        inner = block_of(start, K_BLOCK)
        left = tl.load(a + rows[:, None] * K + inner[None, :])
        right = tl.load(b + inner[:, None] * N + columns[None, :])
        total = tl.dot(left, right, total)
    tl.store(c + rows[:, None] * N + columns[None, :], total.to(c.dtype.element_ty))


COPY = {"x": "*bf16", "y": "*bf16", "n": "i32"}
MATMUL = {"a": "*bf16", "b": "*bf16", "c": "*bf16", "N": "i32", "K": "i32"}


def blocks(m: int, n: int, k: int) -> dict[str, int]:
    return {"M_BLOCK": m, "N_BLOCK": n, "K_BLOCK": k}


def compilations(target: Target) -> list[Compilation]:
    return [
        Compilation("copy bf16", copy, COPY, {"BLOCK": 1024}),
        Compilation("copy bf16 long", copy, COPY, {"BLOCK": 2048}),
        Compilation("matmul bf16", matmul, MATMUL, blocks(128, 128, 32), num_stages=2),
    ]
