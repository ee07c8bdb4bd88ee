"""Attention on a CPU in bf16: PyTorch's kernel forward, matrix products backward.

The backward pass of PyTorch's CPU kernel takes as long in bf16 as in fp32, since its products are small. Here they are
of all heads at once, which the processor's bf16 units take whole.

B batch, S sequence length, H query heads, K key/value heads, G = H/K, Dh head dim.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from litespark.ops import on_cpu
from litespark.ops.attention.documents import Documents, check_attention_shapes
from litespark.ops.attention.sdpa import attention_sdpa
from litespark.ops.precision import compute_dtype, dtype_name
from litespark.ops.shapes import StepShapes

# queries whose scores are in memory at once: B · H · _QUERIES · S values
_QUERIES = 256


def attention_cpu(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None, window: int | None = None
) -> Tensor:
    """See `litespark.ops.attention.reference.attention`. A window and cached keys go to `attention_sdpa`."""
    if window is not None or query.shape[1] != key.shape[1]:
        return attention_sdpa(query, key, value, documents, window)
    check_attention_shapes(query, key, value, documents)
    dtype = compute_dtype(query)
    visible = None if documents is None else documents.visible()
    return _Attention.apply(query.to(dtype), key.to(dtype), value.to(dtype), visible)


def why_not(device: torch.device, dtype: torch.dtype, shapes: StepShapes | None = None) -> str | None:
    """Why `attention_cpu` is not faster there; None where it is."""
    if dtype != torch.bfloat16:
        return f"PyTorch's own attention is faster on a CPU in {dtype_name(dtype)}"
    return on_cpu.why_not(device, dtype, shapes)


class _Attention(torch.autograd.Function):
    """`visible` (B, 1, S, S) bool: which keys each query sees; None: all that are not later."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
        ctx.save_for_backward(query, key, value, visible)
        group = query.shape[2] // key.shape[2]
        key, value = (x.repeat_interleave(group, dim=2) if group > 1 else x for x in (key, value))
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        return scaled_dot_product_attention(query, key, value, visible, is_causal=visible is None).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """With P = softmax(scale · Q Kᵀ): dV = Pᵀ dO, dP = dO Vᵀ, dS = P ∘ (dP - rows of Σ P ∘ dP), dQ = scale · dS K,
        dK = scale · dSᵀ Q; a block of queries at a time, over the keys up to its last one."""
        query, key, value, visible = ctx.saved_tensors
        batch, length, _, head_dim = query.shape
        num_kv_heads, scale = key.shape[2], head_dim**-0.5
        # (B·K, G, S, Dh), and (B·K, S, Dh): the queries of a group are rows of one product
        by_group = (x.unflatten(2, (num_kv_heads, -1)).permute(0, 2, 3, 1, 4).flatten(0, 1) for x in (query, upstream))
        q, g = (x.contiguous() for x in by_group)
        k, v = (x.transpose(1, 2).flatten(0, 1) for x in (key, value))
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        hidden = _hidden(visible, length, q)
        for start in range(0, length, _QUERIES):
            rows = slice(start, min(start + _QUERIES, length))
            keys = slice(0, rows.stop)
            block, upstream_block = q[:, :, rows].flatten(1, 2), g[:, :, rows].flatten(1, 2)
            scores = torch.baddbmm(q.new_empty(1), block, k[:, keys].transpose(1, 2), beta=0, alpha=scale)
            scores.view(batch, num_kv_heads, -1, rows.stop - start, rows.stop).add_(hidden[..., rows, keys])
            p = torch.softmax(scores, dim=-1)
            dv[:, keys] += torch.bmm(p.transpose(1, 2), upstream_block)
            dp = torch.bmm(upstream_block, v[:, keys].transpose(1, 2))
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            dq[:, :, rows] = torch.bmm(ds, k[:, keys]).view_as(q[:, :, rows])
            dk[:, keys] += torch.bmm(ds.transpose(1, 2), block)
        dq = dq.mul_(scale).unflatten(0, (batch, num_kv_heads)).permute(0, 3, 1, 2, 4).reshape(query.shape)
        dk, dv = (x.unflatten(0, (batch, num_kv_heads)).transpose(1, 2) for x in (dk.mul_(scale), dv))
        return dq, dk, dv, None


def _hidden(visible: Tensor | None, length: int, like: Tensor) -> Tensor:
    """(B or 1, 1, 1, S, S): 0 where a query sees a key, else -inf."""
    if visible is None:
        return like.new_full((length, length), float("-inf")).triu(1)[None, None, None]
    return like.new_zeros(()).where(visible, float("-inf")).unsqueeze(2)
