"""Records that pydantic checks: strict types, no unknown field, no number that is not finite, rules as validators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from litespark.metrics.records.sealing import naming, write_text
from litespark.metrics.records.strict_json import RecordError


class Part(BaseModel):
    """Values inside a record; dataclasses among its fields are checked as strictly."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, serialize_by_alias=True)


class Record(Part):
    """A whole file. A subclass has a field `schema`, a literal by which readers are found, and its rules."""

    def check(self) -> None:
        """Check again what was changed since it was made.

        Raises:
            RecordError: a value is of the wrong type or not finite, or a rule is broken; the message names the field.
        """
        self._parse(self.model_dump_json())

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all, what `read` would accept.

        Raises:
            RecordError: as `check`; nothing is written then.
            OSError: it cannot be written; what was there stays.
        """
        self.check()
        write_text(self.model_dump_json(indent=1) + "\n", path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file.

        Raises:
            RecordError: it is not such a record, or it contradicts itself; the message names the file and the field.
            OSError: the file cannot be read.
        """
        with naming(path, cls.__name__):
            return cls._parse(path.read_text(encoding="utf-8"))

    @classmethod
    def _parse(cls, text: str) -> Self:
        with as_record_error():
            return cls.model_validate_json(text)


@contextmanager
def as_record_error() -> Iterator[None]:
    """Raise RecordError, on one line, in place of pydantic's error; a rule that is broken names its field itself."""
    try:
        yield
    except ValidationError as error:
        raise RecordError("; ".join(_complaint(dict(each)) for each in error.errors(include_url=False))) from error


def _complaint(error: dict[str, Any]) -> str:
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{'.'.join(map(str, error['loc']))}: got {error['input']!r}: {error['msg']}"
