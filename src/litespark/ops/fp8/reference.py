"""What a block in fp8 is put together from: ops that hand their result over as an operand of products.

`litespark.ops.linear.function` calls these forward and backward. `Pieces` is the specification in plain PyTorch, exact
to the code, on any device; `litespark.ops.fp8.fused` has the same in Triton.

R rows (tokens), D hidden size, F intermediate size.
"""

from typing import ClassVar

import torch
from torch import Tensor

from litespark.ops.fp8.formats import amax_bits, power_of_two_scale, quantised, saturation_and_underflow
from litespark.ops.fp8.operands import Matrix, Operand, Quantisation, plain


class Pieces:
    """A set of pieces. Every `quantisation` may be of any kind; a set fuses what `Quantisation.fused` allows.

    One that is not `fusing` rounds to the dtype of activations whatever a producer makes, and casts that.
    """

    fusing: ClassVar[bool] = True

    def cast(self, x: Tensor, quantisation: Quantisation) -> Operand:
        """(R, C) of any dtype with any strides -> the operand. Without a format: `x` as it is."""
        if quantisation.format is None:
            return plain(x)
        format = quantisation.format
        bits = amax_bits(x)
        if quantisation.amax is not None:
            torch.maximum(quantisation.amax, bits, out=quantisation.amax)
        scale = quantisation.scale
        into = quantisation.into
        if scale is None:
            scale = power_of_two_scale(bits.view(torch.float32), format)
            if into is not None and into.scale is not None:
                scale = into.scale.copy_(scale)
        if quantisation.counts is not None:
            quantisation.counts.add_(saturation_and_underflow(x, scale, format))
        codes = quantised(x, scale, format)
        if into is not None:
            for kept, made in ((into.rows, codes), (into.columns, codes.T)):
                if kept is not None:
                    kept.values.copy_(made)
            return into.with_scale(scale)
        rows = Matrix(codes.contiguous(), scale) if quantisation.rows else None
        columns = Matrix(codes.T.contiguous(), scale) if quantisation.columns else None
        return Operand(rows, columns)

    def turn(self, operand: Operand) -> None:
        """Fill the codes (C, R) from the codes (R, C)."""
        assert operand.rows is not None
        assert operand.columns is not None
        operand.columns.values.copy_(operand.rows.values.T)

    def add_rms_norm(
        self, x: Tensor, update: Tensor | None, weight: Tensor, eps: float, quantisation: Quantisation, *,
        stream_dtype: torch.dtype, dtype: torch.dtype,
    ) -> tuple[Tensor, Operand, Tensor]:  # fmt: skip
        """Stream = x + update (R, D) in `stream_dtype`, `x` itself without an update; its RMSNorm as an operand.

        Quantised on its way, the norm is cast from fp32; else it is rounded to `dtype` first. The third result is
        1 / sqrt(mean square + eps) (R,) in fp32.
        """
        stream = x if update is None else (x.float() + update.float()).to(stream_dtype)
        wide = stream.float()
        inverse_rms = torch.rsqrt(wide.square().mean(dim=-1) + eps)
        normed = wide * inverse_rms[:, None] * weight.float()
        fused = self.fusing and quantisation.fused
        return stream, self.cast(normed if fused else normed.to(dtype), quantisation), inverse_rms

    def add_rms_norm_backward(
        self, norm_gradient: Tensor, stream_gradient: Tensor | None, stream: Tensor, weight: Tensor,
        inverse_rms: Tensor, quantisation: Quantisation, *, dtype: torch.dtype,
    ) -> tuple[Tensor, Operand, Tensor]:  # fmt: skip
        """The gradient of stream and update, which is one: as a tensor in the dtype of `stream`, and as an operand.

        The operand without a format is in `dtype`; the third result is the gradient of the weight in its dtype.
        """
        incoming = norm_gradient.float()
        normed = stream.float() * inverse_rms[:, None]
        weighted = incoming * weight.float()
        outgoing = inverse_rms[:, None] * (weighted - normed * (weighted * normed).mean(dim=-1, keepdim=True))
        if stream_gradient is not None:
            outgoing = outgoing + stream_gradient.float()
        operand = self.cast(outgoing if self.fusing and quantisation.fused else outgoing.to(dtype), quantisation)
        return outgoing.to(stream.dtype), operand, (incoming * normed).sum(dim=0).to(weight.dtype)

    def swiglu(self, gate_up: Tensor, quantisation: Quantisation, *, dtype: torch.dtype) -> Operand:
        """(R, 2F), gate first -> silu(gate) · up as an operand (R, F); `dtype` is that of a product not fused."""
        gate, up = gate_up.float().chunk(2, dim=-1)
        product = gate * torch.sigmoid(gate) * up
        return self.cast(product if self.fusing and quantisation.fused else product.to(dtype), quantisation)

    def swiglu_backward(
        self, gate_up: Tensor, product_gradient: Tensor, quantisation: Quantisation, again: Quantisation | None
    ) -> tuple[Operand, Operand | None]:
        """The gradient of `gate_up` as an operand (R, 2F); with `again` also the product of the forward pass once more.

        Without a format the first is in the dtype of `gate_up`, the second in that of `product_gradient`.
        """
        gate, up = gate_up.float().chunk(2, dim=-1)
        incoming = product_gradient.float()
        slope = torch.sigmoid(gate)
        activated = gate * slope
        gradient = torch.cat([incoming * up * slope * (1 + gate * (1 - slope)), incoming * activated], dim=-1)
        fused = self.fusing and quantisation.fused
        operand = self.cast(gradient if fused else gradient.to(gate_up.dtype), quantisation)
        if again is None:
            return operand, None
        product = activated * up
        return operand, self.cast(product if self.fusing and again.fused else product.to(product_gradient.dtype), again)


class PiecesApart(Pieces):
    """The same, with every cast a pass of its own."""

    fusing = False


PIECES, PIECES_APART = Pieces(), PiecesApart()
