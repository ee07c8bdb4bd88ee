"""Rotary position embedding on a CPU: queries and keys at once, and one gradient that is written in place.

B batch, S sequence length, H query heads, K key/value heads, Dh head dim.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litespark.ops.rope import reference


def rope_qkv(qkv: Tensor, cos: Tensor, sin: Tensor, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `litespark.ops.rope.reference.rope_qkv`; the value is a view of `qkv`, query and key of one tensor."""
    if torch.compiler.is_compiling() or cos.requires_grad or sin.requires_grad:
        return reference.rope_qkv(qkv, cos, sin, num_kv_heads)
    return _Rope.apply(qkv, cos, sin, num_kv_heads)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.dtype, ctx.num_kv_heads = qkv.shape, qkv.dtype, num_kv_heads
        turned, value = qkv.split([qkv.shape[2] - num_kv_heads, num_kv_heads], dim=2)
        turned = _rotated(turned, cos, sin).to(qkv.dtype)
        query, key = turned.split([turned.shape[2] - num_kv_heads, num_kv_heads], dim=2)
        return query, key, value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        gradient = cos.new_empty(ctx.shape, dtype=ctx.dtype)
        num_kv_heads = ctx.num_kv_heads
        parts = gradient.split([ctx.shape[2] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], dim=2)
        for part, x, turned in zip(parts, upstream, (True, True, False), strict=True):
            if x is None:
                part.zero_()
            else:  # the other way round: the transposed of a rotation
                part.copy_(_rotated(x, cos, -sin) if turned else x)
        return gradient, None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`reference.rope` of one tensor, in fp32 at least."""
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    rotated = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (first, second), (to_first, to_second) = x.chunk(2, dim=-1), rotated.chunk(2, dim=-1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin)
    return rotated
