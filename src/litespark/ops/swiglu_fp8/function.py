"""SwiGLU and its gradient as operands of products, cast on the way: for emissions that can be fused.

R rows, F width of the product. None of it is differentiated by autograd.
"""

from __future__ import annotations

from torch import Tensor

from litespark.ops.fp8.emission import Emission
from litespark.ops.fp8.function import as_bytes, empty_operand
from litespark.ops.fp8.kernels import TILE, tiles
from litespark.ops.fp8.operands import Operand
from litespark.ops.rms_norm.kernels import as_rows
from litespark.ops.swiglu_fp8.kernels import NUM_WARPS, swiglu_fp8_backward_kernel, swiglu_fp8_forward_kernel
from litespark.ops.triton_support import on_device_of


def swiglu_cast(gate_up: Tensor, emission: Emission) -> Operand:
    """See `litespark.ops.fp8.reference.Pieces.swiglu`; for an emission that is `fused`.

    `gate_up` is in fp32, bf16 or fp16; rows may lie apart, anything else is made contiguous.
    """
    assert emission.format is not None
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    operand = empty_operand(gate_up, width, emission, emission.scale)
    if gate_up.numel():
        gate_up = as_rows(gate_up.detach())
        with on_device_of(gate_up):
            swiglu_fp8_forward_kernel[tiles(rows, width)](
                gate_up,
                as_bytes(operand.rows),
                as_bytes(operand.columns),
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
    return operand


def swiglu_backward_cast(
    gate_up: Tensor, product_gradient: Tensor, emission: Emission, again: Emission | None
) -> tuple[Operand, Operand | None]:
    """See `litespark.ops.fp8.reference.Pieces.swiglu_backward`, in one pass; for emissions that are `fused`.

    Dtypes and strides of both tensors as in `swiglu_cast`.
    """
    assert emission.format is not None
    rows, width = product_gradient.shape
    gradient = empty_operand(gate_up, 2 * width, emission, emission.scale)
    product = None if again is None else empty_operand(gate_up, width, again, again.scale)
    if gate_up.numel():
        gate_up, product_gradient = as_rows(gate_up.detach()), as_rows(product_gradient.detach())
        with on_device_of(gate_up):
            swiglu_fp8_backward_kernel[tiles(rows, width)](
                gate_up,
                product_gradient,
                as_bytes(gradient.rows),
                as_bytes(gradient.columns),
                emission.scale,
                emission.amax,
                emission.counts,
                None if product is None else as_bytes(product.rows),
                None if product is None else as_bytes(product.columns),
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
    return gradient, product
