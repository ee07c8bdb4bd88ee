"""Attention of one new token of each sequence to what is cached of it, where that begins at different places.

B batch, T keys, H query heads, K key/value heads, Dh head dim.
"""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attention_to_visible(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """See `litespark.ops.attention.reference.attention`.

    The query heads that share keys are taken as so many queries of them, so that neither keys nor mask are repeated.

    Args:
        query: (B, 1, H, Dh). key, value: (B, T, K, Dh).
        visible: (B, T) bool, at least one key of each sequence.

    Returns:
        (B, 1, H, Dh). A ValueError for several queries, of which each would see other keys.
    """
    if query.shape[1] != 1:
        raise ValueError(
            f"{query.shape[1]} new tokens were given behind a cache with padding in it, expected one; give them one by "
            "one, or with their prompt"
        )
    batch, _, heads, size = query.shape
    grouped = query.view(batch, key.shape[2], heads // key.shape[2], size)
    key, value = key.transpose(1, 2), value.transpose(1, 2)
    return scaled_dot_product_attention(grouped, key, value, visible[:, None, None]).reshape(batch, 1, heads, size)
