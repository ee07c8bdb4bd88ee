"""Records of a file of JSON as their bytes, so that one that is broken costs no other.

No more than one record is held in memory, and of one that is too long only its beginning.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from litespark.data.text.archives import BEGINNING_BYTES, blocks, without_compression

_BEGINNING_BYTES = 1000
_LINES = (".jsonl", ".jsonlines", ".ndjson")
_MOST_PEEKED = 1 << 24
_OUTSIDE_STRINGS = re.compile(rb'["\[\]{},]')
_IN_STRINGS = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


@dataclass(frozen=True)
class Overlong:
    """A record that is longer than allowed."""

    size: int
    beginning: bytes


Record = bytes | Overlong


def json_records(path: Path, name: str, most_bytes: int) -> Iterator[tuple[int, Record]]:
    """(place, record) of a file of JSON: its lines that are not blank, or the members of the array that it is.

    A record of more than `most_bytes` comes as `Overlong`. ValueError: a damaged or unfinished archive or array.
    """
    start, unpacked = _peeked(blocks(path, name))
    line = start.lstrip().partition(b"\n")[0].strip()
    # a line may be an array
    of_lines = without_compression(name).endswith(_LINES) and line != b"[" and not line.endswith(b",")
    if line.startswith(b"[") and not of_lines:
        return enumerate(_members(unpacked, name, most_bytes), start=1)
    numbered = enumerate(lines(unpacked, most_bytes), start=1)
    return ((number, line) for number, line in numbered if not _is_blank(line))


def _peeked(unpacked: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """(enough of the beginning to detect a file's format, all its blocks); a packed file may begin with a byte."""
    taken: list[bytes] = []
    start = b""
    for block in unpacked:
        taken.append(block)
        start += block
        if len(start.lstrip()) >= BEGINNING_BYTES or len(start) >= _MOST_PEEKED:
            break
    return start, chain(taken, unpacked)


class _Pending:
    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held = bytearray()
        self.size = 0

    def add(self, part: bytes) -> None:
        self.size += len(part)
        self.held += part
        if self.size > self.most_bytes:
            del self.held[_BEGINNING_BYTES:]

    def take(self) -> Record:
        held, size = bytes(self.held), self.size
        self.held, self.size = bytearray(), 0
        return held if size <= self.most_bytes else Overlong(size, held)


def lines(unpacked: Iterator[bytes], most_bytes: int) -> Iterator[Record]:
    """Lines without their ends."""
    pending = _Pending(most_bytes)
    for block in unpacked:
        *ended, rest = block.split(b"\n")
        for line in ended:
            pending.add(line)
            yield pending.take()
        pending.add(rest)
    if pending.size:
        yield pending.take()


def _members(unpacked: Iterator[bytes], name: str, most_bytes: int) -> Iterator[Record]:
    """What is between the commas of the outermost array."""
    pending, nesting = _Pending(most_bytes), _Nesting()
    for block in unpacked:
        start = 0
        for place in nesting.marks(block):
            pending.add(block[start:place])
            start = place + 1
            if not _is_blank(record := pending.take()):
                yield record
        pending.add(block[start:])
    if nesting.depth or nesting.in_string:
        raise ValueError(
            f"{name} is truncated or damaged: the array that it holds does not end. Mend it, or write one record a "
            "line to a .jsonl"
        )
    if not _is_blank(record := pending.take()):
        yield record  # what stands behind an array is no record, and the reader will say so


def _is_blank(record: Record) -> bool:
    return isinstance(record, bytes) and (not record or record.isspace())


class _Nesting:
    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self._escaped = False

    def marks(self, block: bytes) -> Iterator[int]:
        """Places of the brackets and commas of the outermost array in the next block."""
        place = int(self._escaped)
        self._escaped = False
        while place < len(block):
            if self.in_string:
                place = self._behind_string(block, place)
                continue
            if (match := _OUTSIDE_STRINGS.search(block, place)) is None:
                return
            mark, place = match.group(), match.end()
            if mark == b'"':
                self.in_string = True
                continue
            opens = mark in b"[{"
            if mark != b",":
                self.depth += 1 if opens else -1
            if self.depth == int(opens or mark == b","):
                yield match.start()

    def _behind_string(self, block: bytes, place: int) -> int:
        match = _IN_STRINGS.match(block, place)
        assert match is not None, "it matches nothing too"
        mark = block[match.end() : match.end() + 1]
        self.in_string = mark != b'"'
        self._escaped = mark == b"\\"  # the last byte of the block: what it escapes is in the next
        return match.end() + 1
