"""The tokens of one unit into the chunks of its splits and domains, counted on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litespark.data.config import PrepareConfig
from litespark.data.prepare.chunk_writer import ChunkWriter, domain_folder
from litespark.data.prepare.encoding import Encoded, Entry
from litespark.data.prepare.packing import BestFitPacker
from litespark.data.prepare.work import DomainResult
from litespark.data.storage import Storage
from litespark.data.text.splits import TRAIN, VALIDATION

MOST_DOMAINS = 100
"""Each has files of its own; more are a field that names something else."""


@dataclass
class _Domain:
    """Where the documents of one domain of one split go, and what they add up to."""

    chunks: ChunkWriter
    packer: BestFitPacker | None
    result: DomainResult


class SplitWriter:
    """Chunks of one unit: `SPLIT/DOMAIN/chunk-UNIT-K.bin`.

    Memory: one chunk a domain and split.

    Args:
        prepared: the prepared folder.
        unit: its number.
        config: chunk size and packing.
        token_bytes: (vocabulary,) bytes that each id decodes to.
        eos_id: id that ends each document.

    Attributes:
        frequencies: by split, how often each id was written; (vocabulary,).
    """

    def __init__(
        self, prepared: Storage, unit: int, config: PrepareConfig, *, token_bytes: NDArray[np.int64], eos_id: int
    ) -> None:
        self.prepared = prepared
        self.unit = unit
        self.config = config
        self.vocab_size = token_bytes.size
        self.frequencies = {split: np.zeros(self.vocab_size, dtype=np.int64) for split in (TRAIN, VALIDATION)}
        self._token_bytes = token_bytes
        self._eos_id = eos_id
        self._domains: dict[tuple[str, str], _Domain] = {}

    def add(self, batch: list[Encoded]) -> int:
        """Write documents; returns how many tokens they have.

        Raises:
            ValueError: more than MOST_DOMAINS domains.
        """
        groups: dict[tuple[str, str], list[Encoded]] = {}
        for entry, ids in batch:
            groups.setdefault((entry.split, entry.document.domain), []).append((entry, ids))
        return sum(self._add_to(split, domain, group) for (split, domain), group in groups.items())

    def close(self) -> dict[str, dict[str, DomainResult]]:
        """Write what is held; returns the results by split and domain."""
        results: dict[str, dict[str, DomainResult]] = {TRAIN: {}, VALIDATION: {}}
        for (split, name), domain in self._domains.items():
            for rows in domain.packer.close() if domain.packer else ():
                _add_rows(domain.chunks, rows)
            domain.result.chunks = domain.chunks.close()
            results[split][name] = domain.result
        return results

    def _add_to(self, split: str, name: str, group: list[tuple[Entry, NDArray[np.generic]]]) -> int:
        domain = self._domain(split, name)
        result = domain.result
        for entry, ids in group:
            power = ids.size.bit_length() - 1
            result.lengths[power] = result.lengths.get(power, 0) + 1
            result.text_bytes += entry.size
            if domain.packer is None:
                domain.chunks.add(ids)
            else:
                for rows in domain.packer.add(ids):
                    _add_rows(domain.chunks, rows)
        ids = np.concatenate([ids for _, ids in group])
        result.documents += len(group)
        result.tokens += ids.size
        result.bytes += int(self._token_bytes[ids].sum())
        self.frequencies[split] += np.bincount(ids, minlength=self.vocab_size)
        return ids.size

    def _domain(self, split: str, name: str) -> _Domain:
        if (found := self._domains.get((split, name))) is not None:
            return found
        refuse_many_domains({name, *(domain for _, domain in self._domains)}, self.config.domain_field)
        packer = None
        if self.config.packing == "best_fit":
            packer = BestFitPacker(self.config.seq_len, self._eos_id)
        chunks = ChunkWriter(
            self.prepared.below(split).below(domain_folder(name)),
            self.unit,
            vocab_size=self.vocab_size,
            chunk_tokens=tokens_of_a_chunk(self.config),
        )
        self._domains[split, name] = _Domain(chunks, packer, DomainResult())
        return self._domains[split, name]


def tokens_of_a_chunk(config: PrepareConfig) -> int:
    """Ids of every chunk but the last: what the settings say, down to whole rows where rows are packed."""
    if config.packing != "best_fit":
        return config.chunk_tokens
    row = config.seq_len + 1
    return max(config.chunk_tokens // row, 1) * row


def refuse_many_domains(names: set[str], field: str | None) -> None:
    """Raise ValueError for more than MOST_DOMAINS domains."""
    if len(names) > MOST_DOMAINS:
        some = ", ".join(sorted(names)[:3])
        raise ValueError(
            f"data.domain_field={field} names more than {MOST_DOMAINS} domains ({some}, …); expected the few parts "
            "that a corpus is made of. Name another field, or none."
        )


def _add_rows(chunks: ChunkWriter, rows: NDArray[np.generic]) -> None:
    for row in rows:
        chunks.add(row)
