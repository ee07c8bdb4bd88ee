"""The cast to fp8 in Triton, and what kernels that cast on their way share with it.

R rows, C columns. A thread takes four rows that lie below each other: their codes of one column are a word of the codes
(C, R), so that words and not bytes change places between threads. Tiles are square, so that both layouts are written in
whole sectors of 32 bytes. Codes are handed over as bytes: Triton has fp8 numbers on some devices only, its interpreter
on none.
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
from litespark.ops.rounding.kernels import (
    add_counts,
    fp8_codes,
    fp8_words,
    highest_bits,
    saturated,
    scaled,
    underflowed,
)
from litespark.ops.triton_support import Launches, Target, needs_fp8, on_device_of, on_meta

# Rows and columns. A tile of bf16 values is 8 KiB, of which a thread has four 16-byte loads; a multiprocessor needs
# about five tiles on their way to keep its share of an H200's memory busy.
TILE = 64
NUM_WARPS = 4
# of codes alone: 16 bytes of four rows a thread
TRANSPOSED_TILE, TRANSPOSED_WARPS = 128, 8
# rows that a thread has of each column, and that a word of the codes (C, R) holds; a store of four words needs rows in
# whole multiples of 16
FOUR = tl.constexpr(4)
WORDS_MULTIPLE = 16
_E4M3_TOP_EXPONENT, _E5M2_TOP_EXPONENT = tl.constexpr(E4M3.top_exponent), tl.constexpr(E5M2.top_exponent)
_LEAST_EXPONENT, _GREATEST_EXPONENT = tl.constexpr(LEAST_EXPONENT), tl.constexpr(GREATEST_EXPONENT)


# ---------------------------------------------------------------- parts of kernels


@triton.jit
def place_of_tile(ACROSS: tl.constexpr, TILE: tl.constexpr):
    """(TILE / 4,) fours of rows and (TILE,) columns of this program's tile, of which ACROSS share their rows.

    In one dimension: only the first of a grid may pass 65535. To divide by a constant takes few instructions."""
    four = (tl.program_id(0) // ACROSS) * (TILE // FOUR) + tl.arange(0, TILE // FOUR)
    return four, (tl.program_id(0) % ACROSS) * TILE + tl.arange(0, TILE)


@triton.jit
def load_fours(x, four, column, rows, width, stride):
    """Four tensors (fours, columns) of fp32 values, one of each row of a four, 0 outside; rows are `stride` apart."""
    row = four.to(tl.int64) * FOUR
    place = x + row[:, None] * stride + column[None, :]
    inside = (column < width)[None, :]
    first = tl.load(place, mask=(row < rows)[:, None] & inside, other=0.0).to(tl.float32)
    # stride by stride: two of them may be beyond 32 bits
    place += stride
    second = tl.load(place, mask=(row + 1 < rows)[:, None] & inside, other=0.0).to(tl.float32)
    place += stride
    third = tl.load(place, mask=(row + 2 < rows)[:, None] & inside, other=0.0).to(tl.float32)
    place += stride
    fourth = tl.load(place, mask=(row + 3 < rows)[:, None] & inside, other=0.0).to(tl.float32)
    return first, second, third, fourth


@triton.jit
def inverse_of(scale):
    """1 / scale of a power of two, and NaN of NaN, exactly: Triton's `/` may be off by a bit."""
    bits = scale.to(tl.int32, bitcast=True)
    return tl.where(bits < 0x7F800000, (254 << 23) - bits, bits).to(tl.float32, bitcast=True)


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
def store_rows(codes, row_codes, row, column, rows, width, stride):
    """A tile of bytes into rows that are `stride` bytes apart."""
    place = row_codes + row[:, None] * stride + column[None, :]
    tl.store(place, codes, mask=(row < rows)[:, None] & (column < width)[None, :])


