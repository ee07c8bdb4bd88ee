"""RMSNorm in plain PyTorch: the specification that faster backends are tested against."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x / sqrt(mean(x²) + epsilon) · weight, the mean over the last dimension.

    Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467.

    Args:
        x: (..., D), any floating dtype; bf16 and fp16 are computed in fp32.
        weight: (D,).
        epsilon: added to the mean square.

    Returns:
        (..., D) in the dtype of `x`.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    values = x.to(wide)
    scale = torch.rsqrt(values.square().mean(dim=-1, keepdim=True) + eps)
    return (values * scale * weight.to(wide)).to(x.dtype)


def add_rms_norm(x: Tensor, update: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The residual stream with an update added, and its RMSNorm: s = x + update, y = rms_norm(s).

    Args:
        x: (..., D), the residual stream.
        update: (..., D), what a layer adds to it.
        weight: (D,).
        epsilon: as in `rms_norm`.

    Returns:
        s in the dtype that `x + update` has, and y computed from s as it was rounded to that dtype.
    """
    stream = x + update
    return stream, rms_norm(stream, weight, eps)
