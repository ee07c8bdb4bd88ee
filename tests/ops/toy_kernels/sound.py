"""Kernels whose needs are known."""

import torch
import triton
import triton.language as tl

from litespark.ops.triton_support import Launches, Target, on_meta


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


VECTOR, MATRIX = on_meta(4096, torch.bfloat16), on_meta(4096, 4096, torch.bfloat16)


def multiply(blocks: tuple[int, int, int], size: int = 4096, **options: int):
    return lambda: matmul[(1,)](MATRIX, MATRIX, MATRIX, size, size, *blocks, **options)


def launches(target: Target) -> Launches:
    return [
        ("bf16", lambda: copy[(1,)](VECTOR, VECTOR, 4096, BLOCK=1024)),
        ("again", lambda: copy[(1,)](VECTOR, VECTOR, 2048, BLOCK=1024)),  # which is compiled already
        ("bf16 long", lambda: copy[(1,)](VECTOR, VECTOR, 4096, BLOCK=2048)),
        ("bf16", multiply((128, 128, 32), num_stages=2)),
    ]
