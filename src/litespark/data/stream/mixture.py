"""Which domain comes when: several domains in one endless stream, at exact shares, at any position without a replay.

A domain with share w of the whole has its j-th row due at time (j + 1/2) / w, and rows are served in the order in
which they are due. So at every position each domain is within a few rows of its share (fewer than there are domains,
plus one), and how many rows of a domain come before a position can be computed. Shuffling lets domains change places
within blocks of `BLOCK_ROWS` positions only, which keeps the shares of each block, and shuffles the rows of a domain
as `RowOrder` does.

An *epoch* has as many rows as all domains with a share hold together. By size each of these rows comes once in it.
With other shares domain d comes share(d) x epoch rows often, that is share(d) x epoch / rows(d) times through its own
rows: the rows of a domain are always dealt whole, in an order of its own, before any of them comes again.

All arithmetic is in whole numbers, so that every machine computes the same order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from litespark.data.stream.order import RowOrder, permutation

BLOCK_ROWS = 1024
_DIGITS = 12
"""Decimal places of a share by temperature."""
_KEY = int.from_bytes(b"mixture")
"""Keeps the draws of the blocks apart from those of the rows."""


class Order(Protocol):
    """An endless stream of row numbers."""

    rows: int

    def stream(self, start: int, count: int) -> NDArray[np.int64]:
        """(count,) int64: the rows at positions start..start+count-1."""
        ...


def shares_of(rows: Mapping[str, int], mixture: Mapping[str, float] | None, temperature: float) -> dict[str, int]:
    """The share of each domain as whole numbers; only their ratios matter.

    Args:
        rows: how many rows each domain has; those with none can have no share.
        mixture: a share for each domain in any unit; None: by size.
        temperature: by size: shares follow rows^(1/temperature).

    Raises:
        ValueError: `mixture` names a domain that is not there, leaves one out, or gives a share to one without rows.
    """
    if mixture is None:
        if temperature == 1:
            return dict(rows)
        return {name: _heated(count, temperature) if count else 0 for name, count in rows.items()}
    unknown, missing = sorted(mixture.keys() - rows.keys()), sorted(rows.keys() - mixture.keys())
    if unknown or missing:
        wrong = [f"unknown: {', '.join(unknown)}"] * bool(unknown) + [f"missing: {', '.join(missing)}"] * bool(missing)
        raise ValueError(
            f"data.mixture: got {', '.join(mixture)} ({'; '.join(wrong)}); expected a share for each of the domains "
            f"{', '.join(rows)}. Give 0 to leave one out."
        )
    if empty := [name for name, share in mixture.items() if share and not rows[name]]:
        raise ValueError(
            f"data.mixture gives a share to {', '.join(empty)}, which has no whole row; expected a share of 0 for a "
            "domain without rows. Set it to 0, lower data.seq_len or raise data.training_sequences."
        )
    # as it was written: 0.1 is a tenth, not the nearest binary fraction
    exact = {name: Fraction(repr(float(mixture[name]))) for name in rows}
    unit = math.lcm(*(share.denominator for share in exact.values()))
    return {name: int(share * unit) for name, share in exact.items()}


def _heated(rows: int, temperature: float) -> int:
    with localcontext() as context:  # decimal powers are computed in whole numbers: the same on every machine
        context.prec = 40
        power = Decimal(rows) ** (1 / Decimal(repr(float(temperature))))
        return max(1, int(power.scaleb(_DIGITS)))


class Interleaving:
    """Items of several kinds, due at even distances: the i-th of kind d at time (i + 1/2) · Σ shares / shares[d].

    Raises:
        ValueError: no share is above 0, or one is below.
    """

    def __init__(self, shares: Sequence[int]) -> None:
        if min(shares, default=0) < 0 or not any(shares):
            raise ValueError(f"got shares {list(shares)}; expected none below 0 and one above it")
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
        """(end - start, 2) int64: kind, and number within the kind, of the items at positions start..end-1.

        Args:
            start, end: positions.
            ordered: in the order they are due; else by kind and number, which is found faster.
        """
        before, after = self.counts(start), self.counts(end)
        found = [(kind, number) for kind in range(len(before)) for number in range(before[kind], after[kind])]
        if ordered:
            found.sort(key=lambda item: (self._time(*item), item[0]))
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def _time(self, kind: int, number: int) -> int:
        """When an item is due, in a unit that makes it whole for every kind."""
        return (2 * number + 1) * self._distances[kind]

    def _due(self, time: int) -> list[int]:
        return [(2 * share * time + self.total) // (2 * self.total) for share in self.shares]


class MixtureOrder:
    """The endless stream over several domains; rows are numbered through all domains, one domain behind the other.

    Args:
        sizes: rows of each domain, in the order in which rows are numbered.
        shares: of each domain, from `shares_of`.
        used: only the first so many rows of each domain are served; None: all.
        seed: of the order within the domains and within the blocks.
        shuffle: False: every domain in its own order, evenly interleaved.

    Attributes:
        rows: of an epoch: what all domains with a share hold together.

    Raises:
        ValueError: as `Interleaving` and `RowOrder` do.
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
        offsets = np.cumsum([0, *sizes.values()])
        served = [name for name in sizes if shares[name]]
        self.seed = seed
        self.shuffle = shuffle
        self.interleaving = Interleaving([shares[name] for name in served])
        self.offsets = [int(offset) for name, offset in zip(sizes, offsets, strict=False) if shares[name]]
        self.orders = [RowOrder(used[name], seed=_seed_of(name, seed), shuffle=shuffle) for name in served]
        self.rows = sum(order.rows for order in self.orders)
        self._block: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def stream(self, start: int, count: int) -> NDArray[np.int64]:
        """(count,) int64: the rows at positions start..start+count-1 of the endless stream."""
        rows: list[int] = []
        while count > 0:
            epoch, index = divmod(start, self.rows)
            block, inside = divmod(index, BLOCK_ROWS)
            items = self._items(epoch, block)[inside : inside + count]
            rows += [self._row(kind, number) for kind, number in items.tolist()]
            start, count = start + len(items), count - len(items)
        return np.array(rows, dtype=np.int64)

    def _items(self, epoch: int, block: int) -> NDArray[np.int64]:
        """Domain, and number within its own stream, at each position of a block; the last of an epoch ends with it."""
        if self._block is None or self._block[0] != (epoch, block):
            start = epoch * self.rows + block * BLOCK_ROWS
            end = min(start + BLOCK_ROWS, (epoch + 1) * self.rows)
            items = self.interleaving.items(start, end, ordered=not self.shuffle)
            if self.shuffle:
                # domains change places; the rows of one stay in its order, which is read window by window
                kinds = items[permutation(end - start, self.seed, _KEY, epoch, block), 0]
                places = np.argsort(kinds, kind="stable")
                items[places] = items.copy()
            self._block = ((epoch, block), items)
        return self._block[1]

    def _row(self, kind: int, number: int) -> int:
        order = self.orders[kind]
        return self.offsets[kind] + order.row(*divmod(number, order.rows))


def _seed_of(domain: str, seed: int) -> int:
    """Another order for each domain, which does not depend on the other domains."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{domain}".encode()).digest()[:8])
