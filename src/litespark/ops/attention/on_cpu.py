"""Attention on a CPU: each document by itself, and in bf16 products of all heads at once.

A mask costs the work of a whole sequence, however short its documents are. PyTorch's CPU kernel takes as long in bf16
as in fp32, since its products are small; those of all heads the processor's bf16 units take whole.

B batch, S sequence length, H query heads, K key/value heads, G = H/K, Dh head dim.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litespark.ops import on_cpu
from litespark.ops.attention.documents import Documents, check_attention, refuse_softcap
from litespark.ops.attention.sdpa import attention_sdpa
from litespark.ops.precision import compute_dtype, dtype_name
from litespark.ops.shapes import StepShapes

# queries whose scores are in memory at once: B · H · _QUERIES · S values
_QUERIES = 256
# sequences in which a call for each document costs less than a mask does
_SHORTEST = 128


def attention_cpu(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None, window: int | None = None,
    scale: float | None = None, softcap: float | None = None,
) -> Tensor:  # fmt: skip
    """See `litespark.ops.attention.reference.attention`. A window, branches and cached keys go to
    `attention_sdpa`.

    There is no softcap.
    """
    refuse_softcap("cpu", softcap)
    query, key, value = (x.to(compute_dtype(query)) for x in (query, key, value))
    branches = documents is not None and documents.branches is not None
    if branches or window is not None or query.shape[1] != key.shape[1] or not on_cpu.takes(query, key, value):
        return attention_sdpa(query, key, value, documents, window, scale)
    check_attention(query, key, value, documents, scale=scale)
    if documents is not None:
        return _of_each(query, key, value, documents, scale)
    if query.dtype == torch.float32:
        return attention_sdpa(query, key, value, None, None, scale)
    output: Tensor = _Attention.apply(query, key, value, query.shape[3] ** -0.5 if scale is None else scale)
    return output


def _of_each(query: Tensor, key: Tensor, value: Tensor, documents: Documents, scale: float | None) -> Tensor:
    """One document after the other, as they lie end to end in all sequences."""
    lengths = [end - begin for begin, end in itertools.pairwise(documents.cu_seqlens().tolist()) if end > begin]
    pieces = zip(*(x.flatten(0, 1).split(lengths) for x in (query, key, value)), strict=True)
    outputs = [attention_cpu(q[None], k[None], v[None], scale=scale) for q, k, v in pieces]
    return torch.cat(outputs, dim=1).view(query.shape)


def why_not(device: torch.device, dtype: torch.dtype, shapes: StepShapes | None = None) -> str | None:
    """Why `attention_cpu` is not faster there; None where it is."""
    packed = shapes is not None and shapes.documents and shapes.length >= _SHORTEST
    if dtype != torch.bfloat16 and not packed:
        return f"PyTorch's own attention is faster on a CPU in {dtype_name(dtype)}"
    return on_cpu.why_not(device, dtype, shapes)


class _Attention(torch.autograd.Function):
    """Each query sees the keys that are not later."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        num_kv_heads = key.shape[2]
        q, k, v = _by_group(query, num_kv_heads), _by_head(key), _by_head(value)
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        by_group = output.unflatten(2, (num_kv_heads, -1)).permute(0, 2, 3, 1, 4)
        for rows, keys in _blocks(query.shape[1]):
            p = _probabilities(q[:, :, rows].flatten(1, 2), k[:, keys], rows, scale)
            by_group[:, :, :, rows] = torch.bmm(p, v[:, keys]).view_as(by_group[:, :, :, rows])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """With P = softmax(scale · Q Kᵀ): dV = Pᵀ dO, dP = dO Vᵀ, dS = scale · P ∘ (dP - rows of Σ P ∘ dP), dQ = dS K,
        dK = dSᵀ Q; a block of queries at a time, over the keys up to its last one."""
        query, key, value = ctx.saved_tensors
        shape = query.shape[0], key.shape[2]
        q, g, k, v = (*(_by_group(x, shape[1]) for x in (query, upstream)), _by_head(key), _by_head(value))
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for rows, keys in _blocks(query.shape[1]):
            block, upstream_block = q[:, :, rows].flatten(1, 2), g[:, :, rows].flatten(1, 2)
            p = _probabilities(block, k[:, keys], rows, ctx.scale)
            dv[:, keys] += torch.bmm(p.transpose(1, 2), upstream_block)
            ds = torch.bmm(upstream_block, v[:, keys].transpose(1, 2))
            on_cpu.run("softmax_backward", *ds.flatten(0, 1).shape, p, ds.data_ptr(), ctx.scale)
            dq[:, :, rows] = torch.bmm(ds, k[:, keys]).view_as(q[:, :, rows])
            dk[:, keys] += torch.bmm(ds.transpose(1, 2), block)
        dq = dq.unflatten(0, shape).permute(0, 3, 1, 2, 4).reshape(query.shape)
        dk, dv = (x.unflatten(0, shape).transpose(1, 2) for x in (dk, dv))
        return dq, dk, dv, None


def _by_group(x: Tensor, num_kv_heads: int) -> Tensor:
    """(B, S, H, Dh) -> (B·K, G, S, Dh): the queries of a group are rows of one product."""
    return x.unflatten(2, (num_kv_heads, -1)).permute(0, 2, 3, 1, 4).flatten(0, 1).contiguous()


def _by_head(x: Tensor) -> Tensor:
    """(B, S, K, Dh) -> (B·K, S, Dh)."""
    return x.transpose(1, 2).flatten(0, 1)


def _blocks(length: int) -> Iterator[tuple[slice, slice]]:
    """Queries that are taken at once, and the keys that they see."""
    for start in range(0, length, _QUERIES):
        end = min(start + _QUERIES, length)
        yield slice(start, end), slice(0, end)


def _probabilities(block: Tensor, keys: Tensor, rows: slice, scale: float) -> Tensor:
    """P (B·K, G·rows, keys) of a block of queries."""
    scores = torch.bmm(block, keys.transpose(1, 2))
    on_cpu.run("softmax", *scores.flatten(0, 1).shape, scores, scale, rows.stop - rows.start, rows.start, 0, 1, 0)
    return scores
