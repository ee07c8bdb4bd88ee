"""Random tokens without files: sequences that are a function of a seed, and the manifest that goes with them."""

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from litespark.data.config import ReadingConfig, SyntheticConfig
from litespark.data.dropped import DroppedDocuments
from litespark.data.manifest import DomainCounts, Manifest, SplitCounts
from litespark.data.text.document import ONLY_DOMAIN
from litespark.data.text.splits import TRAIN, VALIDATION


@dataclass(frozen=True)
class SyntheticSequences:
    """Sequences of random ids: at place p a hash of (seed, p), the finaliser of SplitMix64 (Steele et al., 2014).

    With `document_length` every so many places hold the EOS id 0, and no other place does.
    """

    count: int
    seq_len: int
    vocab_size: int
    seed: int
    document_length: int | None

    def sequence(self, number: int) -> NDArray[np.int64]:
        places = number * self.seq_len + np.arange(self.seq_len + 1)
        first = 0 if self.document_length is None else 1
        mixed = _mix(places.astype(np.uint64) + _mix(np.array([self.seed], dtype=np.uint64)))
        ids = (mixed % np.uint64(self.vocab_size - first)).astype(np.int64) + first
        if self.document_length is not None:
            ids[places % self.document_length == self.document_length - 1] = 0
        return ids


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def synthetic_sequences(config: SyntheticConfig, seed: int) -> list[SyntheticSequences]:
    """The sequences of train and of validation."""
    counts = config.synthetic_sequences, config.synthetic_validation_sequences
    return [
        SyntheticSequences(count, config.seq_len, config.vocab_size, 2 * seed + place, config.document_length)
        for place, count in enumerate(counts)
    ]


def synthetic_manifest(config: SyntheticConfig, seed: int) -> Manifest:
    """What `synthetic_sequences` states about its sequences: their ids stand for no text, so for 0 bytes each."""
    # what decides the ids; how they are read may change, as by a resume with another micro-batch
    own = {field.name for field in fields(config)} - {field.name for field in fields(ReadingConfig)}
    return Manifest(
        name="synthetic",
        vocab_size=config.vocab_size,
        eos_id=None if config.document_length is None else 0,
        bos_id=None,
        tokenizer_hash="synthetic",
        token_bytes=[0] * config.vocab_size,
        splits={
            split: SplitCounts({ONLY_DOMAIN: DomainCounts(ONLY_DOMAIN, 1, made.count * made.seq_len + 1, 0, 0)})
            for split, made in zip((TRAIN, VALIDATION), synthetic_sequences(config, seed), strict=True)
        },
        unigram_entropy=math.log(config.vocab_size),
        settings={name: getattr(config, name) for name in ("seq_len", *sorted(own))} | {"seed": seed},
        dropped=DroppedDocuments(),
        code_version="synthetic",
    )
