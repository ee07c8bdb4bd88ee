"""What every record is made of: values that pydantic checks strictly, in files that are written whole.

None (null in the file) means "not measured"; 0 is a measurement.
"""

import dataclasses
import json
import math
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, dataclass_transform

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from litespark.atomic import write_whole

T = TypeVar("T")

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class RecordError(ValueError):
    """A file that is not the record it should be, or contradicts itself."""


def finite_or_none(value: T) -> T | None:
    """The value, or None where it is NaN or infinite: a number that JSON can hold, or "not measured"."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
CountFromZero = Annotated[int, Field(ge=0)]
Measured = Annotated[float | None, BeforeValidator(finite_or_none)]
MeasuredPositive = Annotated[Positive | None, BeforeValidator(finite_or_none)]
MeasuredShare = Annotated[Share | None, BeforeValidator(finite_or_none)]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, Field))
def part(kind: type[T]) -> type[T]:
    """A value inside a record: a frozen dataclass with strict types, checked when it is made."""
    return pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)(kind)  # type: ignore[return-value]


@dataclass_transform(field_specifiers=(dataclasses.field, Field))
def record(kind: type[T]) -> type[T]:
    """As `part`, filled while it is measured; it is checked as a whole when it is written and when it is read."""
    return pydantic.dataclasses.dataclass(config=_STRICT)(kind)  # type: ignore[return-value]


class JsonFile:
    """A part or a record that is a file of its own; what `write` accepts, `read` does."""

    def check(self) -> bytes:
        """Check all again, with what was set or added since it was made; returns the text of the file."""
        kind: Any = type(self)
        text = _adapter(kind).dump_json(self, indent=1, warnings=False)
        parse(kind, text)
        return text

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all; errors as of `check`, or OSError."""
        write_whole(path, self.check() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a file; errors as of `read_as`."""
        return read_as(cls, path)


def parse(kind: Any, given: bytes | str | Mapping[str, Any]) -> Any:
    """What a JSON text, or its plain values, hold, as a class or a union of classes; a RecordError names the fault."""
    with as_record_error():
        return _adapter(kind).validate_json(given if isinstance(given, bytes | str) else json.dumps(given))


def read_as(kind: Any, path: Path) -> Any:
    """What a file holds, as of `parse`; a RecordError names the file too. An OSError where it cannot be read."""
    if path.exists() and not path.is_file():  # a pipe would never end
        raise RecordError(f"{path} is no plain file")
    try:
        return parse(kind, path.read_bytes())
    except RecordError as error:
        what = kind.__name__ if isinstance(kind, type) else "record"
        raise RecordError(f"{path} is not a valid {what}: {error}") from error


@contextmanager
def as_record_error() -> Iterator[None]:
    """Raise RecordError, on one line, in place of what pydantic raises."""
    try:
        yield
    except ValidationError as error:
        raise RecordError("; ".join(_complaint(dict(fault)) for fault in error.errors(include_url=False))) from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _complaint(error: dict[str, Any]) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "value_error":  # a rule of ours
        message = str(error["ctx"]["error"])
    elif error["type"] == "missing":
        message = "missing; write null for a value that was not measured"
    else:
        message = f"got {reprlib.repr(error['input'])}: {error['msg']}"
    return f"{where}: {message}" if where else message
