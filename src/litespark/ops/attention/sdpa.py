"""Attention through `torch.nn.functional.scaled_dot_product_attention`, which picks cuDNN, flash or plain kernels.

B batch, S queries, T keys, H query heads, K key/value heads, Dh head dim.
"""

import logging
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

from litespark.device import device_of
from litespark.ops.attention.documents import Documents, causal_visible, check_attention, refuse_softcap
from litespark.ops.precision import compute_dtype
from litespark.ops.shapes import Place

log = logging.getLogger(__name__)

# cuDNN's kernels for Hopper are about twice as fast as FlashAttention-2 there; these head dimensions both of them take
_HOPPER = (9, 0)
_WIDEST_ON_HOPPER = 128


def attention_sdpa(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None, window: int | None = None,
    scale: float | None = None, softcap: float | None = None,
) -> Tensor:  # fmt: skip
    """See `litespark.ops.attention.reference.attention`.

    cuDNN's and flash kernels take only the causal case. Documents, a window, and several new queries against a cache
    need a boolean mask: S·T bytes a sequence, copies of the grouped heads, slower kernels, the work of a full square.
    None takes a softcap.
    """
    refuse_softcap("sdpa", softcap)
    return scaled_dot_product_attention(**_arguments(query, key, value, documents, window, scale)).transpose(1, 2)


def kernel_taken(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None, window: int | None = None
) -> str:
    """The kernel that PyTorch takes for `attention_sdpa` of these arguments: cudnn, flash, efficient or math."""
    dtype = compute_dtype(query)
    arguments = _arguments(query.to(dtype), key.to(dtype), value.to(dtype), documents, window)
    # the only name that PyTorch has for this question
    choice = SDPBackend(torch._fused_sdp_choice(**arguments))
    return choice.name.lower().removesuffix("_attention")


def expected_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """The kernel that the plain causal case has to take there; None where none is demanded.

    PyTorch falls back in silence, at half the speed.
    """
    able = device_of(device).capability == _HOPPER and dtype in (torch.bfloat16, torch.float16)
    if not able or torch.are_deterministic_algorithms_enabled():
        return None
    return "cudnn" if head_dim % 8 == 0 and head_dim <= _WIDEST_ON_HOPPER else None


def named_kernel(place: Place) -> str:
    """The kernel that a run at `place` takes, in words; one that is not the expected one is also a warning."""
    shapes = place.shapes

    def heads(count: int) -> Tensor:
        size = (shapes.sequences, shapes.length, count, shapes.head_dim)
        return torch.empty(size, dtype=place.dtype, device=place.device, requires_grad=True)

    documents = None
    if shapes.documents:
        documents = Documents(torch.zeros(shapes.sequences, shapes.length, dtype=torch.int32, device=place.device))
    taken = kernel_taken(heads(shapes.num_heads), heads(shapes.num_kv_heads), heads(shapes.num_kv_heads), documents)
    expected = None if shapes.documents else expected_kernel(place.device, place.dtype, shapes.head_dim)
    if expected not in (None, taken):
        log.warning("attention: PyTorch takes its %s kernel here, %s was expected to be the fastest", taken, expected)
    return f"{taken} kernel"


def _arguments(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None, window: int | None,
    scale: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What is asked of PyTorch, heads before positions."""
    check_attention(query, key, value, documents, window, scale)
    queries, keys = query.shape[1], key.shape[1]
    group = query.shape[2] // key.shape[2]
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    visible = None
    if documents is not None:
        visible = documents.visible()
        if window is not None:
            visible = visible & causal_visible(queries, keys, query.device, window)
    elif 1 < queries < keys or (window is not None and window < keys):
        visible = causal_visible(queries, keys, query.device, window)
    if visible is not None:
        # CUDA kernels that take a mask take no grouped heads: left grouped, PyTorch falls back to plain products of
        # S x T scores
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    return {
        "query": query,
        "key": key,
        "value": value,
        "attn_mask": visible,
        "is_causal": visible is None and queries == keys,
        "enable_gqa": visible is None and group > 1,
        "scale": scale,
    }
