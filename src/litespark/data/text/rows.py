"""The records of a file of any format, as rows: text and domain, or what is wrong with them."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path

from litespark.data.config import PrepareConfig
from litespark.data.text.archives import blocks
from litespark.data.text.detection import holds_json
from litespark.data.text.fields import Row, field_value, records_within
from litespark.data.text.files import JSON, PARQUET, TEXT, SourceFile
from litespark.data.text.formats import Overlong, json_records
from litespark.data.text.tables import csv_rows, parquet_rows


def rows(path: Path, file: SourceFile, config: PrepareConfig) -> Iterator[tuple[int, Row]]:
    """(place, row) of every record of a file that lies at `path`; a plain text is one.

    ValueError names a file that is damaged or unfinished, or a table without a column for the text.
    """
    if file.format == PARQUET:
        return parquet_rows(path, file.where, config)
    if file.format == JSON:
        return _json_rows(path, file.where, config)
    return _plain_rows(path, file.where, config) if file.format == TEXT else csv_rows(path, file, config)


def _plain_rows(path: Path, name: str, config: PrepareConfig) -> Iterator[tuple[int, Row]]:
    content = b"".join(blocks(path, name))
    if holds_json(content):
        del content
        yield from _json_rows(path, name, config)
    else:
        yield 1, Row(content)


def _json_rows(path: Path, name: str, config: PrepareConfig) -> Iterator[tuple[int, Row]]:
    for place, record in json_records(path, name, config.max_line_bytes):
        if isinstance(record, Overlong):
            yield place, Row(record.beginning, fault="overlong", size=record.size)
            continue
        try:
            content = json.loads(record.removeprefix(BOM_UTF8).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            fault = "invalid_utf8" if isinstance(error, UnicodeDecodeError) else "malformed_json"
            yield place, Row(record, fault=fault)
            continue
        for number, entry in enumerate(records_within(content, config.text_field) or [content]):
            yield place + number, _json_row(entry, record, config)


def _json_row(entry: object, record: bytes, config: PrepareConfig) -> Row:
    text = entry if isinstance(entry, str) else field_value(entry, config.text_field)
    domain = field_value(entry, config.domain_field) if config.domain_field else None
    if text is None and isinstance(entry, dict) and config.text_field in entry:
        text = ""
    if isinstance(text, str):
        return Row(text, domain, record=entry)
    return Row(record, domain, "missing_text" if text is None else "text_not_a_string", record=entry)
