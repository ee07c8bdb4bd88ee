"""The cast to fp8 in Triton, and what kernels that cast on their way share with it.

R rows, C columns. Tiles are square, so that the codes of both layouts, (R, C) and (C, R), are written in whole sectors
of 32 bytes. Codes are handed over as bytes: Triton has fp8 numbers on some devices only, its interpreter on none.
"""

from dataclasses import replace
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from litespark.ops.fp8.formats import E4M3, E5M2, GREATEST_EXPONENT, LEAST_EXPONENT, Format
from litespark.ops.fp8.operands import Matrix, Operand, Quantisation, plain
from litespark.ops.precision import dtype_name
from litespark.ops.rounding.kernels import count_saturation_and_underflow, fp8_codes, tile_amax
from litespark.ops.triton_support import Launches, Target, needs_fp8, on_device_of, on_meta

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
def place_of_tile(rows, width, TILE: tl.constexpr):
    """(TILE,) rows in int64 and (TILE,) columns of this program's tile, and which are inside; neighbours share rows.

    In one dimension: only the first of a grid may pass 65535."""
    across = tl.cdiv(width, TILE)
    row = (tl.program_id(0) // across).to(tl.int64) * TILE + tl.arange(0, TILE)
    column = (tl.program_id(0) % across) * TILE + tl.arange(0, TILE)
    return row, column, row < rows, column < width


@triton.jit
def load_tile(x, row, column, row_inside, column_inside, stride, POLICY: tl.constexpr = ""):
    """fp32 values of a tensor whose rows are `stride` apart, 0 outside."""
    place = x + row[:, None] * stride + column[None, :]
    mask = row_inside[:, None] & column_inside[None, :]
    return tl.load(place, mask=mask, other=0.0, eviction_policy=POLICY).to(tl.float32)


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
    scale = tl.where(bits == 0, 127 << 23, (exponent + 127) << 23)
    return tl.where(bits < 0x7F800000, scale, 0x7FC00000).to(tl.float32, bitcast=True)


@triton.jit
def raise_to(amax, highest):
    """Raise `amax` to the bits of a tile's largest value."""
    # nearly all tiles are below what others have left there: a look spares the atomic operation, and one that is out of
    # date costs no more than it
    if highest > tl.load(amax):
        tl.atomic_max(amax, highest, sem="relaxed")


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
def quantise_tile(
    values, inverse_scale, row_codes, column_codes, amax, counts, row, column, row_inside, column_inside, rows, width,
    MANTISSA_BITS: tl.constexpr,
):  # fmt: skip
    """All that a `Quantisation` with a known scale asks for, of one tile of a tensor (rows, width).

    `values` are fp32 and 0 outside; `row` and `column` (int64 and any) say where they belong in the tensor."""
    LARGEST: tl.constexpr = _E4M3_LARGEST if MANTISSA_BITS == 3 else _E5M2_LARGEST
    SMALLEST: tl.constexpr = _E4M3_SMALLEST if MANTISSA_BITS == 3 else _E5M2_SMALLEST
    if amax is not None:
        raise_to(amax, tile_amax(values))
    if counts is not None:
        count_saturation_and_underflow(values, inverse_scale, counts, LARGEST, SMALLEST)
    codes = fp8_codes(values, inverse_scale, LARGEST, MANTISSA_BITS)
    if row_codes is not None:
        store_rows(codes, row_codes, row, column, row_inside, column_inside, width)
    if column_codes is not None:
        store_columns(codes, column_codes, row, column, row_inside, column_inside, rows)


# ---------------------------------------------------------------- kernels


@triton.jit
def amax_kernel(x, amax, rows, width, x_stride, TILE: tl.constexpr):
    """Raise `amax` () to the bits of the largest value."""
    row, column, row_inside, column_inside = place_of_tile(rows, width, TILE)
    values = load_tile(x, row, column, row_inside, column_inside, x_stride)
    raise_to(amax, tile_amax(values))


# `amax` is a place among those of `Scaling`: at a multiple of 16 bytes for one layer and not for the next, which is no
# reason to compile anew; nor is it for `scale`
@triton.jit(do_not_specialize_on_alignment=["scale", "amax"])
def cast_kernel(
    x, row_codes, column_codes, bits, scale, amax, counts, rows, width, x_stride,
    MANTISSA_BITS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One scale for all: from `scale`, or, if there are `bits` (of the largest value), from them and into `scale`."""
    row, column, row_inside, column_inside = place_of_tile(rows, width, TILE)
    values = load_tile(x, row, column, row_inside, column_inside, x_stride)
    if bits is not None:
        factor = scale_of(tl.load(bits), MANTISSA_BITS)
        if tl.program_id(0) == 0:
            tl.store(scale, factor)
    else:
        factor = tl.load(scale)
    quantise_tile(
        values, inverse_of(factor), row_codes, column_codes, amax, counts,
        row, column, row_inside, column_inside, rows, width, MANTISSA_BITS,
    )  # fmt: skip


# ---------------------------------------------------------------- launchers


def cast(x: Tensor, quantisation: Quantisation) -> Operand:
    """See `litespark.ops.fp8.reference.Pieces.cast`, to the bit; rows may lie apart, other strides are made contiguous.

    Bytes a value, of bf16 in both layouts: 4 with a scale that is known; 6 where it comes from the tensor.
    """
    if quantisation.format is None:
        return plain(x)
    x = x.detach() if x.stride(1) == 1 else x.detach().contiguous()
    rows, width = x.shape
    scale, bits = quantisation.scale, None
    if scale is None:
        scale, bits = x.new_ones((), dtype=torch.float32), x.new_zeros((), dtype=torch.int32)
    operand = empty_operand(x, width, quantisation, scale)
    if x.numel() == 0:
        return operand
    with on_device_of(x):
        if bits is not None:
            amax_kernel[tiles(rows, width)](x, bits, rows, width, x.stride(0), TILE=TILE, num_warps=NUM_WARPS)
        cast_kernel[tiles(rows, width)](
            x, as_bytes(operand.rows), as_bytes(operand.columns), bits, scale, quantisation.amax, quantisation.counts,
            rows, width, x.stride(0),
            MANTISSA_BITS=quantisation.format.mantissa_bits, TILE=TILE, num_warps=NUM_WARPS,
        )  # fmt: skip
    return operand


def empty_operand(like: Tensor, width: int, quantisation: Quantisation, scale: Tensor | None) -> Operand:
    """Memory for the codes of a tensor (R, `width`) with as many rows as `like`."""
    assert quantisation.format is not None
    rows, dtype = like.shape[0], quantisation.format.dtype
    return Operand(
        Matrix(like.new_empty(rows, width, dtype=dtype), scale) if quantisation.rows else None,
        Matrix(like.new_empty(width, rows, dtype=dtype), scale) if quantisation.columns else None,
    )


def as_bytes(matrix: Matrix | None) -> Tensor | None:
    """Codes as kernels take them."""
    return None if matrix is None else matrix.values.view(torch.uint8)


def tiles(rows: int, width: int) -> tuple[int]:
    """The grid of a kernel that works on tiles of a tensor (rows, width)."""
    return (triton.cdiv(rows, TILE) * triton.cdiv(width, TILE),)


# ---------------------------------------------------------------- compiling without a device

not_for = needs_fp8


def launches(target: Target) -> Launches:
    """As llama3b has them first, then for other layouts and odd sizes."""
    for dtype in (torch.bfloat16, torch.float32):
        x = on_meta(4096, 8192, dtype)
        for format in (E4M3, E5M2):
            for label, quantisation in quantisations(format).items():
                label = f"{dtype_name(dtype)} to {format.name}{label}"
                yield label, partial(cast, x, quantisation)
                yield f"from bits {label}", partial(cast, x, replace(quantisation, scale=None))
    usual = quantisations(E4M3)[""]
    for label, width in {"odd rows": 8192, "odd sizes": 8191}.items():
        x = on_meta(4095, width, torch.bfloat16)
        yield label, partial(cast, x, usual)
        yield f"from bits {label}", partial(cast, x, replace(usual, scale=None))


def quantisations(format: Format) -> dict[str, Quantisation]:
    """What steps ask for, by label: as in most steps first."""
    usual = Quantisation(format, on_meta(torch.float32), amax=on_meta(torch.int32))
    return {
        "": usual,
        " counting": replace(usual, counts=on_meta(2, torch.int64)),
        " rows and amax": replace(usual, columns=False),  # of a gradient where the weight is frozen
        " rows alone": replace(usual, columns=False, amax=None),  # in validation
        " columns alone": replace(usual, rows=False, amax=None),  # of a product made again
    }
