"""Casting a tensor to an operand of products in passes of their own, over the Triton kernels of this folder.

Bytes a value, of bf16 in both layouts: 4 with a scale that is known; 6 where it comes from the tensor, which is then
read twice. A layout that is not wanted is one less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from litespark.ops.fp8.emission import Emission
from litespark.ops.fp8.kernels import NUM_WARPS, TILE, amax_kernel, cast_kernel, tiles
from litespark.ops.fp8.operands import Matrix, Operand, plain
from litespark.ops.triton_support import on_device_of


def cast(x: Tensor, emission: Emission) -> Operand:
    """See `litespark.ops.fp8.reference.Pieces.cast`: the same codes, scales, largest values and counts.

    Args:
        x: (R, C) fp32, bf16 or fp16; rows may lie apart, anything else is made contiguous.
        emission: of any kind.
    """
    if emission.format is None:
        return plain(x)
    x = x.detach() if x.stride(1) == 1 else x.detach().contiguous()
    rows, width = x.shape
    scale, bits = emission.scale, None
    if scale is None:
        scale, bits = x.new_ones((), dtype=torch.float32), x.new_zeros((), dtype=torch.int32)
    operand = empty_operand(x, width, emission, scale)
    if x.numel() == 0:
        return operand
    with on_device_of(x):
        if bits is not None:
            amax_kernel[tiles(rows, width)](x, bits, rows, width, x.stride(0), TILE=TILE, num_warps=NUM_WARPS)
        cast_kernel[tiles(rows, width)](
            x,
            as_bytes(operand.rows),
            as_bytes(operand.columns),
            bits,
            scale,
            emission.amax,
            emission.counts,
            rows,
            width,
            x.stride(0),
            MANTISSA_BITS=emission.format.mantissa_bits,
            TILE=TILE,
            num_warps=NUM_WARPS,
        )
    return operand


def empty_operand(like: Tensor, width: int, emission: Emission, scale: Tensor | None) -> Operand:
    """Memory for the codes of a tensor (R, `width`) with as many rows as `like`, in the layouts that are wanted."""
    assert emission.format is not None
    rows, dtype = like.shape[0], emission.format.dtype
    return Operand(
        Matrix(like.new_empty(rows, width, dtype=dtype), scale) if emission.rows else None,
        Matrix(like.new_empty(width, rows, dtype=dtype), scale) if emission.columns else None,
    )


def as_bytes(matrix: Matrix | None) -> Tensor | None:
    """Codes as kernels take them."""
    return None if matrix is None else matrix.values.view(torch.uint8)
