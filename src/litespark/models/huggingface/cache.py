"""The cache of models of transformers, preallocated where a layer keeps every token; imported when it is made."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from litespark.models.cache import Cache


class PreallocatedLayer(DynamicLayer):
    """Keys and values (B, K, T, Dh) of one layer, with room for `capacity` tokens: a new one moves none of the old."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._stores: tuple[Tensor, Tensor] | None = None

    @property
    def _held(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        if self._stores is None:
            self.lazy_initialization(key_states, value_states)
            key, value = (self._room(new, new.shape[0]) for new in (key_states, value_states))
            self._stores = key, value
        key, value = self._stores
        key[:, :, begin:end], value[:, :, begin:end] = key_states, value_states
        self._show(end)
        return self._held

    def batch_repeat_interleave(self, repeats: int) -> None:
        held, end = self._held, self.get_seq_length()
        key, value = (self._room(one, one.shape[0] * repeats) for one in held)
        key[:, :, :end], value[:, :, :end] = (one.repeat_interleave(repeats, dim=0) for one in held)
        self._stores = key, value
        self._show(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        assert self._stores is not None
        end = self.get_seq_length()
        for store in self._stores:  # in place: no second cache is needed
            store[: len(indices), :, :end] = store[indices, :, :end]
        self._stores = self._stores[0][: len(indices)], self._stores[1][: len(indices)]
        self._show(end)

    def _room(self, like: Tensor, rows: int) -> Tensor:
        return like.new_empty(rows, like.shape[1], self._capacity, like.shape[3])

    def _show(self, end: int) -> None:
        assert self._stores is not None
        self.keys, self.values = (store[:, :, :end] for store in self._stores)


class TransformersCache(Cache):
    """A `DynamicCache` for the model of `config`; `held` is what the model takes."""

    def __init__(self, config: Any, capacity: int) -> None:
        self.held = DynamicCache(config=config)
        # the others keep a window, or no tokens at all
        self.held.layers = [
            PreallocatedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in self.held.layers
        ]

    @property
    def length(self) -> int:
        return int(self.held.get_seq_length())

    def _repeat(self, times: int) -> None:
        self.held.batch_repeat_interleave(times)

    def _select(self, rows: Tensor) -> None:
        self.held.batch_select_indices(rows)
