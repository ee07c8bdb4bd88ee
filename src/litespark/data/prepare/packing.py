"""Best-fit packing (Ding et al., "Fewer Truncations Improve Language Modeling", 2024): documents in sequences of one
length, the longest first, each into the sequence that it leaves the least room in.

S sequence length. A sequence holds S+1 ids: the first S are inputs, the last S labels.
"""

from bisect import bisect_left, insort

import numpy as np
from numpy.typing import NDArray

BUFFER_TOKENS = 1 << 22
"""Ids that are gathered before sequences are made of them: 1,024 sequences of 4,096."""
_MOST_PIECES = 1 << 16
_FEWEST_SEQUENCES = 16


class BestFitPacker:
    """Sequences of S+1 ids from documents, in groups; a pure function of the documents and their order.

    - A document of at most S+1 ids lies whole in one sequence. A longer one is cut into pieces of S+1 ids that overlap
      by one, so that every id but a document's first is a label exactly once.
    - What stays free at a sequence's end is filled with EOS. A sequence that no EOS ends is full.
    - A sequence's documents stand in the order in which they came, and the sequences of a group in the order of their
      first.
    """

    def __init__(self, seq_len: int, eos_id: int) -> None:
        self.width = seq_len + 1
        self.eos_id = eos_id
        self._pieces: list[NDArray[np.generic]] = []
        self._held = 0
        self._most = max(BUFFER_TOKENS, _FEWEST_SEQUENCES * self.width)

    def add(self, ids: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        """Take one document: (n,) ids, EOS last and nowhere else, not to be changed until its sequences are given.

        Returns groups of (sequences, S+1) ids that are ready, often none. A document of its EOS alone takes no place.
        """
        if not ids.size or ids[-1] != self.eos_id:
            raise ValueError(f"a document of {ids.size} ids does not end with EOS={self.eos_id}; expected each to")
        # a piece that would begin with the last id has no label left
        for start in range(0, ids.size - 1, self.width - 1):
            piece = ids[start : start + self.width]
            self._pieces.append(piece)
            self._held += piece.size
        return self.close() if self._held >= self._most or len(self._pieces) >= _MOST_PIECES else []

    def close(self) -> list[NDArray[np.generic]]:
        """The sequences of what is still held, as a list of at most one group; the packer is empty then."""
        if not self._pieces:
            return []
        bins = best_fit_decreasing([piece.size for piece in self._pieces], self.width, least=2)
        sequences = np.full((len(bins), self.width), self.eos_id, dtype=self._pieces[0].dtype)
        for sequence, numbers in zip(sequences, bins, strict=True):
            filled = 0
            for number in numbers:
                piece = self._pieces[number]
                sequence[filled : filled + piece.size] = piece
                filled += piece.size
        self._pieces, self._held = [], 0
        return [sequences]


def best_fit_decreasing(sizes: list[int], capacity: int, *, least: int = 1) -> list[list[int]]:
    """The items by bin, both in the order of the items; none is larger than `capacity` or smaller than `least`.

    O(n log capacity), as bins have few different rooms left.
    """
    bins: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # room left -> bins, none of them empty lists
    rooms: list[int] = []  # its keys, sorted
    for item in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        place = bisect_left(rooms, sizes[item])
        if place == len(rooms):
            chosen, room = len(bins), capacity
            bins.append([])
        else:
            room = rooms[place]
            chosen = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[place]
        bins[chosen].append(item)
        left = room - sizes[item]
        if left < least:
            continue
        if left not in with_room:
            with_room[left] = []
            insort(rooms, left)
        with_room[left].append(chosen)
    return sorted(sorted(items) for items in bins)
