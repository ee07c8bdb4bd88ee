"""The two halves of a block around its attention in plain PyTorch, without fp8: the specification of their fp8 forms.

T tokens, D width of the model, N width of queries, keys and values, F width of the product in the MLP.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear

from litespark.ops.rms_norm.reference import add_rms_norm, rms_norm
from litespark.ops.swiglu.reference import swiglu


def norm_linear(
    x: Tensor, update: Tensor | None, norm_weight: Tensor, epsilon: float, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Stream = x + update, and RMSNorm(stream) · weightᵀ.

    Args:
        x: (..., D), the residual stream; update: the same, or None: the stream is then `x`.
        norm_weight: (D,).
        epsilon: added to the mean square.
        weight: (N, D).

    Returns:
        The stream (..., D) in the dtype of x + update, and (..., N) in that of a product, under autocast autocast's.
    """
    if update is None:
        return x, linear(rms_norm(x, norm_weight, epsilon), weight)
    stream, normed = add_rms_norm(x, update, norm_weight, epsilon)
    return stream, linear(normed, weight)


def projection_mlp(
    stream: Tensor,
    attended: Tensor,
    norm_weight: Tensor,
    epsilon: float,
    output_weight: Tensor,
    gate_up_weight: Tensor,
    down_weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """Stream' = stream + attended · outputᵀ, and its MLP: swiglu(RMSNorm(stream') · gate_upᵀ) · downᵀ, not yet added.

    Args:
        stream: (..., D).
        attended: (..., H·Dh).
        norm_weight: (D,).
        epsilon: added to the mean square.
        output_weight: (D, H·Dh); gate_up_weight: (2F, D), gate first; down_weight: (D, F).

    Returns:
        Stream' (..., D) in the dtype of the sum, and the update (..., D) in that of a product.
    """
    stream, normed = add_rms_norm(stream, linear(attended, output_weight), norm_weight, epsilon)
    return stream, linear(swiglu(linear(normed, gate_up_weight)), down_weight)
