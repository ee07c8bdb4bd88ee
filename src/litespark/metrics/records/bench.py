"""What every record of a benchmark says beside its figures, and the seal that shows when a file was changed by hand.

A record states what ran (command, commit, source and config by hash), where (`EnvironmentRecord`, `DeviceState`), how
(in the record of each benchmark) and what came out. The seal is the SHA-256 of the canonical JSON of everything else in
the file: it does not stop a forger, it stops an edit. Figures that follow from others are not stored but computed from
the raw values when a record is read, so a record cannot disagree with itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from litespark.metrics.records.run import EnvironmentRecord
from litespark.metrics.records.strict_json import RecordError, decode, encode, refuse_constant

SEAL = "seal"

T = TypeVar("T")


@dataclass
class Provenance:
    """What ran, and where.

    Attributes:
        time: when it began, ISO 8601 in UTC.
        command: the words that get it again, without folders of the machine.
        overrides: of the config, as the user gave them.
        git_commit, git_dirty: of the code; None without git.
        source_hash: of the package's source, since a commit alone does not know of changes beside it.
        config_hash: of the resolved config.
        environment: versions and devices.
    """

    time: str
    command: list[str]
    overrides: list[str]
    git_commit: str | None
    git_dirty: bool | None
    source_hash: str
    config_hash: str
    environment: EnvironmentRecord


@dataclass
class DeviceState:
    """How one device stood at a moment; None where its driver does not say.

    Attributes:
        sm_clock_mhz, memory_clock_mhz: clocks in MHz.
        temperature_celsius: of the chip.
        power_limit_watts: the enforced cap.
        throttle_reasons: names of NVML's clock event reasons that are active; empty: none is.
    """

    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    temperature_celsius: float | None = None
    power_limit_watts: float | None = None
    throttle_reasons: list[str] | None = None


def seal_of(values: dict[str, Any]) -> str:
    """The seal of a record's plain values, whatever seal they hold already."""
    content = {key: value for key, value in values.items() if key != SEAL}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_sealed(record: object, schema: str, path: Path) -> None:
    """Write a dataclass as sealed strict JSON, whole or not at all.

    Raises:
        RecordError: a figure is not finite, or of the wrong type; nothing is written then.
    """
    values = {"schema": schema, **encode(record, type(record), "")}
    values[SEAL] = seal_of(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_sealed(path: Path, kind: type[T], schema: str) -> T:
    """The record in a file that `write_sealed` wrote.

    Raises:
        RecordError: no strict JSON, another schema, a broken seal, a missing or unknown field, a value of the wrong
            type; the message names the file and the field.
        OSError: the file cannot be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
        if not isinstance(values, dict):
            raise RecordError(f"got a {type(values).__name__}, expected an object")
        if values.get("schema") != schema:
            raise RecordError(f"schema: got {values.get('schema')!r}, expected {schema!r}")
        if values.get(SEAL) != (expected := seal_of(values)):
            raise RecordError(
                f"seal: got {values.get(SEAL)!r}, expected {expected!r} for this content: the file was changed after "
                "it was written; take it from git again, or measure again"
            )
        content = {key: value for key, value in values.items() if key not in ("schema", SEAL)}
        record: T = decode(content, kind, "")
        return record
    except ValueError as error:
        raise RecordError(f"{path} is not a valid {schema} record: {error}") from error
