"""RMSNorm that casts to fp8 on its way, forward and backward.

R rows, D hidden size. Codes are written as (R, D) and as (D, R). The second needs many rows at once, which fit into
no registers, so every tile of rows is walked over twice, in chunks of columns: first for what is summed up over a row,
then for the codes, out of L2. The second walk goes along with the first over the next tile, in one loop, so that memory
is never idle while the values of L2 are cast.
"""

import itertools
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from litespark.ops.fp8.formats import E4M3, E5M2
from litespark.ops.fp8.kernels import as_bytes, empty_operand, inverse_of, load_tile, quantisations, quantise_tile
from litespark.ops.fp8.operands import Operand, Quantisation
from litespark.ops.precision import dtype_name
from litespark.ops.rms_norm.kernels import as_rows
from litespark.ops.rounding.kernels import rounded
from litespark.ops.triton_support import Launches, Target, interpreting, needs_fp8, on_device_of, on_meta

# One on each multiprocessor of an H200, of which there are 132, and 8 tiles for each at llama3b's micro-batch of
# 16384 rows. More at once would leave L2 too small for their rows. A constant, so that the order in which partial
# weight gradients are added up does not depend on the device.
PROGRAMS = 128
# Bytes in L2 of what all programs read twice. It has 50 MB on an H100 and an H200; the rest is for what passes through.
_IN_L2 = 40 * 2**20
# Values in a tile: 8 a thread, 24 KiB and more to read for a program. 16 warps that are alone on a multiprocessor may
# have 128 registers a thread, which the backward pass nearly fills.
_TILE = 4096
NUM_WARPS = 16
# of values that will be read again, and of those that will not: L2 gives up their place first
_STAYS, _PASSES = tl.constexpr(""), tl.constexpr("evict_first")


@triton.jit(do_not_specialize=["steps"], do_not_specialize_on_alignment=["scale", "amax"])
def add_rms_norm_fp8_forward_kernel(
    x, update, weight, stream, row_codes, column_codes, inverse_rms, scale, amax, counts,
    rows, steps, x_stride, update_stride, eps,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, MANTISSA_BITS: tl.constexpr,
):  # fmt: skip
    """Each program takes `steps` tiles of ROWS rows, as many tiles apart as there are programs.

    With an fp32 stream, a bf16 update and both layouts of codes 12 bytes a value go to and from memory.
    """
    inverse_scale = inverse_of(tl.load(scale))
    highest = tl.zeros([ROWS], tl.int32)
    before_scale = tl.zeros([ROWS], tl.float32)
    for step in tl.range(0, steps + 1, num_stages=1):
        # what the walk before has written becomes visible to all threads
        tl.debug_barrier()
        row, row_inside, before, before_inside = _rows_of(step, rows, ROWS)
        squares = tl.zeros([ROWS, CHUNK], tl.float32)
        for start in tl.range(0, WIDTH, CHUNK, num_stages=1):
            column = start + tl.arange(0, CHUNK)
            column_inside = column < WIDTH
            factors = tl.load(weight + column, mask=column_inside, other=0.0).to(tl.float32)[None, :]
            # what both walks read is asked for first, since nothing passes the barriers of what follows
            if update is not None:
                values = load_tile(x, row, column, row_inside, column_inside, x_stride, _PASSES)
                added = load_tile(update, row, column, row_inside, column_inside, update_stride, _PASSES)
                again = load_tile(stream, before, column, before_inside, column_inside, WIDTH, _PASSES)
                summed = rounded(values + added, stream.dtype.element_ty)
                _store(stream, summed, row, column, row_inside, column_inside, WIDTH, _STAYS)
                # the norm is that of the sum as it was rounded
                values = summed.to(tl.float32)
            else:
                values = load_tile(x, row, column, row_inside, column_inside, x_stride)
                again = load_tile(x, before, column, before_inside, column_inside, x_stride, _PASSES)
            squares += values * values
            normed = again * before_scale[:, None] * factors
            if amax is not None:
                highest = tl.maximum(highest, _bits_of_rows(normed))
            quantise_tile(
                normed, inverse_scale, row_codes, column_codes, None, counts,
                before, column, before_inside, column_inside, rows, WIDTH, MANTISSA_BITS,
            )  # fmt: skip
        before_scale = tl.rsqrt(tl.sum(squares, axis=1) / WIDTH + eps)
        tl.store(inverse_rms + row, before_scale, mask=row_inside)
    if amax is not None:
        tl.atomic_max(amax, tl.max(highest, axis=0), sem="relaxed")


