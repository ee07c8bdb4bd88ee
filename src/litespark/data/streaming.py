"""The Lightning data modules: prepared tokens, or synthetic ones, in an exact global order.

The training stream is endless, epoch after epoch, and position p of it holds a row that is a pure function of (seed,
p). A global micro-batch is the next world × micro_batch_size positions, of which each rank takes a contiguous slice.
So the position of a run is one integer, whatever the number of ranks and workers, and a resume continues with the very
next row. Nothing is dropped at an epoch's end: a batch runs over into the next epoch.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed
from lightning.pytorch import LightningDataModule

from litespark.data.chunks import TokenChunks
from litespark.data.config import PrepareConfig, ReadingConfig, SyntheticConfig, require_whole
from litespark.data.ledger import Ledger
from litespark.data.manifest import DomainCounts, Manifest, SplitCounts
from litespark.data.order import RowOrder
from litespark.data.preparation.prepare import prepare
from litespark.data.rows import (
    ChunkRows,
    Rows,
    StreamPositions,
    SyntheticRows,
    TokenLoader,
    TrainingBatches,
    ValidationBatches,
)
from litespark.data.text.document import ONLY_DOMAIN


class RowDataModule(LightningDataModule):
    """Serves rows that a subclass provides; keeps the position.

    Attributes:
        manifest: what the data states about itself.
        train_rows: rows of one epoch.
        rows_per_epoch: the same number.
    """

    manifest: Manifest

    def __init__(
        self,
        training: Rows,
        validation: Rows,
        manifest: Manifest,
        *,
        sequence_length: int,
        micro_batch_size: int,
        seed: int,
        document_mask: bool,
        shuffle: bool,
        workers: int,
        training_rows: int | None,
        validation_rows: int | None,
    ) -> None:
        super().__init__()
        self.manifest = manifest
        self.sequence_length = sequence_length
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.document_mask = document_mask
        self.shuffle = shuffle
        self.workers = workers
        self.train_rows = self.rows_per_epoch = min(training.count, training_rows or training.count)
        self.validation_rows = min(validation.count, validation_rows or validation.count)
        self._training = training
        self._validation = validation
        self._start_row = 0
        # the trainer's step at `_start_row`; unknown until the loader is made, since Lightning restores the data
        # module before its own step
        self._first_step: int | None = None

    @property
    def start_row(self) -> int:
        """Rows of the endless stream that were consumed before this fit; set it before, or load a state."""
        return self._start_row

    @start_row.setter
    def start_row(self, row: int) -> None:
        require_whole("start_row", row, at_least=0)
        self._start_row, self._first_step = row, None

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step over all ranks and accumulated micro-batches."""
        accumulate = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        return self.micro_batch_size * _rank_and_world()[1] * accumulate

    @property
    def consumed_rows(self) -> int:
        """Rows of the endless stream that optimizer steps have used so far, over all ranks."""
        if self.trainer is None or self._first_step is None:
            return self._start_row
        return self._start_row + (self.trainer.global_step - self._first_step) * self.rows_per_step

    def train_dataloader(self) -> TokenLoader:
        """Endless TokenBatches of (micro_batch_size, sequence_length) from the current position on."""
        self._start_row = self.consumed_rows
        self._first_step = None if self.trainer is None else self.trainer.global_step
        rank, world = _rank_and_world()
        batches = TrainingBatches(
            self._training,
            RowOrder(self.train_rows, seed=self.seed, shuffle=self.shuffle),
            micro_batch_size=self.micro_batch_size,
            eos_id=self.manifest.eos_id,
            document_mask=self.document_mask,
        )
        positions = StreamPositions(
            lambda: self.consumed_rows, micro_batch_size=self.micro_batch_size, rank=rank, world=world
        )
        return TokenLoader(batches, workers=self.workers, sampler=positions)

    def val_dataloader(self) -> TokenLoader:
        """The validation rows once, in order; every rank gets as many batches of the same shape."""
        rank, world = _rank_and_world()
        count = self.validation_rows
        batches = ValidationBatches(
            self._validation,
            np.arange(count, dtype=np.int64) * self._validation.count // count,
            micro_batch_size=self.micro_batch_size,
            eos_id=self.manifest.eos_id,
            document_mask=self.document_mask,
            rank=rank,
            world=world,
        )
        return TokenLoader(batches, workers=self.workers)

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        return {"rows": self.consumed_rows, **self._order_settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue behind the rows that were consumed; batch size, ranks and workers may differ.

        Raises:
            ValueError: the state is a position in another order of rows.
        """
        for name, mine in self._order_settings().items():
            saved = state_dict.get(name, mine)
            if saved != mine:
                raise ValueError(
                    f"the checkpoint's data position belongs to {name}={saved}, this run has {name}={mine}; the row at "
                    "a position differs between the two. Resume with the same data settings and seed, or start a new "
                    "run from the weights."
                )
        self.start_row = state_dict["rows"]

    def _order_settings(self) -> dict[str, Any]:
        return {
            "manifest_hash": self.manifest.hash,
            "sequence_length": self.sequence_length,
            "train_rows": self.train_rows,
            "seed": self.seed,
            "shuffle": self.shuffle,
        }


class TokenDataModule(RowDataModule):
    """Rows of a folder that `prepare` wrote.

    Raises:
        ValueError: no manifest, a chunk missing or of another size (or hash, with `verify_hashes`), fewer tokens than
            one row needs, or a setting out of range.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sequence_length: int,
        micro_batch_size: int,
        seed: int,
        document_mask: bool = True,
        shuffle: bool = True,
        workers: int = 0,
        training_rows: int | None = None,
        validation_rows: int | None = None,
        verify_hashes: bool = False,
    ) -> None:
        ReadingConfig(  # for its checks
            sequence_length=sequence_length,
            micro_batch_size=micro_batch_size,
            workers=workers,
            training_rows=training_rows,
            validation_rows=validation_rows,
        )
        require_whole("seed", seed, at_least=0)
        self.folder = Path(folder)
        manifest = Manifest.read(self.folder)
        rows = {
            split: ChunkRows(
                TokenChunks(
                    self.folder / split / ONLY_DOMAIN,
                    manifest.splits[split].domains[ONLY_DOMAIN].chunks,
                    vocabulary=manifest.vocabulary,
                    verify_hashes=verify_hashes,
                ),
                sequence_length,
            )
            for split in ("train", "validation")
        }
        super().__init__(
            rows["train"],
            rows["validation"],
            manifest,
            sequence_length=sequence_length,
            micro_batch_size=micro_batch_size,
            seed=seed,
            document_mask=document_mask,
            shuffle=shuffle,
            workers=workers,
            training_rows=training_rows,
            validation_rows=validation_rows,
        )


