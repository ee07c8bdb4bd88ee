"""SwiGLU in Triton whose results leave it in fp8, in the layouts that products want: two kernels.

R rows, F width of the product; a row of `gate_up` is 2F wide, gate first. Programs work on square tiles of the product,
see `litespark.ops.fp8.kernels`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from litespark.ops.fp8.formats import E4M3, E5M2, Format
from litespark.ops.fp8.kernels import TILE, emit_tile, inverse_of, place_of_tile
from litespark.ops.swiglu.kernels import _sigmoid
from litespark.ops.triton_support import Compilation, Target, needs_fp8

# A thread has 16 values of each tensor that is read: in the backward pass three of these and three of what comes of
# them are in registers at once.
NUM_WARPS = 8

# `amax` is one place in a row of places, as `Scaling` holds them: at a multiple of 16 bytes for one layer and not for
# the next, which is no reason to compile anew; nor is it for `scale`, wherever a caller has that.


@triton.jit(do_not_specialize_on_alignment=["scale", "amax"])
def swiglu_fp8_forward_kernel(
    gate_up,
    row_codes,
    column_codes,
    scale,
    amax,
    counts,
    rows,
    width,
    gate_up_stride,
    MANTISSA_BITS: tl.constexpr,
    TILE: tl.constexpr,
):
    """product = gate · sigmoid(gate) · up, cast from fp32 by the scale. `width` is that of the product.

    Reads 2F values a row and writes F bytes for each layout: 6 bytes a value of the product, where a pass for the
    product in bf16 and one for its cast take 10.
    """
    row, column = place_of_tile(width, TILE)
    row_inside, column_inside = row < rows, column < width
    inside = row_inside[:, None] & column_inside[None, :]
    place = gate_up + row[:, None] * gate_up_stride + column[None, :]
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(place + width, mask=inside, other=0.0).to(tl.float32)
    emit_tile(
        gate * _sigmoid(gate) * up,
        inverse_of(tl.load(scale)),
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


@triton.jit(do_not_specialize_on_alignment=["scale", "amax", "again_scale", "again_amax"])
def swiglu_fp8_backward_kernel(
    gate_up,
    product_gradient,
    row_codes,
    column_codes,
    scale,
    amax,
    counts,
    again_row_codes,
    again_column_codes,
    again_scale,
    again_amax,
    again_counts,
    rows,
    width,
    gate_up_stride,
    product_gradient_stride,
    MANTISSA_BITS: tl.constexpr,
    AGAIN_MANTISSA_BITS: tl.constexpr,
    TILE: tl.constexpr,
):
    """With s = sigmoid(gate) and d = product_gradient:

        gradient of gate = d · up · s · (1 + gate · (1 - s))
        gradient of up = d · gate · s

    cast from fp32 by `scale` into codes (R, 2F) and (2F, R); and, if there is `again_scale`, the product of the forward
    pass by that. Reads 3F values a row, writes 2F bytes for each layout and F for each of the product: 10 bytes a value
    of the product and 1 or 2 more with it again, where ordinary passes and their casts take 18 and 5 or 6 more.
    """
    row, column = place_of_tile(width, TILE)
    row_inside, column_inside = row < rows, column < width
    inside = row_inside[:, None] & column_inside[None, :]
    place = gate_up + row[:, None] * gate_up_stride + column[None, :]
    gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(place + width, mask=inside, other=0.0).to(tl.float32)
    place = product_gradient + row[:, None] * product_gradient_stride + column[None, :]
    incoming = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    slope = _sigmoid(gate)
    activated = gate * slope
    inverse_scale = inverse_of(tl.load(scale))
    emit_tile(
        incoming * up * slope * (1.0 + gate * (1.0 - slope)),
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
        2 * width,
        MANTISSA_BITS,
    )
    emit_tile(
        incoming * activated,
        inverse_scale,
        row_codes,
        column_codes,
        amax,
        counts,
        row,
        width + column,
        row_inside,
        column_inside,
        rows,
        2 * width,
        MANTISSA_BITS,
    )
    if again_scale is not None:
        emit_tile(
            activated * up,
            inverse_of(tl.load(again_scale)),
            again_row_codes,
            again_column_codes,
            again_amax,
            again_counts,
            row,
            column,
            row_inside,
            column_inside,
            rows,
            width,
            AGAIN_MANTISSA_BITS,
        )


# ---------------------------------------------------------------- compiling without a device

not_for = needs_fp8
_BOTH = ("row_codes", "column_codes")


def compilations(target: Target) -> list[Compilation]:
    """Both kernels as they are launched on `target`: as R3 has them first, then for other layouts and odd sizes."""
    columns, odd = ("column_codes",), ("rows", "width", "gate_up_stride", "product_gradient_stride")
    found = []
    for dtype in ("bf16", "fp32"):
        for counting in (False, True):
            found.append(_forward(dtype, counting=counting))
            for gradients in (E5M2, E4M3):
                found += [_backward(dtype, gradients, again, counting=counting) for again in (columns, ())]
        # in validation, of a product made again by itself, and of a gradient where the weight is frozen
        found += [_forward(dtype, layouts=layouts, noting=False) for layouts in (("row_codes",), columns)]
        found.append(_backward(dtype, E5M2, (), layouts=("row_codes",)))
    return [*found, _forward("bf16", unaligned=odd[:3]), _backward("bf16", E5M2, columns, unaligned=odd)]


def _forward(
    dtype: str,
    *,
    layouts: tuple[str, ...] = _BOTH,
    noting: bool = True,
    counting: bool = False,
    unaligned: tuple[str, ...] = (),
) -> Compilation:
    arguments = {"gate_up": f"*{dtype}"} | _emission("", layouts, counting) | ({} if noting else {"amax": None})
    name = f"swiglu_fp8_forward {dtype} {' '.join(layouts)}"
    return _compilation(name, swiglu_fp8_forward_kernel, arguments, {}, counting, unaligned)


def _backward(
    dtype: str,
    gradients: Format,
    again: tuple[str, ...],
    *,
    layouts: tuple[str, ...] = _BOTH,
    counting: bool = False,
    unaligned: tuple[str, ...] = (),
) -> Compilation:
    arguments = dict.fromkeys(("gate_up", "product_gradient"), f"*{dtype}") | _emission("", layouts, counting)
    # what is cast in the forward pass is noted and counted there
    arguments |= _emission("again_", again, False) | {"again_amax": None, "product_gradient_stride": "i32"}
    name = f"swiglu_fp8_backward {dtype} to {gradients.name}{' rows alone' if layouts != _BOTH else ''}"
    name += f" again {' '.join(again)}" if again else ""
    constants = {"AGAIN_MANTISSA_BITS": E4M3.mantissa_bits if again else 0, "MANTISSA_BITS": gradients.mantissa_bits}
    return _compilation(name, swiglu_fp8_backward_kernel, arguments, constants, counting, unaligned)


def _emission(prefix: str, layouts: tuple[str, ...], counting: bool) -> dict[str, str | None]:
    """The arguments of an emission, named with `prefix`; without layouts there is none."""
    wanted = {"row_codes": "*u8", "column_codes": "*u8", "scale": "*fp32", "amax": "*i32", "counts": "*i64"}
    missing = {*_BOTH}.difference(layouts) | (set() if counting else {"counts"})
    return {prefix + name: kind if layouts and name not in missing else None for name, kind in wanted.items()}


def _compilation(
    name: str,
    kernel: Any,
    arguments: dict[str, str | None],
    constants: dict[str, Any],
    counting: bool,
    unaligned: tuple[str, ...],
) -> Compilation:
    sizes = dict.fromkeys(("rows", "width", "gate_up_stride"), "i32")
    missing = [argument for argument, kind in arguments.items() if kind is None]
    return Compilation(
        f"{name}{' counting' if counting else ''}{' odd sizes' if unaligned else ''}",
        kernel,
        sizes | {argument: kind for argument, kind in arguments.items() if kind is not None},
        {"MANTISSA_BITS": E4M3.mantissa_bits, "TILE": TILE} | constants | dict.fromkeys(missing),
        num_warps=NUM_WARPS,
        unaligned=unaligned,
    )
