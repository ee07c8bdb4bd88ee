"""Whether any record of a source has the fields that the settings name, before hours go into preparing it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from litespark.data.config import PrepareConfig
from litespark.data.text.archives import blocks
from litespark.data.text.detection import holds_json
from litespark.data.text.document import domain_name
from litespark.data.text.fields import absent, field_value, names_in, records_within
from litespark.data.text.files import JSON, PARQUET, TEXT, SourceFile
from litespark.data.text.formats import Overlong, json_records
from litespark.data.text.reader import on_this_machine
from litespark.data.text.tables import SEPARATORS, TEXT_SETTING, Row, column_names, csv_rows, parquet_rows

DOMAIN_SETTING = "data.domain_field"
_LOOKED_AT_BYTES = 1 << 30
_LEAST_OF_A_FILE = 1 << 20
_MOST_NAMES = 200
_MOST_TEXTS = 16
_OF_A_LIST = ".list."


def refuse_absent_fields(config: PrepareConfig, files: tuple[SourceFile, ...], scratch: Path) -> None:
    """Raise ValueError where no record has anything in `text_field` or `domain_field`; a few that have are enough.

    It looks until it has seen one of each, at most at a GiB that is spread over all files. Sources of plain texts alone
    have no records, and no fields; of what is called a plain text a few are looked into, since it may hold JSON.

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
    texts = (file for file in files if not file.holds_records and file.size and not file.remote)
    holding += islice(texts, _MOST_TEXTS)
    records = 0
    for file in holding:
        with on_this_machine(file, scratch) as path:
            for record in _records(path, file, config, _LOOKED_AT_BYTES // len(holding)):
                records += not isinstance(record, Row)  # a table counts once
                wanted = {setting: name for setting, name in wanted.items() if not _has(record, name, setting)}
                if not wanted:
                    return
                if len(names) < _MOST_NAMES:
                    names |= dict.fromkeys(record if isinstance(record, tuple) else names_in(record))
    if not records:
        return  # the reader counts what is no record
    setting, name = next(iter(wanted.items()))
    of_domain = setting == DOMAIN_SETTING
    empty = "no name (a text or a whole number) in field" if of_domain else "nothing in field"
    lacking = empty if any(f"{there}.".startswith(f"{name}.") for there in names) else "no field"
    unfit = {name, config.text_field} if of_domain else {name}
    others = [there for there in names if there not in unfit and _OF_A_LIST not in there]
    where = f"data.source={config.source}, {records} records and tables looked at"
    if of_domain and not others:
        there = ", ".join(names) or "none at all"
        raise ValueError(f"{where}: {lacking} {name}, but {there}. Set {setting}=null for one domain.")
    error = absent(where, setting, name, others, lacking=lacking)
    none = f", or {setting}=null for one domain" if of_domain else ""
    raise ValueError(f"{error}{none}.")


def _has(record: object, name: str, setting: str) -> bool:
    of_domain = setting == DOMAIN_SETTING
    if isinstance(record, Row):
        value = record.domain if of_domain else record.text
    else:  # of the columns of a table nothing, until there is a row
        value = field_value(record, name)
    if of_domain:
        return domain_name(value) is not None
    return isinstance(record, str) or value is not None


def _records(path: Path, file: SourceFile, config: PrepareConfig, most_bytes: int) -> Iterator[object]:
    """Records of a file, of so many bytes together; of a table the tuple of its columns first."""
    if file.format == TEXT:
        if not holds_json(next(blocks(path, file.where), b"")):
            return
    elif file.format != JSON:
        for row in _of_table(path, file, config):
            yield row
            if isinstance(row, Row):
                most_bytes -= len(row.text) if isinstance(row.text, bytes) else 1
            if most_bytes < 0:
                return
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


def _of_table(path: Path, file: SourceFile, config: PrepareConfig) -> Iterator[tuple[str, ...] | Row]:
    """The names of its columns, and its rows where one of them is the text."""
    separator = None if file.format == PARQUET else SEPARATORS[file.format]
    columns = tuple(column_names(path, file.where, separator, config.text_field, config.max_line_bytes))
    yield columns
    if not any(f"{column}.".startswith(f"{config.text_field}.") for column in columns):
        return
    fields = (path, file.where, config.text_field, config.domain_field)
    rows = (
        parquet_rows(*fields)
        if separator is None
        else csv_rows(*fields, separator=separator, most_bytes=config.max_line_bytes)
    )
    yield from (row for _, row in rows if isinstance(row, Row))
