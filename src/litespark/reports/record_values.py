"""One value of a record by its path, and how large it is in the unit in which a text prints it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from litespark.metrics.records.ledger import Entry
from litespark.metrics.records.step import StepRecord
from litespark.metrics.records.training import TrainingRecord
from litespark.metrics.step_table import ratios, rows
from litespark.metrics.training_table import rows as training_sequences

# what names an element of a list, in this order
_NAMES = ("name", "case", "op", "kernel_class", "round")
# the last word of a path that says a unit; base units otherwise: seconds, joules, watts, bytes, FLOP/s, fractions
_STORED = {
    "ms": 1e-3,
    "milliseconds": 1e-3,
    "mib": 2.0**20,
    "gib": 2.0**30,
    "tflops": 1e12,
    "mhz": 1e6,
    "hours": 3600.0,
    "minutes": 60.0,
    "kwh": 3.6e6,
}


def value_at(entry: Entry, path: str) -> float:
    """The number at a dotted path.

    Args:
        entry: of the ledger.
        path: from the record on: names of fields; of an element of a list its position or its name (`variants.sdpa`);
            of a record of whole steps also `rows.VARIANT.FIELD` and `ratios.VARIANT.BASELINE.FIELD`, of one of
            trained variants `rows.VARIANT.FIELD`. Of an interval the median is meant where nothing more is given.
            Names may hold dots.

    Raises:
        ValueError: there is no such path, or no number there.
    """
    found: Any = entry.record
    rest = path
    computed = _computed(entry)
    if rest.split(".")[0] in computed:
        found = computed
    while rest:
        if isinstance(found, str):  # why there is no figure
            raise ValueError(f"{entry.path.name}#{path}: got {found!r}, expected a number that was measured")
        key = _first_key(found, rest)
        if key is None:
            raise ValueError(
                f"{entry.path.name} has no {path!r}: at {rest!r} there is {', '.join(_keys(found)) or '—'}"
            )
        found, rest = _child(found, key), rest[len(key) + 1 :]
    if dataclasses.is_dataclass(found) and hasattr(found, "median"):
        found = found.median
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise ValueError(f"{entry.path.name}#{path}: got {found!r}, expected a number that was measured")
    return float(found)


def stored_scale(path: str) -> float:
    """What one of the stored unit is in base units, by the last word of the path that names a unit."""
    words = [word for part in path.split(".") for word in part.split("_")]
    return next((_STORED[word] for word in reversed(words) if word in _STORED), 1.0)


def _computed(entry: Entry) -> dict[str, Any]:
    """What follows from a record of whole steps or of trained variants and is no field of it."""
    if isinstance(entry.record, TrainingRecord):
        return {"rows": {row.name: row for row in training_sequences(entry.record)}}
    steps = entry.record if isinstance(entry.record, StepRecord) else getattr(entry.record, "step", None)
    if not isinstance(steps, StepRecord):
        return {}
    return {
        "rows": {row.name: row for row in rows(steps)},
        "ratios": {variant.name: ratios(steps, variant.name) for variant in steps.variants},
    }


def _keys(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    if isinstance(value, (list, tuple)):
        return [*(_name_of(each) or str(position) for position, each in enumerate(value))]
    if isinstance(value, BaseModel):  # its other attributes are pydantic's
        return list(type(value).model_fields)
    return [name for name in dir(value) if not name.startswith("_") and not callable(getattr(value, name))]


def _name_of(value: Any) -> str | None:
    return next((str(getattr(value, name)) for name in _NAMES if hasattr(value, name)), None)


def _first_key(value: Any, path: str) -> str | None:
    """The longest key of a value that the path begins with."""
    keys = [*_keys(value), *map(str, range(len(value) if isinstance(value, (list, tuple)) else 0))]
    fitting = [key for key in keys if path == key or path.startswith(f"{key}.")]
    return max(fitting, key=len, default=None)


def _child(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return value[key]
    if isinstance(value, (list, tuple)):
        named = next((each for each in value if _name_of(each) == key), None)
        return value[int(key)] if named is None else named
    return getattr(value, key)
