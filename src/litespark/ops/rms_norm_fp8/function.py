"""RMSNorm with the residual addition whose result, and backward whose gradient, is cast to fp8 on its way.

Over the Triton kernels of this folder. Neither differentiated by autograd nor custom ops:
`litespark.ops.linear.function` calls them forward and backward. R rows, D hidden size of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from litespark.ops.fp8.emission import Emission
from litespark.ops.fp8.function import as_bytes, empty_operand
from litespark.ops.fp8.operands import Operand
from litespark.ops.rms_norm.kernels import as_rows
from litespark.ops.rms_norm_fp8.kernels import (
    NUM_WARPS,
    add_rms_norm_fp8_backward_kernel,
    add_rms_norm_fp8_forward_kernel,
    dealt,
    tiling,
)
from litespark.ops.triton_support import on_device_of


def add_rms_norm_cast(
    x: Tensor, update: Tensor | None, weight: Tensor, eps: float, stream_dtype: torch.dtype, emission: Emission
) -> tuple[Tensor, Operand, Tensor]:
    """See `litespark.ops.fp8.reference.Pieces.add_rms_norm`; for an emission that is `fused`.

    Tensors are in any of fp32, bf16 and fp16, and copied where neighbouring values are apart; computed in fp32, any
    width.
    """
    assert emission.format is not None
    stream = x if update is None else x.new_empty(x.shape, dtype=stream_dtype)
    operand = empty_operand(x, x.shape[1], emission, emission.scale)
    inverse_rms = x.new_empty(x.shape[0], dtype=torch.float32)
    if x.numel() == 0:
        return stream, operand, inverse_rms
    rows, width = x.shape
    x = as_rows(x)
    update = None if update is None else as_rows(update)
    tile = tiling(width, stream.element_size())
    programs, steps = dealt(rows, tile)
    with on_device_of(x):
        add_rms_norm_fp8_forward_kernel[(programs,)](
            x,
            update,
            weight.contiguous(),
            None if update is None else stream,
            as_bytes(operand.rows),
            as_bytes(operand.columns),
            inverse_rms,
            emission.scale,
            emission.amax,
            emission.counts,
            rows,
            steps,
            x.stride(0),
            0 if update is None else update.stride(0),
            eps,
            WIDTH=width,
            ROWS=tile.rows,
            CHUNK=tile.chunk,
            MANTISSA_BITS=emission.format.mantissa_bits,
            num_warps=NUM_WARPS,
        )
    return stream, operand, inverse_rms


def add_rms_norm_backward_cast(
    norm_gradient: Tensor,
    stream_gradient: Tensor | None,
    stream: Tensor,
    weight: Tensor,
    inverse_rms: Tensor,
    emission: Emission,
) -> tuple[Tensor, Operand, Tensor]:
    """See `litespark.ops.fp8.reference.Pieces.add_rms_norm_backward`; for an emission that is `fused`.

    Dtypes and strides as in `add_rms_norm_cast`. The gradient of the weight is added up in the same order every time.
    """
    assert emission.format is not None
    gradient = stream.new_empty(stream.shape)
    operand = empty_operand(stream, stream.shape[1], emission, emission.scale)
    if stream.numel() == 0:
        return gradient, operand, torch.zeros_like(weight)
    rows, width = stream.shape
    stream, norm_gradient = as_rows(stream), as_rows(norm_gradient)
    stream_gradient = None if stream_gradient is None else as_rows(stream_gradient)
    tile = tiling(width, norm_gradient.element_size() + stream.element_size())
    programs, steps = dealt(rows, tile)
    partials = stream.new_empty(programs, width, dtype=torch.float32)
    with on_device_of(stream):
        add_rms_norm_fp8_backward_kernel[(programs,)](
            norm_gradient,
            stream_gradient,
            stream,
            weight.contiguous(),
            inverse_rms.contiguous(),
            gradient,
            as_bytes(operand.rows),
            as_bytes(operand.columns),
            partials,
            emission.scale,
            emission.amax,
            emission.counts,
            rows,
            steps,
            norm_gradient.stride(0),
            0 if stream_gradient is None else stream_gradient.stride(0),
            stream.stride(0),
            WIDTH=width,
            ROWS=tile.rows,
            CHUNK=tile.chunk,
            MANTISSA_BITS=emission.format.mantissa_bits,
            num_warps=NUM_WARPS,
        )
    return gradient, operand, partials.sum(dim=0).to(weight.dtype)
