"""An energy meter whose readings a test sets."""

from collections.abc import Callable, Sequence

from litespark.metrics.energy_by_phase import EnergyMeter, MeteredDevice, Reading
from litespark.metrics.nvml import LABEL as GPU_LABEL


class FakeMeter(EnergyMeter):
    """A meter on an injected clock whose devices draw constant power; tests change ``watts``, ``lost``, ``offset``.

    Args:
        watts: power of each device.
        clock: seconds, monotonic.
        power_cap_watts: the cap that each device states.
    """

    def __init__(
        self, watts: Sequence[float], clock: Callable[[], float], power_cap_watts: float | None = None
    ) -> None:
        self.label = GPU_LABEL
        self.method = "fake counter"
        self.reason = None
        self.devices = tuple(MeteredDevice(f"fake-{i}", "fake", power_cap_watts) for i in range(len(watts)))
        self.watts = list(watts)
        self.lost = [False] * len(watts)  # a lost device reads None
        self.offset = [0.0] * len(watts)  # joules added to the counter, negative for a reset
        self._clock = clock
        self._joules = [0.0] * len(watts)
        self._read_at = clock()

    def read(self) -> Reading:
        now = self._clock()
        for index, watts in enumerate(self.watts):
            self._joules[index] += watts * (now - self._read_at)
        self._read_at = now
        counters = zip(self._joules, self.offset, self.lost, strict=True)
        return Reading(now, tuple(None if lost else round((j + o) * 1000) for j, o, lost in counters))
