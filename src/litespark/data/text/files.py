"""The files of a source, in the order in which they are read: which of them a limit takes, and which are copies."""

import hashlib
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from litespark.atomic import content_hash
from litespark.data.storage import StorageError, is_remote
from litespark.data.text.archives import COMPRESSED_SUFFIXES, without_compression

TEXT, JSON, CSV, TSV, PARQUET = "plain text", "JSON", "CSV", "TSV", "parquet"
_SUFFIXES = {
    **dict.fromkeys((".txt", ".text", ".md", ".rst", ".py"), TEXT),
    **dict.fromkeys((".jsonl", ".jsonlines", ".ndjson", ".json"), JSON),
    ".csv": CSV,
    **dict.fromkeys((".tsv", ".tab"), TSV),
    **dict.fromkeys((".parquet", ".pq"), PARQUET),
}
READABLE = ".txt .md .py, .jsonl .json, .csv .tsv (each also .gz .zst .xz .bz2) or .parquet"
"""The usual names of what can be read, for messages."""
# text has about so many times the bytes of what it is packed into
_TEXT_OF_PACKED = 3


def format_of(name: str) -> str | None:
    """What the suffix of a name says that the file holds; None where it says nothing."""
    lower = without_compression(name)
    holds = next((kind for suffix, kind in _SUFFIXES.items() if lower.endswith(suffix)), None)
    return None if holds == PARQUET and lower != name.lower() else holds


def plain_name(name: str) -> str:
    """A file's name without the suffixes that say how it is read."""
    stem = name[: len(without_compression(name))]
    suffix = next((suffix for suffix in _SUFFIXES if stem.lower().endswith(suffix)), "")
    return stem[: len(stem) - len(suffix)] or stem


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    root: str
    """Path or address of the folder that the name is below."""
    name: str
    size: int
    version: str = ""
    found_format: str | None = None
    """The format of its content, where its name does not state it."""
    copy_of: str | None = None
    """The earlier file with the same content; its records are counted and left out."""

    @property
    def where(self) -> str:
        return f"{self.root}/{self.name}"

    @property
    def remote(self) -> bool:
        return is_remote(self.root)

    @property
    def path(self) -> Path:
        assert not self.remote, self.root
        return Path(self.root) / self.name

    @property
    def format(self) -> str:
        """What it holds: by its content where that was looked at, else by its name."""
        return self.found_format or format_of(self.name) or TEXT

    @property
    def holds_records(self) -> bool:
        """Whether it holds many documents, rather than being one."""
        return self.format != TEXT

    @property
    def text_bytes(self) -> int:
        """About how many bytes of text it holds."""
        packed = self.format == PARQUET or self.name.lower().endswith(COMPRESSED_SUFFIXES)
        return self.size * (_TEXT_OF_PACKED if packed else 1)


Files = tuple[SourceFile, ...]


def fingerprint(files: Files) -> list[tuple[str, int, str]]:
    """Name, size and version of every file: changes when the text does, for a listing."""
    return [(file.name, file.size, file.version) for file in files]


def size_of(files: Files) -> int:
    return sum(file.size for file in files)


def within(files: Files, most_bytes: int) -> Files:
    """Whole files until they hold `most_bytes`, at least one, in an order that only their names decide.

    Files of more than an eighth of that come last: one table of numbers would be most of a small validation.
    """

    def turn(file: SourceFile) -> tuple[bool, bytes]:
        return 8 * file.size > most_bytes, hashlib.sha256(file.name.encode()).digest()

    taken: list[SourceFile] = []
    size = 0
    for file in sorted(files, key=turn):
        if taken and size >= most_bytes:
            break
        taken.append(file)
        size += file.size
    return tuple(sorted(taken, key=lambda file: file.name))


def mark_copies(*sides: Files) -> list[Files]:
    """Files of records that repeat an earlier one's content marked; copies across the sides count too.

    Only files of equal size are compared: by SHA-256 on this machine, by the checksum that the service lists elsewhere
    (so that a file that was uploaded to S3 in other parts is not recognized).
    """
    files = [file for side in sides for file in side if file.holds_records and file.size > 0]
    first: dict[SourceFile, str] = {}
    for alike in _groups(files, lambda file: file.size):
        for copies in _groups(alike, _content):
            first |= dict.fromkeys(copies[1:], copies[0].name)
    return [tuple(replace(file, copy_of=first.get(file)) for file in side) for side in sides]


def _groups(files: Iterable[SourceFile], key: Callable[[SourceFile], Hashable]) -> list[list[SourceFile]]:
    groups: dict[Hashable, list[SourceFile]] = {}
    for file in files:
        groups.setdefault(key(file), []).append(file)
    return [group for group in groups.values() if len(group) > 1]


def _content(file: SourceFile) -> Hashable:
    if file.remote:
        return file.version or file  # a file without a checksum is like no other
    try:
        return content_hash(file.path)
    except OSError as error:
        raise StorageError(f"{file.where} cannot be read: {error}. Check the file and its permissions.") from error
