"""Bytes of a file on this machine, unpacked as its name says, a block at a time; an archive without its end is refused.

A truncated archive otherwise looks like a shorter one: zstandard's readers end without an error where the bytes do, and
the documents behind would be lost in silence.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from litespark.data.text.files import COMPRESSED_SUFFIXES

BLOCK_BYTES = 1 << 20
# what zstd --long=31 writes
_LARGEST_WINDOW = 1 << 31
_LONGEST_FRAME_HEADER = 18
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_RUN_LENGTH_BLOCK, _RESERVED_BLOCK = 1, 3
_REMEDY = "Copy or download the file again, or leave it out."


def blocks(path: Path, name: str) -> Iterator[bytes]:
    """The unpacked bytes, at most `BLOCK_BYTES` at a time, without the mark of UTF-8 that some files begin with.

    Args:
        path: where the file lies.
        name: whose suffix says how it is packed; also what errors call it.

    Raises:
        ValueError: a damaged or unfinished archive.
        OSError: the file cannot be read.
    """
    try:
        unpacked = _unpacked(path, name)
        if (first := next(unpacked, None)) is not None:
            yield first.removeprefix(b"\xef\xbb\xbf")
        yield from unpacked
    except EOFError as error:
        raise ValueError(f"{name} is truncated: its gzip stream does not end. {_REMEDY}") from error
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{name} is damaged or not what its name says: {error}. {_REMEDY}") from error


def _unpacked(path: Path, name: str) -> Iterator[bytes]:
    lower = name.lower()
    with path.open("rb") as file:
        if lower.endswith(COMPRESSED_SUFFIXES) and os.fstat(file.fileno()).st_size == 0:
            raise ValueError(f"{name} is truncated: it has no bytes. {_REMEDY}")
        source: BinaryIO | gzip.GzipFile | zstandard.ZstdDecompressionReader = file
        if lower.endswith(".zst"):
            if not _frames_end(file):
                raise ValueError(f"{name} is truncated: its last zstd frame does not end. {_REMEDY}")
            file.seek(0)
            decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
            source = decompressor.stream_reader(file, read_across_frames=True)
        elif lower.endswith(".gz"):
            source = gzip.GzipFile(fileobj=file)
        while block := source.read(BLOCK_BYTES):
            yield block


def _frames_end(file: BinaryIO) -> bool:
    """Whether the last zstd frame ends where the file does or before, from the headers of all blocks (RFC 8878)."""
    size = os.fstat(file.fileno()).st_size
    place = 0
    while place < size:
        file.seek(place)
        header = file.read(_LONGEST_FRAME_HEADER)
        if int.from_bytes(header[:4], "little") in _SKIPPABLE:
            place += 8 + int.from_bytes(header[4:8], "little")
            continue
        try:
            has_checksum = zstandard.get_frame_parameters(header).has_checksum
        except zstandard.ZstdError:
            if header[:4] == zstandard.FRAME_HEADER and len(header) < _LONGEST_FRAME_HEADER:
                return False
            raise
        place += zstandard.frame_header_size(header)
        last = False
        while not last and place < size:
            file.seek(place)
            block = int.from_bytes(file.read(3), "little")
            last, kind, length = bool(block & 1), block >> 1 & 3, block >> 3
            if kind == _RESERVED_BLOCK:
                raise zstandard.ZstdError(f"there is no block of type {kind}, at byte {place}")
            place += 3 + (1 if kind == _RUN_LENGTH_BLOCK else length)
        if not last:
            return False
        place += 4 * has_checksum
    return place == size
