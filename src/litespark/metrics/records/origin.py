"""What all records state beside their figures: what ran, from which code, where, and how the device stood."""

from __future__ import annotations

from dataclasses import field
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator

from litespark.metrics.records.base import CountFromZero, JsonFile, Measured, part, record


def utc_now() -> str:
    """The time now as records write it: ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _with_its_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"got {text!r}, expected a time with its zone, as 2026-01-31T12:00:00+00:00")
    return text


Time = Annotated[str, AfterValidator(_with_its_zone)]


@part
class DeviceRecord:
    """One device in use; the hash of its UUID is enough to tell two apart."""

    name: str
    uuid_hash: str | None = None
    power_limit_watts: Measured = None


@part
class EnvironmentRecord:
    """Versions and hardware."""

    python: str
    torch: str
    platform: str
    cpu: str
    world_size: CountFromZero
    precision: str
    triton: str | None = None
    lightning: str | None = None
    litdata: str | None = None
    devices: list[DeviceRecord] = field(default_factory=list)
    driver: str | None = None

    @property
    def on_cpu(self) -> bool:
        return self.devices[0].name == self.cpu

    @property
    def device_names(self) -> str:
        return ", ".join(device.name for device in self.devices)


@part
class Provenance:
    """What ran, and where.

    `command` reproduces it; `source_hash` is of the package's source, since a commit alone does not cover changes
    beside it; `config_hash` is of the resolved config. Git's answers are None without git.
    """

    time: Time
    command: list[str]
    overrides: list[str]
    git_commit: str | None
    git_dirty: bool | None
    source_hash: str | None
    config_hash: str | None
    environment: EnvironmentRecord


@part
class DeviceState:
    """How one device stood at a moment, its enforced power limit and NVML's names of what held its clocks down."""

    sm_clock_mhz: Measured = None
    memory_clock_mhz: Measured = None
    temperature_celsius: Measured = None
    power_limit_watts: Measured = None
    throttle_reasons: list[str] | None = None


@record
class Record(JsonFile):
    """A measurement. A subclass has a `schema` by which readers are found, its figures and its rules."""

    provenance: Provenance

    @property
    def environment(self) -> EnvironmentRecord:
        return self.provenance.environment

    @property
    def complete(self) -> bool:
        return True

    def asked(self) -> tuple[object, ...]:
        """What was to be measured, beyond the config: of two records with the same, one may continue the other."""
        return ()

    def continues(self, other: Record) -> bool:
        """Whether the figures of the two may stand in one record: same code, config, machine and measurement."""
        mine, theirs = self.provenance, other.provenance
        return type(self) is type(other) and (mine.source_hash, mine.config_hash, mine.environment, self.asked()) == (
            theirs.source_hash,
            theirs.config_hash,
            theirs.environment,
            other.asked(),
        )


def check_joules(joules: float | None, reason: str | None, where: str = "") -> None:
    """A ValueError, after `where`, unless there are either joules or a reason why there are none."""
    if (joules is None) == (reason is None):
        raise ValueError(f"{where}joules: expected either joules or a reason why there are none")
