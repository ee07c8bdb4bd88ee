"""Whether any record of a source has the fields that the settings name, before hours go into preparing it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from litespark.data.config import PrepareConfig
from litespark.data.text.fields import absent, field_value, names_in, records_within
from litespark.data.text.files import JSON, PARQUET, SourceFile
from litespark.data.text.formats import Overlong, json_records
from litespark.data.text.reader import on_this_machine
from litespark.data.text.tables import SEPARATORS, TEXT_SETTING, column_names

DOMAIN_SETTING = "data.domain_field"
_LOOKED_AT_BYTES = 1 << 30
_LEAST_OF_A_FILE = 1 << 20
_MOST_NAMES = 200


def refuse_absent_fields(config: PrepareConfig, files: tuple[SourceFile, ...], scratch: Path) -> None:
    """Raise ValueError where no record has `text_field` or `domain_field`; a field that a few have is enough.

    It looks until it has seen one of each, at most at a GiB that is spread over all files. Sources of plain texts alone
    have no records, and no fields.

    Raises:
        ValueError: names the fields that the records have, the nearest first; or a file that cannot be read.
    """
    wanted = {TEXT_SETTING: config.text_field}
    if config.domain_field:
        wanted[DOMAIN_SETTING] = config.domain_field
    names: dict[str, None] = {}
    holding = [file for file in files if file.holds_records and file.size and file.copy_of is None]
    most_files = _LOOKED_AT_BYTES // _LEAST_OF_A_FILE
    holding = holding[:: len(holding) // most_files + 1]
    records = 0
    for file in holding:
        with on_this_machine(file, scratch) as path:
            for record in _records(path, file, config, _LOOKED_AT_BYTES // len(holding)):
                records += 1
                wanted = {setting: name for setting, name in wanted.items() if not _has(record, name, setting)}
                if not wanted:
                    return
                if len(names) < _MOST_NAMES:
                    names |= dict.fromkeys(record if isinstance(record, tuple) else names_in(record))
    if not records:
        return  # the reader counts what is no record
    setting, name = next(iter(wanted.items()))
    error = absent(f"data.source={config.source}, {records} records and tables looked at", setting, name, names)
    none = f", or {setting}=null for one domain" if setting == DOMAIN_SETTING else ""
    raise ValueError(f"{error}{none}.")


def _has(record: object, name: str, setting: str) -> bool:
    if isinstance(record, tuple):  # the columns of a table
        return any(f"{column}.".startswith(f"{name}.") for column in record)
    value = field_value(record, name)
    if setting == DOMAIN_SETTING:
        return isinstance(value, str | int) and value != ""
    return isinstance(record, str) or value is not None


def _records(path: Path, file: SourceFile, config: PrepareConfig, most_bytes: int) -> Iterator[object]:
    """Records of a file, of so many bytes together; of a table the tuple of its columns instead."""
    if file.format != JSON:
        separator = None if file.format == PARQUET else SEPARATORS[file.format]
        yield tuple(column_names(path, file.where, separator, config.text_field, config.max_line_bytes))
        return
    for _, record in json_records(path, file.where, config.max_line_bytes):
        if not isinstance(record, Overlong):
            try:
                content = json.loads(record)
            except (ValueError, RecursionError):
                continue
            yield from records_within(content, config.text_field) or [content]
            most_bytes -= len(record)
        if most_bytes < 0:
            return
