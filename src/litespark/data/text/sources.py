"""Documents from files: plain text, JSON lines (also gzip and zstd), and the standard library's own sources.

Text is decoded from bytes a line (or, for plain text, a file) at a time, so that one bad byte costs one document.
What cannot be read is counted by reason, and too much of it stops the reading.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sysconfig
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import zstandard

STANDARD_LIBRARY = "standard_library"
TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst", ".py")
JSON_LINES_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_NOT_IN_STANDARD_LIBRARY = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "ensurepip"}
    # tables and generated text, hardly any code
    | {"encodings", "pydoc_data"}
)
_READ_BYTES = 1 << 20
_EARLY_CHECK = 1000


@dataclass(frozen=True)
class SourceFile:
    """One file of a source; `name` is its path below the source."""

    path: Path
    name: str
    size: int
    modified_ns: int

    @property
    def json_lines(self) -> bool:
        """Whether it holds a JSON document a line rather than plain text."""
        return self.path.name.lower().endswith(JSON_LINES_SUFFIXES)

    @property
    def compressed(self) -> bool:
        """Whether its size says little about that of its text."""
        return self.path.suffix.lower() in (".gz", ".zst")


@dataclass(frozen=True)
class Source:
    """Files in the order in which they are read."""

    name: str
    files: tuple[SourceFile, ...]
    versions: tuple[str, ...] = ()
    """Names and versions of what the files belong to, where somebody states them."""

    def fingerprint(self) -> list[tuple[str, ...] | tuple[str, int, int]]:
        """Versions, and name, size and modification time of every file: changes when the text does, for a listing."""
        of_files = [(file.name, file.size, file.modified_ns) for file in self.files]
        return [self.versions, *of_files] if self.versions else [*of_files]

    @property
    def size(self) -> int:
        """Bytes of all files on disk."""
        return sum(file.size for file in self.files)


def within(source: Source, most_bytes: int) -> Source:
    """Whole files of a source until they hold `most_bytes`, at least one, in an order that only their names decide.

    Files of more than an eighth of that come last: one table of numbers would be most of a small validation.
    """

    def turn(file: SourceFile) -> tuple[bool, bytes]:
        return 8 * file.size > most_bytes, hashlib.sha256(file.name.encode()).digest()

    taken: list[SourceFile] = []
    size = 0
    for file in sorted(source.files, key=turn):
        if taken and size >= most_bytes:
            break
        taken.append(file)
        size += file.size
    return replace(source, files=tuple(sorted(taken, key=lambda file: file.name)))


def resolve_source(source: str, *, how_to_get: str | None = None) -> Source:
    """The files that a source names: `standard_library`, one file, or a folder with all known files below it, sorted.

    Hidden files and folders are left out.

    Args:
        source: the word or the path.
        how_to_get: appended to the error where there is nothing.

    Raises:
        ValueError: nothing there, nothing known in it, or a remote address.
    """
    if source == STANDARD_LIBRARY:
        folder = Path(sysconfig.get_path("stdlib"))
        files = [
            path
            for path in folder.rglob("*.py")
            if not _NOT_IN_STANDARD_LIBRARY.intersection(path.relative_to(folder).parts)
        ]
        return _source(STANDARD_LIBRARY, folder, files, "is where this Python keeps its library; it has no .py files")
    help_text = f" {how_to_get.strip()}" if how_to_get else " Set data.source to a file or folder of text."
    if "://" in source:
        raise ValueError(f"data.source={source} is a remote address; expected a local path. Copy the files first.")
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(f"data.source={source} does not exist.{help_text}")
    if path.is_file():
        return _source(_plain_name(path), path.parent, [path], "")
    if not path.is_dir():
        raise ValueError(f"data.source={source} is neither a file nor a folder.{help_text}")
    known = TEXT_SUFFIXES + JSON_LINES_SUFFIXES
    files = [
        found
        for found in path.rglob("*")
        if found.name.lower().endswith(known)
        and not any(part.startswith(".") for part in found.relative_to(path).parts)
        and found.is_file()
    ]
    return _source(_plain_name(path), path, files, f"holds no file named {' '.join(known)}.{help_text}")


def _source(name: str, folder: Path, paths: Iterable[Path], nothing: str) -> Source:
    files = []
    for path in paths:
        status = path.stat()
        files.append(SourceFile(path, path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    if not files:
        raise ValueError(f"data.source={folder} {nothing}")
    return Source(name, tuple(sorted(files, key=lambda file: file.name)))


def _plain_name(path: Path) -> str:
    name = path.resolve().name
    for suffix in JSON_LINES_SUFFIXES + TEXT_SUFFIXES:
        name = name.removesuffix(suffix)
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name) or "text"


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
                yield from self._json_lines(file.path) if file.json_lines else self._plain(file.path)
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
