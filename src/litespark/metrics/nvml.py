"""NVIDIA boards through NVML, by UUID: their energy counters and how they stand. Read, never set.

NVML numbers boards by PCI bus and ignores ``CUDA_VISIBLE_DEVICES``; CUDA numbers those that the variable leaves,
fastest first unless told otherwise. So an ordinal of one means nothing to the other, and boards are matched by UUID.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from litespark.metrics.energy_by_phase import EnergyMeter, MeteredDevice, Reading
from litespark.metrics.records.origin import DeviceState

LABEL = "GPU board energy"
COUNTER_METHOD = "NVML total-energy counter"
# constants of nvml.h, which never change between versions
_SM_CLOCK, _MEMORY_CLOCK, _CHIP_SENSOR = 1, 2, 0
# bits of nvmlDeviceGetCurrentClocksEventReasons; the first means that the board has nothing to do
_CLOCK_EVENT_REASONS = (
    "GpuIdle", "ApplicationsClocksSetting", "SwPowerCap", "HwSlowdown", "SyncBoost", "SwThermalSlowdown",
    "HwThermalSlowdown", "HwPowerBrakeSlowdown", "DisplayClockSetting", "BoardLimit", "Reliability",
)  # fmt: skip


def load_nvml() -> Any:
    """The initialised ``pynvml`` module; an ImportError where there is none, an OSError where the driver refuses."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise ImportError("GPU energy needs the module pynvml: pip install nvidia-ml-py") from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise OSError(f"NVML cannot be used here: {error}") from error
    return nvml


class NvmlMeter(EnergyMeter):
    """Board energy of the GPUs with these UUIDs.

    A board that cannot be found, is a MIG slice or has no counter (before Volta) stays listed and reads None;
    ``reason`` names it.

    Raises:
        ImportError, OSError: NVML cannot be used at all.
    """

    def __init__(self, uuids: Sequence[str], nvml: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml = load_nvml() if nvml is None else nvml
        self._clock = clock
        opened = [self._open(uuid) for uuid in uuids]
        self._handles = [handle for handle, _, _ in opened]  # None for a board that cannot be read
        self.devices = tuple(device for _, device, _ in opened)
        self.label = LABEL
        self.reason = "; ".join(reason for _, _, reason in opened if reason is not None) or None
        self.method = COUNTER_METHOD if any(handle is not None for handle in self._handles) else None

    def _open(self, uuid: str) -> tuple[Any, MeteredDevice, str | None]:
        """The board's handle or None, its description, and why it cannot be read."""
        handle = self._ask("nvmlDeviceGetHandleByUUID", uuid)
        if handle is None:
            reason = f"NVML finds no board {uuid} (a MIG slice has no energy of its own)"
            return None, MeteredDevice(uuid, "GPU"), reason
        name = _text(self._ask("nvmlDeviceGetName", handle) or "GPU")
        device = MeteredDevice(uuid, name, _over(self._ask("nvmlDeviceGetEnforcedPowerLimit", handle), 1000))
        mode = self._ask("nvmlDeviceGetMigMode", handle)
        if uuid.startswith("MIG-") or "MIG" in name or (mode is not None and mode[0]):
            return None, device, f"{name} ({uuid}) is split by MIG, and NVML has no energy per slice"
        if self._ask("nvmlDeviceGetTotalEnergyConsumption", handle) is None:
            return None, device, f"{name} ({uuid}) has no energy counter that NVML reads"
        return handle, device, None

    def _ask(self, function: str, *arguments: Any) -> Any:
        """The answer of an NVML function, None where it has none: unsupported, lost board, absent in this version."""
        try:
            return getattr(self._nvml, function)(*arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None

    def read(self) -> Reading:
        counters = [
            None if handle is None else self._ask("nvmlDeviceGetTotalEnergyConsumption", handle)
            for handle in self._handles
        ]
        return Reading(self._clock(), tuple(counters))

    def driver(self) -> str | None:
        version = self._ask("nvmlSystemGetDriverVersion")
        return None if version is None else _text(version)

    def device_state(self) -> DeviceState | None:
        board = next((handle for handle in self._handles if handle is not None), None)
        if board is None:
            return None
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", board)
        return DeviceState(
            sm_clock_mhz=_over(self._ask("nvmlDeviceGetClockInfo", board, _SM_CLOCK), 1),
            memory_clock_mhz=_over(self._ask("nvmlDeviceGetClockInfo", board, _MEMORY_CLOCK), 1),
            temperature_celsius=_over(self._ask("nvmlDeviceGetTemperature", board, _CHIP_SENSOR), 1),
            power_limit_watts=_over(self._ask("nvmlDeviceGetEnforcedPowerLimit", board), 1000),
            throttle_reasons=None if reasons is None else _names(reasons),
        )


def _names(reasons: int) -> list[str]:
    """Of the bits that are set; one that has no name here is listed by its number."""
    bits = [bit for bit in range(reasons.bit_length()) if reasons >> bit & 1]
    return [_CLOCK_EVENT_REASONS[bit] if bit < len(_CLOCK_EVENT_REASONS) else f"bit {bit}" for bit in bits]


def _over(value: int | None, units: int) -> float | None:
    return None if value is None else value / units


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
