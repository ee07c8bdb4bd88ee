"""Documents from files; replaced by the reader of all formats."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard

from litespark.data.text.files import SourceFile

_READ_BYTES = 1 << 20
_EARLY_CHECK = 1000


class DocumentReader:
    """Reads documents and counts those it had to drop.

    Attributes:
        dropped: documents by the reason they were left out; `empty` ones are not counted as bad.
        seen: documents met, dropped ones included.
    """

    def __init__(self, *, text_field: str = "text", max_bad_share: float = 0.01) -> None:
        self.text_field = text_field
        self.max_bad_share = max_bad_share
        self.dropped: Counter[str] = Counter()
        self.seen = 0
        self._bad: Counter[Path] = Counter()
        self._first: dict[Path, str] = {}

    def documents(self, files: Iterable[SourceFile]) -> Iterator[str]:
        """The texts of all files, in order; every text can be encoded as UTF-8 and is not empty.

        Raises:
            ValueError: a file that cannot be opened, a broken or unfinished archive, or too large a share of bad
                documents; names the file.
        """
        for file in files:
            try:
                yield from self._json_lines(file.path) if file.holds_records else self._plain(file.path)
            except OSError as error:
                raise ValueError(f"{file.path} cannot be read: {error}. Check the file and its permissions.") from error
        self._check_share()

    def _plain(self, path: Path) -> Iterator[str]:
        self.seen += 1
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            self._drop(path, "invalid_utf8", f"byte {error.start}")
            return
        if text.strip():
            yield text
        else:
            self.dropped["empty"] += 1

    def _json_lines(self, path: Path) -> Iterator[str]:
        for number, line in enumerate(_lines(path), start=1):
            if not line.strip():
                continue
            self.seen += 1
            place = f"line {number}"
            try:
                content = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                self._drop(path, "invalid_utf8", place)
                continue
            except (ValueError, RecursionError):
                self._drop(path, "malformed_json", place)
                continue
            if not isinstance(content, dict) or self.text_field not in content:
                self._drop(path, "missing_text", place)
                continue
            text = content[self.text_field]
            if not isinstance(text, str):
                self._drop(path, "text_not_a_string", place)
            elif not text.strip():
                self.dropped["empty"] += 1
            elif not _encodable(text):
                self._drop(path, "lone_surrogate", place)
            else:
                yield text

    def _drop(self, path: Path, reason: str, place: str) -> None:
        self.dropped[reason] += 1
        self._bad[path] += 1
        self._first.setdefault(path, f"{reason} at {place}")
        if self.seen >= _EARLY_CHECK:
            self._check_share()

    def _check_share(self) -> None:
        bad = self._bad.total()
        if bad > self.max_bad_share * self.seen:
            worst, count = self._bad.most_common(1)[0]
            reasons = ", ".join(f"{reason}: {times}" for reason, times in self.dropped.items() if reason != "empty")
            raise ValueError(
                f"{bad} of {self.seen} documents cannot be read ({reasons}); data.max_bad_share={self.max_bad_share} "
                f"allows {self.max_bad_share:.2%}. Most are in {worst} ({count}; first: {self._first[worst]}). Mend or "
                "leave out the file, check data.text_field, or raise data.max_bad_share."
            )


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _lines(path: Path) -> Iterator[bytes]:
    """Lines of a file without their ends, decompressed as its name says."""
    rest = bytearray()
    for block in _blocks(path):
        rest += block
        if b"\n" in block:
            *whole, last = bytes(rest).split(b"\n")
            yield from whole
            rest = bytearray(last)
    if rest:
        yield bytes(rest)


def _blocks(path: Path) -> Iterator[bytes]:
    remedy = "Copy or download the file again, or leave it out."
    suffix = path.suffix.lower()
    try:
        if suffix == ".zst":
            yield from _zstd_blocks(path, remedy)
        elif suffix == ".gz":
            with gzip.open(path) as file:
                while block := file.read(_READ_BYTES):
                    yield block
        else:
            with path.open("rb") as file:
                while block := file.read(_READ_BYTES):
                    yield block
    except EOFError as error:
        raise ValueError(f"{path} is truncated: its gzip stream does not end. {remedy}") from error
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise ValueError(f"{path} is damaged or not what its name says: {error}. {remedy}") from error


def _zstd_blocks(path: Path, remedy: str) -> Iterator[bytes]:
    """Decompressed blocks of all frames; the last frame must be finished, or its lost lines would go unnoticed."""
    decompressor = zstandard.ZstdDecompressor()
    frame = None
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            while block:
                frame = frame or decompressor.decompressobj()
                yield frame.decompress(block)
                block = frame.unused_data if frame.eof else b""
                if frame.eof:
                    frame = None
    if frame is not None:
        raise ValueError(f"{path} is truncated: its last zstd frame does not end. {remedy}")
