"""The rows of a split with all of its domains, numbered one domain behind the other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from litespark.data.config import ReadingConfig
from litespark.data.manifest import Manifest
from litespark.data.stream.cache import ChunkCache
from litespark.data.stream.mixture import Interleaving
from litespark.data.stream.rows import ChunkRows, Rows
from litespark.data.stream.token_chunks import TokenChunks

log = logging.getLogger(__name__)


class DomainRows:
    """Rows of several domains as one.

    Args:
        parts: the rows of each domain; None where it is shorter than one row.

    Attributes:
        sizes: rows of each domain, 0 included.
        starts: number of the first row of each domain.
        unreached_tokens: ids that no row holds.
    """

    def __init__(self, parts: Mapping[str, Rows | None], *, unreached_tokens: int = 0) -> None:
        self.unreached_tokens = unreached_tokens
        self.sizes = {name: rows.count if rows else 0 for name, rows in parts.items()}
        ends = np.cumsum(list(self.sizes.values()), dtype=np.int64)
        self.starts = {name: int(end) - size for end, (name, size) in zip(ends, self.sizes.items(), strict=True)}
        self.count = int(ends[-1])
        self._parts = [rows for rows in parts.values() if rows]
        self._ends = np.unique(ends[ends > 0])

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Rows.read`."""
        if len(self._parts) == 1:
            return self._parts[0].read(rows)
        domains = np.searchsorted(self._ends, rows, side="right")
        read = {
            int(domain): self._parts[domain].read(rows[domains == domain] - self._begin(domain))
            for domain in np.unique(domains)
        }
        first = next(iter(read.values()))
        ids = np.empty((len(rows), first.shape[1]), dtype=first.dtype)
        for domain, found in read.items():
            ids[domains == domain] = found
        return ids

    def spread(self, limit: int | None) -> dict[str, NDArray[np.int64]]:
        """The numbers of `limit` rows (None: all) of each domain: in proportion over the domains, evenly within each.

        A domain whose part of the limit is less than one row may be absent.
        """
        counts = self.proportion(limit)
        return {
            name: self.starts[name] + np.arange(count, dtype=np.int64) * self.sizes[name] // count
            for name, count in counts.items()
            if count
        }

    def proportion(self, limit: int | None, *, only: Mapping[str, object] | None = None) -> dict[str, int]:
        """How many of `limit` rows (None: all) each domain gives, by size.

        Args:
            limit: rows in all.
            only: domains without a true value here give none; None: all give.
        """
        sizes = {name: size if only is None or only[name] else 0 for name, size in self.sizes.items()}
        if limit is None or limit >= sum(sizes.values()):
            return sizes
        return dict(zip(sizes, Interleaving(list(sizes.values())).counts(limit), strict=True))

    def _begin(self, domain: int) -> int:
        return int(self._ends[domain - 1]) if domain else 0


def open_split(
    place: Path | str, manifest: Manifest, split: str, reading: ReadingConfig, cache: ChunkCache | None = None
) -> DomainRows:
    """The rows of one split of a prepared folder; a domain shorter than one row is left out with a warning.

    Args:
        place: of the prepared folder, a path or an address.
        manifest: of that folder.
        split: train or validation.
        reading: how rows are cut, and whether chunks are hashed.
        cache: of the chunks of an address.

    Raises:
        ValueError: no domain holds a whole row, a chunk is not as the manifest says, or rows that were packed for
            another sequence length.
    """
    packed = manifest.packing == "best_fit"
    if packed and manifest.seq_len != reading.seq_len:
        raise ValueError(
            f"data.seq_len={reading.seq_len}, but {place} is packed best_fit for data.seq_len={manifest.seq_len}, and "
            f"a new length would cut documents. Set data.seq_len={manifest.seq_len}, or prepare the text for "
            f"{reading.seq_len}, or with data.packing=concat, which any length can read."
        )
    domains = manifest.splits[split].domains
    # with the padding of packed rows, which makes a whole row of a short document
    held = {name: sum(record.tokens for record in counts.chunks) for name, counts in domains.items()}
    # left to `ChunkRows`, which refuses it where it is too short as well
    longest = max(held, key=lambda name: held[name])
    parts: dict[str, Rows | None] = {}
    unreached = 0
    for name, counts in domains.items():
        if held[name] <= reading.seq_len and name != longest:
            log.warning(
                "%s/%s: domain %s holds %d tokens, less than the %d of one row; it is left out",
                place, split, name, counts.tokens, reading.seq_len + 1,
            )  # fmt: skip
            parts[name] = None
            unreached += counts.tokens
            continue
        chunks = TokenChunks(
            f"{place}/{split}/{counts.folder}",
            counts.chunks,
            vocab_size=manifest.vocab_size,
            verify_hashes=reading.verify_hashes,
            cache=cache,
        )
        parts[name] = rows = ChunkRows(chunks, reading.seq_len, packed=packed)
        if not packed:
            unreached += held[name] - (rows.count * reading.seq_len + 1)
    return DomainRows(parts, unreached_tokens=unreached)
