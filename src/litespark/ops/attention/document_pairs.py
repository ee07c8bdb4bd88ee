"""How many (query, key) pairs attention computes within documents: those seen, and those of the blocks that hold them.

Documents lie one behind the other and are cut into sequences, as `packing=concat` reads them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Lengths = NDArray[np.int64]


def lengths_of(mean: float, spread: float, tokens: int, seed: int = 0) -> Lengths:
    """Lengths of documents of so many `tokens` together, log-normal: `spread` is the deviation of the logarithm."""
    number = np.random.default_rng(seed).lognormal(np.log(mean) - spread**2 / 2, spread, int(2 * tokens / mean) + 100)
    lengths = np.maximum(1, number.round()).astype(np.int64)
    return lengths[: int(np.searchsorted(lengths.cumsum(), tokens)) + 1]


def lengths_in(histogram: Sequence[int], tokens: int, seed: int = 0) -> Lengths:
    """The same of a histogram whose entry k counts documents of 2^k to 2^(k+1)-1 tokens, evenly by the logarithm."""
    random, share = np.random.default_rng(seed), np.array(histogram) / sum(histogram)
    mean = float(share @ (2.0 ** np.arange(len(share)) / np.log(2)))
    number = int(2 * tokens / mean) + 100
    lengths = (2 ** (random.choice(len(share), number, p=share) + random.random(number))).astype(np.int64)
    return lengths[: int(np.searchsorted(lengths.cumsum(), tokens)) + 1]


def cut(lengths: Lengths, seq_len: int) -> Lengths:
    """(N, S) the first position of the document that each position of whole sequences is in."""
    places = np.arange(int(lengths.sum()) // seq_len * seq_len)
    starts = np.concatenate([[0], lengths.cumsum()])
    first = starts[np.searchsorted(starts, places, side="right") - 1]
    sequence = places // seq_len * seq_len
    return (np.maximum(first, sequence) - sequence).reshape(-1, seq_len)


def pairs_seen(first: Lengths) -> int:
    """Pairs of a query with itself and the earlier tokens of its document; `first` as of `cut`."""
    return int((np.arange(first.shape[1]) - first + 1).sum())


def pairs_computed(first: Lengths, queries: int, keys: int) -> int:
    """Pairs of the blocks of queries x keys in which a pair is seen, where blocks are those of the sequence.

    A kernel that walks over the blocks of queries, for one of keys, comes to the same blocks.
    """
    starts = np.arange(0, first.shape[1], queries)
    ends = -(-np.minimum(starts + queries, first.shape[1]) // keys) * keys
    return int(queries * (ends - first[:, starts] // keys * keys).sum())


def pairs_of_documents(first: Lengths, queries: int, keys: int) -> int:
    """The same where blocks begin with each document, as of kernels that take documents end to end."""
    counts = np.unique(np.cumsum(first == np.arange(first.shape[1])), return_counts=True)[1]
    lengths, times = np.unique(counts, return_counts=True)
    return int(times @ [pairs_computed(np.zeros((1, size), np.int64), queries, keys) for size in lengths.tolist()])
