"""Documents to ids, in batches: each begun as the tokenizer has it (BOS), ended with EOS, checked against the
vocabulary, given on in its order."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from litespark.data.chunks import token_dtype
from litespark.data.text.document import Document
from litespark.data.tokenizer import Tokenizer

_BATCH_CHARACTERS = 1 << 20
_PIECE_CHARACTERS = 1 << 20
# before a word: a line break or a space alone is not divided from others, which would become other ids
_BETWEEN_WORDS = re.compile(r"(?<=\S\n)(?=\S)|(?<=\S)(?= \S)")
_MOST_TRIED = 64
_LOOKED_AT = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A document with its fate."""

    split: str
    document: Document
    size: int
    """Of its text in UTF-8, bytes."""
    refused_by: str | None = None
    """Rule that leaves it out; None: it is written."""


Encoded = tuple[Entry, NDArray[np.generic]]


class DocumentEncoder:
    """Encodes documents in batches of about a million characters.

    `take` gets each batch as (entry, ids from BOS, if any, to EOS), in the order in which they were added.
    """

    def __init__(self, tokenizer: Tokenizer, take: Callable[[list[Encoded]], None]) -> None:
        self.tokenizer = tokenizer
        self.dtype = token_dtype(tokenizer.vocab_size)
        self._take = take
        self._pieces: list[str] = []
        self._ends: list[Entry | None] = []
        """For each piece: the document that ends with it."""
        self._characters = 0
        self._open: list[NDArray[np.generic]] = []

    def add(self, entry: Entry) -> None:
        """Take one document; ValueError names the place of one with an id outside the vocabulary, or EOS within."""
        *first, last = _pieces(entry.document.text, self.tokenizer)
        for piece in first:
            self._add_piece(piece, None)
        self._add_piece(last, entry)

    def close(self) -> None:
        """Encode what waits."""
        self._encode()

    def _add_piece(self, piece: str, ends: Entry | None) -> None:
        self._pieces.append(piece)
        self._ends.append(ends)
        self._characters += len(piece)
        if self._characters >= _BATCH_CHARACTERS:
            self._encode()

    def _encode(self) -> None:
        if not self._pieces:
            return
        lists = self.tokenizer.encode_parts(self._pieces)
        begins = not self._open
        for place, entry in enumerate(self._ends):
            if begins:
                lists[place] = self.tokenizer.begin_ids + lists[place]
            if begins := entry is not None:
                lists[place].append(self.tokenizer.eos_id)
        lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
        stops = np.cumsum(lengths)
        flat = np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=int(stops[-1]))
        self._check(flat, stops)
        narrow = flat.astype(self.dtype)
        done: list[Encoded] = []
        for start, stop, entry in zip((stops - lengths).tolist(), stops.tolist(), self._ends, strict=True):
            self._open.append(narrow[start:stop])
            if entry is not None:
                done.append((entry, self._open[0] if len(self._open) == 1 else np.concatenate(self._open)))
                self._open = []
        self._pieces, self._ends, self._characters = [], [], 0
        self._take(done)

    def _check(self, flat: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        vocab_size, eos_id = self.tokenizer.vocab_size, self.tokenizer.eos_id
        if flat.size and int(flat.max()) >= vocab_size:
            place = int(flat.argmax())
            raise ValueError(
                f"{self._source_of(place, stops)}: the tokenizer gave id {flat[place]}; expected 0 to "
                f"{vocab_size - 1}, its vocabulary. Name another data.tokenizer."
            )
        ended = np.fromiter((entry is not None for entry in self._ends), dtype=bool, count=len(self._ends))
        if np.count_nonzero(flat == eos_id) == np.count_nonzero(ended):
            return
        within = flat == eos_id
        within[stops[ended] - 1] = False
        raise ValueError(
            f"{self._source_of(int(within.argmax()), stops)}: its text holds what becomes id {eos_id}, "
            "which ends a document; expected it at ends alone. Name an EOS that no text holds with data.eos_token, or "
            "mark it as special in the tokenizer."
        )

    def _source_of(self, token: int, stops: NDArray[np.int64]) -> str:
        """Place of the document that a token of this batch is of, as far as it ends in the batch."""
        piece = int(np.searchsorted(stops, token, side="right"))
        entry = next((entry for entry in self._ends[piece:] if entry is not None), None)
        return "a document" if entry is None else f"{entry.document.file}, {entry.document.place}"


def _pieces(text: str, tokenizer: Tokenizer) -> list[str]:
    """A long document in parts that have the ids of the whole: encoding takes many times the memory of its text.

    A tokenizer that encodes a text as one word gets it whole, and so does one that marks the begin of a text.
    """
    pieces, start = [], 0
    while tokenizer.encodes_words and len(text) - start > _PIECE_CHARACTERS:
        found = _BETWEEN_WORDS.finditer(text, start + _PIECE_CHARACTERS)
        places = (match.start() for match in islice(found, _MOST_TRIED))
        if (end := next((place for place in places if _same_apart(text, place, tokenizer)), None)) is None:
            break
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _same_apart(text: str, place: int, tokenizer: Tokenizer) -> bool:
    """Whether a cut leaves the ids around it as they are."""
    before, after = text[max(place - _LOOKED_AT, 0) : place], text[place : place + _LOOKED_AT]
    whole, first, second = tokenizer.encode_parts([before + after, before, after])
    return whole == first + second
