"""Casting a tensor to an operand of products in passes of their own, over the Triton kernels of this folder.

Bytes a value, of bf16 in both layouts: 4 with a scale that is known; 6 where it comes from the tensor, which is then
read twice; the same with a scale for each row and column. A layout that is not wanted is one less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from litespark.ops.fp8.emission import Emission
from litespark.ops.fp8.kernels import NUM_WARPS, TILE, amax_kernel, cast_kernel, rowwise_cast_kernel, tiles
from litespark.ops.fp8.operands import Matrix, Operand, plain
from litespark.ops.triton_support import on_device_of


def cast(x: Tensor, emission: Emission) -> Operand:
    """See `litespark.ops.fp8.pieces.Pieces.cast`: the same codes, scales, largest values and counts as the reference.

    Args:
        x: (R, C) fp32, bf16 or fp16; rows may lie apart, anything else is made contiguous.
        emission: of any kind.
    """
    if emission.format is None:
        return plain(x)
    x = x.detach() if x.stride(1) == 1 else x.detach().contiguous()
    return _cast_by_rows(x, emission) if emission.rowwise else _cast_as_a_whole(x, emission)


def empty_codes(x: Tensor, rows: int, width: int, emission: Emission) -> tuple[Tensor | None, Tensor | None]:
    """Memory for the codes of a tensor (rows, width) on the device of `x`: (rows, width) and (width, rows), each None
    where it is not wanted."""
    assert emission.format is not None
    dtype = emission.format.dtype
    return (
        x.new_empty(rows, width, dtype=dtype) if emission.rows else None,
        x.new_empty(width, rows, dtype=dtype) if emission.columns else None,
    )


def as_bytes(codes: Tensor | None) -> Tensor | None:
    """Codes as kernels take them."""
    return None if codes is None else codes.view(torch.uint8)


def operand_of(
    row_codes: Tensor | None, column_codes: Tensor | None, scale: Tensor, column_scale: Tensor | None = None
) -> Operand:
    """Codes and their scales; without one for columns that of rows is for both."""
    return Operand(
        None if row_codes is None else Matrix(row_codes, scale),
        None if column_codes is None else Matrix(column_codes, scale if column_scale is None else column_scale),
    )


def _cast_as_a_whole(x: Tensor, emission: Emission) -> Operand:
    assert emission.format is not None
    rows, width = x.shape
    row_codes, column_codes = empty_codes(x, rows, width, emission)
    bits, scale = None, emission.scale
    if scale is None:
        bits = x.new_zeros((), dtype=torch.int32)
        scale = x.new_ones((), dtype=torch.float32)
    if x.numel() == 0:
        return operand_of(row_codes, column_codes, scale)
    if bits is not None:
        _find_amax(x, bits, None, None)
    with on_device_of(x):
        cast_kernel[tiles(rows, width)](
            x,
            as_bytes(row_codes),
            as_bytes(column_codes),
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
    return operand_of(row_codes, column_codes, scale)


def _cast_by_rows(x: Tensor, emission: Emission) -> Operand:
    assert emission.format is not None
    rows, width = x.shape
    row_codes, column_codes = empty_codes(x, rows, width, emission)
    row_scale, column_scale = (x.new_ones(size, 1, dtype=torch.float32) for size in (rows, width))
    if x.numel() == 0:
        return operand_of(row_codes, column_codes, row_scale, column_scale)
    # what is counted is lost by the rows' scales, be they wanted or not
    by_row, by_column = emission.rows or emission.counts is not None, emission.columns
    row_bits = x.new_zeros(rows, dtype=torch.int32) if by_row else None
    column_bits = x.new_zeros(width, dtype=torch.int32) if by_column else None
    _find_amax(x, None, row_bits, column_bits)
    with on_device_of(x):
        rowwise_cast_kernel[tiles(rows, width)](
            x,
            as_bytes(row_codes),
            as_bytes(column_codes),
            row_bits,
            column_bits,
            row_scale,
            column_scale,
            emission.amax,
            emission.counts,
            rows,
            width,
            x.stride(0),
            MANTISSA_BITS=emission.format.mantissa_bits,
            TILE=TILE,
            num_warps=NUM_WARPS,
        )
    return operand_of(row_codes, column_codes, row_scale, column_scale)


def _find_amax(x: Tensor, whole: Tensor | None, of_rows: Tensor | None, of_columns: Tensor | None) -> None:
    rows, width = x.shape
    with on_device_of(x):
        amax_kernel[tiles(rows, width)](
            x, whole, of_rows, of_columns, rows, width, x.stride(0), TILE=TILE, num_warps=NUM_WARPS
        )
