"""A clock that only moves when something takes time, so that windows and joules can be told in advance."""

import json
import time

from litespark.callbacks.energy import EnergyMonitor
from litespark.data.stream.modules import SyntheticDataModule
from litespark.metrics.energy import EnergyByPhase
from litespark.metrics.energy_journal import EnergyJournal
from litespark.metrics.throughput import ThroughputMeter
from litespark.tasks.pretrain import Pretrain
from tests.metrics.fake_meter import FakeMeter
from tests.training.small_runs import SmallRun, batches


class Clock:
    """Seconds; stands in for `time.perf_counter`."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def install(self, monkeypatch) -> "Clock":
        monkeypatch.setattr(time, "perf_counter", self)
        return self

    def drive(self, run: SmallRun, warmup_steps: int = 0) -> SmallRun:
        """Let the run's throughput meter read this clock."""
        run.throughput.meter = ThroughputMeter(warmup_steps, _Reads(self))
        return run


class _Reads:
    """Reads a clock and is not copied with whoever holds it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __call__(self) -> float:
        return self.clock.now

    def __deepcopy__(self, memo):
        return self


class TimedTask(Pretrain):
    """Pre-training whose micro-batches and validation batches take a set time.

    Args:
        seconds: of each micro-batch in turn; the last holds for all that follow.
        validation: of each validation batch.
    """

    def __init__(self, clock: Clock, seconds: list[float], validation: float = 0.0) -> None:
        self.clock = clock
        self.seconds = list(seconds)
        self.validation = validation

    def loss(self, model, batch):
        self.clock.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        return super().loss(model, batch)

    def token_losses(self, model, batch):
        self.clock.now += self.validation
        return super().token_losses(model, batch)


def slow_batches(clock: Clock, seconds: float, micro_batch_size: int = 2, **changes) -> SyntheticDataModule:
    """Synthetic batches that each take a set time to read."""
    data = batches(micro_batch_size, **changes)
    read = data._training.read

    def slowly(rows):
        clock.now += seconds
        return read(rows)

    data._training.read = slowly
    return data


def metered(folder, clock: Clock, phases, *, meter=None, minimum=5.0, log_every=1) -> EnergyMonitor:
    """An energy monitor that reads 100 W, or `meter`."""
    by_phase = EnergyByPhase(meter or FakeMeter([100.0], clock), minimum)
    return EnergyMonitor(by_phase, log_every=log_every, phases=phases, journal=EnergyJournal(folder / "energy.jsonl"))


def rows_of(run: SmallRun) -> list[dict]:
    """What was logged."""
    run.metrics.save()
    return [json.loads(line) for line in (run.metrics.folder / "metrics.jsonl").read_text().splitlines()]
