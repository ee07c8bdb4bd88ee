"""SwiGLU and GEGLU in Triton: two element-wise kernels, their launchers and launch configurations.

R rows, F intermediate size; a row of `gate_up` is 2F wide, gate first.
"""

import itertools
from functools import cache, partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from litespark.ops.precision import dtype_name
from litespark.ops.rms_norm.kernels import as_rows
from litespark.ops.rounding.kernels import INTERPRETED, rounded
from litespark.ops.shapes import Place
from litespark.ops.structure import far, in_parts
from litespark.ops.triton_support import Launches, Target, on_device_of, on_meta, target_of

# values of the product in one program
_TILE = 2048
_MINUS_LOG2_E = tl.constexpr(-1.4426950408889634)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) in four instructions; where the exponential overflows, that is 0."""
    return quotient(1.0, 1.0 + tl.exp2(x * _MINUS_LOG2_E))


@triton.jit
def silu(x):
    """x · sigmoid(x)."""
    return quotient(x, 1.0 + tl.exp2(x * _MINUS_LOG2_E))


@triton.jit
def _inner(x, GELU: tl.constexpr):
    """What the activation x · sigmoid(inner) takes the sigmoid of, and its slope. SiLU: x itself; GELU, approximated:
    2u = √(8/π) (x + 0.044715 x³), since (1 + tanh u) / 2 = sigmoid 2u."""
    slope = 1.0
    if GELU:
        square = x * x
        slope = 1.5957691216 + 0.2140644488 * square
        x = x * (1.5957691216 + 0.0713548163 * square)
    return x, slope


@triton.jit
def quotient(x, y):
    """x / y within two units in the last place, for y that is not near the ends of fp32's range."""
    if INTERPRETED:
        return x / y
    return libdevice.fast_dividef(x, y)


# their number depends on the batch, and a batch of one row is no reason to compile anew
@triton.jit(do_not_specialize=["rows"])
def swiglu_forward_kernel(
    gate_up, product, rows, gate_up_stride, GELU: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """product = gate · sigmoid(inner) · up, with the inner of `_inner`. Reads 2F values a row and writes F."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < WIDTH)
    place = gate_up + row * gate_up_stride + column
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(place + WIDTH, mask=inside, other=0.0).to(tl.float32)
    inner, _ = _inner(gate, GELU)
    values = (gate * sigmoid(inner) if GELU else silu(gate)) * up
    tl.store(product + row * WIDTH + column, rounded(values, product.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])
def swiglu_backward_kernel(
    gate_up, product_gradient, gradient, product, rows, gate_up_stride, product_gradient_stride, GELU: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """With inner and its slope of `_inner`, s = sigmoid(inner) and d = product_gradient:

        gradient of gate = d · up · s · (1 + gate · slope · (1 - s))
        gradient of up = d · gate · s

    Reads 3F values a row and writes 2F: both gradients go into one tensor like `gate_up`. If there is a `product` it is
    made again on the way, which writes F more.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < WIDTH)
    place = gate_up + row * gate_up_stride + column
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(place + WIDTH, mask=inside, other=0.0).to(tl.float32)
    incoming = tl.load(product_gradient + row * product_gradient_stride + column, mask=inside, other=0.0)
    incoming = incoming.to(tl.float32)
    inner, steepness = _inner(gate, GELU)
    slope = sigmoid(inner)
    sloped = incoming * slope
    gate_gradient = sloped * up * (1.0 + gate * (1.0 - slope) * steepness)
    place = gradient + row * (2 * WIDTH) + column
    tl.store(place, rounded(gate_gradient, gradient.dtype.element_ty), mask=inside)
    tl.store(place + WIDTH, rounded(sloped * gate, gradient.dtype.element_ty), mask=inside)
    if product is not None:
        values = rounded(gate * slope * up, product.dtype.element_ty)
        tl.store(product + row * WIDTH + column, values, mask=inside)


