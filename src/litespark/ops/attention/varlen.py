"""Attention through `torch.nn.attention.varlen`: FlashAttention over documents laid end to end, without any mask.

B batch, S queries, T keys, H query heads, K key/value heads, Dh head dim, N documents in all sequences together.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from litespark.device import device_of
from litespark.ops.attention.documents import Documents, check_attention, refuse_branches, refuse_softcap
from litespark.ops.attention.sdpa import attention_sdpa
from litespark.ops.precision import compute_dtype
from litespark.ops.shapes import StepShapes

DTYPES = (torch.bfloat16, torch.float16)
_OLDEST_CAPABILITY = (8, 0)
_MOST_HEAD_DIM = 256
# FlashAttention-2's backward pass of these head dimensions needs more shared memory than some devices have
_HEAD_DIMS_OF_LARGE_DEVICES = range(193, 225)
_SMALL_SHARED_MEMORY = ((8, 6), (8, 9), (12, 0), (12, 1))
# releases without the argument hand grouped heads to the same kernels, which take them
_SAYS_GROUPED = "enable_gqa" in inspect.signature(varlen_attn).parameters


def attention_varlen(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None, window: int | None = None,
    scale: float | None = None, softcap: float | None = None,
) -> Tensor:  # fmt: skip
    """See `litespark.ops.attention.reference.attention`; in bf16 and fp16.

    Kernels are FlashAttention-2's (Dao, arXiv:2307.08691); their backward pass adds up with atomics unless
    deterministic algorithms are on. Queries against a cache (S < T) go to `attention_sdpa`: the kernels' causal
    diagonal differs there between releases. PyTorch hands them no softcap.
    """
    check_attention(query, key, value, documents, window, scale)
    refuse_softcap("varlen", softcap)
    refuse_branches("varlen", documents)
    sequences, length = query.shape[:2]
    if length < key.shape[1]:
        return attention_sdpa(query, key, value, documents, window, scale)
    dtype = compute_dtype(query)
    if dtype not in DTYPES:
        raise ValueError(f"attention=varlen: got {dtype}, expected bf16 or fp16; choose another backend for fp32")
    if documents is None:
        cu_seqlens = torch.arange(0, sequences * length + 1, length, dtype=torch.int32, device=query.device)
    else:
        cu_seqlens = documents.cu_seqlens()
    options: dict[str, Any] = {"enable_gqa": True} if _SAYS_GROUPED and query.shape[2] != key.shape[2] else {}
    if scale is not None:
        options["scale"] = scale
    # the kernels count the keys before the query, a window counts the query as well
    left = -1 if window is None or window >= length else window - 1
    flat = [_end_to_end(x, dtype) for x in (query, key, value)]
    # the length of a sequence is a bound on every document that needs no look at the device: programs beyond a
    # document's end return at once
    bounds = (cu_seqlens, cu_seqlens, length, length)
    output = varlen_attn(flat[0], flat[1], flat[2], *bounds, window_size=(left, 0), **options)
    assert isinstance(output, Tensor)
    return output.unflatten(0, (sequences, length))


def _end_to_end(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, S, heads, Dh) -> (B·S, heads, Dh); the kernels take any strides but the last."""
    x = x.to(dtype).flatten(0, 1)
    return x if x.stride(-1) == 1 else x.contiguous()


def why_not(device: torch.device, dtype: torch.dtype, shapes: StepShapes | None = None) -> str | None:
    """Why `attention_varlen` cannot run there; None where it can."""
    there = device_of(device)
    if not there.is_nvidia_or_amd:
        return f"torch.nn.attention.varlen has kernels for CUDA devices only, not for {device.type}"
    if dtype not in DTYPES:
        return f"torch.nn.attention.varlen takes bf16 and fp16, not {dtype}"
    if there.capability is not None and there.capability < _OLDEST_CAPABILITY:
        return "torch.nn.attention.varlen needs compute capability 8.0, this device has less"
    if shapes is None:
        return None
    head_dim = shapes.head_dim
    if head_dim % 8 or head_dim > _MOST_HEAD_DIM:
        return f"torch.nn.attention.varlen takes head_dim in multiples of 8 up to {_MOST_HEAD_DIM}, not {head_dim}"
    if head_dim in _HEAD_DIMS_OF_LARGE_DEVICES and there.capability in _SMALL_SHARED_MEMORY:
        return f"torch.nn.attention.varlen has no backward pass for head_dim {head_dim} on this device"
    return None
