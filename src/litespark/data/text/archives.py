"""Bytes of a file on this machine, unpacked, a block at a time; an archive without its end is refused."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

GZIP, ZSTD, BZIP2, XZ = "gzip", "zstd", "bzip2", "xz"
_SUFFIXES = {".gz": GZIP, ".zst": ZSTD, ".zstd": ZSTD, ".bz2": BZIP2, ".xz": XZ}
_MAGIC = {b"\x1f\x8b\x08": GZIP, zstandard.FRAME_HEADER: ZSTD, b"\xfd7zXZ\0": XZ}
_MAGIC |= {b"BZh%d" % level: BZIP2 for level in range(1, 10)}
COMPRESSED_SUFFIXES = tuple(_SUFFIXES)
BEGINNING_BYTES = 1 << 16
"""Of a file, to tell what it holds."""
BLOCK_BYTES = 1 << 20
# what zstd --long=31 writes
_LARGEST_WINDOW = 1 << 31
_LONGEST_FRAME_HEADER = 18
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_RUN_LENGTH_BLOCK, _RESERVED_BLOCK = 1, 3
_FAULTS = (gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError, MemoryError)
_DAMAGED = "is damaged or has another format than its name"
_REMEDY = "Copy or download the file again, or leave it out."


def without_compression(name: str) -> str:
    """A name in lower case, without what says how the file is packed."""
    lower = name.lower()
    return next((lower.removesuffix(suffix) for suffix in COMPRESSED_SUFFIXES if lower.endswith(suffix)), lower)


def blocks(path: Path, name: str) -> Iterator[bytes]:
    """The unpacked bytes, at most `BLOCK_BYTES` at a time, without the mark of UTF-8.

    `name` says how the file is packed. ValueError: a damaged or unfinished archive. OSError: it cannot be read.
    """
    try:
        unpacked = _unpacked(path, name)
        first = next(unpacked, None)
        if first is None:
            return
        yield first.removeprefix(codecs.BOM_UTF8)
        yield from unpacked
    except EOFError as error:
        raise ValueError(f"{name} is truncated: its compressed data does not end. {_REMEDY}") from error
    except _FAULTS as error:
        raise ValueError(f"{name} {_DAMAGED}: {error}. {_REMEDY}") from error


def beginning(head: bytes, name: str) -> bytes:
    """What the first bytes of a file unpack to, as far as they do."""
    kind = _packing(name, head)
    if kind is None:
        return head
    unpacked = b""
    try:
        with _opened(io.BytesIO(head), kind) as source:
            while len(unpacked) < BEGINNING_BYTES and (block := source.read1(BEGINNING_BYTES)):
                unpacked += block
    except (OSError, ValueError, EOFError, *_FAULTS):
        pass  # damaged, or cut
    return unpacked


def _packing(name: str, head: bytes) -> str | None:
    """How a file is packed: by its suffix, else by its first bytes."""
    for suffix, kind in _SUFFIXES.items():
        if name.lower().endswith(suffix):
            return kind
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def _unpacked(path: Path, name: str) -> Iterator[bytes]:
    with path.open("rb") as file:
        kind = _packing(name, file.read(16))
        if kind is not None and os.fstat(file.fileno()).st_size == 0:
            raise ValueError(f"{name} is truncated: it has no bytes. {_REMEDY}")
        if kind == ZSTD and not _frames_end(file):
            raise ValueError(f"{name} is truncated: its last zstd frame does not end. {_REMEDY}")
        file.seek(0)
        with _opened(file, kind) as source:
            while block := _block(source, name):
                yield block


def _opened(file: IO[bytes], kind: str | None) -> Any:
    if kind == ZSTD:
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        return decompressor.stream_reader(file, read_across_frames=True)
    if kind == GZIP:
        return gzip.GzipFile(fileobj=file)
    return lzma.LZMAFile(file) if kind == XZ else bz2.BZ2File(file) if kind == BZIP2 else file


def _block(source: Any, name: str) -> bytes:
    try:
        return bytes(source.read(BLOCK_BYTES))
    except OSError as error:
        if error.errno is not None:
            raise
        # what bz2 calls damaged data, which has no class of its own
        raise ValueError(f"{name} {_DAMAGED}: {error}. {_REMEDY}") from error


def _frames_end(file: IO[bytes]) -> bool:
    """Whether the last zstd frame ends where the file does or before, from the headers of all blocks (RFC 8878).

    zstandard's readers end without an error where the bytes do, so that a truncated archive looks like a shorter one.
    """
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
