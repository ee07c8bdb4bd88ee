"""Energy meters: RAPL for CPU packages, none with a reason, and the choice between them and ``metrics.nvml``.

A meter answers only for the devices that this rank reads: its own GPU, or, as local rank 0, the CPU packages of the
machine; so a sum over ranks counts each physical device once.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from litespark.device import device_of
from litespark.metrics.energy_by_phase import EnergyMeter, MeteredDevice, Reading
from litespark.metrics.nvml import LABEL as GPU_LABEL
from litespark.metrics.nvml import NvmlMeter

CPU_LABEL = "CPU package energy"
POWERCAP = Path("/sys/class/powercap")

Lower = Callable[[str], Sequence[str]]

# of a package, to tell whether its counter can have wrapped twice; the limit that it states may be exceeded for long
_MOST_WATTS = 1000.0


class NullMeter(EnergyMeter):
    """No energy can be read, for ``reason``; the devices count as used, which the coverage shows."""

    def __init__(self, reason: str, label: str, devices: Sequence[MeteredDevice] = ()) -> None:
        self.label = label
        self.method = None
        self.reason = reason
        self.devices = tuple(devices)

    def read(self) -> Reading:
        return Reading(time.monotonic(), (None,) * len(self.devices))


@dataclass
class _Package:
    """One RAPL domain: its counter file and what has been counted beyond the counter's wraps."""

    counter: Path
    range_microjoules: int
    last: tuple[float, int] | None = None
    total_microjoules: int = 0


class RaplMeter(EnergyMeter):
    """CPU packages through ``/sys/class/powercap`` (Linux kernel, Documentation/power/powercap), or an OSError.

    Only the package domains are read: core and uncore are parts of them, and ``psys`` contains them. One wrap of the
    counter between two readings is undone; where the time between them would allow a second one, the reading is a gap.
    """

    def __init__(self, powercap: Path = POWERCAP, clock: Callable[[], float] = time.monotonic) -> None:
        if not powercap.is_dir():
            raise FileNotFoundError(f"this machine has no RAPL counters ({powercap} is absent, as in most VMs)")
        self.label = CPU_LABEL
        self.method = "RAPL package counters"
        self.reason = None
        self._clock = clock
        self._packages: list[_Package] = []
        devices = []
        # "intel-rapl" on Intel and AMD alike; "intel-rapl-mmio" shows the same packages again
        for domain in sorted(powercap.glob("intel-rapl:[0-9]*")):
            name = (domain / "name").read_text().strip()
            if not name.startswith("package"):
                continue
            package = _Package(domain / "energy_uj", int((domain / "max_energy_range_uj").read_text()))
            int(package.counter.read_text())  # root-only on most systems: fail here, with the path in the error
            self._packages.append(package)
            devices.append(MeteredDevice(domain.name, name, _MOST_WATTS))
        if not devices:
            raise FileNotFoundError(f"{powercap} holds no RAPL package domain")
        self.devices = tuple(devices)

    def read(self) -> Reading:
        now = self._clock()
        return Reading(now, tuple(self._read_package(package, now) for package in self._packages))

    def _read_package(self, package: _Package, now: float) -> int | None:
        try:
            value = int(package.counter.read_text())
        except (OSError, ValueError):
            package.last = None
            return None
        before, package.last = package.last, (now, value)
        if before is not None:
            if _MOST_WATTS * 1e6 * (now - before[0]) >= package.range_microjoules:
                return None  # how often the counter wrapped cannot be known: count on from here
            # modulo, because the counter starts again at 0 after its range
            package.total_microjoules += (value - before[1]) % (package.range_microjoules + 1)
        return package.total_microjoules // 1000


def choose_meter(
    device: torch.device, *, local_rank: int = 0, lower: Lower = lambda mine: [], powercap: Path = POWERCAP
) -> EnergyMeter:
    """The meter for what this rank computes on, or a ``NullMeter`` with the reason; never raises for a missing one.

    ``lower`` takes the board of this rank and returns those of the ranks below it, a collective of ranks on NVIDIA
    GPUs: a board that ranks share is read by the lowest of them.
    """
    there = device_of(device)
    if not there.is_accelerator:
        return _cpu_meter(local_rank, powercap)
    if not there.is_nvidia:
        reason = f"no energy counter is read of {there.name} ({there.type})"
        return NullMeter(reason, GPU_LABEL, [MeteredDevice(str(device), "GPU")])
    mine = there.uuid or str(device)
    uuids = [] if mine in lower(mine) else [mine]
    try:
        return NvmlMeter(uuids)
    except (OSError, ImportError) as error:
        return NullMeter(str(error), GPU_LABEL, [MeteredDevice(uuid, "GPU") for uuid in uuids])


def _cpu_meter(local_rank: int, powercap: Path) -> EnergyMeter:
    if local_rank != 0:
        return NullMeter("the CPU packages are read by local rank 0", CPU_LABEL)
    try:
        return RaplMeter(powercap)
    except PermissionError as error:
        reason = f"{error.filename} is readable by root only; let the user read it (chmod a+r) to measure energy"
    except (OSError, ValueError) as error:
        reason = str(error)
    return NullMeter(reason, CPU_LABEL, [MeteredDevice("cpu", "CPU packages")])
