"""Sequences of S+1 ids (S sequence length), of one domain and of all domains of a split.

Sequence i of a domain holds its ids i·S..i·S+S, so that sequences share one id with the next: the last label of one is
the first input of the next, and every id but the first of a domain is a label exactly once an epoch. Only the last
(N-1) mod S of N ids are never reached.
"""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from litespark.data.config import ReadingConfig
from litespark.data.manifest import Manifest
from litespark.data.stream.cache import ChunkCache
from litespark.data.stream.order import Interleaving
from litespark.data.stream.token_chunks import TokenChunks

log = logging.getLogger(__name__)


class ChunkSequences:
    """Sequences of one domain of a prepared folder; `packed` ones lie ready one behind the other and share no id."""

    def __init__(self, chunks: TokenChunks, seq_len: int, *, packed: bool = False) -> None:
        self.chunks = chunks
        self.seq_len = seq_len
        self.stride = seq_len + packed
        self.count, rest = divmod(max(len(chunks) - (not packed), 0), self.stride)
        if packed and (rest or not self.count):
            raise ValueError(
                f"{chunks.folder} holds {len(chunks)} ids, expected whole sequences of {self.stride}, one at least. "
                "Delete the prepared folder and prepare the text again."
            )
        if self.count < 1:
            raise ValueError(
                f"{chunks.folder} holds {len(chunks)} tokens; data.seq_len={seq_len} needs at least {seq_len + 1}. Set "
                f"data.seq_len to at most {max(len(chunks) - 1, 0)}, or prepare more text (for validation: a larger "
                "data.validation_fraction)."
            )

    def sequence(self, number: int) -> NDArray[np.int64]:
        """(S+1,) ids."""
        return self.chunks.read(number * self.stride, self.seq_len + 1)


class Sequences(Protocol):
    """Sequences of one domain, numbered from 0."""

    @property
    def count(self) -> int: ...

    def sequence(self, number: int) -> Any: ...


class DomainSequences:
    """Sequences of several domains, numbered one domain behind the other; a part is None where it is shorter than one.

    `sizes` are the sequences of each domain, 0 included, `starts` the numbers of their first sequences.
    """

    def __init__(self, parts: Mapping[str, Sequences | None]) -> None:
        self.sizes = {name: sequences.count if sequences else 0 for name, sequences in parts.items()}
        *starts, self.count = itertools.accumulate(self.sizes.values(), initial=0)
        self.starts = dict(zip(self.sizes, starts, strict=True))
        self._parts = [(self.starts[name], sequences) for name, sequences in parts.items() if sequences]

    def read(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, S+1) int64 ids of the n sequences asked for."""
        places = np.searchsorted([start for start, _ in self._parts], sequences, side="right") - 1
        parts = [self._parts[place] for place in places]
        numbered = zip(sequences, parts, strict=True)
        return np.stack([part.sequence(int(number) - start) for number, (start, part) in numbered])

    def served(self, sequences: NDArray[np.int64]) -> Any:
        """What a loader hands over of the sequences asked for: (n, S+1) int64 ids as a tensor."""
        return torch.from_numpy(self.read(sequences))

    def spread(self, limit: int | None) -> dict[str, NDArray[np.int64]]:
        """The numbers of `limit` sequences (None: all) of each domain: in proportion over domains, evenly in each."""
        return {
            name: self.starts[name] + np.arange(count, dtype=np.int64) * self.sizes[name] // count
            for name, count in self.proportion(limit).items()
            if count
        }

    def proportion(self, limit: int | None, *, only: Mapping[str, object] | None = None) -> dict[str, int]:
        """How many of `limit` sequences (None: all) each domain gives, by size; none without a true value in `only`."""
        sizes = {name: size if only is None or only[name] else 0 for name, size in self.sizes.items()}
        if limit is None or limit >= sum(sizes.values()):
            return sizes
        return dict(zip(sizes, Interleaving(list(sizes.values())).counts(limit), strict=True))


def open_split(
    place: Path | str, manifest: Manifest, split: str, reading: ReadingConfig, cache: ChunkCache | None = None
) -> DomainSequences:
    """The sequences of one split of the prepared folder at `place`, which a `cache` keeps here where it is an address.

    A domain shorter than one sequence is left out with a warning. A ValueError where no domain holds a whole sequence,
    a chunk is not as the manifest states, or sequences were packed for another sequence length.
    """
    packed = manifest.packing == "best_fit"
    if packed and manifest.seq_len != reading.seq_len:
        raise ValueError(
            f"data.seq_len={reading.seq_len}, but {place} is packed best_fit for data.seq_len={manifest.seq_len}, and "
            f"a new length would cut documents. Set data.seq_len={manifest.seq_len}, or prepare the text for "
            f"{reading.seq_len}, or with data.packing=concat, which any length can read."
        )
    domains = manifest.splits[split].domains
    # with the padding of packed sequences, which makes a whole sequence of a short document
    held = {name: sum(record.tokens for record in counts.chunks) for name, counts in domains.items()}
    # left to `ChunkSequences`, which refuses it where it is too short as well
    longest = max(held, key=lambda name: held[name])
    parts: dict[str, Sequences | None] = {}
    for name, counts in domains.items():
        if held[name] <= reading.seq_len and name != longest:
            log.warning(
                "%s/%s: domain %s holds %d tokens, less than the %d of one sequence; it is left out",
                place,
                split,
                name,
                counts.tokens,
                reading.seq_len + 1,
            )
            parts[name] = None
            continue
        folder, hashed = f"{place}/{split}/{counts.folder}", reading.verify_hashes
        chunks = TokenChunks(folder, counts.chunks, vocab_size=manifest.vocab_size, verify_hashes=hashed, cache=cache)
        parts[name] = ChunkSequences(chunks, reading.seq_len, packed=packed)
    return DomainSequences(parts)
