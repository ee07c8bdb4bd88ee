"""Which row comes when: a pure function of (seed, epoch, index), so that a position in the stream is one integer.

Rows are shuffled in two levels. Windows of `WINDOW_ROWS` neighbouring rows are dealt in a random order, and the rows
within a window in a random order of their own. So memory is bounded by one window however large the corpus is, and
reads stay within a few neighbouring chunk files. A corpus of fewer rows than one window is shuffled as a whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WINDOW_ROWS = 1 << 18


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """A permutation of 0..count-1 that depends on the key alone.

    NumPy promises the bit streams of PCG64 and SeedSequence for all versions, but not those of
    `Generator.permutation`; so the order is taken from raw draws.
    """
    draws = np.random.PCG64(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(draws, kind="stable")


class RowOrder:
    """The endless stream of rows: epoch after epoch, each holding every row once.

    Raises:
        ValueError: no rows, or a negative seed.
    """

    def __init__(self, rows: int, *, seed: int, shuffle: bool, window_rows: int = WINDOW_ROWS) -> None:
        if rows < 1:
            raise ValueError(f"an order needs at least one row; got {rows}")
        if seed < 0:
            raise ValueError(f"seed={seed}; expected a whole number of at least 0")
        self.rows = rows
        self.seed = seed
        self.shuffle = shuffle
        self.window_rows = window_rows
        self._windows: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._inside: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def stream(self, start: int, count: int) -> NDArray[np.int64]:
        """(count,) int64: the rows at positions start..start+count-1 of the endless stream, across epoch ends."""
        positions = range(start, start + count)
        return np.array([self.row(*divmod(position, self.rows)) for position in positions], dtype=np.int64)

    def row(self, epoch: int, index: int) -> int:
        """The row at `index` (0..rows-1) of `epoch`."""
        if not self.shuffle:
            return index
        order, starts = self._window_order(epoch)
        place = int(np.searchsorted(starts, index, side="right")) - 1
        window = int(order[place])
        return window * self.window_rows + int(self._order_inside(epoch, window)[index - int(starts[place])])

    def _window_order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The windows in the order of this epoch, and the index at which each begins."""
        if self._windows is None or self._windows[0] != epoch:
            order = permutation(-(-self.rows // self.window_rows), self.seed, epoch)
            sizes = np.minimum(self.window_rows, self.rows - order * self.window_rows)
            self._windows = (epoch, order, np.cumsum(sizes) - sizes)
        return self._windows[1], self._windows[2]

    def _order_inside(self, epoch: int, window: int) -> NDArray[np.int64]:
        if self._inside is None or self._inside[0] != (epoch, window):
            size = min(self.window_rows, self.rows - window * self.window_rows)
            self._inside = ((epoch, window), permutation(size, self.seed, epoch, 1 + window))
        return self._inside[1]
