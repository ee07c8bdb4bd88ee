"""Documents that are there more than once: the same text, or nearly the same by MinHash (Broder 1997).

A worker gives each document of a unit its fingerprint; one process then compares the fingerprints of all units. A
document is left out when a chain of similar documents leads to an earlier one, as with datatrove's own deduplication.

Near duplicates: shingles of the normalized words (numbers count), datasketch's MinHash, and its banding: signatures are
cut into b bands of r values, and documents that agree in one band are near duplicates. Two documents of Jaccard
similarity s meet with probability 1-(1-s^r)^b, so the threshold is where the probability rises, not a wall: with 128
permutations and 0.8 (b 9, r 13) it is 0.1 % at s = 0.5, 8 % at 0.7, 40 % at 0.8, 93 % at 0.9 and 99.8 % at 0.95.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litespark.data.libraries import library
from litespark.data.select.config import SelectionConfig
from litespark.data.select.words import normalized_words
from litespark.data.text.document import Document

DUPLICATE_RULES = ("exact_duplicate", "near_duplicate")
_SETTING = "data.selection.near_duplicates"
_ORDINALS = "ordinals"
_EXACT = ("exact_high", "exact_low")
# bounds what one long document takes: so many shingles times permutations times 4 bytes
_SHINGLES_AT_ONCE = 4096


class Fingerprinter:
    """Fingerprints of the documents of one unit; 8 bytes each, 16 more for exact, 8 a band more for near duplicates."""

    def __init__(self, config: SelectionConfig) -> None:
        self._config = config
        self._ordinals: list[int] = []
        self._exact: list[bytes] = []
        self._bands: list[bytes] = []
        if config.near_duplicates:
            minhash = library("datasketch", setting=_SETTING).MinHash
            self._empty: Any = minhash(num_perm=config.near_duplicate_permutations, seed=1)

    def add(self, ordinal: int, document: Document) -> None:
        """Take the fingerprint of a document that no other rule has refused; `ordinal` is its number in the unit."""
        assert not self._ordinals or ordinal > self._ordinals[-1], "documents come in the order of the unit"
        self._ordinals.append(ordinal)
        if self._config.exact_duplicates:
            self._exact.append(hashlib.blake2b(document.text.encode(), digest_size=16).digest())
        if self._config.near_duplicates:
            self._bands.append(self._band_hashes(document.text))

    def arrays(self) -> dict[str, NDArray[Any]]:
        columns: dict[str, NDArray[Any]] = {_ORDINALS: np.array(self._ordinals, dtype=np.int64)}
        if self._config.exact_duplicates:
            columns |= _columns(_EXACT, self._exact)
        if self._config.near_duplicates:
            columns |= _columns(_band_names(self._config), self._bands)
        return columns

    def _band_hashes(self, text: str) -> bytes:
        signature = self._empty.copy()
        shingles = self._shingles(text)
        for start in range(0, len(shingles), _SHINGLES_AT_ONCE):
            signature.update_batch(shingles[start : start + _SHINGLES_AT_ONCE])
        bands, rows = banding(self._config)
        values = np.asarray(signature.hashvalues, dtype="<u8")[: bands * rows].reshape(bands, rows)
        return b"".join(hashlib.blake2b(band.tobytes(), digest_size=8).digest() for band in values)

    def _shingles(self, text: str) -> list[bytes]:
        length = self._config.near_duplicate_words
        words = normalized_words(text, numbers=True, setting=_SETTING)
        if not words:  # punctuation alone: equal to nothing but itself
            return [text.encode()]
        count = max(len(words) - length + 1, 1)
        return [" ".join(words[start : start + length]).encode() for start in range(count)]


def read_column(file: Path, name: str) -> NDArray[Any]:
    """One of the arrays that `numpy.savez` wrote; the others stay on the disk."""
    with np.load(file, allow_pickle=False) as arrays:
        column: NDArray[Any] = arrays[name]
    return column


@lru_cache
def banding(config: SelectionConfig) -> tuple[int, int]:
    """(bands, values of a band) that datasketch finds best for the threshold."""
    minhash_index = library("datasketch", setting=_SETTING).MinHashLSH
    index = minhash_index(config.near_duplicate_threshold, num_perm=config.near_duplicate_permutations)
    return int(index.b), int(index.r)


def duplicates(
    units: Sequence[Callable[[str], NDArray[Any]]], config: SelectionConfig
) -> list[dict[str, NDArray[Any]]]:
    """Which documents of which unit are duplicates of an earlier one, in this unit or before it.

    Memory: about 60 bytes a document of the whole corpus at the peak, beside what the units hold.

    Args:
        units: of each, in the order of the corpus, what gives a column of its Fingerprinter's arrays.
        config: the one that they were taken with.

    Returns:
        For each unit `ordinals` (int64, rising) of the documents to leave out, and `rules` (uint8): the place of the
        rule in DUPLICATE_RULES. One whose very text came before is an exact duplicate whatever else it resembles.
    """
    ordinals = [column(_ORDINALS) for column in units]
    count = sum(map(len, ordinals))
    first = np.arange(count)
    exact = np.zeros(count, dtype=bool)
    if config.exact_duplicates and count:
        first = _first_equal([_whole(units, name) for name in _EXACT])
        exact = first != np.arange(count)
    if config.near_duplicates and count:
        for name in _band_names(config):
            first = _joined(first, _first_equal([_whole(units, name)]))
    left_out = first != np.arange(count)
    rules = np.where(exact, 0, 1).astype(np.uint8)
    answers = []
    start = 0
    for numbers in ordinals:
        unit = slice(start, start + len(numbers))
        answers.append({_ORDINALS: numbers[left_out[unit]], "rules": rules[unit][left_out[unit]]})
        start = unit.stop
    return answers


def _first_equal(columns: list[NDArray[np.uint64]]) -> NDArray[np.int64]:
    """For each document the first that has the same values in all columns."""
    order = np.lexsort(columns)  # stable: among equals the earlier document comes first
    starts = np.zeros(len(order), dtype=bool)
    starts[0] = True
    for column in columns:
        in_order = column[order]
        starts[1:] |= in_order[1:] != in_order[:-1]
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    return first


def _joined(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each document the first that a chain of links leads to, where both arrays link documents to earlier ones."""
    documents = np.arange(len(one))
    if np.array_equal(other, documents):
        return one
    links = [(np.flatnonzero(to != documents), to[to != documents]) for to in (one, other)]
    ends = tuple(map(np.concatenate, zip(*links, strict=True)))
    graph = library("scipy.sparse", setting=_SETTING).coo_array(
        (np.ones(len(ends[0]), dtype=np.int8), ends), shape=(len(one), len(one))
    )
    connected = library("scipy.sparse.csgraph", setting=_SETTING).connected_components
    _, cluster = connected(graph, directed=False)
    _, earliest = np.unique(cluster, return_index=True)
    first: NDArray[np.int64] = earliest[cluster]
    return first


def _whole(units: Sequence[Callable[[str], NDArray[Any]]], name: str) -> NDArray[np.uint64]:
    return np.concatenate([column(name) for column in units])


def _band_names(config: SelectionConfig) -> tuple[str, ...]:
    return tuple(f"band_{band}" for band in range(banding(config)[0]))


def _columns(names: tuple[str, ...], rows: list[bytes]) -> dict[str, NDArray[np.uint64]]:
    table = np.frombuffer(b"".join(rows), dtype="<u8").astype(np.uint64).reshape(len(rows), len(names))
    return {name: np.ascontiguousarray(table[:, place]) for place, name in enumerate(names)}
