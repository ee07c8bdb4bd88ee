"""RMSNorm on a CPU: four passes backward and two products with vectors, where PyTorch's own makes ten passes."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litespark.ops.precision import autocast_off, compute_dtype
from litespark.ops.rms_norm.torch_native import rms_norm_torch


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `litespark.ops.rms_norm.reference.rms_norm`; under autocast the result is in the dtype of autocast."""
    if torch.compiler.is_compiling():
        return rms_norm_torch(x, weight, eps)  # the compiler fuses it
    return _RMSNorm.apply(x, weight, eps, compute_dtype(x))


def add_rms_norm(x: Tensor, update: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `litespark.ops.rms_norm.reference.add_rms_norm`: a plain addition, then `rms_norm`."""
    stream = x + update
    return stream, rms_norm(stream, weight, eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        values = x.to(wide)
        squares = torch.linalg.vector_norm(values, dim=-1, keepdim=True).square_()
        scale = squares.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (values * scale).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """With r = 1 / root mean square: dw = Σ r · (g ∘ x) over rows, dx = r · (g ∘ w) - r³ / D · ⟨g ∘ x, w⟩ · x."""
        x, weight, scale = ctx.saved_tensors
        wide = scale.dtype
        values, g, w = (t.to(wide).reshape(-1, x.shape[-1]) for t in (x, upstream, weight))
        r = scale.reshape(-1)
        products = g * values
        with autocast_off(x):  # where the backward pass is within it, the products would be rounded
            weight_gradient = torch.mv(products.t(), r)
            coefficient = torch.mv(products, w[0]).mul_(r.pow(3)).div_(-x.shape[-1])
        torch.mul(g, w, out=products).mul_(r[:, None]).addcmul_(values, coefficient[:, None])
        return products.view(x.shape).to(x.dtype), weight_gradient.to(weight.dtype), None, None
