"""Decontamination: training documents that share a run of words with an evaluation text are left out.

The method of GPT-3 (Brown et al. 2020, appendix C) as datatrove has it: both sides are normalized (case, punctuation,
numbers, diacritics), every run of n words is hashed to 64 bits, and one run in common is enough. An evaluation text of
fewer words has no run and cannot be found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from litespark.data.select.words import normalized_words
from litespark.data.text.document import Document

CONTAMINATED_RULE = "contaminated"
_SETTING = "data.selection.decontaminate"


class DecontaminationRule:
    """The hashed runs of the evaluation texts.

    Memory: 8 bytes a word of evaluation text in each process; while they are read, 16 more of one text at a time.

    Args:
        texts: of the evaluations.
        words: of a run.

    Raises:
        ValueError: not one of the texts has so many words: nothing could ever be found.
    """

    def __init__(self, texts: Iterable[str], words: int) -> None:
        self._words = words
        runs = [hashes for text in texts if len(hashes := self._runs(text))]
        if not runs:
            raise ValueError(
                f"{_SETTING}: got no text of {words} words or more, expected one at least; give other texts, or lower "
                "data.selection.decontaminate_words"
            )
        self._known = np.unique(np.concatenate(runs))

    def refusal(self, document: Document) -> str | None:
        """`contaminated` where one run is also in an evaluation text."""
        runs = self._runs(document.text)
        places = np.searchsorted(self._known, runs).clip(max=len(self._known) - 1)
        return CONTAMINATED_RULE if bool((self._known[places] == runs).any()) else None

    def _runs(self, text: str) -> NDArray[np.uint64]:
        words = normalized_words(text, numbers=False, setting=_SETTING)
        count = max(len(words) - self._words + 1, 0)
        joined = (" ".join(words[start : start + self._words]) for start in range(count))
        digests = b"".join(hashlib.blake2b(run.encode(), digest_size=8).digest() for run in joined)
        return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
