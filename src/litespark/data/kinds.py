"""Whether plain values, as JSON gives them, are of the kinds that a dataclass states; files may come from elsewhere."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def check_kinds(value: Any, hint: Any, where: str = "") -> None:
    """Refuse a value of another kind than its annotation: a dataclass, list, dict, number, text, or one of several.

    Raises:
        ValueError: names the place, what was got and what was expected.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        if value is not None:
            check_kinds(value, next(each for each in inner if each is not type(None)), where)
    elif origin is list and isinstance(value, list):
        for index, each in enumerate(value):
            check_kinds(each, inner[0], f"{where}[{index}]")
    elif origin is dict and isinstance(value, dict):
        for key, each in value.items():
            check_kinds(each, inner[1], f"{where}.{key}")
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, hint):
        hints = typing.get_type_hints(hint)
        for field in dataclasses.fields(hint):
            check_kinds(getattr(value, field.name), hints[field.name], f"{where}.{field.name}".lstrip("."))
    elif hint in _NAMES and not _is_a(value, hint):
        raise ValueError(f"{where}: got {value!r:.80}, expected {_NAMES[hint]}")
    elif origin in (list, dict):
        raise ValueError(f"{where}: got {value!r:.80}, expected {'a list' if origin is list else 'an object'}")


def _is_a(value: Any, kind: type) -> bool:
    if kind is float and type(value) is float:
        return True
    if kind in (int, float):
        return type(value) is int and abs(value) < 2**63
    return type(value) is kind
