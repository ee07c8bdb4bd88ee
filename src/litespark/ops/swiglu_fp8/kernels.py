"""SwiGLU in Triton whose results leave it in fp8, in the layouts that products need.

R rows, F intermediate size; a row of `gate_up` is 2F wide, gate first. Tiles as in `litespark.ops.fp8.kernels`.
"""

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from litespark.ops.fp8.formats import E4M3, E5M2
from litespark.ops.fp8.kernels import (
    NUM_WARPS,
    TILE,
    across,
    as_bytes,
    empty_operand,
    inverse_of,
    load_fours,
    place_of_tile,
    quantisations,
    quantise_fours,
    tiles,
    whole,
)
from litespark.ops.fp8.operands import Operand, Quantisation
from litespark.ops.precision import dtype_name
from litespark.ops.rms_norm.kernels import as_rows
from litespark.ops.swiglu.kernels import sigmoid, silu
from litespark.ops.triton_support import Launches, Target, needs_fp8, on_device_of, on_meta


@triton.jit
def _product(gate, up):
    return silu(gate) * up


@triton.jit
def _gradients(gate, up, incoming):
    """Gradients of gate and up, and the product."""
    slope = sigmoid(gate)
    # what two results share is this one, or the third would take 90 registers more
    activated = gate * slope
    return incoming * up * slope * (1.0 + gate * (1.0 - slope)), incoming * activated, activated * up


