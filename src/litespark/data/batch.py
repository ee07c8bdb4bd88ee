"""The batch a model gets.

Shapes: B sequences of a micro-batch, S sequence length. The first S of a sequence's S+1 ids are the input, the last S
the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litespark.data.loss_mask import IGNORE_INDEX, masked_labels

# how many documents a batch has differs from batch to batch; lengths of `cu_seqlens` are multiples of this, so that
# compiled code meets few of them. Each entry too many costs a kernel launch some empty programs: not more than needed.
_CU_SEQLENS_MULTIPLE = 16


@dataclass
class TokenBatch:
    """Input ids with the label of each, the documents they belong to, and counts, which are integers of the host."""

    tokens: Tensor
    """(B, S) int64."""
    labels: Tensor
    """(B, S) int64: the id that follows tokens[:, i], or IGNORE_INDEX where nothing is predicted."""
    positions: Tensor | None
    """(B, S) int64, restarting at 0 in each document; None means 0..S-1 in every sequence."""
    documents: Tensor | None
    """(B, S) int32, index of the document within its sequence, non-decreasing; None means no document mask."""
    token_count: int
    """Input ids that are not padding."""
    supervised_count: int
    """Labels that are not IGNORE_INDEX."""
    attention_pairs: int
    """(query, key) pairs that causal attention, within documents where they are given, may see; summed over sequences.
    Those of padding are left out."""
    cu_seqlens: Tensor | None = None
    """(N+1,) int32, where `documents` is: 0, then where each document ends in the B·S flattened tokens. Padded by
    repeating the last, B·S: empty documents."""
    branches: Tensor | None = None
    """(B, S) int32, where `documents` is: a token sees those of its document that have its number, or 0."""
    domain: str | None = None
    """Domain that all sequences are of, where the loader keeps domains apart: in validation."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        # a copy from device to host that does not block could be read before it is there
        non_blocking = non_blocking and self.tokens.is_cpu
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return self._with_tensors(lambda tensor: tensor.pin_memory())

    def _with_tensors(self, moved: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, **{name: _moved(held, moved) for name, held in vars(self).items()})


def _moved(held: Any, moved: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(held, dict):
        return {name: _moved(value, moved) for name, value in held.items()}
    return moved(held) if isinstance(held, Tensor) else held


def batch_from_sequences(
    sequences: Tensor,
    *,
    eos_id: int | None,
    document_mask: bool,
    real_sequences: int | None = None,
    padded: bool = False,
) -> TokenBatch:
    """Shift (B, S+1) int64 ids into inputs and labels and mark the documents in them.

    A document ends with EOS; labels are those of `masked_labels`.

    Args:
        sequences: ids on the CPU.
        eos_id: None for a stream without documents.
        document_mask: fill `documents`, `positions` and `cu_seqlens`, so that attention stays within a document.
        real_sequences: how many of the sequences are data (None: all); the others supervise nothing and count for
            nothing.
        padded: the sequences were packed: where several EOS end a sequence, those behind the first are padding, which
            supervises nothing and counts for nothing; with `document_mask` it is one more document.
    """
    if sequences.ndim != 2 or sequences.shape[1] < 2:
        raise ValueError(
            f"sequences have shape {tuple(sequences.shape)}; expected (batch, sequence length + 1), two ids or more"
        )
    if (document_mask or padded) and eos_id is None:
        raise ValueError("document_mask and padded need an EOS id; got eos_id=None. Give the id or set both to False.")
    ids = sequences.numpy()
    count, length = ids.shape[0], ids.shape[1] - 1
    real = count if real_sequences is None else real_sequences
    tokens = np.ascontiguousarray(ids[:, :-1])
    ends = np.zeros(tokens.shape, dtype=bool) if eos_id is None else tokens == eos_id
    labels = masked_labels(ids, ends, real)
    filled = _filled(ids, eos_id) if padded else np.full(count, length)

    starts = _document_starts(ends if document_mask else np.zeros_like(ends), filled)
    first = np.flatnonzero(starts)  # row-major, so a document's length is the distance to the next start
    lengths = np.diff(first, append=tokens.size)
    sequence, place = np.divmod(first, length)
    kept = lengths[(sequence < real) & (place < filled[sequence])]
    positions = documents = cu_seqlens = None
    if document_mask:
        positions = torch.from_numpy(np.arange(tokens.size) - np.repeat(first, lengths)).view(count, length)
        documents = torch.from_numpy(np.cumsum(starts, axis=1, dtype=np.int32) - np.int32(1))
        cu_seqlens = padded_cu_seqlens(first, tokens.size)
    return TokenBatch(
        tokens=torch.from_numpy(tokens),
        labels=torch.from_numpy(labels),
        positions=positions,
        documents=documents,
        token_count=int(filled[:real].sum()),
        supervised_count=int(np.count_nonzero(labels != IGNORE_INDEX)),
        attention_pairs=int(np.sum(kept * (kept + 1) // 2, dtype=np.int64)),
        cu_seqlens=cu_seqlens,
    )


def padded_cu_seqlens(starts: NDArray[np.int64], size: int) -> Tensor:
    """The `cu_seqlens` of documents that begin at `starts` of `size` flattened tokens."""
    multiple = -(-(starts.size + 1) // _CU_SEQLENS_MULTIPLE) * _CU_SEQLENS_MULTIPLE
    ends_at = np.full(multiple, size, dtype=np.int32)
    ends_at[: starts.size] = starts
    return torch.from_numpy(ends_at)


def _document_starts(ends: NDArray[np.bool_], filled: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(B, S), true where a document begins: behind each end, and where padding begins, which is one document."""
    length = ends.shape[1]
    starts = np.empty_like(ends)
    starts[:, 0] = True
    starts[:, 1:] = ends[:, :-1]
    for sequence in np.flatnonzero(filled < length):
        starts[sequence, filled[sequence]] = True
        starts[sequence, filled[sequence] + 1 :] = False
    return starts


def _filled(ids: NDArray[np.int64], eos_id: int | None) -> NDArray[np.int64]:
    """(B,) of (B, S+1) packed sequences: how many inputs stand before the padding."""
    length = ids.shape[1] - 1
    filled = np.full(ids.shape[0], length)
    for sequence in np.flatnonzero((ids[:, -1] == eos_id) & (ids[:, -2] == eos_id)):
        text = np.flatnonzero(ids[sequence] != eos_id)
        filled[sequence] = text[-1] + 2 if text.size else 1
    return filled
