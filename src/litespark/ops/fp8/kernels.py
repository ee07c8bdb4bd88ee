"""The cast to fp8 in Triton, and what kernels that cast on their way share with it.

R rows, C columns. Kernels work on square tiles, so that the codes of both layouts, (R, C) and (C, R), are written in
whole sectors of 32 bytes while the values are read once. Codes are handed over as bytes: Triton knows fp8 numbers on
devices that have them only, and its interpreter on none.
"""

from __future__ import annotations

from collections.abc import Mapping

import triton
import triton.language as tl

from litespark.ops.fp8.formats import E4M3, E5M2, GREATEST_EXPONENT, LEAST_EXPONENT, Format
from litespark.ops.rounding.kernels import count_lost, fp8_codes, tile_amax
from litespark.ops.triton_support import Compilation, Target, needs_fp8

# One layout is written in runs of TILE bytes, two sectors. A tile of bf16 values is 8 KiB, of which a thread has 32 in
# four 16-byte loads; a multiprocessor needs about five tiles on their way to keep its share of an H200's memory busy.
TILE = 64
NUM_WARPS = 4
_E4M3_LARGEST, _E5M2_LARGEST = tl.constexpr(E4M3.largest), tl.constexpr(E5M2.largest)
_E4M3_SMALLEST, _E5M2_SMALLEST = tl.constexpr(E4M3.smallest), tl.constexpr(E5M2.smallest)
_E4M3_TOP_EXPONENT, _E5M2_TOP_EXPONENT = tl.constexpr(E4M3.top_exponent), tl.constexpr(E5M2.top_exponent)
_LEAST_EXPONENT, _GREATEST_EXPONENT = tl.constexpr(LEAST_EXPONENT), tl.constexpr(GREATEST_EXPONENT)


# ---------------------------------------------------------------- parts of kernels


