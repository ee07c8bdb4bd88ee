"""RMSNorm that casts to fp8 on its way, forward and backward: two kernels, their launchers and launch configurations.

R rows, D width of a row. Codes are written as (R, D) and as (D, R). The second wants many rows at once, and many rows
fit into no registers, so that every tile of rows is walked over twice, in chunks of columns: first for what is summed
up over a row, then for the codes. The second walk finds in L2 what the first has read or written, since few rows are on
their way at a time. It goes along with the first walk over the next tile, in one loop, so that memory is never idle
while the values of L2 are cast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from litespark.ops.fp8.formats import E4M3, E5M2, Format
from litespark.ops.fp8.kernels import emit_tile, inverse_of
from litespark.ops.rounding.kernels import rounded
from litespark.ops.triton_support import Compilation, Target, interpreting, needs_fp8

# One on each multiprocessor of an H200, of which there are 132, and 8 tiles for each at R3's micro-batch of 16384 rows.
# More at once would leave L2 too small for their rows. A constant, so that the order in which partial weight gradients
# are added up does not depend on the device.
PROGRAMS = 128
# Bytes in L2 of what all programs read twice. It has 50 MB on an H100 and an H200; the rest is for what passes through.
_IN_L2 = 40 * 2**20
# Values in a tile: 8 a thread, 24 KiB and more to read for a program. 16 warps that are alone on a multiprocessor may
# have 128 registers a thread, which the backward pass nearly fills.
_TILE = 4096
NUM_WARPS = 16
# `amax` is one place in a row of places, as `Scaling` holds them: at a multiple of 16 bytes for one layer and not for
# the next, which is no reason to compile anew; nor is it for `scale`, wherever a caller has that. `rows` is a stride of
# codes, of which 8 are written at once where it is a multiple of 16: that is one.


@triton.jit(do_not_specialize=["steps"], do_not_specialize_on_alignment=["scale", "amax"])
def add_rms_norm_fp8_forward_kernel(
    x,
    update,
    weight,
    stream,
    row_codes,
    column_codes,
    inverse_rms,
    scale,
    amax,
    counts,
    rows,
    steps,
    x_stride,
    update_stride,
    eps,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
):
    """Each program takes `steps` tiles of ROWS rows, as many tiles apart as there are programs.

    From memory: reads x and update and writes the stream, then one byte a value for each layout of codes; with an fp32
    stream, a bf16 update and both layouts that is 12 bytes a value. From L2: the stream once more (4 bytes). Without
    `update`: x twice, of which once from L2, and no stream.
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
                values = _passing(x, row, column, row_inside, column_inside, x_stride)
                added = _passing(update, row, column, row_inside, column_inside, update_stride)
                again = _passing(stream, before, column, before_inside, column_inside, WIDTH)
                summed = rounded(values + added, stream.dtype.element_ty)
                _store(stream, summed, row, column, row_inside, column_inside, WIDTH, "")
                # the norm is that of the sum as it was rounded
                values = summed.to(tl.float32)
            else:
                values = _staying(x, row, column, row_inside, column_inside, x_stride)
                again = _passing(x, before, column, before_inside, column_inside, x_stride)
            squares += values * values
            normed = again * before_scale[:, None] * factors
            if amax is not None:
                highest = tl.maximum(highest, _bits_of_rows(normed))
            emit_tile(
                normed,
                inverse_scale,
                row_codes,
                column_codes,
                None,
                counts,
                before,
                column,
                before_inside,
                column_inside,
                rows,
                WIDTH,
                MANTISSA_BITS,
            )
        before_scale = tl.rsqrt(tl.sum(squares, axis=1) / WIDTH + eps)
        tl.store(inverse_rms + row, before_scale, mask=row_inside)
    if amax is not None:
        tl.atomic_max(amax, tl.max(highest, axis=0), sem="relaxed")


