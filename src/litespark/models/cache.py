"""Keys and values of the tokens that generation has already read."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Cache(ABC):
    """What a model keeps of the sequences, one a row, that it has read so far.

    Attributes:
        first: (B,) int64, where each sequence begins: what stands before it is padding, which no token sees. None: all
            begin at 0. Set before the first tokens are read.
        only_last: whether the model gives logits (B, 1, V) of the last place alone.
    """

    first: Tensor | None = None
    only_last = False

    @property
    @abstractmethod
    def length(self) -> int:
        """Places held so far of each sequence, padding among them."""

    def positions(self, count: int, device: torch.device) -> Tensor:
        """(B or 1, count) int64: where the next `count` places stand in their sequences; 0 for padding."""
        places = torch.arange(self.length, self.length + count, device=device).unsqueeze(0)
        return places if self.first is None else (places - self.first.unsqueeze(1)).clamp(min=0)

    def visible(self, count: int) -> Tensor | None:
        """(B, length + count) bool, False for padding, with the next `count` places; None: there is no padding."""
        if self.first is None:
            return None
        return torch.arange(self.length + count, device=self.first.device) >= self.first.unsqueeze(1)

    def repeat(self, times: int) -> None:
        """Each row `times` times, side by side."""
        self.first = None if self.first is None else self.first.repeat_interleave(times)
        self._repeat(times)

    def select(self, rows: Tensor) -> None:
        """Only those `rows`, (n,) int64, in their order."""
        self.first = None if self.first is None else self.first[rows]
        self._select(rows)

    @abstractmethod
    def _repeat(self, times: int) -> None: ...
    @abstractmethod
    def _select(self, rows: Tensor) -> None: ...


class KeyValueCache(Cache):
    """Room for `capacity` tokens of each sequence in each layer; the model moves `length`, the tokens held so far."""

    length = 0

    def __init__(self, layers: int, capacity: int) -> None:
        self.capacity = capacity
        self._stores: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the (B, S, K, Dh) of new tokens; return the (B, length + S, K, Dh) of all of them."""
        end = self.length + key.shape[1]
        assert end <= self.capacity
        store = self._stores[layer]
        if store is None:
            # what a head reads lies together: a new token reads all of it
            shape = (key.shape[0], key.shape[2], self.capacity, key.shape[3])
            store = self._stores[layer] = (key.new_empty(shape), value.new_empty(shape))
        with torch.no_grad():
            store[0][:, :, self.length : end] = key.transpose(1, 2)
            store[1][:, :, self.length : end] = value.transpose(1, 2)
        return store[0][:, :, :end].transpose(1, 2), store[1][:, :, :end].transpose(1, 2)

    def _repeat(self, times: int) -> None:
        for layer, store in enumerate(self._stores):
            if store is not None:
                self._stores[layer] = (self._repeated(store[0], times), self._repeated(store[1], times))

    def _repeated(self, held: Tensor, times: int) -> Tensor:
        store = held.new_empty(held.shape[0] * times, *held.shape[1:])
        store.unflatten(0, (-1, times))[:, :, :, : self.length] = held[:, None, :, : self.length]
        return store

    def _select(self, rows: Tensor) -> None:
        for layer, store in enumerate(self._stores):
            if store is not None:
                self._stores[layer] = (self._selected(store[0], rows), self._selected(store[1], rows))

    def _selected(self, held: Tensor, rows: Tensor) -> Tensor:
        # in place, from the front: row i comes from row rows[i] >= i, and no second cache is needed
        held[: len(rows), :, : self.length] = held[rows, :, : self.length]
        return held[: len(rows)]
