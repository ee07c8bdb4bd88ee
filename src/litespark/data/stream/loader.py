"""Loaders of the batches that are cut from sequences.

Every tensor that a worker hands over is a shared-memory file, whose descriptor the other side fetches over a socket.
With torch 2.14 that takes longer than making the batch, so workers read ids, and the batch is made of them here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from litespark.data.batch import TokenBatch
from litespark.data.stream.order import Order
from litespark.data.stream.sequences import DomainSequences
from litespark.device import device_count

MakeBatch = Callable[..., TokenBatch]
"""Makes a batch of what was read, such as `batch_from_sequences` with the settings of the data."""
Read = tuple[Any, int | None, str | None]
"""What is served of B sequences, such as (B, S+1) ids; how many of the sequences are data (None: all); and the domain
that all of them are of."""


@dataclass(eq=False)
class TrainingBatches(Dataset[Read]):
    """Item p is the micro-batch of `size` sequences that starts at position p of the endless training stream."""

    sequences: DomainSequences
    order: Order
    size: int

    def __getitem__(self, position: int) -> Read:
        return self.sequences.served(self.order.stream(position, self.size)), None, None


@dataclass(eq=False)
class ValidationBatches(Dataset[Read]):
    """The validation batches of one rank, domain by domain.

    Of each domain a rank gets the `chosen` sequences rank, rank+world, …, padded with sequences that supervise nothing,
    so that every rank has as many batches.
    """

    sequences: DomainSequences
    chosen: Mapping[str, NDArray[np.int64]]
    size: int
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

    def __getitem__(self, index: int) -> Read:
        domain, real, filler = self.batches[index]  # raises the IndexError that ends an iteration
        padded = np.concatenate([real, np.repeat(filler, self.size - len(real))])
        return self.sequences.served(padded), len(real), domain


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


class TokenLoader(DataLoader[Read]):
    """A DataLoader of ready-made batches; `wait_seconds` is how long its user has waited for them.

    Its empty state is there because Lightning takes a loader without one for one that cannot resume.
    """

    def __init__(
        self, dataset: Dataset[Read], make: MakeBatch, *, workers: int, sampler: Sampler[int] | None = None
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            # a DataLoader draws a seed for its workers; nothing here is random, and the run's generator stays untouched
            generator=torch.Generator(),
        )
        self.make = make
        self.pinned = device_count() > 0
        self.wait_seconds = 0.0

    def __iter__(self) -> Iterator[TokenBatch]:  # type: ignore[override]  # it makes what it gives of what it reads
        reads = super().__iter__()
        while True:
            asked = time.perf_counter()
            try:
                ids, real, domain = next(reads)
                batch = replace(self.make(ids, real_sequences=real), domain=domain)
            except StopIteration:
                return
            finally:
                self.wait_seconds += time.perf_counter() - asked
            yield batch.pin_memory() if self.pinned else batch

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...
