"""RMSNorm in plain PyTorch: the specification that faster backends are tested against."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = x / sqrt(mean(x²) + eps) · weight over the last dimension, in the dtype of `x`; bf16 and fp16 in fp32.

    Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    values = x.to(wide)
    scale = torch.rsqrt(values.square().mean(dim=-1, keepdim=True) + eps)
    return (values * scale * weight.to(wide)).to(x.dtype)


def add_rms_norm(
    x: Tensor,
    update: Tensor,
    weight: Tensor | None,
    eps: float,
    update_norm: tuple[Tensor, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """The residual stream with an update added, s = x + update, and its RMSNorm y = rms_norm(s).

    With `update_norm`, a weight (D,) and an epsilon, the norm of the update is added, s = x + rms_norm(update). Without
    a `weight` y is s, as matrix products read it: in the dtype of autocast where a backend is under it.

    y is computed from s as it was rounded to the dtype that `x + update` has.
    """
    stream = x + (update if update_norm is None else rms_norm(update, *update_norm))
    return stream, stream if weight is None else rms_norm(stream, weight, eps)
