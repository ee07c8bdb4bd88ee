"""Attention through `torch.nn.functional.scaled_dot_product_attention`, which picks cuDNN, flash or plain kernels."""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from litespark.ops.attention.documents import Documents, causal_visible, check_attention_shapes


def attention_sdpa(query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None) -> Tensor:
    """The same function of the same arguments as `litespark.ops.attention.reference.attention`.

    Flash kernels take only the causal case; documents, and several new queries against a cache, need a boolean mask,
    which costs S·T bytes a row and slower kernels.
    """
    check_attention_shapes(query, key, value, documents)
    queries, keys = query.shape[1], key.shape[1]
    visible = None
    if documents is not None:
        visible = documents.visible()
    elif 1 < queries < keys:
        visible = causal_visible(queries, keys, query.device)
    output = scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=visible,
        is_causal=visible is None and queries == keys,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return output.transpose(1, 2)
