"""The texts of evaluations that must not be trained on: files and folders of plain text, JSON and tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from litespark.data.libraries import library
from litespark.data.local_files import path_from
from litespark.data.text.archives import blocks, without_compression

_SETTING = "data.selection.decontaminate"
_LINES = (".jsonl", ".jsonlines", ".ndjson")
_PLAIN = (".txt", ".text", ".md", ".rst", ".py", ".csv", ".tsv")
_PARQUET = ".parquet"
_KNOWN = (*_PLAIN, ".json", *_LINES, _PARQUET)


def evaluation_files(paths: tuple[str, ...]) -> list[Path]:
    """The files that the settings name, folders with all known files below them, sorted within each.

    Raises:
        ValueError: a path that is not there, a folder without a known file, a file of another kind.
    """
    files: list[Path] = []
    for given in paths:
        path = path_from(given)
        if path.is_dir():
            found = sorted(entry for entry in path.rglob("*") if entry.is_file() and _known(entry))
        else:
            found = [path] if path.is_file() and _known(path) else []
        if not found:
            raise ValueError(
                f"{_SETTING}: got {given}, {'which is not there' if not path.exists() else 'which holds no known file'}"
                f", expected a file or folder of {' '.join(_KNOWN)} (also .gz .zst .xz .bz2); "
                "give the path of the evaluation's text"
            )
        files += found
    return files


def evaluation_texts(paths: tuple[str, ...]) -> Iterator[str]:
    """One text a plain file; one text a record of JSON or Parquet, of all its strings at any depth, in their order.

    Raises:
        ValueError: as `evaluation_files`; a file that cannot be read, with its name and line.
    """
    for path in evaluation_files(paths):
        yield from _rows(path) if _kind(path) == _PARQUET else _texts(path)


def evaluation_hashes(paths: tuple[str, ...]) -> list[list[str]]:
    """Name and SHA-256 of every file, so that other evaluation texts are another selection."""
    return [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in evaluation_files(paths)]


def _known(path: Path) -> bool:
    return _kind(path) in _KNOWN


def _kind(path: Path) -> str:
    return Path(without_compression(path.name)).suffix


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


def _rows(path: Path) -> Iterator[str]:
    parquet = library("pyarrow.parquet", setting=f"{_SETTING}={path.name}")
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from map(_strings, batch.to_pylist())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _content(path: Path) -> str:
    try:
        return b"".join(blocks(path, path.name)).decode("utf-8")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{_SETTING}: {path} cannot be read ({error}), expected UTF-8 text; mend the file or leave it out"
    )


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
