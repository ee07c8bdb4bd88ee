"""The Lightning data modules: prepared tokens, or synthetic ones, in an exact global order.

Position p of the endless training stream holds a sequence that is a pure function of (seed, p); see `order`. A global
micro-batch is the next world × micro_batch_size positions, of which each rank takes a contiguous slice. So the position
of a run is one integer, whatever the number of ranks and workers, and a resume continues with the very next sequence.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray

from litespark.data.batch import batch_from_sequences
from litespark.data.config import ReadingConfig, SyntheticConfig
from litespark.data.manifest import Manifest
from litespark.data.storage import Storage
from litespark.data.stream.cache import ChunkCache
from litespark.data.stream.loader import MakeBatch, StreamPositions, TokenLoader, TrainingBatches, ValidationBatches
from litespark.data.stream.order import MixtureOrder, Order, SequenceOrder, shares_of
from litespark.data.stream.sequences import DomainSequences, open_split
from litespark.data.stream.synthetic import synthetic_manifest, synthetic_sequences
from litespark.data.text.document import ONLY_DOMAIN
from litespark.data.text.splits import TRAIN, VALIDATION
from litespark.mesh import Mesh
from litespark.ranges import CountFromZero, check_number


class SequenceDataModule(LightningDataModule):
    """Serves the sequences of two splits, training and validation, that a subclass provides; keeps the position."""

    def __init__(
        self,
        splits: Iterable[DomainSequences],
        manifest: Manifest,
        reading: ReadingConfig,
        *,
        seed: int,
        mesh: Mesh | None,
    ) -> None:
        super().__init__()
        check_number("seed", seed, CountFromZero)
        self.manifest = manifest
        self.reading = reading
        self.seq_len = reading.seq_len
        self.micro_batch_size = reading.micro_batch_size
        self.seed = seed
        self.mesh = mesh or Mesh()
        self._training, self._validation = splits
        self.train_sequences = self._order().sequences
        self._start_sequence = 0
        # the trainer's step at `_start_sequence`; unknown until the loader is made, since Lightning restores the data
        # module before its own step
        self._first_step: int | None = None

    @property
    def consumed_sequences(self) -> int:
        """Sequences of the endless stream that optimizer steps have used so far, over all ranks."""
        if self.trainer is None or self._first_step is None:
            return self._start_sequence
        sequences_per_step = self.micro_batch_size * self.mesh.roles.data * self.trainer.accumulate_grad_batches
        return self._start_sequence + (self.trainer.global_step - self._first_step) * sequences_per_step

    def start_at(self, sequence: int) -> None:
        """Begin the next fit behind so many sequences of the endless stream."""
        check_number("the sequence to start at", sequence, CountFromZero)
        self._start_sequence, self._first_step = sequence, None

    def train_dataloader(self) -> TokenLoader:
        """Endless TokenBatches of (micro_batch_size, seq_len) from the current position on."""
        self._start_sequence = self.consumed_sequences
        self._first_step = None if self.trainer is None else self.trainer.global_step
        rank, world = self.mesh.data_rank, self.mesh.roles.data
        positions = StreamPositions(lambda: self.consumed_sequences, size=self.micro_batch_size, rank=rank, world=world)
        batches = TrainingBatches(self._training, self._order(), self.micro_batch_size)
        return TokenLoader(batches, self._make_batch(), workers=self.reading.workers, sampler=positions)

    def val_dataloader(self) -> TokenLoader:
        """The validation sequences once, domain by domain; every rank gets as many batches of the same shape."""
        return self._once(self._validation, self._validation.spread(self.reading.validation_sequences))

    def training_once(self) -> TokenLoader:
        """The sequences that the training stream is made of, once; otherwise as `val_dataloader`."""
        starts = self._training.starts
        used = {name: starts[name] + np.arange(count) for name, count in self._used().items() if count}
        return self._once(self._training, used)

    def validation_once(self) -> TokenLoader:
        """As `val_dataloader`, all sequences of the split."""
        return self._once(self._validation, self._validation.spread(None))

    def _once(self, sequences: DomainSequences, chosen: dict[str, NDArray[np.int64]]) -> TokenLoader:
        rank, world = self.mesh.data_rank, self.mesh.roles.data
        batches = ValidationBatches(sequences, chosen, self.micro_batch_size, rank, world)
        return TokenLoader(batches, self._make_batch(), workers=self.reading.workers)

    def _used(self) -> dict[str, int]:
        """How many sequences of each domain the training stream is made of, the first ones."""
        reading, training = self.reading, self._training
        # also for one domain and before a limit, so that a mixture that does not fit is refused for what it is
        shares = shares_of(training.sizes, reading.mixture, reading.mixture_temperature)
        return training.proportion(reading.training_sequences, only=shares)

    def _order(self) -> Order:
        """The endless stream of training sequences, made anew: it keeps what it computed last."""
        reading, training, used = self.reading, self._training, self._used()
        if len(training.sizes) == 1:
            return SequenceOrder(sum(used.values()), seed=self.seed, shuffle=reading.shuffle)
        shares = shares_of(used, reading.mixture, reading.mixture_temperature)
        return MixtureOrder(training.sizes, shares, used=used, seed=self.seed, shuffle=reading.shuffle)

    def _make_batch(self) -> MakeBatch:
        eos_id, padded = self.manifest.eos_id, self.manifest.packing == "best_fit"
        document_mask = self.reading.document_mask and eos_id is not None
        return partial(batch_from_sequences, eos_id=eos_id, document_mask=document_mask, padded=padded)

    def state_dict(self) -> dict[str, Any]:
        return {"sequences": self.consumed_sequences, **self._order_settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue behind the sequences that were consumed; batch size, ranks and workers may differ.

        A ValueError where the state is a position in another order of sequences.
        """
        for name, mine in self._order_settings().items():
            saved = state_dict.get(name, mine)
            if saved != mine:
                raise ValueError(
                    f"the checkpoint's data position belongs to {name}={saved}, this run has {name}={mine}; the "
                    "sequence at a position differs between the two. Resume with the same data settings and seed, or "
                    "start a new run from the weights."
                )
        self.start_at(state_dict["sequences"])

    def _order_settings(self) -> dict[str, Any]:
        return {
            "manifest_hash": self.manifest.hash,
            "seq_len": self.seq_len,
            "train_sequences": self.train_sequences,
            "seed": self.seed,
            "shuffle": self.reading.shuffle,
            "mixture": self.reading.mixture,
            "mixture_temperature": self.reading.mixture_temperature,
        }


