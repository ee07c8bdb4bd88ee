"""One document of a corpus, with the place it was read from."""

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
    file: str
    """Name of the source file, as the source lists it."""
    place: int
    """Line of the file, or number of the record in it, from 1."""


def domain_name(value: object) -> str | None:
    """The domain that the value of a field names: a text that is not blank, or a whole number; None: it is no name."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value.strip() and encodable(value) else None


def encodable(text: str) -> bool:
    """Whether it is UTF-8, which a text with half a character is not."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
