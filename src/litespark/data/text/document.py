"""One document of a corpus, with the place it was read from."""

from __future__ import annotations

from dataclasses import dataclass

ONLY_DOMAIN = "text"
"""Domain of documents whose source names none."""
UNKNOWN_DOMAIN = "unknown"
"""Domain of a document where `data.domain_field` is missing, or not a name."""


@dataclass(frozen=True, slots=True)
class Document:
    """Text that is not empty and can be encoded as UTF-8."""

    text: str
    domain: str
    """What `data.domain_field` says, `UNKNOWN_DOMAIN` where it says nothing, `ONLY_DOMAIN` where it is not set."""
    file: str
    """Name of the source file, as the source lists it."""
    place: int
    """Line of the file, or number of the record in it, from 1; 1 for a plain text."""
