"""Settings as they are typed: values in the words of Hydra's overrides, in the quotes of the shell."""

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")
# what Hydra would take for a number, a truth value or nothing
_NOT_TEXT = re.compile(
    r"[+-]?[0-9][0-9_]*(\.[0-9_]*)?(e[+-]?[0-9_]+)?|[+-]?\.[0-9_]+(e[+-]?[0-9_]+)?"
    r"|[+-]?(inf|nan)|true|false|null",
    re.IGNORECASE,
)


def override(key: str, value: Any) -> str:
    """`key=value` that can be pasted into a shell and means `value` to Hydra."""
    return shlex.quote(f"{key}={hydra_value(value)}")


def hydra_value(value: Any) -> str:
    """Any value of a config in Hydra's words; a dataclass as its settings."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return hydra_text(str(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return hydra_value({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{hydra_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    raise TypeError(f"{value!r} cannot stand in a config")


def hydra_text(text: str) -> str:
    """`text` as the value of an override, in Hydra's own quotes where it needs them."""
    if _PLAIN.fullmatch(text) and not _NOT_TEXT.fullmatch(text):
        return text
    # backslashes count only before a quote, the closing one included
    return '"' + re.sub(r'(\\*)("|$)', lambda match: 2 * match[1] + ('\\"' if match[2] else ""), text) + '"'
