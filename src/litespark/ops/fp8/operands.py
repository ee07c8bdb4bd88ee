"""What matrix products multiply, how a producer is asked for it, and the product itself.

A product contracts the last dimension of both of its matrices, which is the only layout that fp8 units up to Hopper
take. A linear layer contracts each of its three tensors along both dimensions in turn, so that each is held twice:

    y = x · Wᵀ                x.rows (T, K)      weight.rows (N, K)
    gradient of x = g · W     g.rows (T, N)      weight.columns (K, N)
    gradient of W = gᵀ · x    g.columns (N, T)   x.columns (K, T)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from litespark.ops.fp8.formats import Format

# the products of fp8 units contract and deliver whole multiples of this
MULTIPLE = 16


@dataclass(frozen=True)
class Quantisation:
    """How a producer is to hand a tensor over to products."""

    format: Format | None  # of the codes; None: no fp8, an operand in the dtype of the activations
    # () fp32 power of two that is known beforehand, which lets the cast be part of the producer; None: from the
    # tensor itself, which takes a pass of its own
    scale: Tensor | None = None
    # rows, columns: which layouts of the operand are wanted
    rows: bool = True
    columns: bool = True
    amax: Tensor | None = None  # () int32, raised to `amax_bits` of the tensor before the cast; None: not wanted
    counts: Tensor | None = None  # (2,) int64, to which `saturation_and_underflow` is added; None: not wanted
    into: "Operand | None" = None  # whose memory `Pieces.cast` fills; None: new memory

    @property
    def fused(self) -> bool:
        """Whether the producer can cast on its way: all that it needs is known before it starts."""
        return self.format is not None and self.scale is not None


@dataclass(frozen=True)
class Matrix:
    """(M, K), to be contracted over K."""

    # codes of an fp8 format, contiguous; or, without a scale, values in a wider dtype with any strides
    values: Tensor
    scale: Tensor | None = None  # () fp32 power of two; None: there is none to apply

    @property
    def in_fp8(self) -> bool:
        """Whether the values are codes."""
        return self.scale is not None

    def wide(self) -> Tensor:
        """The values in fp32, (M, K)."""
        return self.values.float() if self.scale is None else self.values.float() * self.scale


@dataclass(frozen=True)
class Operand:
    """A tensor (R, C) in the layouts that products need; None: not made, since no product contracts along it."""

    rows: Matrix | None  # (R, C), contracted over C
    columns: Matrix | None  # (C, R), contracted over R

    @property
    def scale(self) -> Tensor | None:
        """That of both layouts."""
        matrix = self.rows or self.columns
        return None if matrix is None else matrix.scale

    def with_scale(self, scale: Tensor | None) -> "Operand":
        """The same memory of codes, with another tensor for their scale."""
        layouts = (None if of is None else Matrix(of.values, scale) for of in (self.rows, self.columns))
        return Operand(*layouts)


def plain(values: Tensor) -> Operand:
    """An operand that stays in its dtype: (R, C), twice the same memory."""
    return Operand(Matrix(values), Matrix(values.T))


def product(left: Matrix | None, right: Matrix | None, dtype: torch.dtype, *, simulate: bool, fast: bool) -> Tensor:
    """left (M, K) · right (N, K)ᵀ -> (M, N) in `dtype`, contiguous; if one is not in fp8, the other is widened to it.

    To `simulate` multiplies the values behind the codes in fp32, on any device. `fast` lets fp8 units add up with fewer
    bits, as is usual forward; backward it costs accuracy.
    """
    assert left is not None
    assert right is not None
    if left.scale is None or right.scale is None:
        return (_widened(left, right) @ _widened(right, left).T).to(dtype)
    if simulate:
        return (left.values.float() @ right.values.float().T * (left.scale * right.scale)).to(dtype)
    return torch._scaled_mm(left.values, right.values.T, left.scale, right.scale, out_dtype=dtype, use_fast_accum=fast)


def _widened(matrix: Matrix, other: Matrix) -> Tensor:
    return matrix.wide().to(other.values.dtype) if matrix.in_fp8 else matrix.values