@triton.jit
def store_words(words, column_codes, four, column, rows, width, WHOLE: tl.constexpr):
    """A tile of words (fours, columns) into (C, R); in whole words where `rows` are a multiple of 16."""
    inside = (column < width)[:, None]
    # turned, and places made anew: the compiler then sees that neighbours are inside together, and writes 16 bytes
    words = tl.trans(words)
    if WHOLE:
        fours = tl.multiple_of(rows // FOUR, FOUR)
        place = column_codes.to(tl.pointer_type(tl.int32)) + column[:, None].to(tl.int64) * fours + four[None, :]
        tl.store(place, words, mask=inside & (four < fours)[None, :])
    else:
        row = four.to(tl.int64) * FOUR
        place = column_codes + column[:, None].to(tl.int64) * rows + row[None, :]
        for i in tl.static_range(FOUR):
            codes = ((words >> (8 * i)) & 0xFF).to(tl.uint8)
            tl.store(place + i, codes, mask=inside & (row + i < rows)[None, :])


@triton.jit
def quantise_fours(
    values, inverse_scale, row_codes, column_codes, amax, counts, four, column, rows, width, stride,
    MANTISSA_BITS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """All that a `Quantisation` with a known scale asks for, of one tile of a tensor (rows, width).

    `values` are as `load_fours` gives them, 0 outside; rows of `row_codes` are `stride` bytes apart."""
    first, second, third, fourth = values
    if amax is not None:
        left = tl.maximum(bits_of(first), bits_of(second))
        raise_to(amax, highest_bits(tl.maximum(left, tl.maximum(bits_of(third), bits_of(fourth)))))
    first, second = scaled(first, inverse_scale), scaled(second, inverse_scale)
    third, fourth = scaled(third, inverse_scale), scaled(fourth, inverse_scale)
    if counts is not None:
        many = saturated(first, MANTISSA_BITS) + saturated(second, MANTISSA_BITS)
        many += saturated(third, MANTISSA_BITS) + saturated(fourth, MANTISSA_BITS)
        few = underflowed(first, MANTISSA_BITS) + underflowed(second, MANTISSA_BITS)
        few += underflowed(third, MANTISSA_BITS) + underflowed(fourth, MANTISSA_BITS)
        add_counts(counts, many, few)
    if row_codes is not None:
        row = four.to(tl.int64) * FOUR
        store_rows(fp8_codes(first, MANTISSA_BITS), row_codes, row, column, rows, width, stride)
        store_rows(fp8_codes(second, MANTISSA_BITS), row_codes, row + 1, column, rows, width, stride)
        store_rows(fp8_codes(third, MANTISSA_BITS), row_codes, row + 2, column, rows, width, stride)
        store_rows(fp8_codes(fourth, MANTISSA_BITS), row_codes, row + 3, column, rows, width, stride)
    if column_codes is not None:
        words = fp8_words((first, second, third, fourth), MANTISSA_BITS)
        store_words(words, column_codes, four, column, rows, width, WHOLE)


@triton.jit
def bits_of(values):
    """`litespark.ops.fp8.formats.amax_bits` of each value."""
    return values.to(tl.int32, bitcast=True) & 0x7FFFFFFF


# ---------------------------------------------------------------- kernels


@triton.jit
def amax_kernel(x, amax, rows, width, x_stride, ACROSS: tl.constexpr, TILE: tl.constexpr):
    """Raise `amax` () to the bits of the largest value."""
    four, column = place_of_tile(ACROSS, TILE)
    first, second, third, fourth = load_fours(x, four, column, rows, width, x_stride)
    left = tl.maximum(bits_of(first), bits_of(second))
    raise_to(amax, highest_bits(tl.maximum(left, tl.maximum(bits_of(third), bits_of(fourth)))))


# `amax` is a place among those of `Scaling`: at a multiple of 16 bytes for one layer and not for the next, which is no
# reason to compile anew; nor is it for `scale`
@triton.jit(do_not_specialize_on_alignment=["scale", "amax"])
def cast_kernel(
    x, row_codes, column_codes, bits, scale, amax, counts, rows, width, x_stride,
    MANTISSA_BITS: tl.constexpr, WHOLE: tl.constexpr, ACROSS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One scale for all: from `scale`, or, if there are `bits` (of the largest value), from them and into `scale`."""
    four, column = place_of_tile(ACROSS, TILE)
    values = load_fours(x, four, column, rows, width, x_stride)
    if bits is not None:
        factor = scale_of(tl.load(bits), MANTISSA_BITS)
        if tl.program_id(0) == 0:
            tl.store(scale, factor)
    else:
        factor = tl.load(scale)
    quantise_fours(
        values, inverse_of(factor), row_codes, column_codes, amax, counts, four, column, rows, width, width,
        MANTISSA_BITS, WHOLE,
    )  # fmt: skip


@triton.jit
def transpose_kernel(
    row_codes, column_codes, rows, width, WHOLE: tl.constexpr, ACROSS: tl.constexpr, TILE: tl.constexpr
):
    """Codes (R, C) once more as (C, R)."""
    four, column = place_of_tile(ACROSS, TILE)
    row = four.to(tl.int64) * FOUR
    place = row_codes + row[:, None] * width + column[None, :]
    inside = (column < width)[None, :]
    words = tl.load(place, mask=(row < rows)[:, None] & inside, other=0).to(tl.int32)
    for i in tl.static_range(1, FOUR):
        place += width
        codes = tl.load(place, mask=(row + i < rows)[:, None] & inside, other=0).to(tl.int32)
        words |= codes << (8 * i)
    store_words(words, column_codes, four, column, rows, width, WHOLE)


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
        kept = None if quantisation.into is None else quantisation.into.scale
        scale = x.new_ones((), dtype=torch.float32) if kept is None else kept
        bits = x.new_zeros((), dtype=torch.int32)
    operand = empty_operand(x, width, quantisation, scale)
    if x.numel() == 0:
        return operand
    with on_device_of(x):
        if bits is not None:
            amax_kernel[tiles(rows, width)](
                x, bits, rows, width, x.stride(0), ACROSS=across(width), TILE=TILE, num_warps=NUM_WARPS
            )
        cast_kernel[tiles(rows, width)](
            x, as_bytes(operand.rows), as_bytes(operand.columns), bits, scale, quantisation.amax, quantisation.counts,
            rows, width, x.stride(0),
            MANTISSA_BITS=quantisation.format.mantissa_bits, WHOLE=whole(rows), ACROSS=across(width), TILE=TILE,
            num_warps=NUM_WARPS,
        )  # fmt: skip
    return operand


def transpose(operand: Operand) -> None:
    """Fill `operand.columns` from `operand.rows`: 2 bytes a value."""
    assert operand.rows is not None
    assert operand.columns is not None
    rows, width = operand.rows.values.shape
    with on_device_of(operand.rows.values):
        transpose_kernel[tiles(rows, width, TRANSPOSED_TILE)](
            as_bytes(operand.rows), as_bytes(operand.columns), rows, width,
            WHOLE=whole(rows), ACROSS=across(width, TRANSPOSED_TILE), TILE=TRANSPOSED_TILE, num_warps=TRANSPOSED_WARPS,
        )  # fmt: skip


def empty_operand(like: Tensor, width: int, quantisation: Quantisation, scale: Tensor | None) -> Operand:
    """Memory for the codes of a tensor (R, `width`) with as many rows as `like`, or that of `quantisation.into`."""
    assert quantisation.format is not None
    if quantisation.into is not None:
        return quantisation.into.with_scale(scale)
    rows, dtype = like.shape[0], quantisation.format.dtype
    return Operand(
        Matrix(like.new_empty(rows, width, dtype=dtype), scale) if quantisation.rows else None,
        Matrix(like.new_empty(width, rows, dtype=dtype), scale) if quantisation.columns else None,
    )


def as_bytes(matrix: Matrix | None) -> Tensor | None:
    """Codes as kernels take them."""
    return None if matrix is None else matrix.values.view(torch.uint8)


def whole(rows: int) -> bool:
    """Whether the codes (C, R) can be written in whole words."""
    return rows % WORDS_MULTIPLE == 0


def across(width: int, tile: int = TILE) -> int:
    """How many tiles share their rows."""
    return triton.cdiv(width, tile)


def tiles(rows: int, width: int, tile: int = TILE) -> tuple[int]:
    """The grid of a kernel that works on tiles of a tensor (rows, width)."""
    return (triton.cdiv(rows, tile) * across(width, tile),)


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
    yield "", partial(transpose, empty_operand(x, 3072, usual, None))
    for label, width in {"odd rows": 8192, "odd sizes": 8191}.items():
        x = on_meta(4095, width, torch.bfloat16)
        yield label, partial(transpose, empty_operand(x, width, usual, None))
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
