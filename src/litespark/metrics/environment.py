"""Where a run took place: versions, devices, driver, commit. What cannot be found out is None; nothing stops a run."""

import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from litespark.device import cpu_name, device_of
from litespark.metrics.energy_by_phase import EnergyMeter
from litespark.metrics.records.origin import DeviceRecord, EnvironmentRecord


def collect_environment(
    device: torch.device, *, precision: str, world_size: int = 1, meter: EnergyMeter | None = None
) -> EnvironmentRecord:
    """The environment section of a record, as this process sees it; power limits and driver come from the meter."""
    there = device_of(device)
    uuid = there.uuid
    limits = {} if meter is None else {board.key: board.power_cap_watts for board in meter.devices}
    return EnvironmentRecord(
        python=platform.python_version(),
        torch=str(torch.__version__),
        triton=version_of("triton"),
        lightning=version_of("lightning"),
        litdata=version_of("litdata"),
        platform=platform.platform(),
        cpu=cpu_name(),
        world_size=world_size,
        precision=precision,
        devices=[DeviceRecord(there.name, None if uuid is None else uuid_hash(uuid), limits.get(uuid or ""))],
        driver=None if meter is None else meter.driver(),
    )


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it; None where it is absent."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def uuid_hash(uuid: str) -> str:
    """Sixteen hex digits that tell devices apart without publishing a serial identity."""
    return hashlib.sha256(uuid.encode()).hexdigest()[:16]


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Commit and dirtiness of the repository that holds ``folder``; (None, None) without git or a repository.

    Records below ``results/`` do not count as changes: the first of two measurements would make the second dirty.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _git(folder, "status", "--porcelain", "--", ":(top)", ":(top,exclude)results")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
