"""Energy by phase: cumulative counters in, joules out, in integers, with the gaps counted.

Each difference between two readings is booked to the phase that ran between them. A device that could not be read, or
whose difference is impossible (negative, or more than its power cap allows), leaves a gap: its time counts as used but
not as read.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from litespark.metrics.energy import PHASES, Account, EnergyTotals, Phase, ratio, resumed_totals
from litespark.metrics.records.origin import DeviceState
from litespark.run.record import EnergyRecord, PhaseJoules

# counters refresh about every 100 ms, so a short interval may hold the energy of a longer one
COUNTER_LAG_SECONDS = 0.25
# boards exceed their cap for moments; well above it the reading is wrong
CAP_TOLERANCE = 1.1


@dataclass(frozen=True)
class MeteredDevice:
    """A physical device that a meter answers for; ``power_cap_watts`` bounds believable readings, None for no bound."""

    key: str
    name: str
    power_cap_watts: float | None = None


@dataclass(frozen=True)
class Reading:
    """Cumulative millijoules per device, in the order of ``EnergyMeter.devices``; None where it cannot be read now."""

    seconds: float
    millijoules: tuple[int | None, ...]


class EnergyMeter(ABC):
    """A source of cumulative energy counters.

    ``label`` is what the energy is of, ``method`` how it is read, ``reason`` why devices are missing.
    """

    label: str
    method: str | None
    reason: str | None
    devices: tuple[MeteredDevice, ...]

    @abstractmethod
    def read(self) -> Reading:
        """All counters now, with the time on a monotonic clock; None for a device that has gone, never an error."""

    def driver(self) -> str | None:
        """The version of the driver that is read; None without one."""
        return None

    def device_state(self) -> DeviceState | None:
        """How the first readable board stands now, values that its driver lacks are None; None without one."""
        return None


class EnergyByPhase:
    """Books a meter's differences by phase; begins in ``idle``, which therefore holds start-up.

    Each rank keeps one over its own devices and counts its own tokens; their ``totals``, up to the last reading, are
    summed over ranks. A window below ``minimum_window_seconds`` has no figure: counters refresh too rarely.
    """

    def __init__(self, meter: EnergyMeter, minimum_window_seconds: float = 5.0) -> None:
        self.meter = meter
        self.minimum_window_seconds = minimum_window_seconds
        self.totals = EnergyTotals()
        self._phase: Phase = "idle"
        self._last = meter.read()
        self.begin_window()

    def switch(self, phase: Phase) -> None:
        """Read the counters, book to the phase that ends, begin ``phase``."""
        self.book()
        self._phase = phase

    def add_tokens(self, tokens: int) -> None:
        self.totals += EnergyTotals(tokens=tokens)

    def book(self) -> None:
        """Read the counters and book what was used since the last reading to the current phase."""
        reading = self.meter.read()
        seconds = max(0.0, reading.seconds - self._last.seconds)
        microseconds = round(seconds * 1e6)
        booked, dropped = Account(), 0
        for device, before, now in zip(self.meter.devices, self._last.millijoules, reading.millijoules, strict=True):
            booked += Account(used_microseconds=microseconds)
            if before is None or now is None:
                continue
            if _believable(now - before, seconds, device.power_cap_watts):
                booked += Account(now - before, microseconds)
            else:
                dropped += 1
        self._last = reading
        self.totals += EnergyTotals(**{self._phase: booked}, dropped_readings=dropped)  # type: ignore[arg-type]

    def begin_window(self) -> None:
        self._window_seconds = self._last.seconds
        self._window_totals = self.totals

    def window(self) -> tuple[float, EnergyTotals]:
        """Read the counters and return seconds and totals since the window began, whatever its age; it stays open."""
        self.book()
        return self._last.seconds - self._window_seconds, self.totals - self._window_totals

    def resume(self, totals: EnergyTotals, journaled: EnergyTotals | None = None) -> None:
        """Continue from a checkpoint; what this process used so far (start-up) is kept on top.

        What the journal's last totals hold beyond the checkpoint was lost in a crash.
        """
        self.book()
        self.totals += resumed_totals(totals, journaled)
        self.begin_window()


def energy_section(
    totals: EnergyTotals, meter: EnergyMeter, train_seconds: float, examples: int | None = None
) -> EnergyRecord:
    """The energy section of the run record: totals of all ranks, any rank's meter, wall-clock seconds of training."""
    return EnergyRecord(
        label=meter.label,
        method=meter.method,
        reason=meter.reason,
        coverage=totals.coverage,
        train_joules=totals.train_joules,
        all_in_joules=totals.all_in_joules,
        phases=PhaseJoules(**{phase: totals.joules(phase) for phase in PHASES}),
        joules_per_token_train=totals.joules_per_token_train,
        joules_per_token_all_in=totals.joules_per_token_all_in,
        joules_per_example=ratio(totals.learning_joules, examples or 0),
        average_power_watts=ratio(totals.train_joules, train_seconds),
        tokens_per_second_per_watt=totals.tokens_per_second_per_watt,
        dropped_readings=totals.dropped_readings,
    )


def _believable(millijoules: int, seconds: float, power_cap_watts: float | None) -> bool:
    if power_cap_watts is None:
        return millijoules >= 0
    return 0 <= millijoules <= 1000 * power_cap_watts * CAP_TOLERANCE * (seconds + COUNTER_LAG_SECONDS)
