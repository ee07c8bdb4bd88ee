"""Which documents are held out: a stable function of their text, so that equal documents never face each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

TRAIN = "train"
VALIDATION = "validation"
_LOOK_AT = 1000


@dataclass(frozen=True)
class SplitRule:
    """Documents whose hash is at most `cut` (a share of the hash's range) validate, all others train.

    A corpus of a single document is divided at a line break instead, and its end validates.
    """

    cut: float
    divided: float | None = None
    """Share of the single document that validates; None: documents stay whole."""

    @classmethod
    def fit(cls, documents: Iterable[str], fraction: float) -> SplitRule:
        """A rule that holds out about `fraction` of the documents, of which the first thousand are looked at.

        It leaves at least one on each side. There has to be a document.
        """
        shares = sorted({share_of(text) for text in islice(documents, _LOOK_AT)})
        if len(shares) == 1:
            return cls(cut=0.0, divided=fraction)
        return cls(cut=min(max(fraction, shares[0]), shares[-2]))

    def assign(self, text: str) -> list[tuple[str, str]]:
        """(split, text) of a document, or of both parts of one that is divided."""
        if self.divided is None:
            return [(VALIDATION if share_of(text) <= self.cut else TRAIN, text)]
        place = round(len(text) * (1 - self.divided))
        line_break = text.rfind("\n", 1, place)
        place = line_break + 1 if line_break > 0 else max(place, 1)
        return [(split, part) for split, part in ((TRAIN, text[:place]), (VALIDATION, text[place:])) if part]


def share_of(text: str) -> float:
    """The place of a text in [0, 1), from its hash."""
    digest = hashlib.blake2b(text.encode(), digest_size=6).digest()
    return int.from_bytes(digest) / (1 << 48)
