"""The pieces of a block in fp8 in plain PyTorch: the specification, exact to the code, on any device.

What follows a product of fp8 is computed in fp32 and cast once, as fused kernels do it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from litespark.ops.fp8.emission import Emission, raise_to
from litespark.ops.fp8.formats import Format, amax_bits, lost, power_of_two_scale, quantized
from litespark.ops.fp8.operands import Matrix, Operand, plain


class ReferencePieces:
    """Plain PyTorch; see `litespark.ops.fp8.pieces.Pieces` for every method."""

    def cast(self, x: Tensor, emission: Emission) -> Operand:
        if emission.format is None:
            return plain(x)
        format = emission.format
        bits = amax_bits(x)
        raise_to(emission.amax, bits)
        if emission.rowwise:
            row_scale = _scale_of_rows(x, format)
            column_scale = _scale_of_rows(x.T, format)
        else:
            found = power_of_two_scale(bits.view(torch.float32), format) if emission.scale is None else emission.scale
            row_scale = column_scale = found
        if emission.counts is not None:
            emission.counts.add_(lost(x, row_scale, format))
        rows = Matrix(quantized(x, row_scale, format), row_scale) if emission.rows else None
        columns = Matrix(quantized(x.T, column_scale, format).contiguous(), column_scale) if emission.columns else None
        return Operand(rows, columns)

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
        stream = x if update is None else (x.float() + update.float()).to(stream_dtype)
        wide = stream.float()
        inverse_rms = torch.rsqrt(wide.square().mean(dim=-1) + epsilon)
        normed = wide * inverse_rms[:, None] * weight.float()
        return stream, self.cast(normed if emission.fused else normed.to(dtype), emission), inverse_rms

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
        incoming = norm_gradient.float()
        normed = stream.float() * inverse_rms[:, None]
        weighted = incoming * weight.float()
        outgoing = inverse_rms[:, None] * (weighted - normed * (weighted * normed).mean(dim=-1, keepdim=True))
        if stream_gradient is not None:
            outgoing = outgoing + stream_gradient.float()
        operand = self.cast(outgoing if emission.fused else outgoing.to(dtype), emission)
        return outgoing.to(stream.dtype), operand, (incoming * normed).sum(dim=0).to(weight.dtype)

    def swiglu(self, gate_up: Tensor, emission: Emission, *, dtype: torch.dtype) -> Operand:
        gate, up = gate_up.float().chunk(2, dim=-1)
        product = gate * torch.sigmoid(gate) * up
        return self.cast(product if emission.fused else product.to(dtype), emission)

    def swiglu_backward(
        self, gate_up: Tensor, product_gradient: Tensor, emission: Emission, again: Emission | None
    ) -> tuple[Operand, Operand | None]:
        gate, up = gate_up.float().chunk(2, dim=-1)
        incoming = product_gradient.float()
        slope = torch.sigmoid(gate)
        activated = gate * slope
        gradient = torch.cat([incoming * up * slope * (1 + gate * (1 - slope)), incoming * activated], dim=-1)
        operand = self.cast(gradient if emission.fused else gradient.to(gate_up.dtype), emission)
        if again is None:
            return operand, None
        product = activated * up
        return operand, self.cast(product if again.fused else product.to(product_gradient.dtype), again)


PIECES = ReferencePieces()


def _scale_of_rows(x: Tensor, format: Format) -> Tensor:
    return power_of_two_scale(amax_bits(x, dim=1, keepdim=True).view(torch.float32), format)
