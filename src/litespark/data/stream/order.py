"""Which sequence comes when: a pure function of (seed, position), so that the position of a run is one integer.

All arithmetic is in whole numbers, so that every machine computes the same order.
"""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

WINDOW_SEQUENCES = 1 << 18
BLOCK_SEQUENCES = 1024
_DIGITS = 12
"""Decimal places of a share by temperature."""
_KEY = int.from_bytes(b"mixture")
"""Keeps the draws of the blocks apart from those of the sequences."""


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """A permutation of 0..count-1 by the key alone, from raw draws, whose streams NumPy promises for all versions."""
    draws = np.random.PCG64(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(draws, kind="stable")


class SequenceOrder:
    """Epoch after epoch, each holding every sequence once.

    Windows of neighbouring sequences come in a random order, and so do the sequences within a window: memory is bounded
    by one window however large the corpus is, and reads stay within a few neighbouring chunk files.
    """

    def __init__(self, sequences: int, *, seed: int, shuffle: bool, window_sequences: int = WINDOW_SEQUENCES) -> None:
        self.sequences = sequences
        self.seed = seed
        self.shuffle = shuffle
        self.window_sequences = window_sequences
        self._windows: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._inside: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def stream(self, start: int, count: int) -> NDArray[np.int64]:
        """(count,) int64: the sequences at positions start..start+count-1 of the endless stream, across epoch ends."""
        return np.array([self.sequence(position) for position in range(start, start + count)], dtype=np.int64)

    def sequence(self, position: int) -> int:
        epoch, index = divmod(position, self.sequences)
        if not self.shuffle:
            return index
        order, starts = self._window_order(epoch)
        place = int(np.searchsorted(starts, index, side="right")) - 1
        window = int(order[place])
        return window * self.window_sequences + int(self._order_inside(epoch, window)[index - int(starts[place])])

    def _window_order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The windows in the order of this epoch, and the index at which each begins."""
        if self._windows is None or self._windows[0] != epoch:
            order = permutation(-(-self.sequences // self.window_sequences), self.seed, epoch)
            sizes = np.minimum(self.window_sequences, self.sequences - order * self.window_sequences)
            self._windows = (epoch, order, np.cumsum(sizes) - sizes)
        return self._windows[1], self._windows[2]

    def _order_inside(self, epoch: int, window: int) -> NDArray[np.int64]:
        if self._inside is None or self._inside[0] != (epoch, window):
            size = min(self.window_sequences, self.sequences - window * self.window_sequences)
            self._inside = ((epoch, window), permutation(size, self.seed, epoch, 1 + window))
        return self._inside[1]


def shares_of(sequences: Mapping[str, int], mixture: Mapping[str, float] | None, temperature: float) -> dict[str, int]:
    """The share of each domain of so many `sequences` as a whole number; only the ratios matter.

    By `mixture`, a share for each domain in any unit, or by size: sequences^(1/temperature). A domain without sequences
    has none.
    """
    if mixture is None:
        if temperature == 1:
            return dict(sequences)
        return {name: _heated(count, temperature) if count else 0 for name, count in sequences.items()}
    if mixture.keys() != sequences.keys():
        raise ValueError(
            f"data.mixture: got {', '.join(mixture)}; expected a share for each of the domains {', '.join(sequences)} "
            f"(unknown or missing: {', '.join(sorted(mixture.keys() ^ sequences.keys()))}). Give 0 to leave one out."
        )
    if empty := [name for name, share in mixture.items() if share and not sequences[name]]:
        raise ValueError(
            f"data.mixture gives a share to {', '.join(empty)}, which has no whole sequence; expected a share of 0 for "
            "a domain without sequences. Set it to 0, lower data.seq_len or raise data.training_sequences."
        )
    # as it was written: 0.1 is a tenth, not the nearest binary fraction
    exact = {name: Fraction(repr(float(mixture[name]))) for name in sequences}
    unit = math.lcm(*(share.denominator for share in exact.values()))
    return {name: int(share * unit) for name, share in exact.items()}


def _heated(sequences: int, temperature: float) -> int:
    with localcontext() as context:  # decimal powers are computed in whole numbers
        context.prec = 40
        power = Decimal(sequences) ** (1 / Decimal(repr(float(temperature))))
        return max(1, int(power.scaleb(_DIGITS)))


class Interleaving:
    """Items of several kinds, due at even distances: the i-th of kind d at time (i + 1/2) · Σ shares / shares[d]."""

    def __init__(self, shares: Sequence[int]) -> None:
        self.shares = list(shares)
        self.total = sum(shares)
        common = math.lcm(*filter(None, shares))
        self._distances = [common // share if share else 0 for share in shares]

    def counts(self, position: int) -> list[int]:
        """How many items of each kind are among the first `position`; kinds that are due together come by number."""
        # up to a whole time t round(t · share / total) items of a kind are due, so t is nearly their sum
        low, high = max(0, position - len(self.shares)), position + len(self.shares)
        while low < high:  # the last t with at most `position` items
            middle = (low + high + 1) // 2
            low, high = (middle, high) if sum(self._due(middle)) <= position else (low, middle - 1)
        counts = self._due(low)
        # a kind has at most one item between low and low + 1; of those the first so many
        due = [kind for kind, count in enumerate(self._due(low + 1)) if count > counts[kind]]
        due.sort(key=lambda kind: (self._time(kind, counts[kind]), kind))
        for kind in due[: position - sum(counts)]:
            counts[kind] += 1
        return counts

    def items(self, start: int, end: int, *, ordered: bool = True) -> NDArray[np.int64]:
        """(end - start, 2) int64: kind, and number within it, of the items at start..end-1; unordered is faster."""
        spans = zip(self.counts(start), self.counts(end), strict=True)
        items = [(kind, number) for kind, span in enumerate(spans) for number in range(*span)]
        if ordered:
            items.sort(key=lambda item: (self._time(*item), item[0]))
        return np.array(items, dtype=np.int64).reshape(-1, 2)

    def _time(self, kind: int, number: int) -> int:
        return (2 * number + 1) * self._distances[kind]

    def _due(self, time: int) -> list[int]:
        return [(2 * share * time + self.total) // (2 * self.total) for share in self.shares]


class MixtureOrder:
    """Several domains at exact shares; sequences are numbered through all domains, one behind the other.

    At every position each domain is within a few sequences of its share (fewer than there are domains, plus one).
    Shuffling lets domains change places within blocks of `BLOCK_SEQUENCES` positions only, and shuffles the sequences
    of a domain as `SequenceOrder` does (of the first `used` sequences). An epoch has as many sequences as all domains
    with a share hold together; the sequences of a domain are always dealt whole before any of them comes again.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        shares: Mapping[str, int],
        *,
        used: Mapping[str, int] | None = None,
        seed: int,
        shuffle: bool,
    ) -> None:
        used = sizes if used is None else used
        served = [name for name in sizes if shares[name]]
        offsets = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
        self.seed = seed
        self.shuffle = shuffle
        self.interleaving = Interleaving([shares[name] for name in served])
        self.offsets = [offsets[name] for name in served]
        self.orders = [SequenceOrder(used[name], seed=_seed_of(name, seed), shuffle=shuffle) for name in served]
        self.sequences = sum(order.sequences for order in self.orders)
        self._block: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def stream(self, start: int, count: int) -> NDArray[np.int64]:
        sequences: list[int] = []
        while count > 0:
            epoch, index = divmod(start, self.sequences)
            block, inside = divmod(index, BLOCK_SEQUENCES)
            items = self._items(epoch, block)[inside : inside + count]
            sequences += [self.offsets[kind] + self.orders[kind].sequence(number) for kind, number in items.tolist()]
            start, count = start + len(items), count - len(items)
        return np.array(sequences, dtype=np.int64)

    def _items(self, epoch: int, block: int) -> NDArray[np.int64]:
        """Domain, and number within its own stream, at each position of a block; the last of an epoch ends with it."""
        if self._block is None or self._block[0] != (epoch, block):
            start = epoch * self.sequences + block * BLOCK_SEQUENCES
            end = min(start + BLOCK_SEQUENCES, (epoch + 1) * self.sequences)
            items = self.interleaving.items(start, end, ordered=not self.shuffle)
            if self.shuffle:
                # domains change places; the sequences of one stay in its order, which is read window by window
                kinds = items[permutation(end - start, self.seed, _KEY, epoch, block), 0]
                items[np.argsort(kinds, kind="stable")] = items.copy()
            self._block = ((epoch, block), items)
        return self._block[1]


def _seed_of(domain: str, seed: int) -> int:
    """Another order for each domain, which does not depend on the other domains."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{domain}".encode()).digest()[:8])


Order = SequenceOrder | MixtureOrder
