"""The texts of evaluations that must not be trained on: files and folders of plain text, JSON and JSON lines."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

_SETTING = "data.selection.decontaminate"
_LINES = (".jsonl", ".ndjson")
_PLAIN = (".txt", ".text", ".md", ".rst", ".py", ".csv", ".tsv")
_PACKED = (".gz", ".zst")


def evaluation_files(paths: tuple[str, ...]) -> list[Path]:
    """The files that the settings name, folders with all known files below them, sorted within each.

    Raises:
        ValueError: a path that is not there, a folder without a known file, a file of another kind.
    """
    files: list[Path] = []
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            found = sorted(entry for entry in path.rglob("*") if entry.is_file() and _known(entry))
        else:
            found = [path] if path.is_file() and _known(path) else []
        if not found:
            raise ValueError(
                f"{_SETTING}: got {given}, {'which is not there' if not path.exists() else 'which holds no known file'}"
                f", expected a file or folder of {' '.join((*_PLAIN, '.json', *_LINES))} (also .gz and .zst); "
                "give the path of the evaluation's text"
            )
        files += found
    return files


def evaluation_texts(paths: tuple[str, ...]) -> Iterator[str]:
    """One text a plain file; one text a JSON record, of all its strings at any depth, in their order.

    Raises:
        ValueError: as `evaluation_files`; a file that cannot be read, with its name and line.
    """
    for path in evaluation_files(paths):
        try:
            yield from _texts(path)
        except (OSError, EOFError, UnicodeDecodeError, zstandard.ZstdError, zlib.error) as error:
            raise ValueError(
                f"{_SETTING}: {path} cannot be read ({error}), expected UTF-8 text; mend the file or leave it out"
            ) from error


def evaluation_hashes(paths: tuple[str, ...]) -> list[list[str]]:
    """Name and SHA-256 of every file, so that other evaluation texts are another selection."""
    return [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in evaluation_files(paths)]


def _known(path: Path) -> bool:
    return _kind(path) in (*_LINES, *_PLAIN, ".json")


def _kind(path: Path) -> str:
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix in _PACKED else name.suffix


def _texts(path: Path) -> Iterator[str]:
    content = _content(path)
    kind = _kind(path)
    if kind in _PLAIN:
        yield content
    elif kind == ".json":
        record = _record(path, 1, content)
        yield from map(_strings, record if isinstance(record, list) else [record])
    else:
        # not splitlines: JSON may hold other line separators within a string
        lines = enumerate(content.split("\n"), start=1)
        yield from (_strings(_record(path, number, line)) for number, line in lines if line.strip())


def _content(path: Path) -> str:
    data = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        data = gzip.decompress(data)
    elif path.name.lower().endswith(".zst"):
        data = _unpacked(data)
    return data.decode("utf-8")


def _unpacked(data: bytes) -> bytes:
    """All frames; zstandard itself is silent about a last frame that does not end."""
    parts = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(data))
        if not frame.eof:
            raise EOFError("its last zstd frame does not end")
        data = frame.unused_data
    return b"".join(parts)


def _record(path: Path, line: int, content: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{_SETTING}: {path}, line {line}: got no JSON ({error}), expected a record; mend the file or leave it out"
        ) from error


def _strings(record: Any) -> str:
    if isinstance(record, str):
        return record
    entries = record.values() if isinstance(record, dict) else record if isinstance(record, list) else []
    return " ".join(text for entry in entries if (text := _strings(entry)))