class PreparedDataModule(SequenceDataModule):
    """Sequences of a prepared folder, at the path or address `place`.

    `folder` is on this machine, with the manifest and the tokenizer: `place`, or the copy of them in a cache.
    """

    place: str
    folder: Path


class TokenDataModule(PreparedDataModule):
    """Sequences of the tokens that `prepare` wrote."""

    def __init__(self, place: Path | str, reading: ReadingConfig, *, seed: int, mesh: Mesh | None = None) -> None:
        storage = Storage(place)
        self.place = storage.address
        cache = None
        if storage.remote:
            if reading.cache is None:
                raise ValueError(
                    f"{self.place} is remote, and data.cache is not set; expected a folder on this machine that keeps "
                    "its chunks. Set data.cache=FOLDER, on a disk with room for "
                    f"data.cache_bytes={reading.cache_bytes}."
                )
            cache = ChunkCache(reading.cache, reading.cache_bytes)
        self.folder = storage.local if cache is None else cache.data_set(self.place)
        manifest = Manifest.read(self.folder)
        if manifest.packing not in ("concat", "best_fit"):
            raise ValueError(
                f"{self.folder} holds {manifest.packing}, expected prepared text; name a text as data.source, or "
                f"choose data={manifest.settings.get('format', manifest.packing)}"
            )
        splits = [open_split(self.place, manifest, split, reading, cache) for split in (TRAIN, VALIDATION)]
        super().__init__(splits, manifest, reading, seed=seed, mesh=mesh)


class SyntheticDataModule(SequenceDataModule):
    """Random ids in [0, vocabulary) with the interface of `TokenDataModule` and no files; see `SyntheticSequences`."""

    def __init__(self, config: SyntheticConfig, *, seed: int, mesh: Mesh | None = None) -> None:
        check_number("seed", seed, CountFromZero)
        splits = [DomainSequences({ONLY_DOMAIN: sequences}) for sequences in synthetic_sequences(config, seed)]
        super().__init__(splits, synthetic_manifest(config, seed), config, seed=seed, mesh=mesh)
