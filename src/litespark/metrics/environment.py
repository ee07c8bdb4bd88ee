"""Where a run took place: versions, processor, devices, driver, and the commit of the code.

Whatever cannot be found out is None; nothing here stops a run.
"""

import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from litespark.metrics.energy import EnergyMeter
from litespark.metrics.nvml import NvmlMeter, torch_device_uuids
from litespark.metrics.records.run import DeviceRecord, EnvironmentRecord


def collect_environment(
    *,
    device_type: str,
    device_indices: Sequence[int] = (0,),
    world_size: int = 1,
    precision: str,
    meter: EnergyMeter | None = None,
) -> EnvironmentRecord:
    """The environment section of the run record, as this process sees it.

    Args:
        device_type: ``torch.device.type`` of the run.
        device_indices: CUDA ordinals of this process.
        world_size: ranks of the run.
        precision: the trainer's word for it, such as "bf16-mixed".
        meter: the energy meter; where it reads NVIDIA boards, power limits and driver come from it.
    """
    limits = {device.key: device.power_cap_watts for device in meter.devices} if isinstance(meter, NvmlMeter) else {}
    devices = [DeviceRecord(name=cpu_name())]
    if device_type == "cuda":
        names = [torch.cuda.get_device_name(index) for index in device_indices]
        uuids = _uuids_or_none(device_indices)
        devices = [
            DeviceRecord(name, None if uuid is None else uuid_hash(uuid), limits.get(uuid or ""))
            for name, uuid in zip(names, uuids, strict=True)
        ]
    elif device_type != "cpu":
        devices = [DeviceRecord(name=device_type)]
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
        devices=devices,
        driver=meter.driver() if isinstance(meter, NvmlMeter) else None,
    )


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it; None where it is absent."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name; the architecture where the system does not tell more."""
    try:
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass  # no /proc outside of Linux
    return platform.processor() or platform.machine() or "unknown"


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


def _uuids_or_none(device_indices: Sequence[int]) -> Sequence[str | None]:
    try:
        return torch_device_uuids(device_indices)
    except (RuntimeError, AttributeError):
        return [None] * len(device_indices)