class Tiling(NamedTuple):
    """Which part of the product one program makes."""

    block: int  # columns, a power of two
    rows: int  # more than one only where a row is narrower than a block can be
    num_warps: int  # of the program


@cache
def tiling(width: int, target: Target) -> Tiling:
    """Programs of 2048 values, 16 values a thread: two 16-byte loads of gate and two of up in bf16."""
    block = min(_TILE, max(16, 1 << (width - 1).bit_length()))
    return Tiling(block, _TILE // block, _TILE // (16 * target.warp_size))


def structure(place: Place) -> set[str]:
    """The structural cases of both directions, see `litespark.ops.structure`."""
    rows, width = place.shapes.tokens, place.shapes.intermediate_size
    tile = tiling(width, target_of(place.device))
    return (
        in_parts("tile of rows", rows, tile.rows)
        | in_parts("block of a row", width, tile.block)
        | far(rows * 2 * width)
    )


def swiglu_forward(gate_up: Tensor, dtype: torch.dtype, gelu: bool = False) -> Tensor:
    """The product (..., F) in `dtype`, contiguous; rows of `gate_up` may lie apart. `gelu`: not of SiLU."""
    width = gate_up.shape[-1] // 2
    product = gate_up.new_empty(*gate_up.shape[:-1], width, dtype=dtype)
    if product.numel() == 0:
        return product
    gate_up = as_rows(gate_up)
    tile = tiling(width, target_of(gate_up.device))
    with on_device_of(gate_up):
        swiglu_forward_kernel[_grid(gate_up.shape[0], width, tile)](
            gate_up, product, gate_up.shape[0], gate_up.stride(0), GELU=gelu,
            WIDTH=width, BLOCK=tile.block, ROWS=tile.rows, num_warps=tile.num_warps,
        )  # fmt: skip
    return product


def swiglu_backward(
    gate_up: Tensor, product_gradient: Tensor, product_dtype: torch.dtype | None = None, gelu: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The gradient of `gate_up`, in its shape and dtype, and the product again in `product_dtype`, if there is one."""
    width = product_gradient.shape[-1]
    gradient = gate_up.new_empty(*gate_up.shape)
    product = None if product_dtype is None else gate_up.new_empty(*product_gradient.shape, dtype=product_dtype)
    if gradient.numel() == 0:
        return gradient, product
    gate_up, product_gradient = as_rows(gate_up), as_rows(product_gradient)
    tile = tiling(width, target_of(gate_up.device))
    with on_device_of(gate_up):
        swiglu_backward_kernel[_grid(gate_up.shape[0], width, tile)](
            gate_up, product_gradient, gradient, product, gate_up.shape[0], gate_up.stride(0),
            product_gradient.stride(0), GELU=gelu,
            WIDTH=width, BLOCK=tile.block, ROWS=tile.rows, num_warps=tile.num_warps,
        )  # fmt: skip
    return gradient, product


def _grid(rows: int, width: int, tile: Tiling) -> tuple[int, int]:
    # rows first: only that dimension of a grid may pass 65535
    return -(-rows // tile.rows), -(-width // tile.block)


# ---------------------------------------------------------------- compiling without a device


def launches(target: Target) -> Launches:
    """Widths of llama3b first, then a narrow and an odd one; then those of a Gemma, with its activation."""
    sizes = [(8192, False), (1024, False), (5461, False), (9216, True)]
    for (width, gelu), dtype in itertools.product(sizes, (torch.bfloat16, torch.float32)):
        gate_up, product = on_meta(4096, 2 * width, dtype), on_meta(4096, width, dtype)
        label = f"{dtype_name(dtype)} F{width}{' gelu' if gelu else ''}"
        yield label, partial(swiglu_forward, gate_up, dtype, gelu)
        yield f"and product {label}", partial(swiglu_backward, gate_up, product, dtype, gelu)
        yield label, partial(swiglu_backward, gate_up, product, gelu=gelu)
