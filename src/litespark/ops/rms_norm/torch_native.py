"""RMSNorm through PyTorch's own kernel (`torch.nn.functional.rms_norm`), which is fused on CUDA."""

import torch
from torch import Tensor
from torch.nn import functional

from litespark.ops.precision import autocast_off, compute_dtype


def rms_norm_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `litespark.ops.rms_norm.reference.rms_norm`; under autocast the result is in the dtype of autocast.

    The kernel is fused where `x` and `weight` have one dtype; where they differ both are first widened to the dtype
    that holds them, which costs passes over memory.
    """
    # autocast would choose a dtype for the kernel by itself, another one in each release
    dtype = compute_dtype(x)
    with autocast_off(x):
        wide = torch.promote_types(x.dtype, weight.dtype)
        return functional.rms_norm(x.to(wide), weight.shape, weight.to(wide), eps).to(dtype)


def add_rms_norm_torch(
    x: Tensor, update: Tensor, weight: Tensor | None, eps: float, update_norm: tuple[Tensor, float] | None = None
) -> tuple[Tensor, Tensor]:
    """See `litespark.ops.rms_norm.reference.add_rms_norm`: a plain addition between norms of `rms_norm_torch`."""
    stream = x + (update if update_norm is None else rms_norm_torch(update, *update_norm))
    return stream, stream if weight is None else rms_norm_torch(stream, weight, eps)
