"""Rows of tables, parquet and CSV, each with its place; only the columns of the text and the domain are kept."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from litespark.data.libraries import library
from litespark.data.text.archives import blocks
from litespark.data.text.fields import absent
from litespark.data.text.files import CSV, TSV
from litespark.data.text.formats import Overlong, lines, with_line_feeds

TEXT_SETTING = "data.text_field"
SEPARATORS = {CSV: ",", TSV: "\t"}
_ROWS = 256


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    text: object
    """Bytes where the column holds text, else what it holds; None where the row has nothing there."""
    domain: object


def parquet_rows(path: Path, name: str, text_field: str, domain_field: str | None) -> Iterator[tuple[int, Row]]:
    """(place, row) of a parquet file, of which only the named columns are read, a row group at a time.

    Args:
        path: where the file lies.
        name: what errors call it.
        text_field: column of the text: one of that very name, else of `a.b` field b of column a.
        domain_field: likewise, or None.

    Raises:
        ValueError: pyarrow is not installed, the file is damaged, or there is no such column for the text.
    """
    pyarrow = _arrow("pyarrow", name)
    wanted = [text_field] if domain_field is None else [text_field, domain_field]
    with _parquet(path, name) as file:
        columns = [column.path for column in file.schema]
        if not any(f"{column}.".startswith(f"{text_field}.") for column in columns):
            raise _NoColumn(str(absent(name, TEXT_SETTING, text_field, columns)))
        place = 0
        for batch in file.iter_batches(batch_size=_ROWS, columns=wanted, use_threads=False):
            texts, domains = (_values(pyarrow, batch, field) for field in (text_field, domain_field))
            for text, domain in zip(texts, domains, strict=True):
                place += 1
                yield place, Row(text, domain)


def csv_rows(
    path: Path, name: str, text_field: str, domain_field: str | None, *, separator: str, most_bytes: int
) -> Iterator[tuple[int, Row | Overlong | None]]:
    """(line, row) of a table whose first line names its columns; None for a row that is malformed.

    Args:
        path: where the file lies.
        name: for its suffix and for errors.
        text_field: column of the text.
        domain_field: column of the domain, or None.
        separator: of fields, `,` or a tab, unless the first line has the text's name behind or before another.
        most_bytes: of a field; a longer one comes as `Overlong`.

    Raises:
        ValueError: a damaged archive, no such column for the text, a line that is too long, or quotes that do not end.
    """
    csv.field_size_limit(most_bytes)
    rows = _csv(path, name, separator, text_field, most_bytes)
    header = _header(rows, name)
    if text_field not in header:
        raise absent(name, TEXT_SETTING, text_field, header)
    of_text = header.index(text_field)
    of_domain = header.index(domain_field) if domain_field in header else None
    while True:
        place = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise ValueError(
                    f"{name} is truncated or damaged: the quotes in line {place} do not end. Copy or correct it."
                ) from error
            yield place, Overlong(most_bytes + 1, b"") if "field limit" in str(error) else None
            continue
        if row:
            text = row[of_text].encode("utf-8", "surrogateescape") if of_text < len(row) else None
            yield place, Row(text, row[of_domain] if of_domain is not None and of_domain < len(row) else None)


def column_names(path: Path, name: str, separator: str | None, text_field: str, most_bytes: int) -> list[str]:
    """Names of the columns of a table; `separator` is that of a CSV file, as `csv_rows` has it, None means parquet.

    Raises:
        ValueError: the file is damaged.
    """
    if separator is None:
        with _parquet(path, name) as file:
            return [column.path for column in file.schema]
    return _header(_csv(path, name, separator, text_field, most_bytes), name)


def _csv(path: Path, name: str, separator: str, text_field: str, most_bytes: int) -> Any:
    """A reader of the rows; fields are parted by what parts the text's name from the others in the first line."""
    parts = _text_lines(path, name, most_bytes)
    first = next((line for line in parts if line.strip()), "")
    header = first.strip().replace('"', "")
    separator = next((mark for mark in (separator, *",;|\t") if text_field in header.split(mark)), separator)
    return csv.reader(chain([first], parts), delimiter=separator, strict=True)


def _header(rows: Iterator[list[str]], name: str) -> list[str]:
    try:
        return next((row for row in rows if row), [])
    except csv.Error as error:
        raise ValueError(f"{name} does not begin with the names of its columns: {error}. Mend its first line.") \
            from error  # fmt: skip


def _text_lines(path: Path, name: str, most_bytes: int) -> Iterator[str]:
    """Lines with their ends; bytes that are not UTF-8 come as surrogates, so that they come back as they are."""
    for number, line in enumerate(lines(with_line_feeds(blocks(path, name)), most_bytes), start=1):
        if isinstance(line, Overlong):
            raise ValueError(
                f"{name}, line {number}: got {line.size} bytes, expected at most data.max_line_bytes={most_bytes}. "
                "Raise it, or leave the file out."
            )
        yield line.decode("utf-8", "surrogateescape") + "\n"


class _NoColumn(ValueError):
    """Not one of pyarrow's own errors, which are ValueErrors too."""


@contextmanager
def _parquet(path: Path, name: str) -> Iterator[Any]:
    """An open parquet file; what pyarrow says of one that is damaged becomes a ValueError."""
    pyarrow = _arrow("pyarrow", name)
    try:
        with _arrow("pyarrow.parquet", name).ParquetFile(path) as file:
            yield file
    except _NoColumn:
        raise
    except (pyarrow.ArrowException, ValueError, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{name} is damaged or no parquet file: {error}. Copy it again, or leave it out.") from error


def _arrow(module: str, name: str) -> Any:
    return library(module, setting=f"{name}: a parquet file")


def _values(pyarrow: Any, batch: Any, field: str | None) -> list[object]:
    """The values of a column; text as bytes, since pyarrow does not check that a column of strings is UTF-8."""
    column = None if field is None else _column(pyarrow, batch, field)
    if column is None:
        return [None] * int(batch.num_rows)
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind):
        column = column.cast(pyarrow.large_binary())
    values: list[object] = column.to_pylist()
    return values


def _column(pyarrow: Any, below: Any, name: str) -> Any | None:
    """A column of a batch or a field of a struct: of that very name, else the field that the path leads to."""
    if (found := _child(below, name)) is not None:
        return found
    parts = name.split(".")
    for count in range(1, len(parts)):
        inner = _child(below, ".".join(parts[:count]))
        if inner is not None and pyarrow.types.is_struct(inner.type):
            found = _column(pyarrow, inner, ".".join(parts[count:]))
            if found is not None:
                return found
    return None


def _child(below: Any, name: str) -> Any | None:
    if hasattr(below, "schema"):
        places = below.schema.get_all_field_indices(name)
        return below.column(places[0]) if places else None
    place = below.type.get_field_index(name)
    return None if place < 0 else _arrow("pyarrow.compute", name).struct_field(below, place)
