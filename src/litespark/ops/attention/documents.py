"""Where documents lie in a row of packed text, in the forms that attention backends need.

B rows, S sequence length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Documents:
    """The document of each token. Made once a forward, so that what is derived from it is shared by all layers.

    Documents are runs: a number that comes back after another one opens a new document.
    """

    def __init__(self, index: Tensor) -> None:
        """Args:
        index: (B, S) integers, equal for neighbours exactly when they are in the same document.
        """
        self.index = index
        self._derived: dict[str, Any] = {}

    def visible(self) -> Tensor:
        """(B, 1, S, S) bool: may the query (third dimension) see the key (last)? Same document, and not later."""
        return self._once("visible", self._visible)

    def first_keys(self) -> Tensor:
        """(B, S) int32, non-decreasing: the first position of the document that each position is in."""
        return self._once("first_keys", self._first_keys)

    def last_queries(self) -> Tensor:
        """(B, S) int32, non-decreasing: the last position of the document that each position is in."""
        return self._once("last_queries", self._last_queries)

    def _once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        # the compiler merges equal expressions by itself, and refuses to see an object change inside a checkpoint
        if torch.compiler.is_compiling():
            return make()
        if name not in self._derived:
            self._derived[name] = make()
        return self._derived[name]

    def _visible(self) -> Tensor:
        first, length = self.first_keys(), self.index.shape[1]
        same = first[:, None, :, None] == first[:, None, None, :]
        return same & causal_visible(length, length, self.index.device)

    def _first_keys(self) -> Tensor:
        positions = torch.arange(self.index.shape[1], device=self.index.device, dtype=torch.int32)
        opens = torch.ones_like(self.index, dtype=torch.bool)
        opens[:, 1:] = self.index[:, 1:] != self.index[:, :-1]
        return torch.where(opens, positions, 0).cummax(dim=1).values.to(torch.int32)

    def _last_queries(self) -> Tensor:
        length = self.index.shape[1]
        positions = torch.arange(length, device=self.index.device, dtype=torch.int32)
        closes = torch.ones_like(self.index, dtype=torch.bool)
        closes[:, :-1] = self.index[:, 1:] != self.index[:, :-1]
        ends = torch.where(closes, positions, length)
        return ends.flip(1).cummin(dim=1).values.flip(1).to(torch.int32)


def causal_visible(queries: int, keys: int, device: torch.device, window: int | None = None) -> Tensor:
    """(queries, keys) bool, True where the key is not later than the query; the last query stands at the last key.

    With a `window` a query sees that many keys at most, itself included.
    """
    visible = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return visible if window is None else visible.triu(keys - queries - window + 1)


def check_attention_shapes(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None, window: int | None = None
) -> None:
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
    if window is not None and window < 1:
        raise ValueError(f"attention: window is {window}, expected at least 1 (a query sees itself), or None")
