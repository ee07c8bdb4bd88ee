"""Records of one file by its format, each with its place: what a record holds is the reader's business.

A record of JSON is its bytes, so that one that is broken costs no other. No more than one record is held in memory,
and of one that is too long only its beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from litespark.data.libraries import library
from litespark.data.text.archives import blocks

_BEGINNING_BYTES = 1000
_ROWS = 256
_OUTSIDE_STRINGS = re.compile(rb'["\[\]{},]')
_IN_STRINGS = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


@dataclass(frozen=True)
class Overlong:
    """A record that is longer than allowed."""

    size: int
    beginning: bytes


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    text: object
    """Bytes where the column holds text, else what it holds; None where the row has nothing there."""
    domain: object


Record = bytes | Overlong


def json_records(path: Path, name: str, most_bytes: int) -> Iterator[tuple[int, Record]]:
    """(place, record) of a file of JSON: its lines that are not blank, or the members of the array that a `.json` is.

    Args:
        path: where the file lies.
        name: its name, for its suffix and for errors.
        most_bytes: of a record; a longer one comes as `Overlong`.

    Raises:
        ValueError: a damaged or unfinished archive, or an array that does not end.
    """
    unpacked = blocks(path, name)
    if ".json." in f"{name.lower()}.":  # not .jsonl, whose lines may be arrays
        first = next((block for block in unpacked if not block.isspace()), b"")
        unpacked = chain([first], unpacked)
        if first.lstrip()[:1] == b"[":
            return enumerate(_members(unpacked, name, most_bytes), start=1)
    return (
        (number, line)
        for number, line in enumerate(_lines(unpacked, most_bytes), start=1)
        if isinstance(line, Overlong) or (line and not line.isspace())
    )


class _Pending:
    """A record of which not all has been read."""

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
        """The record, which is whole now; the next one begins."""
        held, size = bytes(self.held), self.size
        self.held, self.size = bytearray(), 0
        return held if size <= self.most_bytes else Overlong(size, held)


def _lines(unpacked: Iterator[bytes], most_bytes: int) -> Iterator[Record]:
    """Lines without their ends."""
    pending = _Pending(most_bytes)
    for block in unpacked:
        first, *more = block.split(b"\n")
        pending.add(first)
        if not more:
            continue
        yield pending.take()
        for line in more[:-1]:
            yield line if len(line) <= most_bytes else Overlong(len(line), line[:_BEGINNING_BYTES])
        pending.add(more[-1])
    if pending.size:
        yield pending.take()


def _members(unpacked: Iterator[bytes], name: str, most_bytes: int) -> Iterator[Record]:
    """What is between the commas of the outermost array."""
    pending, nesting = _Pending(most_bytes), _Nesting()
    for block in unpacked:
        start = 0
        for end in nesting.separators(block):
            pending.add(block[start:end])
            start = end + 1
            record = pending.take()
            if isinstance(record, Overlong) or not (record == b"" or record.isspace()):
                yield record
        pending.add(block[start:])
    if nesting.depth or nesting.in_string:
        raise ValueError(
            f"{name} is truncated or damaged: the array that it holds does not end. Mend it, or write one record a "
            "line to a .jsonl"
        )
    record = pending.take()
    if isinstance(record, Overlong) or not (record == b"" or record.isspace()):
        yield record  # what stands behind the array is no record, and the reader will say so


class _Nesting:
    """Where in JSON one is, in terms of brackets and strings."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self._escaped = False

    def separators(self, block: bytes) -> Iterator[int]:
        """Places of the outermost array's brackets and commas in the next block."""
        place = int(self._escaped)
        self._escaped = False
        while place < len(block):
            if self.in_string:
                place = self._behind_string(block, place)
                continue
            if (found := _OUTSIDE_STRINGS.search(block, place)) is None:
                return
            mark, place = found.group(), found.end()
            if mark == b'"':
                self.in_string = True
            elif mark == b",":
                if self.depth == 1:
                    yield found.start()
            else:
                opens = mark in b"[{"
                self.depth += 1 if opens else -1
                if self.depth == int(opens):
                    yield found.start()

    def _behind_string(self, block: bytes, place: int) -> int:
        """Where the rest of a string ends, if it does so in this block."""
        found = _IN_STRINGS.match(block, place)
        assert found is not None, "it matches nothing too"
        mark = block[found.end() : found.end() + 1]
        self.in_string = mark != b'"'
        self._escaped = mark == b"\\"  # the last byte of the block: what it escapes is in the next
        return found.end() + 1


def parquet_rows(path: Path, name: str, text_field: str, domain_field: str | None) -> Iterator[tuple[int, Row]]:
    """(place, row) of a parquet file, of which only the named columns are read, a row group at a time.

    Args:
        path: where the file lies.
        name: what errors call it.
        text_field: column of the text; `a.b` is field b of column a.
        domain_field: likewise, or None.

    Raises:
        ValueError: pyarrow is not installed, the file is damaged, or there is no such column for the text.
    """
    pyarrow, compute, parquet = (
        library(module, setting=f"{name}: a parquet file")
        for module in ("pyarrow", "pyarrow.compute", "pyarrow.parquet")
    )
    wanted = [text_field] if domain_field is None else [text_field, domain_field]
    try:
        with parquet.ParquetFile(path) as file:
            columns = [column.path for column in file.schema]
            if not any(f"{column}.".startswith(f"{text_field}.") for column in columns):
                raise _NoColumn(
                    f"{name} has no column {text_field}, but {', '.join(columns)}. Set data.text_field to one of them"
                )
            place = 0
            for batch in file.iter_batches(batch_size=_ROWS, columns=wanted, use_threads=False):
                texts, domains = (_column(compute, pyarrow, batch, field) for field in (text_field, domain_field))
                for text, domain in zip(texts, domains, strict=True):
                    place += 1
                    yield place, Row(text, domain)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise ValueError(f"{name} is damaged or no parquet file: {error}. Copy it again, or leave it out.") from error


class _NoColumn(ValueError):
    """Not one of pyarrow's own errors, which are ValueErrors too."""


def _column(compute: Any, pyarrow: Any, batch: Any, field: str | None) -> list[object]:
    """The values of a column; text as bytes, since pyarrow does not check that a column of strings is UTF-8."""
    if field is None:
        return [None] * batch.num_rows
    top, *below = field.split(".")
    if top not in batch.schema.names:
        return [None] * batch.num_rows
    column = batch.column(top)
    for name in below:
        if not pyarrow.types.is_struct(column.type) or column.type.get_field_index(name) < 0:
            return [None] * batch.num_rows
        column = compute.struct_field(column, name)
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind):
        column = column.cast(pyarrow.large_binary())
    values: list[object] = column.to_pylist()
    return values
