"""How a board stands at a moment: clocks, temperature, power limit, and what holds its clocks down. Read, never set."""

from collections.abc import Iterator

from litespark.metrics.energy import EnergyMeter
from litespark.metrics.nvml import NvmlMeter
from litespark.metrics.records.origin import DeviceState

# constants of nvml.h, which never change between versions
_SM_CLOCK, _MEMORY_CLOCK, _CHIP_SENSOR = 1, 2, 0
# bits of nvmlDeviceGetCurrentClocksEventReasons; the first means that the board has nothing to do
_CLOCK_EVENT_REASONS = (
    "GpuIdle",
    "ApplicationsClocksSetting",
    "SwPowerCap",
    "HwSlowdown",
    "SyncBoost",
    "SwThermalSlowdown",
    "HwThermalSlowdown",
    "HwPowerBrakeSlowdown",
    "DisplayClockSetting",
    "BoardLimit",
    "Reliability",
)


def device_state(meter: EnergyMeter) -> DeviceState | None:
    """The state of the first readable board of a meter; None where the meter reads no NVIDIA board.

    A value that the driver does not tell is None. ``GpuIdle`` is listed among the reasons although it holds nothing
    back; a bit that has no name here is listed by its number.
    """
    if not isinstance(meter, NvmlMeter) or not meter.readable:
        return None
    board = meter.readable[0]
    temperature = meter.ask(board, "nvmlDeviceGetTemperature", _CHIP_SENSOR)
    limit = meter.ask(board, "nvmlDeviceGetEnforcedPowerLimit")
    # the older name, in drivers and modules before 12.2
    reasons = meter.ask(board, "nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:
        reasons = meter.ask(board, "nvmlDeviceGetCurrentClocksThrottleReasons")
    return DeviceState(
        sm_clock_mhz=_number(meter.ask(board, "nvmlDeviceGetClockInfo", _SM_CLOCK)),
        memory_clock_mhz=_number(meter.ask(board, "nvmlDeviceGetClockInfo", _MEMORY_CLOCK)),
        temperature_celsius=_number(temperature),
        power_limit_watts=None if limit is None else limit / 1000,
        throttle_reasons=None if reasons is None else list(_names(reasons)),
    )


def _number(value: int | None) -> float | None:
    return None if value is None else float(value)


def _names(reasons: int) -> Iterator[str]:
    for bit in range(reasons.bit_length()):
        if reasons >> bit & 1:
            yield _CLOCK_EVENT_REASONS[bit] if bit < len(_CLOCK_EVENT_REASONS) else f"bit {bit}"
