"""SwiGLU and its gradient as operands of products, cast on the way: for emissions that can be fused.

R rows, F width of the product. None of it is differentiated by autograd.
"""

from __future__ import annotations

from torch import Tensor

from litespark.ops.fp8.emission import Emission
from litespark.ops.fp8.function import as_bytes, empty_codes, operand_of
from litespark.ops.fp8.kernels import TILE, tiles
from litespark.ops.fp8.operands import Operand
from litespark.ops.rms_norm.kernels import as_rows
from litespark.ops.swiglu_fp8.kernels import NUM_WARPS, swiglu_fp8_backward_kernel, swiglu_fp8_forward_kernel
from litespark.ops.triton_support import on_device_of


def swiglu_cast(gate_up: Tensor, emission: Emission) -> Operand:
    """silu(gate) · up, computed in fp32 and cast once.

    Args:
        gate_up: (R, 2F) fp32, bf16 or fp16, gate first; rows may lie apart, anything else is made contiguous.
        emission: `fused`, that is with a format and one scale that is known.

    Returns:
        (R, F) as an operand.
    """
    assert emission.fused
    assert emission.format is not None
    assert emission.scale is not None
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    row_codes, column_codes = empty_codes(gate_up, rows, width, emission)
    if gate_up.numel():
        gate_up = as_rows(gate_up.detach())
        with on_device_of(gate_up):
            swiglu_fp8_forward_kernel[tiles(rows, width)](
                gate_up,
                as_bytes(row_codes),
                as_bytes(column_codes),
                emission.scale,
                emission.amax,
                emission.counts,
                rows,
                width,
                gate_up.stride(0),
                MANTISSA_BITS=emission.format.mantissa_bits,
                TILE=TILE,
                num_warps=NUM_WARPS,
            )
    return operand_of(row_codes, column_codes, emission.scale)


def swiglu_backward_cast(
    gate_up: Tensor, product_gradient: Tensor, emission: Emission, again: Emission | None
) -> tuple[Operand, Operand | None]:
    """The gradient of `gate_up`, and with `again` the product once more, computed in fp32 and cast once, in one pass.

    Args:
        gate_up: (R, 2F), as in `swiglu_cast`.
        product_gradient: (R, F), dtype and strides likewise.
        emission: of the gradient; `fused`.
        again: of the product; `fused`, or None: it is not made again.

    Returns:
        (R, 2F) as an operand, and (R, F) as one or None.
    """
    assert emission.fused
    assert emission.format is not None
    assert emission.scale is not None
    assert again is None or again.fused
    rows, width = product_gradient.shape
    row_codes, column_codes = empty_codes(gate_up, rows, 2 * width, emission)
    again_rows, again_columns = (None, None) if again is None else empty_codes(gate_up, rows, width, again)
    if gate_up.numel():
        gate_up, product_gradient = as_rows(gate_up.detach()), as_rows(product_gradient.detach())
        with on_device_of(gate_up):
            swiglu_fp8_backward_kernel[tiles(rows, width)](
                gate_up,
                product_gradient,
                as_bytes(row_codes),
                as_bytes(column_codes),
                emission.scale,
                emission.amax,
                emission.counts,
                as_bytes(again_rows),
                as_bytes(again_columns),
                None if again is None else again.scale,
                None if again is None else again.amax,
                None if again is None else again.counts,
                rows,
                width,
                gate_up.stride(0),
                product_gradient.stride(0),
                MANTISSA_BITS=emission.format.mantissa_bits,
                AGAIN_MANTISSA_BITS=0 if again is None or again.format is None else again.format.mantissa_bits,
                TILE=TILE,
                num_warps=NUM_WARPS,
            )
    gradient = operand_of(row_codes, column_codes, emission.scale)
    if again is None or again.scale is None:
        return gradient, None
    return gradient, operand_of(again_rows, again_columns, again.scale)