class SyntheticDataModule(RowDataModule):
    """Random ids in [0, vocabulary) with the interface of `TokenDataModule` and no files; see `SyntheticRows`."""

    def __init__(self, config: SyntheticConfig, *, seed: int) -> None:
        require_whole("seed", seed, at_least=0)
        counts = {"train": config.synthetic_rows, "validation": config.synthetic_validation_rows}
        training, validation = (
            SyntheticRows(
                count,
                sequence_length=config.sequence_length,
                vocabulary=config.vocabulary,
                seed=2 * seed + place,
                document_length=config.document_length,
            )
            for place, count in enumerate(counts.values())
        )
        tokens = {split: count * config.sequence_length + 1 for split, count in counts.items()}
        manifest = Manifest(
            name="synthetic",
            vocabulary=config.vocabulary,
            eos_id=None if config.document_length is None else 0,
            bos_id=None,
            tokenizer_hash="synthetic",
            token_bytes=[1] * config.vocabulary,
            splits={
                split: SplitCounts({ONLY_DOMAIN: DomainCounts(ONLY_DOMAIN, 1, count, count, count)})
                for split, count in tokens.items()
            },
            unigram_entropy=math.log(config.vocabulary),
            settings=asdict(config) | {"seed": seed},
            ledger=Ledger(),
            code_version="synthetic",
        )
        super().__init__(
            training,
            validation,
            manifest,
            sequence_length=config.sequence_length,
            micro_batch_size=config.micro_batch_size,
            seed=seed,
            document_mask=config.document_mask and config.document_length is not None,
            shuffle=config.shuffle,
            workers=config.workers,
            training_rows=config.training_rows,
            validation_rows=config.validation_rows,
        )


def build_data_module(config: PrepareConfig | SyntheticConfig, *, seed: int) -> TokenDataModule | SyntheticDataModule:
    """The data module of a config; prepares the data first where that has not been done.

    Where torch.distributed is initialised rank 0 prepares and the others wait; where it is not, a lock file does the
    same for processes that share a file system.

    Args:
        seed: of the order of the rows, and of the ids of synthetic data.

    Raises:
        ValueError: as `prepare` and the data modules do.
    """
    if isinstance(config, SyntheticConfig):
        return SyntheticDataModule(config, seed=seed)
    rank, world = _rank_and_world()
    if world > 1 and rank > 0:
        torch.distributed.barrier()
    try:
        folder = prepare(config)
    finally:
        # in a finally, so that the others fail by themselves instead of waiting for a rank that failed
        if world > 1 and rank == 0:
            torch.distributed.barrier()
    return TokenDataModule(
        folder,
        sequence_length=config.sequence_length,
        micro_batch_size=config.micro_batch_size,
        seed=seed,
        document_mask=config.document_mask,
        shuffle=config.shuffle,
        workers=config.workers,
        training_rows=config.training_rows,
        validation_rows=config.validation_rows,
        verify_hashes=config.verify_hashes,
    )


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
