"""Fields of records by their names: `a.b` is the field of that very name, else field b of field a."""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from litespark.override_text import override

TEXT_SETTING = "data.text_field"
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Row:
    """What a record has in the fields that the settings name."""

    text: str | bytes
    """With a `fault`, what there is of the record; else its text, not yet checked."""
    domain: object = None
    fault: str = ""
    size: int | None = None
    record: object = None
    """All its fields; of a table only their names. None where it cannot be read."""


def field_value(content: object, name: str) -> Any:
    """What a record has under a name, whole or as a path; None where it has nothing."""
    if not isinstance(content, dict):
        return None
    if name in content:
        return content[name]
    head, dot, rest = name.partition(".")
    while dot:
        if (value := field_value(content.get(head), rest)) is not None:
            return value
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return None


def names_in(content: object, prefix: str = "", depth: int = 3) -> Iterator[str]:
    """Names of the fields of a record that hold values and no lists of them, those of nested records as paths."""
    if not isinstance(content, dict):
        return
    for name, value in content.items():
        if isinstance(value, dict) and value and depth > 1:
            yield from names_in(value, f"{prefix}{name}.", depth - 1)
        elif not isinstance(value, list):
            yield f"{prefix}{name}"


def leads_to(name: str, names: Iterable[str]) -> bool:
    """Whether a field of that name, or fields of a record of that name, are among these."""
    return any(f"{there}.".startswith(f"{name}.") for there in names)


def absent(where: str, setting: str, wanted: str, names: Iterable[str], *, lacking: str = "no field") -> ValueError:
    """The error for a field that nothing has; names those that are there, and the setting for the nearest."""
    there = sorted(
        dict.fromkeys(names), key=lambda name: -difflib.SequenceMatcher(None, name.lower(), wanted.lower()).ratio()
    )
    named = ", ".join(there[:_SHOWN]) + (f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else "")
    advice = f"Set {override(setting, there[0])}" if there else "Name another source"
    return ValueError(f"{where}: {lacking} {wanted}, but {named or 'none at all'}. {advice}")
