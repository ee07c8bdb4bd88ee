"""Rows of a folder that was packed best-fit: they lie ready in its chunks, one behind the other.

S sequence length. Row i is the ids i·(S+1) to i·(S+1)+S of a domain; what follows a document's EOS in it is another
document, or more EOS: padding (see `packing`). Batches of such rows are made with `batch_from_rows(..., padded=True)`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from litespark.data.reading.token_chunks import TokenChunks


class PackedRows:
    """Rows of one domain of one split, with the interface of `rows.Rows`.

    Args:
        chunks: of the domain.
        seq_len: that is asked for.
        packed_length: that the rows were laid out for: `Manifest.seq_len`.

    Attributes:
        count: rows.

    Raises:
        ValueError: the rows were laid out for another sequence length, or the chunks hold no whole number of rows, or
            none.
    """

    def __init__(self, chunks: TokenChunks, seq_len: int, packed_length: int | None) -> None:
        if packed_length != seq_len:
            raise ValueError(
                f"data.seq_len={seq_len}, but {chunks.folder} is packed best_fit in rows for "
                f"data.seq_len={packed_length}, and a new length would cut documents. Set "
                f"data.seq_len={packed_length}, or prepare the text for {seq_len}, or with "
                "data.packing=concat, which any length can read."
            )
        self.chunks = chunks
        self.width = seq_len + 1
        self.count, rest = divmod(len(chunks), self.width)
        if rest or not self.count:
            raise ValueError(
                f"{chunks.folder} holds {len(chunks)} ids, expected whole rows of {self.width}, one at least. Delete "
                "the prepared folder and prepare the text again."
            )

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n, S+1) int64 ids of the n rows asked for."""
        return np.stack([self.chunks.read(int(row) * self.width, self.width) for row in rows])
