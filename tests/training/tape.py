"""A stand-in for CUDA graphs on a CPU: ops are written down as the dispatcher gets them, and done again on replay.

As with a graph, nothing is done while it is recorded, a replay runs no Python, and numbers of the host and addresses
are those of the recording.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from litespark.device import Device


class Tape(TorchDispatchMode):
    """What was asked for within it, undone at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        for tensor in _written(func, args, kwargs):
            storage = tensor.untyped_storage()
            self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, result))
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for storage, before in self._before.values():
            storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            # a kernel leaves no trace in the versions that PyTorch counts
            with torch.autograd._unsafe_preserve_version_counter(tuple(_written(func, args, kwargs))):
                again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    with torch.autograd._unsafe_preserve_version_counter(old):
                        old.copy_(new)


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from (leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))


class Tapes:
    """In place of `litespark.device.Graphs`; it counts what it was asked for."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def rehearse(self, work: Any) -> None:
        work()

    def record(self, work: Any) -> Any:
        with Tape() as tape:
            result = work()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return result, replay


class WithTapes(Device):
    """A CPU that records."""

    has_graphs = True

    def graphs(self) -> Any:
        return Tapes()
