"""The pieces of a block in fp8 in Triton: producers cast on their way where the scale is known, else after it."""

import torch
from torch import Tensor

from litespark.ops.fp8 import kernels
from litespark.ops.fp8.operands import Matrix, Operand, Quantisation
from litespark.ops.fp8.reference import Pieces
from litespark.ops.rms_norm.kernels import rms_norm_backward, rms_norm_forward
from litespark.ops.rms_norm.kernels import structure as rms_norm_structure
from litespark.ops.shapes import Place
from litespark.ops.structure import far, in_parts
from litespark.ops.swiglu.kernels import swiglu_backward, swiglu_forward
from litespark.ops.swiglu_fp8.kernels import swiglu_backward_cast, swiglu_cast


class FusedPieces(Pieces):
    """Over the Triton kernels; every method as its reference."""

    def cast(self, x: Tensor, quantisation: Quantisation) -> Operand:
        return kernels.cast(x, quantisation)

    def turn(self, operand: Operand) -> None:
        kernels.transpose(operand)

    def add_rms_norm(
        self, x: Tensor, update: Tensor | None, weight: Tensor, eps: float, quantisation: Quantisation, *,
        stream_dtype: torch.dtype, dtype: torch.dtype,
    ) -> tuple[Tensor, Operand, Tensor]:  # fmt: skip
        fused = quantisation if self.fusing and quantisation.fused else None
        if fused is not None and fused.format is not None:
            dtype = fused.format.dtype
        stream, normed, inverse_rms = rms_norm_forward(x, update, weight, eps, stream_dtype, dtype, fused)
        operand = self.cast(normed, quantisation) if fused is None else _both_layouts(normed, fused)
        return x if stream is None else stream, operand, inverse_rms

    def add_rms_norm_backward(
        self, norm_gradient: Tensor, stream_gradient: Tensor | None, stream: Tensor, weight: Tensor,
        inverse_rms: Tensor, quantisation: Quantisation, *, dtype: torch.dtype,
    ) -> tuple[Tensor, Operand, Tensor]:  # fmt: skip
        fused = quantisation if self.fusing and quantisation.fused else None
        if fused is not None and fused.format is not None:
            dtype = fused.format.dtype
        gradient, second, weight_gradient = rms_norm_backward(
            norm_gradient, stream_gradient, stream, weight, inverse_rms, stream.dtype, dtype, fused
        )
        second = gradient if second is None else second
        operand = self.cast(second, quantisation) if fused is None else _both_layouts(second, fused)
        return gradient, operand, weight_gradient

    def swiglu(self, gate_up: Tensor, quantisation: Quantisation, *, dtype: torch.dtype) -> Operand:
        if self.fusing and quantisation.fused:
            return swiglu_cast(gate_up, quantisation)
        return self.cast(swiglu_forward(gate_up, dtype), quantisation)

    def swiglu_backward(
        self, gate_up: Tensor, product_gradient: Tensor, quantisation: Quantisation, again: Quantisation | None
    ) -> tuple[Operand, Operand | None]:
        fused, again_fused = (self.fusing and it is not None and it.fused for it in (quantisation, again))
        if fused and (again is None or again_fused):
            return swiglu_backward_cast(gate_up, product_gradient, quantisation, again)
        dtype, product = product_gradient.dtype, None
        if fused:
            gradient, _ = swiglu_backward_cast(gate_up, product_gradient, quantisation, None)
        else:
            product_dtype = None if again is None or again_fused else dtype
            wide_gradient, product = swiglu_backward(gate_up, product_gradient, product_dtype)
            gradient = self.cast(wide_gradient, quantisation)
        if again is None:
            return gradient, None
        # layers of different kinds: the product takes a pass of its own
        return gradient, self.swiglu(gate_up, again, dtype=dtype) if product is None else self.cast(product, again)


def _both_layouts(codes: Tensor, quantisation: Quantisation) -> Operand:
    """An operand of codes (R, C). A row of a norm is read once, and its codes are turned in a pass of their own."""
    columns = Matrix(codes.new_empty(codes.shape[1], codes.shape[0]), quantisation.scale)
    operand = Operand(Matrix(codes, quantisation.scale), columns if quantisation.columns else None)
    if quantisation.columns and codes.numel():
        kernels.transpose(operand)
    return operand if quantisation.rows else Operand(None, columns)


class FusedPiecesApart(FusedPieces):
    """The same kernels of producers in the dtype of activations, with every cast a pass of its own."""

    fusing = False


PIECES, PIECES_APART = FusedPieces(), FusedPiecesApart()


def structure(place: Place) -> set[str]:
    """The structural cases of all kernels, see `litespark.ops.structure`; tiles of a cast are square."""
    shapes = place.shapes
    cases = rms_norm_structure(place) | {f"rows {'' if kernels.whole(shapes.tokens) else 'not '}in whole words"}
    sizes = {"tokens": shapes.tokens, "hidden size": shapes.hidden_size, "intermediate size": shapes.intermediate_size}
    for tile, names in ((kernels.TILE, [*sizes]), (kernels.TRANSPOSED_TILE, ["tokens", "hidden size"])):
        cases |= {case for name in names for case in in_parts(f"tile of {tile} of the {name}", sizes[name], tile)}
    return cases | far(shapes.tokens * 2 * shapes.intermediate_size)
