"""RMSNorm with the residual addition whose result, and backward whose gradient, is cast to fp8 on its way.

Over the Triton kernels of this folder. Neither differentiated by autograd nor custom ops:
`litespark.ops.linear.function` calls them forward and backward. R rows, D width of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from litespark.ops.fp8.emission import Emission
from litespark.ops.fp8.formats import Format
from litespark.ops.fp8.operands import Matrix, Operand
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
    x: Tensor, update: Tensor | None, weight: Tensor, epsilon: float, stream_dtype: torch.dtype, emission: Emission
) -> tuple[Tensor, Operand, Tensor]:
    """See `litespark.ops.fp8.pieces.Pieces.add_rms_norm`. fp32, bf16 and fp16, computed in fp32, any width.

    Args:
        x: (R, D), copied where neighbouring values are apart; update: the same, in any of the dtypes, or None.
        weight: (D,), any of the three dtypes.
        epsilon: added to the mean square.
        stream_dtype: of the sum.
        emission: of the norm; `fused`.

    Returns:
        The stream (R, D), which is `x` where there is no update, the operand of its norm, and
        1 / sqrt(mean square + epsilon) (R,) in fp32.

    Raises:
        ValueError: a dtype or shape that the kernels do not take.
    """
    format = _checked(emission, x=x, update=update, weight=weight)
    stream = x if update is None else x.new_empty(x.shape, dtype=stream_dtype)
    operand = _empty(x, emission)
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
            _bytes(operand.rows),
            _bytes(operand.columns),
            inverse_rms,
            emission.scale,
            emission.amax,
            emission.counts,
            rows,
            steps,
            x.stride(0),
            0 if update is None else update.stride(0),
            epsilon,
            WIDTH=width,
            ROWS=tile.rows,
            CHUNK=tile.chunk,
            MANTISSA_BITS=format.mantissa_bits,
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
    """See `litespark.ops.fp8.pieces.Pieces.add_rms_norm_backward`; dtypes and strides as in `add_rms_norm_cast`.

    Args:
        norm_gradient: (R, D); stream_gradient: the same, or None where there is none.
        stream, weight, inverse_rms: of the forward pass.
        emission: of the gradient as that of `update`; `fused`. It is cast from fp32.

    Returns:
        The gradient (R, D) in the dtype of `stream`, its operand, and the gradient of the weight in its dtype, added up
        in the same order every time.

    Raises:
        ValueError: a dtype or shape that the kernels do not take.
    """
    format = _checked(
        emission, stream=stream, norm_gradient=norm_gradient, stream_gradient=stream_gradient, weight=weight
    )
    gradient = stream.new_empty(stream.shape)
    operand = _empty(stream, emission)
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
            _bytes(operand.rows),
            _bytes(operand.columns),
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
            MANTISSA_BITS=format.mantissa_bits,
            num_warps=NUM_WARPS,
        )
    return gradient, operand, partials.sum(dim=0).to(weight.dtype)


def _checked(emission: Emission, *, weight: Tensor, **tensors: Tensor | None) -> Format:
    """The format to cast to; the first of `tensors` says what shape all must have."""
    assert emission.fused  # else the cast is no part of the norm
    assert emission.format is not None
    given = {name: each for name, each in tensors.items() if each is not None}
    for name, each in {**given, "weight": weight}.items():
        if each.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(
                f"add_rms_norm in fp8: got {name} in {each.dtype}, expected fp32, bf16 or fp16; for other dtypes "
                "choose ops.fp8=reference"
            )
    shapes = {tuple(each.shape) for each in given.values()}
    (first, *others) = shapes
    if others or len(first) != 2 or weight.shape != first[1:]:
        got = ", ".join(f"{name} {tuple(each.shape)}" for name, each in given.items())
        raise ValueError(
            f"add_rms_norm in fp8: got {got}, weight {tuple(weight.shape)}; expected (R, D) each, and (D,)"
        )
    return emission.format


def _empty(like: Tensor, emission: Emission) -> Operand:
    """An operand of the shape of `like` (R, D) for a kernel to write."""
    assert emission.format is not None
    rows, width = like.shape
    dtype = emission.format.dtype
    return Operand(
        Matrix(like.new_empty(rows, width, dtype=dtype), emission.scale) if emission.rows else None,
        Matrix(like.new_empty(width, rows, dtype=dtype), emission.scale) if emission.columns else None,
    )


def _bytes(matrix: Matrix | None) -> Tensor | None:
    """Codes as kernels take them."""
    return None if matrix is None else matrix.values.view(torch.uint8)
