"""Keys and values of the tokens that generation has already read."""

import torch
from torch import Tensor


class KeyValueCache:
    """Room for `capacity` tokens of each sequence in each layer; the model moves `length`, the tokens held so far."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._stores: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the (B, S, K, Dh) of new tokens; return the (B, length + S, K, Dh) of all of them."""
        end = self.length + key.shape[1]
        assert end <= self.capacity
        store = self._stores[layer]
        if store is None:
            shape = (key.shape[0], self.capacity, *key.shape[2:])
            store = self._stores[layer] = (key.new_empty(shape), value.new_empty(shape))
        with torch.no_grad():
            store[0][:, self.length : end] = key
            store[1][:, self.length : end] = value
        return store[0][:, :end], store[1][:, :end]
