"""Rows of S+1 ids from chunks, and the loaders of batches that are cut from rows.

S sequence length. Row i holds the ids i·S..i·S+S of its domain, so that rows share one id with the next: the last
label of one is the first input of the next, and every id but the first of a domain is a label exactly once an epoch.
Only the last (N-1) mod S of N ids are never reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from litespark.data.batch import TokenBatch, batch_from_rows
from litespark.data.stream.batch_transfer import PackedBatch, pack, unpack
from litespark.data.stream.mixture import Order
from litespark.data.stream.token_chunks import TokenChunks


class Rows(Protocol):
    """Numbered rows of S+1 ids."""

    count: int

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, S+1) int64 ids of the n rows asked for."""
        ...


class ChunkRows:
    """Rows of one domain of one split of a prepared folder.

    Args:
        chunks: of the domain.
        seq_len: S.
        packed: the rows lie ready one behind the other, S+1 ids each (see `packing`), and share none.

    Raises:
        ValueError: the domain is shorter than one row, or holds no whole number of packed ones.
    """

    def __init__(self, chunks: TokenChunks, seq_len: int, *, packed: bool = False) -> None:
        self.chunks = chunks
        self.seq_len = seq_len
        self.stride = seq_len + packed
        self.count, rest = divmod(max(len(chunks) - (not packed), 0), self.stride)
        if packed and (rest or not self.count):
            raise ValueError(
                f"{chunks.folder} holds {len(chunks)} ids, expected whole rows of {self.stride}, one at least. Delete "
                "the prepared folder and prepare the text again."
            )
        if self.count < 1:
            raise ValueError(
                f"{chunks.folder} holds {len(chunks)} tokens; data.seq_len={seq_len} needs at least "
                f"{seq_len + 1}. Set data.seq_len to at most {max(len(chunks) - 1, 0)}, or prepare "
                "more text (for validation: a larger data.validation_fraction)."
            )

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Rows.read`."""
        return np.stack([self.chunks.read(int(row) * self.stride, self.seq_len + 1) for row in rows])


@dataclass(frozen=True)
class BatchForm:
    """How rows become a batch."""

    micro_batch_size: int
    eos_id: int | None
    document_mask: bool
    padded: bool = False
    """The rows were packed: what follows the first of several EOS at a row's end is padding."""

    def batch(self, ids: NDArray[np.int64], *, real_rows: int | None = None, domain: str | None = None) -> TokenBatch:
        """The batch of (micro_batch_size, S+1) ids, of which those behind `real_rows` are padding."""
        made = batch_from_rows(
            torch.from_numpy(ids),
            eos_id=self.eos_id,
            document_mask=self.document_mask,
            real_rows=real_rows,
            padded=self.padded,
        )
        made.domain = domain
        return made


class TrainingBatches(Dataset[TokenBatch]):
    """Item p is the micro-batch that starts at position p of the endless training stream."""

    def __init__(self, rows: Rows, order: Order, form: BatchForm) -> None:
        self.rows = rows
        self.order = order
        self.form = form

    def __getitem__(self, position: int) -> TokenBatch:
        return self.form.batch(self.rows.read(self.order.stream(position, self.form.micro_batch_size)))


class ValidationBatches(Dataset[TokenBatch]):
    """The validation batches of one rank, domain by domain: none holds rows of two, and each names its own.

    Of each domain a rank gets the `chosen` rows rank, rank+world, …, padded so that every rank has as many batches.
    Padding rows repeat a row and supervise nothing.
    """

    def __init__(
        self, rows: Rows, chosen: Mapping[str, NDArray[np.int64]], form: BatchForm, *, rank: int, world: int
    ) -> None:
        self.rows = rows
        self.form = form
        size = form.micro_batch_size
        self.batches = [
            (domain, numbers[rank::world][begin : begin + size], numbers[:1])
            for domain, numbers in chosen.items()
            for begin in range(0, -(-len(numbers) // world), size)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> TokenBatch:
        domain, real, filler = self.batches[index]  # raises the IndexError that ends an iteration
        padded = np.concatenate([real, np.repeat(filler, self.form.micro_batch_size - len(real))])
        return self.form.batch(self.rows.read(padded), real_rows=len(real), domain=domain)


class StreamPositions(Sampler[int]):
    """Endless positions of one rank's micro-batches: its contiguous slice of each global micro-batch.

    Args:
        start: asked at each new iteration, so that a loader which is iterated anew (Lightning does so when it ends an
            epoch early, for instance at `limit_train_batches`) goes on instead of starting over.
    """

    def __init__(self, start: Callable[[], int], *, micro_batch_size: int, rank: int, world: int) -> None:
        self.start = start
        self.micro_batch_size = micro_batch_size
        self.rank = rank
        self.world = world

    def __iter__(self) -> Iterator[int]:
        position = self.start() + self.rank * self.micro_batch_size
        while True:
            yield position
            position += self.world * self.micro_batch_size


class TokenLoader(DataLoader[TokenBatch]):
    """A DataLoader of ready-made batches.

    It carries an empty state: the position is one integer that the data module keeps, and Lightning takes a loader
    without these two methods for one that cannot resume.

    Attributes:
        wait_seconds: how long its user has waited for batches since it was made.
    """

    def __init__(self, dataset: Dataset[TokenBatch], *, workers: int, sampler: Sampler[int] | None = None) -> None:
        collate: Callable[[Any], Any] = pack if workers else _unchanged
        super().__init__(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=torch.accelerator.is_available(),
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
        """Empty: see the class."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load: see the class."""


def _unchanged(batch: Any) -> Any:
    return batch