@triton.jit
def place_of_tile(width, TILE: tl.constexpr):
    """(TILE,) rows in int64 and (TILE,) columns of this program's tile; programs next to each other share their rows.

    In one dimension: only the first of a grid may pass 65535."""
    across = tl.cdiv(width, TILE)
    row = (tl.program_id(0) // across).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = (tl.program_id(0) % across) * TILE + tl.arange(0, TILE)
    return row, column


@triton.jit
def inverse_of(scale):
    """1 / scale exactly: Triton's `/` may be off by a bit, which no power of two can be."""
    return tl.div_rn(1.0, scale)


@triton.jit
def scale_of(bits, MANTISSA_BITS: tl.constexpr):
    """See `litespark.ops.fp8.formats.power_of_two_scale`; of the bits of the largest values."""
    TOP_EXPONENT: tl.constexpr = _E4M3_TOP_EXPONENT if MANTISSA_BITS == 3 else _E5M2_TOP_EXPONENT
    # fraction · 2^exponent as `frexp` has them; subnormal values end at the clamp in any case
    exponent = (bits >> 23) - 126
    # above 0.875 · 2^exponent
    exponent += ((bits & 0x7FFFFF) > 0x600000).to(tl.int32) - TOP_EXPONENT
    exponent = tl.minimum(tl.maximum(exponent, _LEAST_EXPONENT), _GREATEST_EXPONENT)
    found = tl.where(bits == 0, 127 << 23, (exponent + 127) << 23)
    return tl.where(bits < 0x7F800000, found, 0x7FC00000).to(tl.float32, bitcast=True)


@triton.jit
def raise_to(amax, found):
    """Raise `amax` to the bits of a tile's largest value."""
    # nearly all tiles are below what others have left there: a look spares the atomic operation, and one that is out of
    # date costs no more than it
    if found > tl.load(amax):
        tl.atomic_max(amax, found, sem="relaxed")


@triton.jit
def note_tile(values, inverse_scale, amax, counts, MANTISSA_BITS: tl.constexpr):
    """Raise `amax` to the bits of the largest of `values`, and add what the cast loses to `counts`, where wanted."""
    if amax is not None:
        raise_to(amax, tile_amax(values))
    if counts is not None:
        LARGEST: tl.constexpr = _E4M3_LARGEST if MANTISSA_BITS == 3 else _E5M2_LARGEST
        SMALLEST: tl.constexpr = _E4M3_SMALLEST if MANTISSA_BITS == 3 else _E5M2_SMALLEST
        count_lost(values, inverse_scale, counts, LARGEST, SMALLEST)


@triton.jit
def codes_of(values, inverse_scale, MANTISSA_BITS: tl.constexpr):
    """See `litespark.ops.rounding.kernels.fp8_codes`."""
    LARGEST: tl.constexpr = _E4M3_LARGEST if MANTISSA_BITS == 3 else _E5M2_LARGEST
    return fp8_codes(values, inverse_scale, LARGEST, MANTISSA_BITS)


@triton.jit
def store_rows(codes, row_codes, row, column, row_inside, column_inside, width):
    """A tile into (R, width)."""
    place = row_codes + row[:, None] * width + column[None, :]
    tl.store(place, codes, mask=row_inside[:, None] & column_inside[None, :])


@triton.jit
def store_columns(codes, column_codes, row, column, row_inside, column_inside, rows):
    """A tile into (width, R)."""
    place = column_codes + column[:, None].to(tl.int64) * rows + row[None, :]
    # made anew and not turned, or the compiler would not see that whole runs are inside, and write single bytes
    tl.store(place, tl.trans(codes), mask=column_inside[:, None] & row_inside[None, :])


@triton.jit
def emit_tile(
    values,
    inverse_scale,
    row_codes,
    column_codes,
    amax,
    counts,
    row,
    column,
    row_inside,
    column_inside,
    rows,
    width,
    MANTISSA_BITS: tl.constexpr,
):
    """All that an `Emission` with a known scale asks for, of one tile of a tensor (rows, width).

    `values` are fp32 and 0 outside; `row` and `column` (int64 and any) say where they belong in the tensor."""
    note_tile(values, inverse_scale, amax, counts, MANTISSA_BITS)
    codes = codes_of(values, inverse_scale, MANTISSA_BITS)
    if row_codes is not None:
        store_rows(codes, row_codes, row, column, row_inside, column_inside, width)
    if column_codes is not None:
        store_columns(codes, column_codes, row, column, row_inside, column_inside, rows)


# ---------------------------------------------------------------- kernels

# `amax` is one place in a row of places, as `Scaling` holds them: at a multiple of 16 bytes for one layer and not for
# the next, which is no reason to compile anew; nor is it for `scale`, wherever a caller has that.


@triton.jit
def amax_kernel(x, amax, rows, width, x_stride, TILE: tl.constexpr):
    """Raise `amax` () to the bits of the largest value. Reads each value once. A maximum is the same in any order."""
    row, column = place_of_tile(width, TILE)
    row_inside, column_inside = row < rows, column < width
    inside = row_inside[:, None] & column_inside[None, :]
    values = tl.load(x + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    raise_to(amax, tile_amax(values))


@triton.jit(do_not_specialize_on_alignment=["scale", "amax"])
def cast_kernel(
    x,
    row_codes,
    column_codes,
    bits,
    scale,
    amax,
    counts,
    rows,
    width,
    x_stride,
    MANTISSA_BITS: tl.constexpr,
    TILE: tl.constexpr,
):
    """One scale for all: from `scale`, or, if there are `bits` (of the largest value), from them and into `scale`.

    Reads each value once and writes one byte of it for each layout: bf16 to both takes 4 bytes a value."""
    row, column = place_of_tile(width, TILE)
    row_inside, column_inside = row < rows, column < width
    inside = row_inside[:, None] & column_inside[None, :]
    values = tl.load(x + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0).to(tl.float32)
    if bits is not None:
        factor = scale_of(tl.load(bits), MANTISSA_BITS)
        if tl.program_id(0) == 0:
            tl.store(scale, factor)
    else:
        factor = tl.load(scale)
    emit_tile(
        values,
        inverse_of(factor),
        row_codes,
        column_codes,
        amax,
        counts,
        row,
        column,
        row_inside,
        column_inside,
        rows,
        width,
        MANTISSA_BITS,
    )


def tiles(rows: int, width: int) -> tuple[int]:
    """The grid of a kernel that works on tiles of a tensor (rows, width)."""
    return (triton.cdiv(rows, TILE) * triton.cdiv(width, TILE),)


# ---------------------------------------------------------------- compiling without a device


not_for = needs_fp8
_SIZES = {"rows": "i32", "width": "i32", "x_stride": "i32"}
_KNOWN_SCALE, _SCALE_FROM_BITS = {"bits": None, "scale": "*fp32"}, {"bits": "*i32", "scale": "*fp32"}


def compilations(target: Target) -> list[Compilation]:
    """The kernels as they are launched on `target`: as R3 has them first, then for other layouts and odd sizes."""
    found = []
    for dtype in ("bf16", "fp32"):
        found.append(_amax(dtype))
        for format in (E4M3, E5M2):
            for counting in (False, True):
                found += [_cast(dtype, format, each, counting=counting) for each in (_KNOWN_SCALE, _SCALE_FROM_BITS)]
            # of a gradient where the weight is frozen
            found.append(_cast(dtype, format, _KNOWN_SCALE, missing=("column_codes",)))
        for unwanted in ("row", "column"):
            # in validation, and of a product made again; neither is noted
            missing = (f"{unwanted}_codes", "amax")
            found += [_cast(dtype, E4M3, scales, missing=missing) for scales in (_KNOWN_SCALE, _SCALE_FROM_BITS)]
    odd = ("rows", "width", "x_stride")
    found += [_cast("bf16", E4M3, _KNOWN_SCALE, unaligned=each) for each in (odd[:1], odd)]
    return [*found, _amax("bf16", odd)]


def _amax(dtype: str, unaligned: tuple[str, ...] = ()) -> Compilation:
    return Compilation(
        f"amax {dtype}{' odd sizes' if unaligned else ''}",
        amax_kernel,
        {"x": f"*{dtype}", "amax": "*i32"} | _SIZES,
        {"TILE": TILE},
        num_warps=NUM_WARPS,
        unaligned=unaligned,
    )


def _cast(
    dtype: str,
    format: Format,
    scales: Mapping[str, str | None],
    *,
    missing: tuple[str, ...] = (),
    counting: bool = False,
    unaligned: tuple[str, ...] = (),
) -> Compilation:
    arguments = {"x": f"*{dtype}", "row_codes": "*u8", "column_codes": "*u8", **scales, "amax": "*i32"}
    arguments["counts"] = "*i64" if counting else None
    arguments |= dict.fromkeys(missing)
    said = ["without", *missing] * bool(missing) + ["counting"] * counting + ["odd", *unaligned] * bool(unaligned)
    how = " from bits" if scales is _SCALE_FROM_BITS else ""
    return Compilation(
        " ".join([f"cast{how} {dtype} to {format.name}", *said]),
        cast_kernel,
        {name: kind for name, kind in arguments.items() if kind is not None} | _SIZES,
        {name: None for name, kind in arguments.items() if kind is None}
        | {"MANTISSA_BITS": format.mantissa_bits, "TILE": TILE},
        num_warps=NUM_WARPS,
        unaligned=unaligned,
    )
