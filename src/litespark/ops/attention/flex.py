"""Attention through `torch.nn.attention.flex_attention`: a kernel that PyTorch compiles for the mask it is told.

B batch, S queries, T keys, H query heads, K key/value heads, Dh head dim.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from litespark.device import device_of
from litespark.ops.attention import reference
from litespark.ops.attention.documents import Documents, check_attention
from litespark.ops.attention.sdpa import attention_sdpa
from litespark.ops.precision import compute_dtype
from litespark.ops.shapes import StepShapes

# queries and keys of one entry of a block mask; the smallest that flex attention's kernels all take
_BLOCK = 128
_LEAST_HEAD_DIM = 16
# each kind of mask, set of sizes, dtype and use of gradients is one
_MOST_COMPILATIONS = 64
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def attention_flex(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None, window: int | None = None,
    scale: float | None = None, softcap: float | None = None,
) -> Tensor:  # fmt: skip
    """See `litespark.ops.attention.reference.attention`.

    Blocks of which nothing may be seen are skipped (Dong et al., arXiv:2412.05496). On a GPU the kernel is compiled at
    the first call with each kind of mask and each set of sizes. On a CPU PyTorch has no backward pass for it: that is
    for tests. Queries against a cache (S < T) go to `attention_sdpa`, with a softcap to the reference.
    """
    check_attention(query, key, value, documents, window, scale, softcap)
    if query.shape[1] < key.shape[1]:
        cached = attention_sdpa if softcap is None else reference.attention
        return cached(query, key, value, documents, window, scale, softcap)
    dtype = compute_dtype(query)
    output = _attend(query.device)(
        *(x.to(dtype).transpose(1, 2) for x in (query, key, value)),
        block_mask=block_mask(query.shape[1], query.device, documents, window),
        score_mod=None if softcap is None else _capped(softcap),
        enable_gqa=query.shape[2] != key.shape[2],
        scale=scale,
    )
    assert isinstance(output, Tensor)
    return output.transpose(1, 2)


def why_not(device: torch.device, dtype: torch.dtype, shapes: StepShapes | None = None) -> str | None:
    """Why `attention_flex` cannot train there; None where it can."""
    if not device_of(device).is_accelerator:
        return "flex attention has no backward pass on CPUs"
    if not device_of(device).is_nvidia_or_amd:
        return f"flex attention is used on CUDA devices only, not on {device.type}"
    if dtype not in _DTYPES:
        return f"flex attention takes fp32, bf16 and fp16, not {dtype}"
    if shapes is not None and shapes.head_dim < _LEAST_HEAD_DIM:
        return f"flex attention takes head_dim of at least {_LEAST_HEAD_DIM}, not {shapes.head_dim}"
    return None


def block_mask(length: int, device: torch.device, documents: Documents | None, window: int | None) -> BlockMask:
    """Which blocks of keys each block of queries sees, wholly or in part; made once for all layers of a forward."""
    window = None if window is None or window >= length else window
    if documents is not None:
        return documents.once(f"flex block mask, window {window}", lambda: _of_documents(documents, window))
    if torch.compiler.is_compiling():
        return _of_sequences(length, device, window)
    return _of_sequences_once(length, device, window)


def _capped(softcap: float) -> Callable[..., Tensor]:
    """What flex attention is to make of a scaled score."""
    return lambda score, b, h, query, key: softcap * torch.tanh(score / softcap)


def _attend(device: torch.device) -> Callable[..., Any]:
    if torch.compiler.is_compiling() or not device_of(device).is_accelerator:
        return flex_attention
    return _compiled()


@functools.cache
def _compiled() -> Callable[..., Any]:
    # fullgraph: beyond its limit of recompilations PyTorch would otherwise go on with S x T scores, in silence
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)

    @functools.wraps(flex_attention)
    def attend(*arguments: Any, **options: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=_MOST_COMPILATIONS):
            return compiled(*arguments, **options)

    return attend


@functools.lru_cache(maxsize=16)
def _of_sequences_once(length: int, device: torch.device, window: int | None) -> BlockMask:
    # a mask that validation makes in inference mode could not be kept for a backward pass later
    with torch.inference_mode(False):
        return _of_sequences(length, device, window)


def _of_sequences(length: int, device: torch.device, window: int | None) -> BlockMask:
    positions = torch.arange(length, device=device, dtype=torch.int32)
    if window is None:
        return _block_mask(torch.zeros_like(positions)[None], lambda b, h, query, key: key <= query)
    lowest = (positions - window + 1).clamp(min=0)
    return _block_mask(lowest[None], lambda b, h, query, key: (key <= query) & (key >= lowest[query]))


def _of_documents(documents: Documents, window: int | None) -> BlockMask:
    lowest = documents.first_keys()
    if window is not None:
        positions = torch.arange(lowest.shape[1], device=lowest.device, dtype=torch.int32)
        lowest = torch.maximum(lowest, positions - window + 1)
    branches = documents.branches
    if branches is None:
        return _block_mask(lowest, lambda b, h, query, key: (key <= query) & (key >= lowest[b, query]))
    of = branches

    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        its = (of[b, key] == 0) | (of[b, key] == of[b, query])
        return (key <= query) & (key >= lowest[b, query]) & its

    return _block_mask(lowest, visible, branches)


def _block_mask(
    lowest: Tensor, visible: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], branches: Tensor | None = None
) -> BlockMask:
    """The block mask of `visible` (as flex attention asks it), without looking at S x S pairs.

    `lowest` (B or 1, S) int32, non-decreasing, is the lowest key that each query sees. With `branches` (B, S) blocks of
    other branches are skipped, and none is taken to be seen wholly.
    """
    length = lowest.shape[1]
    blocks = torch.arange(-(-length // _BLOCK), device=lowest.device, dtype=torch.int32)
    starts, ends = blocks * _BLOCK, (blocks * _BLOCK + _BLOCK - 1).clamp(max=length - 1)
    # (B, query blocks, key blocks): lowest never falls, so the first and the last query of a block bound those between
    any_seen = (ends >= lowest[:, starts][..., None]) & (starts <= starts[:, None])
    all_seen = (starts >= lowest[:, ends][..., None]) & (starts < starts[:, None])
    # a last block with fewer queries than a block has is never whole
    all_seen = all_seen & (ends - starts == _BLOCK - 1)[:, None]
    if branches is not None:
        of = branches[:, torch.minimum(starts[:, None] + torch.arange(_BLOCK, device=lowest.device), ends[:, None])]
        least, most = of.amin(-1), of.amax(-1)
        apart = (most[:, :, None] < least[:, None]) | (least[:, :, None] > most[:, None])
        any_seen = any_seen & ~(apart & (least > 0)[:, None])
        all_seen = torch.zeros_like(all_seen)
    some_seen = any_seen & ~all_seen
    return BlockMask.from_kv_blocks(
        *_listed(some_seen), *_listed(all_seen), BLOCK_SIZE=_BLOCK, mask_mod=visible, seq_lengths=(length, length)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(B, query blocks, key blocks) bool -> how many are set (B, 1, query blocks), and which, these first, as int32."""
    count = blocks.sum(-1, dtype=torch.int32)
    which = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return count[:, None], which[:, None].contiguous()
