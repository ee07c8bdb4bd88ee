"""NVIDIA boards through NVML, by UUID, and their energy counters.

NVML numbers boards by PCI bus and ignores ``CUDA_VISIBLE_DEVICES``; CUDA numbers those that the variable leaves,
fastest first unless told otherwise. So an ordinal of one means nothing to the other, and boards are matched by UUID.
"""

import importlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from litespark.device import device_of
from litespark.metrics.energy import EnergyMeter, MeteredDevice, Reading

LABEL = "GPU board energy"
COUNTER_METHOD = "NVML total-energy counter"
POWER_HERTZ = 20
POWER_METHOD = f"NVML power integrated at {POWER_HERTZ} Hz"
# samples further apart than this leave a gap instead of a guess
_LARGEST_SAMPLE_GAP = 0.5


def load_nvml() -> Any:
    """The initialised ``pynvml`` module.

    Raises:
        ImportError: ``nvidia-ml-py`` is not installed.
        OSError: the driver's library is missing or refuses.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise ImportError(
            "GPU energy needs the package nvidia-ml-py (module pynvml): pip install nvidia-ml-py"
        ) from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise OSError(f"NVML cannot be used here: {error}") from error
    return nvml


def nvml_uuid(device: torch.device) -> str | None:
    """The UUID of a CUDA device in NVML's spelling ("GPU-…")."""
    uuid = device_of(device).uuid
    return uuid if uuid is None or uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


class PowerIntegral:
    """Millijoules from power samples by the trapezoid rule, for boards without an energy counter."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[float, float] | None = None
        self._millijoules = 0.0
        self._gap = False

    def add(self, seconds: float, milliwatts: float | None) -> None:
        """Add a sample; None, or one too long after the last, leaves a gap."""
        with self._lock:
            if milliwatts is None:
                self._last, self._gap = None, True
                return
            if self._last is not None:
                elapsed = seconds - self._last[0]
                if elapsed <= _LARGEST_SAMPLE_GAP:
                    self._millijoules += elapsed * (milliwatts + self._last[1]) / 2
                else:
                    self._gap = True
            self._last = (seconds, milliwatts)

    def read(self) -> int | None:
        """Cumulative millijoules; None once after a gap and while there is no sample."""
        with self._lock:
            gap, self._gap = self._gap, False
            return None if gap or self._last is None else round(self._millijoules)


class NvmlMeter(EnergyMeter):
    """Board energy of the GPUs with these UUIDs.

    A board that cannot be found, or is a MIG slice, stays listed and reads None; ``reason`` names it.
    Boards without a counter are sampled by a thread, unless ``sample`` is False.

    Raises:
        ImportError, OSError: NVML cannot be used at all.
    """

    def __init__(
        self,
        uuids: Sequence[str],
        nvml: Any = None,
        clock: Callable[[], float] = time.monotonic,
        sample: bool = True,
    ) -> None:
        self._nvml = load_nvml() if nvml is None else nvml
        self._clock = clock
        self.label = LABEL
        self._handles: list[Any] = []  # None for a board that cannot be read
        self._integrals: dict[int, PowerIntegral] = {}
        reasons: list[str] = []
        devices: list[MeteredDevice] = []
        for index, uuid in enumerate(uuids):
            handle, device, reason = self._open(uuid)
            self._handles.append(handle)
            devices.append(device)
            if reason is not None:
                reasons.append(reason)
            elif self._ask("nvmlDeviceGetTotalEnergyConsumption", handle) is None:
                # Volta and newer have the counter, older boards do not
                self._integrals[index] = PowerIntegral()
        self.devices = tuple(devices)
        self.reason = "; ".join(reasons) or None
        counted = sum(handle is not None for handle in self._handles) - len(self._integrals)
        methods = [COUNTER_METHOD] * (counted > 0) + [POWER_METHOD] * bool(self._integrals)
        self.method = " and ".join(methods) or None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.sample_power()
        if sample and self._integrals:
            self._thread = threading.Thread(target=self._sample_until_closed, name="nvml-power", daemon=True)
            self._thread.start()

    def _open(self, uuid: str) -> tuple[Any, MeteredDevice, str | None]:
        """The board's handle or None, its description, and why it cannot be read."""
        handle = self._ask("nvmlDeviceGetHandleByUUID", uuid)
        if handle is None:
            reason = f"NVML knows no board {uuid} (a MIG slice has no energy of its own)"
            return None, MeteredDevice(uuid, "GPU"), reason
        name = _text(self._ask("nvmlDeviceGetName", handle) or "GPU")
        limit = self._ask("nvmlDeviceGetEnforcedPowerLimit", handle)
        device = MeteredDevice(uuid, name, None if limit is None else limit / 1000)
        mode = self._ask("nvmlDeviceGetMigMode", handle)
        if uuid.startswith("MIG-") or "MIG" in name or (mode is not None and mode[0]):
            return None, device, f"{name} ({uuid}) is split by MIG, and NVML has no energy per slice"
        functions = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")
        if all(self._ask(function, handle) is None for function in functions):
            return None, device, f"{name} ({uuid}) tells NVML neither energy nor power"
        return handle, device, None

    def _ask(self, function: str, *arguments: Any) -> Any:
        """The answer of an NVML function, None where it has none: unsupported, lost board, absent in this version."""
        try:
            return getattr(self._nvml, function)(*arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None

    @property
    def readable(self) -> list[int]:
        """Positions in ``devices`` of the boards that can be read."""
        return [index for index, handle in enumerate(self._handles) if handle is not None]

    def ask(self, position: int, function: str, *arguments: Any) -> Any:
        """What NVML answers of the readable board at ``position`` in ``devices``; None where it has no answer.

        Raises:
            ValueError: the function is not one that reads a device: a meter changes nothing on the machine.
        """
        if not function.startswith("nvmlDeviceGet"):
            raise ValueError(f"NVML function: got {function}, expected nvmlDeviceGet…; a meter only reads")
        return self._ask(function, self._handles[position], *arguments)

    def sample_power(self) -> None:
        """Take one power sample of each board without a counter; the thread does this while the meter is open."""
        for index, integral in self._integrals.items():
            integral.add(self._clock(), self._ask("nvmlDeviceGetPowerUsage", self._handles[index]))

    def _sample_until_closed(self) -> None:
        while not self._stop.wait(1 / POWER_HERTZ):
            self.sample_power()

    def read(self) -> Reading:
        counters: list[int | None] = []
        for index, handle in enumerate(self._handles):
            if handle is None:
                counters.append(None)
            elif index in self._integrals:
                counters.append(self._integrals[index].read())
            else:
                counters.append(self._ask("nvmlDeviceGetTotalEnergyConsumption", handle))
        return Reading(self._clock(), tuple(counters))

    def driver(self) -> str | None:
        """The driver's version, None where NVML does not say."""
        version = self._ask("nvmlSystemGetDriverVersion")
        return None if version is None else _text(version)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
