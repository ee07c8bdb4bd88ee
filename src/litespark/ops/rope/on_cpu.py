"""Rotary position embedding on a CPU: queries and keys in one pass, and one gradient that is written in place.

B batch, S sequence length, H query heads, K key/value heads, Dh head dim, Dr how many values of a head are rotated.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litespark.ops import on_cpu
from litespark.ops.rope import reference


def rope_qkv(
    qkv: Tensor, cos: Tensor, sin: Tensor, num_kv_heads: int, interleaved: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """See `litespark.ops.rope.reference.rope_qkv`; the value is a view of `qkv`, query and key of one tensor."""
    learned = cos.requires_grad or sin.requires_grad
    if learned or not on_cpu.takes(qkv, cos, sin) or cos.dtype != torch.float32 or sin.dtype != torch.float32:
        return reference.rope_qkv(qkv, cos, sin, num_kv_heads, interleaved)
    reference.check_rope(qkv, cos, sin, num_kv_heads)
    return _Rope.apply(qkv, cos.contiguous(), sin.contiguous(), num_kv_heads, interleaved)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, num_kv_heads: int, interleaved: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.dtype, ctx.num_kv_heads, ctx.interleaved = qkv.shape, qkv.dtype, num_kv_heads, interleaved
        turned, value = qkv.split([qkv.shape[2] - num_kv_heads, num_kv_heads], dim=2)
        rotated = torch.empty_like(turned, memory_format=torch.contiguous_format)
        _rotate(turned, cos, sin, 1, interleaved, rotated)
        query, key = rotated.split([rotated.shape[2] - num_kv_heads, num_kv_heads], dim=2)
        return query, key, value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        gradient = cos.new_empty(ctx.shape, dtype=ctx.dtype)
        num_kv_heads = ctx.num_kv_heads
        parts = gradient.split([ctx.shape[2] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], dim=2)
        for part, x, sign in zip(parts, upstream, (-1, -1, 0), strict=True):
            if x is None:
                part.zero_()
            else:  # the other way round: the transposed of a rotation
                _rotate(x, cos, sin, sign, ctx.interleaved, part)
        return gradient, None, None, None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: int, interleaved: bool, rotated: Tensor) -> None:
    """`reference.rope` of one tensor by `sign` times the angles, into `rotated`; a copy where it is 0."""
    if x.stride(-1) != 1:
        x = x.contiguous()
    sequences, length, heads, head_dim = x.shape
    half, apart = cos.shape[-1], 0 if cos.shape[0] == 1 else cos.stride(0)
    steps = [(ctypes.c_int64 * 3)(*of.stride()[:3]) for of in (x, rotated)]
    on_cpu.run(
        "rope", sequences, length, heads, head_dim, half, x, steps[0], rotated.data_ptr(), steps[1], cos.data_ptr(),
        sin.data_ptr(), apart, sign, interleaved,
    )  # fmt: skip
