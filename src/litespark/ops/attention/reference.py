"""Attention in plain PyTorch: the specification that faster backends are tested against.

B batch, S queries, T keys, H query heads, K key/value heads, Dh head dim.
"""

import math

import torch
from torch import Tensor

from litespark.ops.attention.documents import Documents, causal_visible, check_attention


def attention(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None, window: int | None = None,
    scale: float | None = None, softcap: float | None = None,
) -> Tensor:  # fmt: skip
    """softmax(scale · query · keyᵀ) · value over the keys that each query may see.

    Vaswani et al., arXiv:1706.03762; grouped heads: Ainslie et al., arXiv:2305.13245. Query head h reads key/value
    head h // (H/K). Causal: with T > S the first T - S keys come from a cache, and query i sees keys up to T - S + i.

    Args:
        query: (B, S, H, Dh), any floating dtype; the softmax is computed in fp32 at least.
        key, value: (B, T, K, Dh), T >= S, K divides H.
        documents: tokens of different documents do not see each other; not together with cached keys.
        window: a query sees that many keys at most, itself included (Beltagy et al., arXiv:2004.05150); None: all.
        scale: of the scores, above 0; None: 1/sqrt(Dh).
        softcap: scaled scores become softcap · tanh(scores / softcap) (Gemma 2, arXiv:2408.00118); None: they stay.

    Returns:
        (B, S, H, Dh) in the dtype of `value`.
    """
    check_attention(query, key, value, documents, window, scale, softcap)
    group = query.shape[2] // key.shape[2]
    # heads before positions: (B, H, S, Dh), (B, H, T, Dh)
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scores = query @ key.transpose(-1, -2) / (math.sqrt(query.shape[-1]) if scale is None else 1 / scale)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    visible = causal_visible(query.shape[2], key.shape[2], query.device, window)
    if documents is not None:
        visible = visible & documents.visible()
    probabilities = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
    return (probabilities.to(value.dtype) @ value).transpose(1, 2)