@triton.jit(do_not_specialize_on_alignment=["scale", "amax"])
def swiglu_fp8_forward_kernel(
    gate_up, row_codes, column_codes, scale, amax, counts, rows, width, gate_up_stride,
    MANTISSA_BITS: tl.constexpr, WHOLE: tl.constexpr, ACROSS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """product = gate · sigmoid(gate) · up (R, `width`), cast by the scale: 6 bytes a value, 10 in two passes."""
    four, column = place_of_tile(ACROSS, TILE)
    gate = load_fours(gate_up, four, column, rows, width, gate_up_stride)
    up = load_fours(gate_up + width, four, column, rows, width, gate_up_stride)
    values = (
        _product(gate[0], up[0]), _product(gate[1], up[1]), _product(gate[2], up[2]), _product(gate[3], up[3])
    )  # fmt: skip
    quantise_fours(
        values, inverse_of(tl.load(scale)), row_codes, column_codes, amax, counts, four, column, rows, width, width,
        MANTISSA_BITS, WHOLE,
    )  # fmt: skip


@triton.jit(do_not_specialize_on_alignment=["scale", "amax", "again_scale", "again_amax"])
def swiglu_fp8_backward_kernel(
    gate_up, product_gradient, row_codes, column_codes, scale, amax, counts,
    again_row_codes, again_column_codes, again_scale, again_amax, again_counts,
    rows, width, gate_up_stride, product_gradient_stride,
    MANTISSA_BITS: tl.constexpr, AGAIN_MANTISSA_BITS: tl.constexpr, WHOLE: tl.constexpr, ACROSS: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """With s = sigmoid(gate) and d = product_gradient:

        gradient of gate = d · up · s · (1 + gate · (1 - s))
        gradient of up = d · gate · s

    cast from fp32 by `scale` into codes (R, 2F) and (2F, R); and, if there is `again_scale`, the product of the forward
    pass by that. 10 bytes a value of the product and 1 or 2 more with it again, where ordinary passes and their casts
    take 18 and 5 or 6 more.
    """
    four, column = place_of_tile(ACROSS, TILE)
    gate = load_fours(gate_up, four, column, rows, width, gate_up_stride)
    up = load_fours(gate_up + width, four, column, rows, width, gate_up_stride)
    incoming = load_fours(product_gradient, four, column, rows, width, product_gradient_stride)
    gate_0, up_0, product_0 = _gradients(gate[0], up[0], incoming[0])
    gate_1, up_1, product_1 = _gradients(gate[1], up[1], incoming[1])
    gate_2, up_2, product_2 = _gradients(gate[2], up[2], incoming[2])
    gate_3, up_3, product_3 = _gradients(gate[3], up[3], incoming[3])
    inverse_scale = inverse_of(tl.load(scale))
    quantise_fours(
        (gate_0, gate_1, gate_2, gate_3), inverse_scale, row_codes, column_codes, amax, counts,
        four, column, rows, width, 2 * width, MANTISSA_BITS, WHOLE,
    )  # fmt: skip
    # the second half of each row of (R, 2F), and the later half of the rows of (2F, R)
    if row_codes is not None:
        row_codes += width
    if column_codes is not None:
        column_codes += tl.cast(width, tl.int64) * rows
    quantise_fours(
        (up_0, up_1, up_2, up_3), inverse_scale, row_codes, column_codes, amax, counts,
        four, column, rows, width, 2 * width, MANTISSA_BITS, WHOLE,
    )  # fmt: skip
    if again_scale is not None:
        quantise_fours(
            (product_0, product_1, product_2, product_3), inverse_of(tl.load(again_scale)), again_row_codes,
            again_column_codes, again_amax, again_counts, four, column, rows, width, width, AGAIN_MANTISSA_BITS, WHOLE,
        )  # fmt: skip


# ---------------------------------------------------------------- launchers


def swiglu_cast(gate_up: Tensor, quantisation: Quantisation) -> Operand:
    """`litespark.ops.fp8.reference.Pieces.swiglu` for a quantisation that is `fused`."""
    assert quantisation.format is not None
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    operand = empty_operand(gate_up, width, quantisation, quantisation.scale)
    if gate_up.numel():
        gate_up = as_rows(gate_up.detach())
        with on_device_of(gate_up):
            swiglu_fp8_forward_kernel[tiles(rows, width)](
                gate_up, as_bytes(operand.rows), as_bytes(operand.columns),
                quantisation.scale, quantisation.amax, quantisation.counts, rows, width, gate_up.stride(0),
                MANTISSA_BITS=quantisation.format.mantissa_bits, WHOLE=whole(rows), ACROSS=across(width),
                TILE=TILE, num_warps=NUM_WARPS,
            )  # fmt: skip
    return operand


def swiglu_backward_cast(
    gate_up: Tensor, product_gradient: Tensor, quantisation: Quantisation, again: Quantisation | None
) -> tuple[Operand, Operand | None]:
    """The same of `swiglu_backward`, in one pass; for quantisations that are `fused`."""
    assert quantisation.format is not None
    rows, width = product_gradient.shape
    gradient = empty_operand(gate_up, 2 * width, quantisation, quantisation.scale)
    product = None if again is None else empty_operand(gate_up, width, again, again.scale)
    if gate_up.numel():
        gate_up, product_gradient = as_rows(gate_up.detach()), as_rows(product_gradient.detach())
        made_again: tuple[Tensor | None, ...] = (None,) * 5
        again_bits = 0
        if again is not None and product is not None and again.format is not None:
            codes = as_bytes(product.rows), as_bytes(product.columns)
            made_again = *codes, again.scale, again.amax, again.counts
            again_bits = again.format.mantissa_bits
        with on_device_of(gate_up):
            swiglu_fp8_backward_kernel[tiles(rows, width)](
                gate_up, product_gradient, as_bytes(gradient.rows), as_bytes(gradient.columns),
                quantisation.scale, quantisation.amax, quantisation.counts, *made_again,
                rows, width, gate_up.stride(0), product_gradient.stride(0),
                MANTISSA_BITS=quantisation.format.mantissa_bits, AGAIN_MANTISSA_BITS=again_bits,
                WHOLE=whole(rows), ACROSS=across(width), TILE=TILE, num_warps=NUM_WARPS,
            )  # fmt: skip
    return gradient, product


# ---------------------------------------------------------------- compiling without a device

not_for = needs_fp8


def launches(target: Target) -> Launches:
    """As llama3b has them first, then for other layouts and odd sizes."""
    for rows, width, dtype in ((4096, 8192, torch.bfloat16), (4096, 8192, torch.float32), (4095, 8191, torch.bfloat16)):
        gate_up, gradient = on_meta(rows, 2 * width, dtype), on_meta(rows, width, dtype)
        inputs, again = quantisations(E4M3), quantisations(E4M3)[" columns alone"]
        name = f"{dtype_name(dtype)} F{width}"
        for label, quantisation in inputs.items():
            yield name + label, partial(swiglu_cast, gate_up, quantisation)
        for format in (E5M2, E4M3):
            for label, quantisation in quantisations(format).items():
                label = f"{name} to {format.name}{label}"
                yield f"{label} again", partial(swiglu_backward_cast, gate_up, gradient, quantisation, again)
                yield label, partial(swiglu_backward_cast, gate_up, gradient, quantisation, None)
