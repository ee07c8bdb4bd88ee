"""Records of examples from the files of a source, and what of them is left out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litespark.data.examples.config import ExamplesConfig
from litespark.data.examples.messages import standard
from litespark.data.text.files import JSON, PARQUET, Files, SourceFile
from litespark.data.text.functions import records_in
from litespark.data.text.installed_packages import INSTALLED_PACKAGES
from litespark.data.text.reader import json_rows, on_this_machine
from litespark.data.text.sources import STANDARD_LIBRARY
from litespark.data.text.tables import parquet_records

COPY = "duplicate_shard"
"""Why a record of a file that another one repeats is left out."""
_OF_FUNCTIONS = (STANDARD_LIBRARY, INSTALLED_PACKAGES)


@dataclass(frozen=True, slots=True)
class Record:
    """One record with its place, or the reason why there is none."""

    file: str
    place: int
    content: dict[str, Any]
    fault: str = ""
    excerpt: str = ""
    size: int = 0
    group: str | None = None
    """What is held out as a whole; None: it is by its prompt."""


def read_records(files: Iterable[SourceFile], config: ExamplesConfig, scratch: Path) -> Iterator[Record]:
    """All records of the files in order, those that are none too; ValueError: a file that cannot be read whole."""
    for file in files:
        copy = COPY if file.copy_of else ""
        with on_this_machine(file, scratch) as path:
            if config.source in _OF_FUNCTIONS:
                module = file.name.split("/")[0].removesuffix(".py")
                source = path.read_text(encoding="utf-8", errors="replace")
                for place, record in enumerate(records_in(source, config.format), start=1):
                    yield Record(file.name, place, record, group=module)
            elif file.format == JSON:
                for place, row in json_rows(path, file.where, config.max_line_bytes):
                    fault = row.fault or (copy if isinstance(row.record, dict) else "no_record")
                    text = row.text if isinstance(row.text, bytes) else row.text.encode()
                    content = standard(row.record) if isinstance(row.record, dict) else {}
                    excerpt = text[:800].decode("utf-8", "replace")
                    yield Record(file.name, place, content, fault, excerpt, row.size or len(text))
            else:
                for place, record in parquet_records(path, file.where):
                    yield Record(file.name, place, standard(record), copy)


def require_records(files: Files, config: ExamplesConfig) -> None:
    """Raise ValueError where a file holds no records of several fields."""
    if config.source in _OF_FUNCTIONS:
        return
    wrong = next((file for file in files if file.format not in (JSON, PARQUET)), None)
    if wrong is not None:
        raise ValueError(
            f"{wrong.where}: got {wrong.format}, expected JSON lines or parquet, whose records have the columns of "
            f"data.format={config.format}; convert it, or leave it out of data.source"
        )
