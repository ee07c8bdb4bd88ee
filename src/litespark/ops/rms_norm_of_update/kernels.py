"""A residual addition of an update's RMSNorm in Triton, with what follows the sum, on tiles of whole rows.

R rows, D hidden size, padded to a power of two by masks.
"""

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from litespark.ops.precision import dtype_name
from litespark.ops.rms_norm.kernels import as_rows, backward_programs, backward_stages, tiling
from litespark.ops.rounding.kernels import INTERPRETED, rounded
from litespark.ops.triton_support import Launches, Target, on_device_of, on_meta, target_of


@triton.jit(do_not_specialize=["rows"])
def rms_norm_of_update_forward_kernel(
    x, update, update_weight, weight, stream, y, update_inverse_rms, inverse_rms, rows, x_stride, update_stride,
    update_eps, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One program takes ROWS rows: reads x and update, writes the stream, which is x and the norm of the update, and if
    there is a y, the norm of the stream, or without a `weight` the stream itself in the dtype of y."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows)[:, None] & (column < WIDTH)
    place = row[:, None] * WIDTH + column
    values = tl.load(update + row[:, None] * update_stride + column, mask=inside, other=0.0).to(tl.float32)
    row_scale = tl.rsqrt(tl.sum(values * values, axis=1) / WIDTH + update_eps)
    tl.store(update_inverse_rms + row, row_scale, mask=row < rows)
    factors = tl.load(update_weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    values = values * row_scale[:, None] * factors
    values += tl.load(x + row[:, None] * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    added = rounded(values, stream.dtype.element_ty)
    tl.store(stream + place, added, mask=inside)
    if y is not None:
        # of what the backward pass and the next layer will read, not of the sum before rounding
        values = added.to(tl.float32)
        if weight is not None:
            row_scale = tl.rsqrt(tl.sum(values * values, axis=1) / WIDTH + eps)
            tl.store(inverse_rms + row, row_scale, mask=row < rows)
            factors = tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
            values = values * row_scale[:, None] * factors
        tl.store(y + place, rounded(values, y.dtype.element_ty), mask=inside)


@triton.jit
def _through_norm(incoming, values, row_scale, factors, WIDTH: tl.constexpr):
    """The gradients of values and, row by row, of the weight of a norm whose gradient is `incoming`."""
    normed = values * row_scale
    weighted = incoming * factors
    mean = tl.sum(weighted * normed, axis=1)[:, None] / WIDTH
    return row_scale * (weighted - normed * mean), incoming * normed


@triton.jit(do_not_specialize=["rows", "steps"])
def rms_norm_of_update_backward_kernel(
    y_gradient, stream_gradient, stream, weight, inverse_rms, update, update_weight, update_inverse_rms, gradient,
    update_gradient, weight_partials, update_weight_partials, rows, steps, y_gradient_stride, stream_gradient_stride,
    update_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The gradient of the stream is what y hands back and, if there is one, stream_gradient: that of x, and written
    only where both or a norm make it. Through the norm of the update it becomes the gradient of that.

    Programs, tiles and partial sums as in `rms_norm_backward_kernel`.
    """
    column = tl.arange(0, BLOCK)[None, :]
    update_factors = tl.load(update_weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    update_weight_gradient = tl.zeros([ROWS, BLOCK], tl.float32)
    weight_gradient = tl.zeros([ROWS, BLOCK], tl.float32)
    for step in tl.range(0, steps, num_stages=STAGES):
        tile = step * tl.num_programs(0) + tl.program_id(0)
        row = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < WIDTH)
        place = row[:, None] * WIDTH + column
        if y_gradient is not None:
            incoming = tl.load(y_gradient + row[:, None] * y_gradient_stride + column, mask=inside, other=0.0)
            incoming = incoming.to(tl.float32)
            if weight is not None:
                values = tl.load(stream + place, mask=inside, other=0.0).to(tl.float32)
                row_scale = tl.load(inverse_rms + row, mask=row < rows, other=0.0)[:, None]
                factors = tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
                incoming, of_weight = _through_norm(incoming, values, row_scale, factors, WIDTH)
                weight_gradient += of_weight
            if stream_gradient is not None:
                passed = stream_gradient + row[:, None] * stream_gradient_stride + column
                incoming += tl.load(passed, mask=inside, other=0.0).to(tl.float32)
            tl.store(gradient + place, rounded(incoming, gradient.dtype.element_ty), mask=inside)
        else:
            passed = stream_gradient + row[:, None] * stream_gradient_stride + column
            incoming = tl.load(passed, mask=inside, other=0.0).to(tl.float32)
        values = tl.load(update + row[:, None] * update_stride + column, mask=inside, other=0.0).to(tl.float32)
        row_scale = tl.load(update_inverse_rms + row, mask=row < rows, other=0.0)[:, None]
        if weight is not None or STAGES == 1:
            # two norms, or wide rows: read again for each tile (from cache), since registers are short
            update_factors = tl.load(update_weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
        outgoing, of_weight = _through_norm(incoming, values, row_scale, update_factors, WIDTH)
        update_weight_gradient += of_weight
        tl.store(update_gradient + place, rounded(outgoing, update_gradient.dtype.element_ty), mask=inside)
    column = tl.arange(0, BLOCK)
    partial = tl.program_id(0).to(tl.int64) * WIDTH + column
    tl.store(update_weight_partials + partial, tl.sum(update_weight_gradient, axis=0), mask=column < WIDTH)
    if weight is not None:
        tl.store(weight_partials + partial, tl.sum(weight_gradient, axis=0), mask=column < WIDTH)


def rms_norm_of_update_forward(
    x: Tensor, update: Tensor, update_weight: Tensor, update_eps: float, weight: Tensor | None, eps: float,
    stream_dtype: torch.dtype, y_dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:  # fmt: skip
    """The stream x + rms_norm(update) in `stream_dtype`, y in `y_dtype`, and 1 / root mean square of the update's rows
    and of the stream's, fp32 (...).

    y is the norm of the stream. Without a `weight` it is the stream once more, None where that has its dtype.
    x, update: (..., D); rows may lie apart, anything else is made contiguous.
    """
    *outer, width = x.shape
    stream = x.new_empty(*outer, width, dtype=stream_dtype)
    y = None if weight is None and y_dtype == stream_dtype else x.new_empty(*outer, width, dtype=y_dtype)
    update_inverse_rms = x.new_empty(outer, dtype=torch.float32)
    inverse_rms = None if weight is None else x.new_empty(outer, dtype=torch.float32)
    if x.numel() == 0:
        return stream, y, update_inverse_rms, inverse_rms
    x, update = as_rows(x), as_rows(update)
    tile = tiling(width, target_of(x.device))
    with on_device_of(x):
        rms_norm_of_update_forward_kernel[(-(-x.shape[0] // tile.rows),)](
            x, update, update_weight.contiguous(), None if weight is None else weight.contiguous(), stream, y,
            update_inverse_rms, inverse_rms, x.shape[0], x.stride(0), update.stride(0), update_eps, eps,
            WIDTH=width, BLOCK=tile.block, ROWS=tile.rows, num_warps=tile.num_warps,
        )  # fmt: skip
    return stream, y, update_inverse_rms, inverse_rms


def rms_norm_of_update_backward(
    y_gradient: Tensor | None, stream_gradient: Tensor | None, stream: Tensor | None, weight: Tensor | None,
    inverse_rms: Tensor | None, update: Tensor, update_weight: Tensor, update_inverse_rms: Tensor, dtype: torch.dtype,
) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor]:  # fmt: skip
    """The gradients of the stream in `dtype`, None without that of y, of the update, and of both weights.

    One of the gradients is given; stream, weight and inverse_rms where y is a norm.
    """
    width = update.shape[-1]
    gradient = None if y_gradient is None else update.new_empty(*update.shape, dtype=dtype)
    update_gradient = update.new_empty(*update.shape)
    if update.numel() == 0:
        of_weight = None if weight is None else weight.new_zeros(weight.shape)
        return gradient, update_gradient, of_weight, update_weight.new_zeros(update_weight.shape)
    rows = as_rows(update)
    y_gradient = None if y_gradient is None else as_rows(y_gradient)
    stream_gradient = None if stream_gradient is None else as_rows(stream_gradient)
    target = target_of(rows.device)
    tile = tiling(width, target)
    # what waits in shared memory, with weights that are read again for each tile
    waiting = [rows, y_gradient, stream_gradient, stream, weight, None if weight is None else update_weight]
    bytes_a_value = sum(each.element_size() for each in waiting if each is not None)
    stages = 1 if weight is not None and tile.block > 4096 else backward_stages(tile, bytes_a_value, target)
    programs = backward_programs(rows.shape[0], tile, target)
    steps = -(-rows.shape[0] // (tile.rows * programs))
    update_partials = update.new_empty(programs, width, dtype=torch.float32)
    partials = None if weight is None else update.new_empty(programs, width, dtype=torch.float32)
    with on_device_of(rows):
        rms_norm_of_update_backward_kernel[(programs,)](
            y_gradient, stream_gradient, stream, None if weight is None else weight.contiguous(), inverse_rms, rows,
            update_weight.contiguous(), update_inverse_rms, gradient, update_gradient, partials, update_partials,
            rows.shape[0],
            # the interpreter of Triton 3.6 makes an array of a number, and NumPy 2.4 does not count up to an array
            tl.constexpr(steps) if INTERPRETED else steps,
            0 if y_gradient is None else y_gradient.stride(0),
            0 if stream_gradient is None else stream_gradient.stride(0), rows.stride(0),
            WIDTH=width, BLOCK=tile.block, ROWS=tile.rows,
            STAGES=stages, num_warps=tile.num_warps,
        )  # fmt: skip
    of_weight = None if weight is None or partials is None else partials.sum(0).to(weight.dtype)
    return gradient, update_gradient, of_weight, update_partials.sum(0).to(update_weight.dtype)


def launches(target: Target) -> Launches:
    """One norm, behind which a matrix product reads the sum, and both: OLMo 2 7B, Gemma 3 4B and the widest Gemma 3."""
    bf16, fp32 = torch.bfloat16, torch.float32
    for width in (4096, 2560, 5376):
        # stream, and what comes from and goes to matrix products: autocast, bf16 all over, fp32 all over
        for stream, other in ((fp32, bf16), (bf16, bf16), (fp32, fp32)):
            x, update, weight = on_meta(4096, width, stream), on_meta(4096, width, other), on_meta(width, stream)
            inverse_rms = on_meta(4096, fp32)
            for following in (None, weight):
                label = (
                    f"{'add' if following is None else 'add norm'} {dtype_name(stream)}/{dtype_name(other)} D{width}"
                )
                norm = update, weight, 1e-6, following, 1e-6, stream, other
                yield label, partial(rms_norm_of_update_forward, x, *norm)
                # without a norm and in one dtype, y is the stream
                y_gradient = None if following is None and stream == other else update
                saved: Any = (None, None, None) if following is None else (x, following, inverse_rms)
                gradients = partial(rms_norm_of_update_backward, y_gradient, x, *saved)
                yield label, partial(gradients, update, weight, inverse_rms, stream)
