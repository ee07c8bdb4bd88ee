"""The tokens of one unit into the chunks of its splits and domains, counted on the way."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from litespark.data.config import PrepareConfig
from litespark.data.prepare.chunk_writer import ChunkWriter, domain_folder
from litespark.data.prepare.encoding import Encoded
from litespark.data.prepare.packing import BestFitPacker
from litespark.data.prepare.work import DomainResult
from litespark.data.storage import Storage
from litespark.data.text.splits import TRAIN, VALIDATION

MOST_DOMAINS = 100
"""Each has files of its own; more are a field that names something else."""


class SplitWriter:
    """Chunks of one unit, `SPLIT/DOMAIN/chunk-UNIT-K.bin`: in memory is one a domain and split.

    `token_bytes` are (vocabulary,) bytes that each id decodes to; `frequencies` how often each was written, by split.
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
        """Write documents; returns how many tokens they have."""
        groups: dict[tuple[str, str], list[Encoded]] = defaultdict(list)
        for entry, ids in batch:
            groups[entry.split, entry.document.domain].append((entry, ids))
        return sum(self._add_to(split, name, group) for (split, name), group in groups.items())

    def close(self) -> dict[str, dict[str, DomainResult]]:
        results: dict[str, dict[str, DomainResult]] = {TRAIN: {}, VALIDATION: {}}
        for (split, name), domain in self._domains.items():
            results[split][name] = domain.close()
        return results

    def _add_to(self, split: str, name: str, group: list[Encoded]) -> int:
        domain = self._domains.get((split, name)) or self._new_domain(split, name)
        result = domain.result
        for entry, ids in group:
            result.lengths[ids.size.bit_length() - 1] += 1
            result.text_bytes += entry.size
            domain.add(ids)
        together = np.concatenate([ids for _, ids in group])
        result.documents += len(group)
        result.tokens += together.size
        result.bytes += int(self._token_bytes[together].sum())
        self.frequencies[split] += np.bincount(together, minlength=self.vocab_size)
        return together.size

    def _new_domain(self, split: str, name: str) -> _Domain:
        refuse_many_domains({name, *(domain for _, domain in self._domains)}, self.config.domain_field)
        folder, size = self.prepared.below(split).below(domain_folder(name)), tokens_of_a_chunk(self.config)
        chunks = ChunkWriter(folder, self.unit, vocab_size=self.vocab_size, chunk_tokens=size)
        packed = self.config.packing == "best_fit"
        packer = BestFitPacker(self.config.seq_len, self._eos_id) if packed else None
        return self._domains.setdefault((split, name), _Domain(chunks, packer))


class _Domain:
    def __init__(self, chunks: ChunkWriter, packer: BestFitPacker | None) -> None:
        self.chunks = chunks
        self.packer = packer
        self.result = DomainResult()

    def add(self, ids: NDArray[np.generic]) -> None:
        for sequences in self.packer.add(ids) if self.packer else [[ids]]:
            for sequence in sequences:
                self.chunks.add(sequence)

    def close(self) -> DomainResult:
        for sequences in self.packer.close() if self.packer else []:
            for sequence in sequences:
                self.chunks.add(sequence)
        self.result.chunks = self.chunks.close()
        return self.result


def tokens_of_a_chunk(config: PrepareConfig) -> int:
    """Ids of every chunk but the last: what the settings say, down to whole sequences where sequences are packed."""
    if config.packing != "best_fit":
        return config.chunk_tokens
    width = config.seq_len + 1
    return max(config.chunk_tokens // width, 1) * width


def refuse_many_domains(names: set[str], field: str | None) -> None:
    if len(names) > MOST_DOMAINS:
        some = ", ".join(sorted(names)[:3])
        raise ValueError(
            f"data.domain_field={field} names more than {MOST_DOMAINS} domains ({some}, …); expected the few parts "
            "that a corpus is made of. Name another field, or none."
        )