@triton.jit(do_not_specialize=["steps"], do_not_specialize_on_alignment=["scale", "amax"])
def add_rms_norm_fp8_backward_kernel(
    norm_gradient,
    stream_gradient,
    stream,
    weight,
    inverse_rms,
    gradient,
    row_codes,
    column_codes,
    weight_partials,
    scale,
    amax,
    counts,
    rows,
    steps,
    norm_gradient_stride,
    stream_gradient_stride,
    stream_stride,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    MANTISSA_BITS: tl.constexpr,
):
    """With n = stream · inverse_rms and g = norm_gradient · weight:

        gradient = inverse_rms · (g - n · mean(g · n)) + stream_gradient, as it is and as codes
        weight gradient = sum over rows of norm_gradient · n

    Tiles as in the forward pass. From memory: reads norm_gradient, stream and, if there is one, stream_gradient; writes
    gradient and one byte a value for each layout of codes; with an fp32 stream, a bf16 norm_gradient and both layouts
    that is 16 bytes a value. From L2: norm_gradient and stream once more (6 bytes), and the program's fp32 row of
    partial weight gradients, twice a tile.
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
            values = _staying(stream, row, column, row_inside, column_inside, stream_stride)
            incoming = _staying(norm_gradient, row, column, row_inside, column_inside, norm_gradient_stride)
            again = _passing(stream, before, column, before_inside, column_inside, stream_stride)
            outgoing = _passing(norm_gradient, before, column, before_inside, column_inside, norm_gradient_stride)
            if stream_gradient is not None:
                passed = _passing(stream_gradient, before, column, before_inside, column_inside, stream_gradient_stride)
            # the first walk, over this tile
            found = incoming * (values * row_scale[:, None])
            products += found * factors
            tl.store(partials, partial + tl.sum(found, axis=0), mask=column_inside)
            # the second, over the tile before
            normed = again * before_scale[:, None]
            outgoing = before_scale[:, None] * (outgoing * factors - normed * before_mean[:, None])
            if stream_gradient is not None:
                outgoing += passed
            written = rounded(outgoing, gradient.dtype.element_ty)
            _store(gradient, written, before, column, before_inside, column_inside, WIDTH, "evict_first")
            if amax is not None:
                highest = tl.maximum(highest, _bits_of_rows(outgoing))
            emit_tile(
                outgoing,
                inverse_scale,
                row_codes,
                column_codes,
                None,
                counts,
                before,
                column,
                before_inside,
                column_inside,
                rows,
                WIDTH,
                MANTISSA_BITS,
            )
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
    """The largest absolute value of each row as the bits of an fp32 number, see `litespark.ops.fp8.formats.amax_bits`.

    Kept for each row and not for each value, of which the registers would not hold as many."""
    return tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1)


@triton.jit
def _staying(tensor, row, column, row_inside, column_inside, stride):
    """fp32 values that will be read again."""
    place = tensor + row[:, None] * stride + column[None, :]
    mask = row_inside[:, None] & column_inside[None, :]
    return tl.load(place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _passing(tensor, row, column, row_inside, column_inside, stride):
    """fp32 values that will not be read again: L2 gives up their place first."""
    place = tensor + row[:, None] * stride + column[None, :]
    mask = row_inside[:, None] & column_inside[None, :]
    return tl.load(place, mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)


@triton.jit
def _store(tensor, values, row, column, row_inside, column_inside, stride, POLICY: tl.constexpr):
    place = tensor + row[:, None] * stride + column[None, :]
    tl.store(place, values, mask=row_inside[:, None] & column_inside[None, :], eviction_policy=POLICY)


@dataclass(frozen=True)
class Tiling:
    """What a program works on at a time.

    Attributes:
        rows: 32 fill whole sectors of the codes (D, R). With 16, two programs that work side by side fill one, which L2
            puts together before it goes to memory.
        chunk: columns, a power of two.
    """

    rows: int
    chunk: int


def tiling(width: int, bytes_again: int) -> Tiling:
    """As many rows as L2 has room for.

    Args:
        width: D.
        bytes_again: of what the second walk reads once more, for one value: forward of the stream, backward of
            norm_gradient and stream.
    """
    rows = 32 if PROGRAMS * 32 * width * bytes_again <= _IN_L2 else 16
    return Tiling(rows, min(_TILE // rows, max(16, triton.next_power_of_2(width))))


def dealt(rows: int, tile: Tiling) -> tuple[int, Any]:
    """How many programs share the rows, and how many tiles each of them takes, as kernels are told it."""
    programs = min(PROGRAMS, triton.cdiv(rows, tile.rows))
    steps = triton.cdiv(rows, tile.rows * programs)
    # the interpreter of Triton 3.6 makes an array of a number, and NumPy 2.4 does not count up to an array
    return programs, tl.constexpr(steps) if interpreting() else steps


# ---------------------------------------------------------------- compiling without a device

not_for = needs_fp8
_SIZES = {"bf16": 2, "fp32": 4}
# what emissions want: in most steps, in those that count, in validation, of a gradient where the weight is frozen
_USUAL: tuple[str, ...] = ("row_codes", "column_codes", "amax")
_COUNTING: tuple[str, ...] = (*_USUAL, "counts")
_VALIDATION: tuple[str, ...] = ("row_codes",)
_FROZEN = ("row_codes", "amax")


def compilations(target: Target) -> list[Compilation]:
    """Both kernels as they are launched on `target`: R3's first and in all variants, other widths in the usual one."""
    found = []
    for width in (3072, 768, 2048, 6144, 16384):
        # stream, and what comes from and goes to matrix products: autocast, bf16 all over, fp32 all over
        for stream, other in (("fp32", "bf16"), ("bf16", "bf16"), ("fp32", "fp32")):
            for wanted in (_USUAL, _COUNTING, _VALIDATION) if width == 3072 else (_USUAL,):
                found += [_forward(width, stream, other, wanted), _forward(width, stream, None, wanted)]
            for wanted in (_USUAL, _COUNTING, _FROZEN) if width == 3072 else (_USUAL,):
                for format in (E5M2, E4M3) if width == 3072 else (E5M2,):
                    found += [_backward(width, stream, other, format, wanted, add=add) for add in (True, False)]
    return list({each.name: each for each in found}.values())


