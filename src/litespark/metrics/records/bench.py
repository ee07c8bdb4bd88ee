"""What every record of a benchmark says beside its figures.

A record states what ran (command, commit, source and config by hash), where (`EnvironmentRecord`, `DeviceState`), how
(in the record of each benchmark) and what came out. Figures that follow from others are not stored but computed from
the raw values when a record is read, so a record cannot disagree with itself. How it is written and sealed stands in
`sealing`.
"""

from __future__ import annotations

from dataclasses import dataclass

from litespark.metrics.records.run import EnvironmentRecord


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
