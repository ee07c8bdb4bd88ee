"""RMSNorm in Triton, alone and with the residual addition, on tiles of whole rows: a row is read once.

R rows, D hidden size, padded to a power of two by masks.
"""

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from litespark.ops.fp8.formats import E4M3, E5M2
from litespark.ops.fp8.kernels import bits_of, inverse_of, quantisations, raise_to
from litespark.ops.fp8.operands import Quantisation
from litespark.ops.precision import dtype_name
from litespark.ops.rounding.kernels import INTERPRETED, highest_bits, quantise_rows, rounded
from litespark.ops.shapes import Place
from litespark.ops.structure import at_once, far, in_parts
from litespark.ops.triton_support import Launches, Target, on_device_of, on_meta, target_of

# threads of the whole backward pass, at most: each program leaves an fp32 row of partial weight gradients, so few are
# wanted. It does not depend on the device, so that the order of additions does not either; about 512 for each of the
# 132 multiprocessors of an H200.
BACKWARD_THREADS = 65536


# their number depends on the batch, and a batch of one row is no reason to compile anew
@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["scale", "amax"])
def rms_norm_forward_kernel(
    x, update, weight, stream, y, inverse_rms, scale, amax, counts, rows, x_stride, update_stride, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, MANTISSA_BITS: tl.constexpr,
):  # fmt: skip
    """One program takes ROWS rows. Without `update`: reads x, writes y. With it: reads x and update, writes the stream
    and y. The weight is read by every program and comes from cache; `inverse_rms` is one fp32 a row. If there is a
    `scale`, y are codes of fp8."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows)[:, None] & (column < WIDTH)
    values = tl.load(x + row[:, None] * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if update is not None:
        values += tl.load(update + row[:, None] * update_stride + column, mask=inside, other=0.0).to(tl.float32)
        added = rounded(values, stream.dtype.element_ty)
        tl.store(stream + row[:, None] * WIDTH + column, added, mask=inside)
        # y is the norm of what the backward pass and the next layer will read, not of the sum before rounding
        values = added.to(tl.float32)
    row_scale = tl.rsqrt(tl.sum(values * values, axis=1) / WIDTH + eps)
    tl.store(inverse_rms + row, row_scale, mask=row < rows)
    factors = tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    normed = values * row_scale[:, None] * factors
    if scale is None:
        tl.store(y + row[:, None] * WIDTH + column, rounded(normed, y.dtype.element_ty), mask=inside)
    else:
        if amax is not None:
            raise_to(amax, highest_bits(normed))
        place = y + row[:, None] * WIDTH + column
        quantise_rows(normed, inverse_of(tl.load(scale)), place, inside, counts, MANTISSA_BITS)


@triton.jit(do_not_specialize=["rows", "steps"], do_not_specialize_on_alignment=["scale", "amax"])
def rms_norm_backward_kernel(
    y_gradient, stream_gradient, stream, weight, inverse_rms, gradient, second_gradient, weight_partials, scale, amax,
    counts, rows, steps, y_gradient_stride, stream_gradient_stride, stream_stride, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr, MANTISSA_BITS: tl.constexpr,
):  # fmt: skip
    """With n = stream · inverse_rms and g = y_gradient · weight:

        gradient = inverse_rms · (g - n · mean(g · n)) + stream_gradient
        weight gradient = sum over rows of y_gradient · n

    Each program takes `steps` tiles of ROWS rows, as many tiles apart as there are programs, and keeps its sum of the
    weight's gradient in registers. Reads y_gradient, stream and, if there is one, stream_gradient; writes gradient and,
    if another dtype of it is wanted, second_gradient, which if there is a `scale` are codes of fp8; and one fp32 row of
    partial sums a program.
    """
    column = tl.arange(0, BLOCK)[None, :]
    factors = tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    weight_gradient = tl.zeros([ROWS, BLOCK], tl.float32)
    if scale is not None:
        inverse_scale = inverse_of(tl.load(scale))
    highest = tl.zeros([ROWS, BLOCK], tl.int32)
    for step in tl.range(0, steps, num_stages=STAGES):
        if STAGES == 1:
            # wide rows: read again for each tile (from cache), since registers are short
            factors = tl.load(weight + column, mask=column < WIDTH, other=0.0).to(tl.float32)
        tile = step * tl.num_programs(0) + tl.program_id(0)
        row = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < WIDTH)
        values = tl.load(stream + row[:, None] * stream_stride + column, mask=inside, other=0.0).to(tl.float32)
        incoming = tl.load(y_gradient + row[:, None] * y_gradient_stride + column, mask=inside, other=0.0)
        incoming = incoming.to(tl.float32)
        row_scale = tl.load(inverse_rms + row, mask=row < rows, other=0.0)[:, None]
        normed = values * row_scale
        weight_gradient += incoming * normed
        weighted = incoming * factors
        mean = tl.sum(weighted * normed, axis=1)[:, None] / WIDTH
        outgoing = row_scale * (weighted - normed * mean)
        if stream_gradient is not None:
            passed = tl.load(stream_gradient + row[:, None] * stream_gradient_stride + column, mask=inside, other=0.0)
            outgoing += passed.to(tl.float32)
        place = row[:, None] * WIDTH + column
        tl.store(gradient + place, rounded(outgoing, gradient.dtype.element_ty), mask=inside)
        if scale is not None:
            if amax is not None:
                highest = tl.maximum(highest, bits_of(outgoing))
            quantise_rows(outgoing, inverse_scale, second_gradient + place, inside, counts, MANTISSA_BITS)
        elif second_gradient is not None:
            tl.store(second_gradient + place, rounded(outgoing, second_gradient.dtype.element_ty), mask=inside)
    if amax is not None:
        raise_to(amax, tl.max(tl.max(highest, axis=1), axis=0))
    column = tl.arange(0, BLOCK)
    partials = weight_partials + tl.program_id(0).to(tl.int64) * WIDTH + column
    tl.store(partials, tl.sum(weight_gradient, axis=0), mask=column < WIDTH)


class Tiling(NamedTuple):
    """How rows of one width are dealt to programs and threads."""

    block: int  # D padded to a power of two
    rows: int  # in a tile
    num_warps: int  # of a program


@cache
def tiling(width: int, target: Target) -> Tiling:
    """Tiles of at least 2048 values, 16 values a thread (two 16-byte loads in bf16), at most 16 warps."""
    block = max(16, 1 << (width - 1).bit_length())
    rows = max(1, 2048 // block)
    return Tiling(block, rows, min(16, block * rows // (16 * target.warp_size)))


def backward_stages(tile: Tiling, bytes_a_value: int, target: Target) -> int:
    """How many tiles of the backward pass are on their way at once, at most three; one where registers are short.

    Two programs are to share one multiprocessor, and with it its shared memory.
    """
    if tile.block > 8192:
        return 1
    return min(3, 1 + target.shared_bytes // 2 // (tile.block * tile.rows * bytes_a_value))


def backward_programs(rows: int, tile: Tiling, target: Target) -> int:
    """How many programs share the `rows` in the backward pass; fewer within `rows_at_once`."""
    most = BACKWARD_THREADS // (tile.num_warps * target.warp_size)
    return min(max(1, at_once(most * tile.rows) // tile.rows), -(-rows // tile.rows))


def structure(place: Place) -> set[str]:
    """The structural cases of both directions, see `litespark.ops.structure`."""
    rows, width, target = place.shapes.tokens, place.shapes.hidden_size, target_of(place.device)
    tile = tiling(width, target)
    programs = backward_programs(rows, tile, target)
    cases = in_parts("tile of rows", rows, tile.rows) | far(rows * width)
    return cases | in_parts("tile of a program", -(-rows // tile.rows), programs, most=3)


def rms_norm_forward(
    x: Tensor, update: Tensor | None, weight: Tensor, eps: float, stream_dtype: torch.dtype, y_dtype: torch.dtype,
    quantisation: Quantisation | None = None,
) -> tuple[Tensor | None, Tensor, Tensor]:  # fmt: skip
    """The stream x + update in `stream_dtype` (None without an update), its norm in `y_dtype`, and 1 / sqrt(mean square
    + eps).

    x, update: (..., D); rows may lie apart, anything else is made contiguous. The last result is fp32 (...). With a
    `quantisation` that is `fused`, `y_dtype` is that of its format, and the norm its codes, cast from fp32.
    """
    # a size is read in half the time where it comes as numbers
    *outer, width = x.shape
    stream = None if update is None else x.new_empty(*outer, width, dtype=stream_dtype)
    y = x.new_empty(*outer, width, dtype=y_dtype)
    inverse_rms = x.new_empty(outer, dtype=torch.float32)
    if x.numel() == 0:
        return stream, y, inverse_rms
    x = as_rows(x)
    update = None if update is None else as_rows(update)
    tile = tiling(width, target_of(x.device))
    with on_device_of(x):
        rms_norm_forward_kernel[(-(-x.shape[0] // tile.rows),)](
            x, update, weight.contiguous(), stream, y if quantisation is None else y.view(torch.uint8), inverse_rms,
            *_noted(quantisation), x.shape[0], x.stride(0), 0 if update is None else update.stride(0), eps,
            WIDTH=width, BLOCK=tile.block, ROWS=tile.rows, MANTISSA_BITS=_mantissa_bits(quantisation),
            num_warps=tile.num_warps,
        )  # fmt: skip
    return stream, y, inverse_rms


def rms_norm_backward(
    y_gradient: Tensor, stream_gradient: Tensor | None, stream: Tensor, weight: Tensor, inverse_rms: Tensor,
    dtype: torch.dtype, second_dtype: torch.dtype, quantisation: Quantisation | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:  # fmt: skip
    """The gradient of the stream in `dtype`, the same in `second_dtype` (None where that is `dtype`), and the weight's.

    Strides and `quantisation`, here of the second, as in the forward pass; partial weight gradients are added up in the
    same order every time.
    """
    width = stream.shape[-1]
    gradient = stream.new_empty(*stream.shape, dtype=dtype)
    second = None if second_dtype == dtype else stream.new_empty(*stream.shape, dtype=second_dtype)
    if stream.numel() == 0:
        return gradient, second, weight.new_zeros(weight.shape)
    stream, y_gradient = as_rows(stream), as_rows(y_gradient)
    stream_gradient = None if stream_gradient is None else as_rows(stream_gradient)
    target = target_of(stream.device)
    tile = tiling(width, target)
    read = stream.element_size() + y_gradient.element_size()
    read += 0 if stream_gradient is None else stream_gradient.element_size()
    programs = backward_programs(stream.shape[0], tile, target)
    steps = -(-stream.shape[0] // (tile.rows * programs))
    partials = stream.new_empty(programs, width, dtype=torch.float32)
    with on_device_of(stream):
        rms_norm_backward_kernel[(programs,)](
            y_gradient, stream_gradient, stream, weight.contiguous(), inverse_rms.contiguous(), gradient,
            second if second is None or quantisation is None else second.view(torch.uint8), partials,
            *_noted(quantisation), stream.shape[0],
            # the interpreter of Triton 3.6 makes an array of a number, and NumPy 2.4 does not count up to an array
            tl.constexpr(steps) if INTERPRETED else steps,
            y_gradient.stride(0), 0 if stream_gradient is None else stream_gradient.stride(0), stream.stride(0),
            WIDTH=width, BLOCK=tile.block, ROWS=tile.rows,
            STAGES=backward_stages(tile, read, target), MANTISSA_BITS=_mantissa_bits(quantisation),
            num_warps=tile.num_warps,
        )  # fmt: skip
    weight_gradient = partials.sum(0)
    return gradient, second, weight_gradient if weight.dtype == torch.float32 else weight_gradient.to(weight.dtype)


def _noted(quantisation: Quantisation | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return (None,) * 3 if quantisation is None else (quantisation.scale, quantisation.amax, quantisation.counts)


def _mantissa_bits(quantisation: Quantisation | None) -> int:
    return 0 if quantisation is None or quantisation.format is None else quantisation.format.mantissa_bits


def as_rows(x: Tensor) -> Tensor:
    """(R, D) with neighbouring values in a row: a view where the strides of `x` allow it, else a copy."""
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


# ---------------------------------------------------------------- compiling without a device


def launches(target: Target) -> Launches:
    """Every tiling of models from 160 M to 405 B, llama3b's first."""
    bf16, fp32 = torch.bfloat16, torch.float32
    for add, width in itertools.product((True, False), (3072, 768, 2048, 6144, 16384)):
        # stream, and what comes from and goes to matrix products: bf16 all over, autocast, fp32 all over
        for stream, other in ((bf16, bf16), (fp32, bf16), (fp32, fp32)):
            x, y, weight = on_meta(4096, width, stream), on_meta(4096, width, other), on_meta(width, stream)
            label = f"{'add ' if add else ''}{dtype_name(stream)}/{dtype_name(other)} D{width}"
            forward = partial(rms_norm_forward, x, y if add else None, weight, 1e-5, stream)
            yield label, partial(forward, other)
            gradients, second = (y, x if add else None), other if add else stream
            backward = partial(rms_norm_backward, *gradients, x, weight, on_meta(4096, fp32), stream)
            yield label, partial(backward, second)
            if target.without_fp8 is None and other == bf16:
                yield from _launches_to_fp8(label, forward, backward)


def _launches_to_fp8(label: str, forward: Callable[..., object], backward: Callable[..., object]) -> Launches:
    """llama3b's width in all ways that steps ask for, other widths in the usual one."""
    every = " D3072" in label
    for format in (E4M3, E5M2):
        for way, asked in itertools.islice(quantisations(format).items(), 4 if every else 1):
            name = f"{label} to {format.name}{way}"
            if format is E4M3:
                yield name, partial(forward, format.dtype, asked)
            if every or format is E5M2:
                yield name, partial(backward, format.dtype, asked)
