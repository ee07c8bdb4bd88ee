"""Rows of tables, parquet and CSV, each with its place; only the columns of the text and the domain are kept."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from litespark.data.config import PrepareConfig
from litespark.data.libraries import library
from litespark.data.text.archives import blocks
from litespark.data.text.fields import TEXT_SETTING, Row, absent, leads_to
from litespark.data.text.files import TSV, SourceFile
from litespark.data.text.formats import Overlong, lines

_ROWS = 256


def parquet_rows(path: Path, name: str, config: PrepareConfig) -> Iterator[tuple[int, Row]]:
    """(place, row) of a parquet file, of which only the named columns are read, a row group at a time.

    A column `a.b` is one of that very name, else field b of column a. ValueError: pyarrow is not installed, the file is
    damaged, or there is no such column for the text.
    """
    pyarrow = _arrow("pyarrow", name)
    wanted = [field for field in (config.text_field, config.domain_field) if field]
    with _parquet(path, name) as file:
        columns = dict.fromkeys(column.path for column in file.schema)
    if not leads_to(config.text_field, columns):
        raise absent(name, TEXT_SETTING, config.text_field, columns)
    place = 0
    with _parquet(path, name) as file:
        for batch in file.iter_batches(batch_size=_ROWS, columns=wanted, use_threads=False):
            texts, domains = (_values(pyarrow, batch, field) for field in (config.text_field, config.domain_field))
            for text, domain in zip(texts, domains, strict=True):
                place += 1
                fault = ""
                if text is not None and not isinstance(text, bytes):
                    text, fault = str(text), "text_not_a_string"
                elif text is not None and len(text) > config.max_line_bytes:
                    fault = "overlong"
                yield place, Row(text or "", domain, fault, record=columns)


def parquet_records(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(place, record) of a parquet file with all its columns, as plain values."""
    place = 0
    with _parquet(path, name) as file:
        for batch in file.iter_batches(batch_size=_ROWS, use_threads=False):
            for record in batch.to_pylist():
                place += 1
                yield place, record


def csv_rows(path: Path, file: SourceFile, config: PrepareConfig) -> Iterator[tuple[int, Row]]:
    """(line, row) of a table whose first line names its columns.

    ValueError: a damaged archive, no such column for the text, a line that is too long, or quotes that do not end.
    """
    name, text_field = file.where, config.text_field
    csv.field_size_limit(config.max_line_bytes)
    rows = _csv(path, file, config)
    try:
        header: list[str] = next((row for row in rows if row), [])
    except csv.Error as error:
        raise ValueError(
            f"{name} does not begin with the names of its columns: {error}. Mend its first line."
        ) from error
    if text_field not in header:
        raise absent(name, TEXT_SETTING, text_field, header)
    columns = dict.fromkeys(header)
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
            overlong = "field limit" in str(error)
            fault, size = ("overlong", config.max_line_bytes + 1) if overlong else ("malformed_csv", 0)
            yield place, Row(b"", fault=fault, size=size)
            continue
        if row:
            values = dict(zip(header, row, strict=False))
            text = values.get(text_field)
            content = (text or "").encode("utf-8", "surrogateescape")
            fault = "missing_text" if text is None else ""
            yield place, Row(content, values.get(config.domain_field or ""), fault, record=columns)


def _csv(path: Path, file: SourceFile, config: PrepareConfig) -> Any:
    """A reader of the rows; fields are parted by what parts the text's name from the others in the first line."""
    parts = _text_lines(path, file.where, config.max_line_bytes)
    first = next((line for line in parts if line.strip()), "")
    header = first.strip().replace('"', "")
    usual = "\t" if file.format == TSV else ","
    separator = next((mark for mark in (usual, *",;|\t") if config.text_field in header.split(mark)), usual)
    return csv.reader(chain([first], parts), delimiter=separator, strict=True)


def _text_lines(path: Path, name: str, most_bytes: int) -> Iterator[str]:
    """Lines with their ends; bytes that are not UTF-8 come as surrogates, so that they come back as they are."""
    for number, line in enumerate(lines(blocks(path, name), most_bytes), start=1):
        if isinstance(line, Overlong):
            raise ValueError(
                f"{name}, line {number}: got {line.size} bytes, expected at most data.max_line_bytes={most_bytes}. "
                "Raise it, or leave the file out."
            )
        yield line.decode("utf-8", "surrogateescape") + "\n"


@contextmanager
def _parquet(path: Path, name: str) -> Iterator[Any]:
    """An open parquet file; what pyarrow says of one that is damaged becomes a ValueError."""
    pyarrow = _arrow("pyarrow", name)
    try:
        with _arrow("pyarrow.parquet", name).ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, ValueError, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{name} is damaged or no parquet file: {error}. Copy it again, or leave it out.") from error


def _arrow(module: str, name: str) -> Any:
    return library(module, setting=f"{name}: a parquet file")


def _values(pyarrow: Any, batch: Any, field: str | None) -> list[Any]:
    """The values of a column; text as bytes, since pyarrow does not check that a column of strings is UTF-8."""
    column = _column(pyarrow, batch, field) if field else None
    if column is None:
        return [None] * int(batch.num_rows)
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind):
        column = column.cast(pyarrow.large_binary())
    values: list[Any] = column.to_pylist()
    return values


def _column(pyarrow: Any, batch: Any, name: str) -> Any | None:
    """The column of that very name, else the field of a struct that the path leads to."""
    table = pyarrow.Table.from_batches([batch])
    while not (places := table.schema.get_all_field_indices(name)):
        if not any(pyarrow.types.is_struct(kind) for kind in table.schema.types):
            return None
        table = table.flatten()
    return table.column(places[0]).combine_chunks()