@triton.jit(do_not_specialize=["steps"], do_not_specialize_on_alignment=["scale", "amax"])
def add_rms_norm_fp8_backward_kernel(
    norm_gradient, stream_gradient, stream, weight, inverse_rms, gradient, row_codes, column_codes, weight_partials,
    scale, amax, counts, rows, steps, norm_gradient_stride, stream_gradient_stride, stream_stride,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, MANTISSA_BITS: tl.constexpr,
):  # fmt: skip
    """With n = stream · inverse_rms and g = norm_gradient · weight:

        gradient = inverse_rms · (g - n · mean(g · n)) + stream_gradient, as it is and as codes
        weight gradient = sum over rows of norm_gradient · n

    Tiles as in the forward pass; 16 bytes a value with an fp32 stream, a bf16 norm_gradient and both layouts.
    """
    inverse_scale = inverse_of(tl.load(scale))
    highest = tl.zeros([ROWS], tl.int32)
    before_scale = tl.zeros([ROWS], tl.float32)
    before_mean = tl.zeros([ROWS], tl.float32)
    for step in tl.range(0, steps + 1, num_stages=1):
        # what the walk before has left of the weight's gradient becomes visible to all threads
        tl.debug_barrier()
        row, row_inside, before, before_inside = _rows_of(step, rows, ROWS)
        row_scale = tl.load(inverse_rms + row, mask=row_inside, other=0.0)
        products = tl.zeros([ROWS, CHUNK], tl.float32)
        for start in tl.range(0, WIDTH, CHUNK, num_stages=1):
            column = start + tl.arange(0, CHUNK)
            column_inside = column < WIDTH
            factors = tl.load(weight + column, mask=column_inside, other=0.0).to(tl.float32)[None, :]
            partials = weight_partials + tl.program_id(0).to(tl.int64) * WIDTH + column
            partial = tl.load(partials, mask=column_inside & (step > 0), other=0.0)
            # what both walks read is asked for first, since nothing passes the barriers of what follows
            values = load_tile(stream, row, column, row_inside, column_inside, stream_stride)
            incoming = load_tile(norm_gradient, row, column, row_inside, column_inside, norm_gradient_stride)
            again = load_tile(stream, before, column, before_inside, column_inside, stream_stride, _PASSES)
            outgoing = load_tile(
                norm_gradient, before, column, before_inside, column_inside, norm_gradient_stride, _PASSES
            )
            if stream_gradient is not None:
                passed = load_tile(
                    stream_gradient, before, column, before_inside, column_inside, stream_gradient_stride, _PASSES
                )
            # the first walk, over this tile
            terms = incoming * (values * row_scale[:, None])
            products += terms * factors
            tl.store(partials, partial + tl.sum(terms, axis=0), mask=column_inside)
            # the second, over the tile before
            normed = again * before_scale[:, None]
            outgoing = before_scale[:, None] * (outgoing * factors - normed * before_mean[:, None])
            if stream_gradient is not None:
                outgoing += passed
            written = rounded(outgoing, gradient.dtype.element_ty)
            _store(gradient, written, before, column, before_inside, column_inside, WIDTH, _PASSES)
            if amax is not None:
                highest = tl.maximum(highest, _bits_of_rows(outgoing))
            quantise_tile(
                outgoing, inverse_scale, row_codes, column_codes, None, counts,
                before, column, before_inside, column_inside, rows, WIDTH, MANTISSA_BITS,
            )  # fmt: skip
        before_scale = row_scale
        before_mean = tl.sum(products, axis=1) / WIDTH
    if amax is not None:
        tl.atomic_max(amax, tl.max(highest, axis=0), sem="relaxed")


@triton.jit
def _rows_of(step, rows, ROWS: tl.constexpr):
    """Rows of the tile that is summed up in a step and of that which is cast, and which of them there are."""
    row = (step * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    before = row - tl.num_programs(0) * ROWS
    return row, row < rows, before, (before >= 0) & (before < rows)


@triton.jit
def _bits_of_rows(values):
    """`litespark.ops.fp8.formats.amax_bits` of each row: registers would not hold one for each value."""
    return tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)


@triton.jit
def _store(tensor, values, row, column, row_inside, column_inside, stride, POLICY: tl.constexpr):
    place = tensor + row[:, None] * stride + column[None, :]
    tl.store(place, values, mask=row_inside[:, None] & column_inside[None, :], eviction_policy=POLICY)


# ---------------------------------------------------------------- launchers


class Tiling(NamedTuple):
    """What a program works on at a time."""

    rows: int
    chunk: int  # columns, a power of two


