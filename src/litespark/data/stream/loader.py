"""Loaders of the batches that are cut from sequences.

Every tensor that a worker hands over is a shared-memory file, whose descriptor the other side fetches over a socket.
With torch 2.14 that takes longer than making the batch, so the tensors of a batch travel as views of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from litespark.data.batch import TokenBatch
from litespark.data.stream.order import Order
from litespark.data.stream.sequences import DomainSequences
from litespark.device import device_count

MakeBatch = Callable[..., TokenBatch]
"""`batch_from_sequences` with the settings of the data."""


@dataclass(eq=False)
class TrainingBatches(Dataset[TokenBatch]):
    """Item p is the micro-batch of `size` sequences that starts at position p of the endless training stream."""

    sequences: DomainSequences
    order: Order
    size: int
    make: MakeBatch

    def __getitem__(self, position: int) -> TokenBatch:
        return self.make(torch.from_numpy(self.sequences.read(self.order.stream(position, self.size))))


@dataclass(eq=False)
class ValidationBatches(Dataset[TokenBatch]):
    """The validation batches of one rank, domain by domain.

    Of each domain a rank gets the `chosen` sequences rank, rank+world, …, padded with sequences that supervise nothing,
    so that every rank has as many batches.
    """

    sequences: DomainSequences
    chosen: Mapping[str, NDArray[np.int64]]
    size: int
    make: MakeBatch
    rank: int
    world: int

    def __post_init__(self) -> None:
        self.batches = [
            (domain, numbers[self.rank :: self.world][begin : begin + self.size], numbers[:1])
            for domain, numbers in self.chosen.items()
            for begin in range(0, -(-len(numbers) // self.world), self.size)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> TokenBatch:
        domain, real, filler = self.batches[index]  # raises the IndexError that ends an iteration
        padded = np.concatenate([real, np.repeat(filler, self.size - len(real))])
        ids = torch.from_numpy(self.sequences.read(padded))
        return replace(self.make(ids, real_sequences=len(real)), domain=domain)


@dataclass(eq=False)
class StreamPositions(Sampler[int]):
    """Endless positions of one rank's micro-batches: its contiguous slice of each global micro-batch.

    `start` is asked at each new iteration, so that a loader which Lightning iterates anew goes on.
    """

    start: Callable[[], int]
    size: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[int]:
        position = self.start() + self.rank * self.size
        while True:
            yield position
            position += self.world * self.size


class TokenLoader(DataLoader[TokenBatch]):
    """A DataLoader of ready-made batches; `wait_seconds` is how long its user has waited for them.

    Its empty state is there because Lightning takes a loader without one for one that cannot resume.
    """

    def __init__(self, dataset: Dataset[TokenBatch], *, workers: int, sampler: Sampler[int] | None = None) -> None:
        super().__init__(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            collate_fn=pack if workers else None,  # type: ignore[arg-type]  # of what `batch_size=None` hands over
            pin_memory=device_count() > 0,
            persistent_workers=workers > 0,
            # a DataLoader draws a seed for its workers; nothing here is random, and the run's generator stays untouched
            generator=torch.Generator(),
        )
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[TokenBatch]:  # type: ignore[override]  # a generator is an iterator
        batches = super().__iter__()
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.wait_seconds += time.perf_counter() - asked
            yield unpack(batch) if isinstance(batch, PackedBatch) else batch

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


@dataclass
class PackedBatch:
    """The bytes of all tensors of a batch, and where each is."""

    bytes: Tensor
    """(n,) uint8; tensors of eight bytes an element stand before those of four, so that each begins at a multiple."""
    places: list[tuple[str, torch.dtype, torch.Size]]
    """Field, dtype and shape, in order."""
    batch: TokenBatch
    """Everything else; its tensors are empty."""

    def pin_memory(self) -> PackedBatch:
        return replace(self, bytes=self.bytes.pin_memory())


def pack(batch: TokenBatch) -> PackedBatch:
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    ordered = sorted(tensors.items(), key=lambda entry: -entry[1].element_size())
    nothing: dict[str, Any] = dict.fromkeys(tensors, torch.empty(0, dtype=torch.uint8))
    return PackedBatch(
        torch.cat([tensor.reshape(-1).view(torch.uint8) for _, tensor in ordered]),
        [(name, tensor.dtype, tensor.shape) for name, tensor in ordered],
        replace(batch, **nothing),
    )


def unpack(packed: PackedBatch) -> TokenBatch:
    """The batch that was packed; its tensors share the memory of the packed one."""
    parts = packed.bytes.split([prod(shape) * dtype.itemsize for _, dtype, shape in packed.places])
    of_fields = zip(packed.places, parts, strict=True)
    tensors: dict[str, Any] = {name: part.view(dtype).view(shape) for (name, dtype, shape), part in of_fields}
    return replace(packed.batch, **tensors)
