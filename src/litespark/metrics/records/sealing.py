"""How every record is written and read: strict JSON, whole or not at all, with a seal that shows a change by hand.

The seal is the SHA-256 of the canonical JSON of everything else in the file: it does not stop a forger, it stops an
edit. Each kind of record also checks itself when it is read, so a new seal does not cover figures that contradict each
other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from litespark.metrics.records.strict_json import RecordError, decode, encode, refuse_constant

SCHEMA_KEY = "schema"
SEAL = "seal"

T = TypeVar("T")


def seal_of(values: dict[str, Any]) -> str:
    """The seal of a record's plain values, whatever seal they hold already."""
    content = {key: value for key, value in values.items() if key != SEAL}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_values(values: dict[str, Any], path: Path) -> None:
    """Write plain values with their seal.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    sealed = {**values, SEAL: seal_of(values)}
    write_text(json.dumps(sealed, indent=1, allow_nan=False, ensure_ascii=False) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write a whole file: a temporary one beside it, flushed to disk, then renamed.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_sealed(record: object, schema: str, path: Path) -> None:
    """Write a dataclass as sealed strict JSON, whole or not at all.

    Raises:
        RecordError: a figure is not finite, or of the wrong type; nothing is written then.
    """
    write_values({SCHEMA_KEY: schema, **encode(record, type(record), "")}, path)


def read_values(path: Path) -> dict[str, Any]:
    """The plain values of a record; neither schema nor seal are looked at.

    Raises:
        RecordError: the file is no strict JSON, or no object.
        OSError: the file cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe would never end
        raise RecordError("it is no plain file")
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except RecursionError as error:
        raise RecordError("its lists or objects are nested too deeply") from error
    if not isinstance(values, dict):
        raise RecordError(f"got a {type(values).__name__}, expected an object")
    return values


def check_seal(values: dict[str, Any]) -> None:
    """Refuse values that are not those that were sealed.

    Raises:
        RecordError: the seal is missing, or belongs to other values.
    """
    if values.get(SEAL) != (expected := seal_of(values)):
        raise RecordError(
            f"seal: got {values.get(SEAL)!r}, expected {expected!r} for this content: the file was changed after "
            "it was written; take it from git again, or measure again"
        )


def read_sealed(path: Path, kind: type[T], schema: str) -> T:
    """The record in a file that `write_sealed` wrote.

    Raises:
        RecordError: no strict JSON, another schema, a broken seal, a missing or unknown field, a value of the wrong
            type; the message names the file and the field.
        OSError: the file cannot be read.
    """
    with naming(path, schema):
        return unsealed(read_values(path), kind, schema)


def unsealed(values: dict[str, Any], kind: type[T], schema: str) -> T:
    """The record of sealed values.

    Raises:
        RecordError: as `read_sealed`, without the file's name.
    """
    if values.get(SCHEMA_KEY) != schema:
        raise RecordError(f"schema: got {values.get(SCHEMA_KEY)!r}, expected {schema!r}")
    check_seal(values)
    record: T = decode(content_of(values), kind, "")
    return record


def content_of(values: dict[str, Any]) -> dict[str, Any]:
    """The values without schema and seal."""
    return {key: value for key, value in values.items() if key not in (SCHEMA_KEY, SEAL)}


@contextmanager
def naming(path: Path, what: str) -> Iterator[None]:
    """Put the file's name and what it should hold before whatever is wrong with it.

    Raises:
        RecordError: in place of any ValueError: of the schema, of JSON's syntax, of UTF-8.
    """
    try:
        yield
    except ValueError as error:
        raise RecordError(f"{path} is not a valid {what} record: {error}") from error


class SealedRecord:
    """What the records of benchmarks have in common. A subclass is a dataclass with its schema and its rules."""

    schema = ""

    def check(self) -> None:
        """The rules that types do not express.

        Raises:
            RecordError: one is broken; the message names the field.
        """

    def write(self, path: Path) -> None:
        """Write as sealed JSON, whole or not at all.

        Raises:
            RecordError: a value is of the wrong type or not finite.
        """
        write_sealed(self, self.schema, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file.

        Raises:
            RecordError: it is not such a record, or it contradicts itself; the message names the file and the field.
            OSError: the file cannot be read.
        """
        record = read_sealed(path, cls, cls.schema)
        with naming(path, cls.schema):
            record.check()
        return record
