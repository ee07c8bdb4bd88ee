"""A dataclass to strict JSON values and back, every field checked by its annotation and named in the error.

Known annotations: ``int``, ``float``, ``str``, ``bool``, ``Literal``, ``X | None``, ``list[X]`` and dataclasses of
these. Strict JSON has no NaN: a number that is not finite becomes null where the annotation allows None and is an
error where it does not.
"""

import dataclasses
import math
import types
import typing
from typing import Any, Literal, NoReturn, TypeVar


class RecordError(ValueError):
    """Values that do not follow the schema; the message names the field."""


def refuse_constant(text: str) -> NoReturn:
    raise RecordError(f"got {text}, which strict JSON does not know; a value that was not measured is null")


def _fields(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


T = TypeVar("T")


def decode(value: object, kind: Any, where: str) -> Any:
    """``value`` from JSON as ``kind``, which is a scalar type, Literal, ``X | None``, ``list[X]`` or a dataclass."""
    if isinstance(kind, types.UnionType):
        inner = next(option for option in typing.get_args(kind) if option is not types.NoneType)
        return None if value is None else decode(value, inner, where)
    if typing.get_origin(kind) is list:
        if not isinstance(value, list):
            raise wrong(where, value, "a list")
        (inner,) = typing.get_args(kind)
        return [decode(item, inner, f"{where}[{index}]") for index, item in enumerate(value)]
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_fields(value, kind, where)
    return _check_scalar(value, kind, where)


def _decode_fields(value: object, kind: type[T], where: str) -> T:
    if not isinstance(value, dict):
        raise wrong(where or "the record", value, "an object")
    prefix = f"{where}." if where else ""
    fields = _fields(kind)
    for name in fields:
        if name not in value:
            raise RecordError(f"{prefix}{name}: missing; write null for a value that was not measured")
    for name in value:
        if name not in fields:
            raise RecordError(f"{prefix}{name}: unknown field; {kind.__name__} knows {', '.join(sorted(fields))}")
    return kind(**{name: decode(value[name], inner, f"{prefix}{name}") for name, inner in fields.items()})


def encode(value: object, kind: Any, where: str) -> Any:
    """The inverse of ``decode``, with the same checks; non-finite numbers become null where null is allowed."""
    if isinstance(kind, types.UnionType):
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return None
        inner = next(option for option in typing.get_args(kind) if option is not types.NoneType)
        return encode(value, inner, where)
    if typing.get_origin(kind) is list:
        if not isinstance(value, list):
            raise wrong(where, value, "a list")
        (inner,) = typing.get_args(kind)
        return [encode(item, inner, f"{where}[{index}]") for index, item in enumerate(value)]
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, kind):
            raise wrong(where, value, f"a {kind.__name__}")
        prefix = f"{where}." if where else ""
        return {name: encode(getattr(value, name), inner, f"{prefix}{name}") for name, inner in _fields(kind).items()}
    return _check_scalar(value, kind, where)


def _check_scalar(value: object, kind: Any, where: str) -> Any:
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise wrong(where, value, "one of " + ", ".join(map(repr, typing.get_args(kind))))
        return value
    # bool is a subclass of int in Python, but true is not a count
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # tables and floats hold no larger one
        raise wrong(where, value if abs(value) < 10**30 else "a longer number", "a whole number of 64 bits at most")
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise wrong(where, value, "a finite number")
        return float(value)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    raise wrong(where, value, names[kind])


def wrong(where: str, value: object, expected: str) -> RecordError:
    return RecordError(f"{where}: got {value!r}, expected {expected}")