def tiling(width: int, bytes_again: int) -> Tiling:
    """As many rows as L2 has room for; `bytes_again` are those that the second walk reads once more, for one value."""
    # 32 fill whole sectors of the codes (D, R); of 16, L2 puts two programs' together before they go to memory
    rows = 32 if PROGRAMS * 32 * width * bytes_again <= _IN_L2 else 16
    return Tiling(rows, min(_TILE // rows, max(16, triton.next_power_of_2(width))))


def dealt(rows: int, tile: Tiling) -> tuple[int, Any]:
    """How many programs share the rows, and how many tiles each of them takes, as kernels are told it."""
    programs = min(PROGRAMS, triton.cdiv(rows, tile.rows))
    steps = triton.cdiv(rows, tile.rows * programs)
    # the interpreter of Triton 3.6 makes an array of a number, and NumPy 2.4 does not count up to an array
    return programs, tl.constexpr(steps) if interpreting() else steps


def add_rms_norm_cast(
    x: Tensor, update: Tensor | None, weight: Tensor, eps: float, stream_dtype: torch.dtype, quantisation: Quantisation
) -> tuple[Tensor, Operand, Tensor]:
    """`litespark.ops.fp8.reference.Pieces.add_rms_norm` for a quantisation that is `fused`."""
    assert quantisation.format is not None
    stream = x if update is None else x.new_empty(x.shape, dtype=stream_dtype)
    operand = empty_operand(x, x.shape[1], quantisation, quantisation.scale)
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
            x, update, weight.contiguous(), None if update is None else stream,
            as_bytes(operand.rows), as_bytes(operand.columns), inverse_rms,
            quantisation.scale, quantisation.amax, quantisation.counts,
            rows, steps, x.stride(0), 0 if update is None else update.stride(0), eps,
            WIDTH=width, ROWS=tile.rows, CHUNK=tile.chunk, MANTISSA_BITS=quantisation.format.mantissa_bits,
            num_warps=NUM_WARPS,
        )  # fmt: skip
    return stream, operand, inverse_rms


def add_rms_norm_backward_cast(
    norm_gradient: Tensor, stream_gradient: Tensor | None, stream: Tensor, weight: Tensor, inverse_rms: Tensor,
    quantisation: Quantisation,
) -> tuple[Tensor, Operand, Tensor]:  # fmt: skip
    """The same of `add_rms_norm_backward`; the gradient of the weight is added up in the same order every time."""
    assert quantisation.format is not None
    gradient = stream.new_empty(stream.shape)
    operand = empty_operand(stream, stream.shape[1], quantisation, quantisation.scale)
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
            norm_gradient, stream_gradient, stream, weight.contiguous(), inverse_rms.contiguous(),
            gradient, as_bytes(operand.rows), as_bytes(operand.columns), partials,
            quantisation.scale, quantisation.amax, quantisation.counts,
            rows, steps, norm_gradient.stride(0), 0 if stream_gradient is None else stream_gradient.stride(0),
            stream.stride(0),
            WIDTH=width, ROWS=tile.rows, CHUNK=tile.chunk, MANTISSA_BITS=quantisation.format.mantissa_bits,
            num_warps=NUM_WARPS,
        )  # fmt: skip
    return gradient, operand, partials.sum(dim=0).to(weight.dtype)


# ---------------------------------------------------------------- compiling without a device

not_for = needs_fp8


def launches(target: Target) -> Launches:
    """llama3b's width first and in all ways that steps ask for, other widths in the usual one."""
    bf16, fp32 = torch.bfloat16, torch.float32
    # stream, and what comes from and goes to matrix products: autocast, bf16 all over, fp32 all over
    dtypes = ((fp32, bf16), (bf16, bf16), (fp32, fp32))
    for width, (stream, other), add in itertools.product((3072, 768, 2048, 6144, 16384), dtypes, (True, False)):
        x, y, weight = on_meta(4096, width, stream), on_meta(4096, width, other), on_meta(width, stream)
        every = width == 3072
        name = f"{'add ' if add else ''}{dtype_name(stream)}/{dtype_name(other)} D{width}"
        ways = None if every else 1
        for label, quantisation in itertools.islice(quantisations(E4M3).items(), ways):
            yield name + label, partial(add_rms_norm_cast, x, y if add else None, weight, 1e-5, stream, quantisation)
        for format in (E5M2, E4M3) if every else (E5M2,):
            for label, quantisation in itertools.islice(quantisations(format).items(), ways):
                backward = y, x if add else None, x, weight, on_meta(4096, fp32), quantisation
                yield f"{name} {format.name}{label}", partial(add_rms_norm_backward_cast, *backward)
