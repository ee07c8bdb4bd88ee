"""RMSNorm on a CPU, alone and with the residual addition: one pass forward and one backward."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litespark.ops import on_cpu
from litespark.ops.precision import compute_dtype
from litespark.ops.rms_norm.torch_native import add_rms_norm_torch, rms_norm_torch

# rows that are summed up together for the gradient of the weight
_ROWS = 64


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `litespark.ops.rms_norm.reference.rms_norm`; under autocast the result is in the dtype of autocast."""
    if not on_cpu.takes(x, weight):
        return rms_norm_torch(x, weight, eps)
    y: Tensor = _RMSNorm.apply(x, None, weight, eps, compute_dtype(x))[1]
    return y


def add_rms_norm(
    x: Tensor, update: Tensor, weight: Tensor | None, eps: float, update_norm: tuple[Tensor, float] | None = None
) -> tuple[Tensor, Tensor]:
    """See `litespark.ops.rms_norm.reference.add_rms_norm`; dtypes as in `rms_norm`. A norm of the update is a pass."""
    if update_norm is not None:
        update = rms_norm(update, *update_norm)
    if weight is None or not on_cpu.takes(x, update, weight):
        return add_rms_norm_torch(x, update, weight, eps)
    wider = x if x.dtype == torch.promote_types(x.dtype, update.dtype) else update
    stream, y = _RMSNorm.apply(x, update, weight, eps, compute_dtype(wider))
    return stream, y


class _RMSNorm(torch.autograd.Function):
    """The stream, which is `x` itself without an update, and its norm."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, update: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor]:
        ctx.dtypes = x.dtype, None if update is None else update.dtype
        ctx.set_materialize_grads(False)
        x, update = x.contiguous(), None if update is None else update.contiguous()
        stream = None if update is None else torch.empty_like(x, dtype=torch.promote_types(x.dtype, update.dtype))
        y, width = torch.empty_like(x, dtype=dtype), x.shape[-1]
        inverse_rms = x.new_empty(x.numel() // width, dtype=torch.float32)
        wide = weight.float().contiguous()
        rows = len(inverse_rms)
        on_cpu.run("add_rms_norm", rows, width, eps, x, update, wide.data_ptr(), stream, y, inverse_rms.data_ptr())
        ctx.save_for_backward(x if stream is None else stream, weight, inverse_rms)
        return stream, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, passed: Tensor | None, upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        """With r = 1 / root mean square: dw = Σ r · (g ∘ x) over rows, dx = r · (g ∘ w) - r³ / D · ⟨g ∘ x, w⟩ · x."""
        stream, weight, inverse_rms = ctx.saved_tensors
        x_dtype, update_dtype = ctx.dtypes
        if upstream is None:
            of_both = None if passed is None else (passed.to(x_dtype), passed.to(update_dtype))
            return *(of_both or (None, None)), None, None, None
        rows, width = len(inverse_rms), stream.shape[-1]
        upstream, passed = upstream.contiguous(), None if passed is None else passed.contiguous()
        gradient = torch.empty_like(stream)
        other = x_dtype if x_dtype != stream.dtype else update_dtype or x_dtype
        again = None if other == stream.dtype else torch.empty_like(stream, dtype=other)
        parts = max(1, -(-rows // _ROWS))
        of_weight = inverse_rms.new_empty(parts, width)
        wide = weight.float().contiguous()
        on_cpu.run(
            "rms_norm_backward", rows, width, upstream, passed, stream, wide.data_ptr(), inverse_rms.data_ptr(),
            gradient, again, of_weight.data_ptr(), parts,
        )  # fmt: skip
        by_dtype = {stream.dtype: gradient, other: gradient if again is None else again}
        of_update = None if update_dtype is None else by_dtype[update_dtype]
        return by_dtype[x_dtype], of_update, of_weight.sum(0).to(weight.dtype), None, None
