"""The texts of evaluations that must not be trained on; their files are told apart as those of a source are."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from litespark.data.libraries import library
from litespark.data.local_files import path_from
from litespark.data.storage import Listed, Storage
from litespark.data.text.archives import BEGINNING_BYTES, blocks
from litespark.data.text.detection import Content, content_of, holds_json, reason_by_name
from litespark.data.text.files import JSON, PARQUET, READABLE, format_of
from litespark.data.text.formats import json_records

_SETTING = "data.selection.decontaminate"


def list_evaluations(paths: tuple[str, ...]) -> list[tuple[str, list[Listed]]]:
    """(folder, files) of each path that the settings name, folders with all below them; no file is opened."""
    listed = []
    for given in paths:
        path = path_from(given)
        with _readable(path):
            if path.is_dir():
                listed.append((str(path), Storage(path).files()))
            elif path.is_file():
                listed.append((str(path.parent), [Storage(path.parent).listed(path.name)]))
            else:
                raise FileNotFoundError("it is not there")
    return listed


def evaluation_files(paths: tuple[str, ...]) -> tuple[list[tuple[Path, str]], dict[str, str]]:
    """The files that the settings name, with what each holds; and reasons by path, of those that are passed over.

    A ValueError where a path, or all that a folder holds, cannot be read.
    """
    files: list[tuple[Path, str]] = []
    passed_over: dict[str, str] = {}
    for given, (folder, listed) in zip(paths, list_evaluations(paths), strict=True):
        is_folder = path_from(given).is_dir()
        before = len(files)
        reasons: dict[str, str] = {}
        for file in listed:
            path = Path(folder) / file.name
            reason = reason_by_name(file.name) if is_folder else None
            content = Content(None, reason) if reason else _content_of(path)
            if content.format:
                files.append((path, content.format))
            else:
                reasons[str(path) if is_folder else given] = content.reason
        if len(files) == before:
            why = ", ".join(f"{name}: {reason}" for name, reason in [*reasons.items()][:3]) or f"{given} is empty"
            raise ValueError(
                f"{_SETTING}: got {why}, expected a file or folder of {READABLE}; give the path of the text to keep out"
            )
        passed_over |= reasons
    return files, passed_over


def evaluation_texts(paths: tuple[str, ...]) -> Iterator[str]:
    """One text a plain file; one text a record of JSON or Parquet, of all its strings at any depth, in their order.

    A ValueError names the file, and the line, that cannot be read.
    """
    for path, kind in evaluation_files(paths)[0]:
        with _readable(path):
            yield from _rows(path) if kind == PARQUET else _records(path) if kind == JSON else _plain(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{_SETTING}: {path} cannot be read ({error}), expected UTF-8 text or records of JSON or Parquet; correct "
            "the file or leave it out"
        ) from error


def _content_of(path: Path) -> Content:
    if (known := format_of(path.name)) is not None:
        return Content(known)
    with _readable(path), path.open("rb") as file:
        return content_of(file.read(BEGINNING_BYTES), path.name, None)


def _plain(path: Path) -> Iterator[str]:
    content = b"".join(blocks(path, path.name))
    return _records(path) if holds_json(content) else iter([content.decode("utf-8")])


def _rows(path: Path) -> Iterator[str]:
    parquet = library("pyarrow.parquet", setting=f"{_SETTING}={path.name}")
    for batch in parquet.ParquetFile(path).iter_batches():
        yield from map(_strings, batch.to_pylist())


def _records(path: Path) -> Iterator[str]:
    for line, record in json_records(path, path.name, sys.maxsize):
        assert isinstance(record, bytes)
        try:
            yield _strings(json.loads(record))
        except ValueError as error:
            raise ValueError(f"line {line}: no JSON, {error}") from error


def _strings(record: Any) -> str:
    if isinstance(record, str):
        return record
    entries = record.values() if isinstance(record, dict) else record if isinstance(record, list) else []
    return " ".join(text for entry in entries if (text := _strings(entry)))
