"""Where documents lie in a row of packed text, in the forms that attention backends need."""

import torch
from torch import Tensor


class Documents:
    """The document of each token. Made once a forward, so that what is derived from it is shared by all layers."""

    def __init__(self, index: Tensor) -> None:
        """Args:
        index: (B, S) integers, equal for two tokens of a row exactly when they are in the same document.
        """
        self.index = index
        self._visible: Tensor | None = None

    def visible(self) -> Tensor:
        """(B, 1, S, S) bool: may the query (third dimension) see the key (last)? Same document, and not later."""
        if self._visible is not None:
            return self._visible
        length = self.index.shape[1]
        same = self.index[:, None, :, None] == self.index[:, None, None, :]
        visible = same & causal_visible(length, length, self.index.device)
        # the compiler merges equal expressions by itself, and refuses to see an object change inside a checkpoint
        if not torch.compiler.is_compiling():
            self._visible = visible
        return visible


def causal_visible(queries: int, keys: int, device: torch.device) -> Tensor:
    """(queries, keys) bool, True where the key is not later than the query; the last query stands at the last key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def check_attention_shapes(query: Tensor, key: Tensor, value: Tensor, documents: Documents | None) -> None:
    """Refuse shapes that no attention backend can take.

    Raises:
        ValueError: the shapes do not fit together; the message shows them.
    """
    batch, queries, heads, _ = query.shape
    if key.shape != value.shape or heads % key.shape[2] or key.shape[0] != batch or key.shape[1] < queries:
        raise ValueError(
            f"attention: query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}; expected "
            "(B, S, H, Dh) and twice (B, T, K, Dh) with T at least S and K dividing H"
        )
    if documents is not None and documents.index.shape != (batch, key.shape[1]):
        raise ValueError(
            f"attention: documents {tuple(documents.index.shape)}, expected {(batch, key.shape[1])}, one per key"
        )
    if documents is not None and key.shape[1] != queries:
        raise ValueError("attention: documents cannot be used together with cached keys; pass documents=None")