def _forward(width: int, stream: str, update: str | None, wanted: tuple[str, ...]) -> Compilation:
    signature = {"x": f"*{stream}", "weight": f"*{stream}", "inverse_rms": "*fp32"}
    constants: dict[str, Any] = {"MANTISSA_BITS": E4M3.mantissa_bits}
    if update is not None:
        signature |= {"update": f"*{update}", "stream": f"*{stream}"}
    else:
        constants |= {"update": None, "stream": None}
    return _compilation(
        f"add_rms_norm_fp8_forward {stream}/{update}" if update else f"rms_norm_fp8_forward {stream}",
        add_rms_norm_fp8_forward_kernel,
        signature | {"x_stride": "i32", "update_stride": "i32", "eps": "fp32"},
        constants,
        wanted,
        width,
        _SIZES[stream],
    )


def _backward(
    width: int, stream: str, other: str, format: Format, wanted: tuple[str, ...], *, add: bool
) -> Compilation:
    signature = {"norm_gradient": f"*{other}"} | dict.fromkeys(("stream", "weight", "gradient"), f"*{stream}")
    constants: dict[str, Any] = {"MANTISSA_BITS": format.mantissa_bits}
    if add:
        signature["stream_gradient"] = f"*{stream}"
    else:
        constants["stream_gradient"] = None
    strides = ("norm_gradient_stride", "stream_gradient_stride", "stream_stride")
    return _compilation(
        f"{'add_' if add else ''}rms_norm_fp8_backward {stream}/{other} {format.name}",
        add_rms_norm_fp8_backward_kernel,
        signature | {"inverse_rms": "*fp32", "weight_partials": "*fp32"} | dict.fromkeys(strides, "i32"),
        constants,
        wanted,
        width,
        _SIZES[other] + _SIZES[stream],
    )


def _compilation(
    name: str,
    kernel: Any,
    signature: dict[str, str],
    constants: dict[str, Any],
    wanted: tuple[str, ...],
    width: int,
    bytes_again: int,
) -> Compilation:
    """What both kernels have in common: sizes, and what an emission wants of them."""
    tile = tiling(width, bytes_again)
    emitted = {"row_codes": "*u8", "column_codes": "*u8", "amax": "*i32", "counts": "*i64"}
    suffix = {_USUAL: "", _COUNTING: " counting", _VALIDATION: " rows alone", _FROZEN: " rows and amax"}[wanted]
    return Compilation(
        f"{name} D{width}{suffix}",
        kernel,
        signature
        | {"scale": "*fp32", "rows": "i32", "steps": "i32"}
        | {argument: kind for argument, kind in emitted.items() if argument in wanted},
        constants
        | {argument: None for argument in emitted if argument not in wanted}
        | {"WIDTH": width, "ROWS": tile.rows, "CHUNK": tile.chunk},
        num_warps=NUM_WARPS,
    )
