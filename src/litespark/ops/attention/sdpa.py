"""Attention through `torch.nn.functional.scaled_dot_product_attention`, which picks cuDNN, flash or plain kernels."""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from litespark.ops.attention.documents import Documents, causal_visible, check_attention_shapes


def attention_sdpa(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None, window: int | None = None
) -> Tensor:
    """The same function of the same arguments as `litespark.ops.attention.reference.attention`.

    Flash kernels take only the causal case; documents, a window, and several new queries against a cache need a boolean
    mask, which costs S·T bytes a row and slower kernels.
    """
    check_attention_shapes(query, key, value, documents, window)
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
    output = scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=visible,
        is_causal=visible is None and queries == keys,
        enable_gqa=visible is None and group > 1,
    )
    return output.transpose(1, 2)
