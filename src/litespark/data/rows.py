"""Rows of S+1 ids, from chunks or made up, and the batches that are cut from them.

S sequence length. Row i holds the ids i·S..i·S+S of the split, so that rows share one id with the next: the last
label of one is the first input of the next, and every id but the first of a split is a label exactly once an epoch.
Only the last (N-1) mod S of N ids are never reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from litespark.data.batch import TokenBatch, batch_from_rows
from litespark.data.chunks import TokenChunks
from litespark.data.order import RowOrder


class Rows(Protocol):
    """Numbered rows of S+1 ids."""

    count: int

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, S+1) int64 ids of the n rows asked for."""
        ...


class ChunkRows:
    """Rows of one split of a prepared folder.

    Raises:
        ValueError: the split is shorter than one row.
    """

    def __init__(self, chunks: TokenChunks, sequence_length: int) -> None:
        self.chunks = chunks
        self.sequence_length = sequence_length
        self.count = (len(chunks) - 1) // sequence_length if len(chunks) else 0
        if self.count < 1:
            raise ValueError(
                f"{chunks.folder} holds {len(chunks)} tokens; data.sequence_length={sequence_length} needs at least "
                f"{sequence_length + 1}. Set data.sequence_length to at most {max(len(chunks) - 1, 0)}, or prepare "
                "more text (for validation: a larger data.validation_fraction)."
            )

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Rows.read`."""
        length = self.sequence_length
        return np.stack([self.chunks.read(int(row) * length, length + 1) for row in rows])


class SyntheticRows:
    """Rows of random ids: id at place p is a hash of (seed, p), so any row can be made at any time.

    The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). With `document_length` every so many
    places hold the EOS id 0, and no other place does.
    """

    def __init__(
        self, count: int, *, sequence_length: int, vocabulary: int, seed: int, document_length: int | None
    ) -> None:
        self.count = count
        self.sequence_length = sequence_length
        self.vocabulary = vocabulary
        self.seed = seed
        self.document_length = document_length

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Rows.read`."""
        places = rows[:, None] * self.sequence_length + np.arange(self.sequence_length + 1)
        first = 0 if self.document_length is None else 1
        mixed = _mix(places.astype(np.uint64) + _mix(np.array([self.seed], dtype=np.uint64)))
        ids = (mixed % np.uint64(self.vocabulary - first)).astype(np.int64) + first
        if self.document_length is not None:
            ids[places % self.document_length == self.document_length - 1] = 0
        return ids


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


class TrainingBatches(Dataset[TokenBatch]):
    """Item p is the micro-batch that starts at position p of the endless training stream."""

    def __init__(
        self, rows: Rows, order: RowOrder, *, micro_batch_size: int, eos_id: int | None, document_mask: bool
    ) -> None:
        self.rows = rows
        self.order = order
        self.micro_batch_size = micro_batch_size
        self.eos_id = eos_id
        self.document_mask = document_mask

    def __getitem__(self, position: int) -> TokenBatch:
        rows = self.rows.read(self.order.stream(position, self.micro_batch_size))
        return batch_from_rows(torch.from_numpy(rows), eos_id=self.eos_id, document_mask=self.document_mask)


class ValidationBatches(Dataset[TokenBatch]):
    """The validation batches of one rank: rows rank, rank+world, …, padded so that every rank has as many batches.

    Padding rows repeat a row and supervise nothing.
    """

    def __init__(
        self,
        rows: Rows,
        chosen: NDArray[np.int64],
        *,
        micro_batch_size: int,
        eos_id: int | None,
        document_mask: bool,
        rank: int,
        world: int,
    ) -> None:
        self.rows = rows
        self.mine = chosen[rank::world]
        self.filler = chosen[:1]
        self.micro_batch_size = micro_batch_size
        self.eos_id = eos_id
        self.document_mask = document_mask
        self.batches = -(-len(chosen) // (world * micro_batch_size))

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> TokenBatch:
        if not 0 <= index < self.batches:
            raise IndexError(index)
        begin = index * self.micro_batch_size
        real = self.mine[begin : begin + self.micro_batch_size]
        padded = np.concatenate([real, np.repeat(self.filler, self.micro_batch_size - len(real))])
        rows = torch.from_numpy(self.rows.read(padded))
        return batch_from_rows(rows, eos_id=self.eos_id, document_mask=self.document_mask, real_rows=len(real))


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
        super().__init__(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
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
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Empty: see the class."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load: see the class."""


def _unchanged(batch: Any) -> Any:
    return batch
