"""What a block in fp8 is put together from: ops that hand their result over as an operand of products.

None of it is differentiated by autograd: `litespark.ops.linear.function` calls these forward and backward. Two sets
exist, see `ops.fp8` in `litespark.ops.backend`: plain PyTorch, which is the specification, and fused Triton kernels.

R rows (tokens), D width of the model, F width of the product in the MLP.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from litespark.ops.fp8.emission import Emission
from litespark.ops.fp8.operands import Operand


class Pieces(Protocol):
    """A set of pieces. Every `emission` may be of any kind; a set fuses what `Emission.fused` allows."""

    def cast(self, x: Tensor, emission: Emission) -> Operand:
        """(R, C) of any dtype with any strides -> the operand. Without a format: `x` as it is."""
        ...

    def add_rms_norm(
        self,
        x: Tensor,
        update: Tensor | None,
        weight: Tensor,
        epsilon: float,
        emission: Emission,
        *,
        stream_dtype: torch.dtype,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Operand, Tensor]:
        """Stream = x + update, and its RMSNorm as an operand.

        Args:
            x: (R, D); update: the same, or None: the stream is then `x` itself.
            weight: (D,).
            epsilon: added to the mean square.
            emission: of the norm. Fused, it is cast from fp32 and not rounded to `dtype` before.
            stream_dtype: of the sum.
            dtype: of the norm where it is not fused.

        Returns:
            The stream (R, D), the operand of the norm, and 1 / sqrt(mean square + epsilon) (R,) in fp32.
        """
        ...

    def add_rms_norm_backward(
        self,
        norm_gradient: Tensor,
        stream_gradient: Tensor | None,
        stream: Tensor,
        weight: Tensor,
        inverse_rms: Tensor,
        emission: Emission,
        *,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Operand, Tensor]:
        """The gradient of stream and update, which is one and the same, as a tensor and as an operand.

        Args:
            norm_gradient: (R, D); stream_gradient: the same, or None where there is none.
            stream, weight, inverse_rms: of the forward pass.
            emission: of the gradient as that of `update`.
            dtype: of the operand where it has no format.

        Returns:
            The gradient (R, D) in the dtype of `stream`, the operand, and the gradient of the weight in its dtype.
        """
        ...

    def swiglu(self, gate_up: Tensor, emission: Emission, *, dtype: torch.dtype) -> Operand:
        """(R, 2F), gate first -> silu(gate) · up as an operand (R, F); `dtype` is that of a product not fused."""
        ...

    def swiglu_backward(
        self, gate_up: Tensor, product_gradient: Tensor, emission: Emission, again: Emission | None
    ) -> tuple[Operand, Operand | None]:
        """The gradient of `gate_up` as an operand (R, 2F); with `again` also the product of the forward pass once more.

        Args:
            gate_up: (R, 2F), as in the forward pass.
            product_gradient: (R, F).
            emission: of the gradient of gate_up; without a format its operand is in the dtype of `gate_up`.
            again: of the product; None: it is not made again.
        """
        ...
