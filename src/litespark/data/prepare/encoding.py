"""Documents to ids, in batches: each begun as the tokenizer has it (BOS), ended with EOS, checked against the
vocabulary, given on in its order."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

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
        self._waiting: list[Entry] = []
        self._characters = 0

    def add(self, entry: Entry) -> None:
        """Take one document; ValueError names the place of one with an id outside the vocabulary, or EOS within."""
        self._waiting.append(entry)
        self._characters += len(entry.document.text)
        if self._characters >= _BATCH_CHARACTERS:
            self.close()

    def close(self) -> None:
        texts = [entry.document.text for entry in self._waiting]
        short = iter(self.tokenizer.encode_parts([text for text in texts if len(text) <= _PIECE_CHARACTERS]))
        done: list[Encoded] = []
        for entry, text in zip(self._waiting, texts, strict=True):
            if len(text) <= _PIECE_CHARACTERS:
                ids = np.array(next(short), dtype=np.int64)
            else:
                pieces = (self.tokenizer.encode_parts([piece])[0] for piece in _pieces(text, self.tokenizer))
                ids = np.concatenate([np.array(piece, dtype=np.int64) for piece in pieces])
            self._check(ids, entry)
            whole = np.concatenate([self.tokenizer.begin_ids, ids, [self.tokenizer.eos_id]])
            done.append((entry, whole.astype(self.dtype)))
        self._waiting, self._characters = [], 0
        if done:
            self._take(done)

    def _check(self, ids: NDArray[np.int64], entry: Entry) -> None:
        where = f"{entry.document.file}, {entry.document.place}"
        largest, eos_id = int(ids.max(initial=0)), self.tokenizer.eos_id
        if largest >= self.tokenizer.vocab_size:
            raise ValueError(
                f"{where}: the tokenizer gave id {largest}; expected 0 to {self.tokenizer.vocab_size - 1}, its "
                "vocabulary. Name another data.tokenizer."
            )
        if (ids == eos_id).any():
            raise ValueError(
                f"{where}: its text holds what becomes id {eos_id}, which ends a document; expected it at ends alone. "
                "Name an EOS that no text holds with data.eos_token, or mark it as special in the tokenizer."
            )


def _pieces(text: str, tokenizer: Tokenizer) -> list[str]:
    """A long document in parts that have the ids of the whole: encoding takes many times the memory of its text.

    A tokenizer that encodes a text as one word gets it whole, and so does one that marks the begin of a text.
    """
    pieces, start = [], 0
    while tokenizer.model.encodes_words and len(text) - start > _PIECE_CHARACTERS:
        matches = _BETWEEN_WORDS.finditer(text, start + _PIECE_CHARACTERS)
        places = (match.start() for match in islice(matches, _MOST_TRIED))
        if (end := next((place for place in places if _same_apart(text, place, tokenizer)), None)) is None:
            break
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _same_apart(text: str, place: int, tokenizer: Tokenizer) -> bool:
    before, after = text[max(place - _LOOKED_AT, 0) : place], text[place : place + _LOOKED_AT]
    whole, first, second = tokenizer.encode_parts([before + after, before, after])
    return whole == first + second
