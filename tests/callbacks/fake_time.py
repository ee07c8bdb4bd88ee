"""A clock that only moves when something takes time, so that windows and joules can be told in advance."""

import json

from litespark.callbacks.energy import EnergyMonitor
from litespark.metrics.energy import EnergyJournal
from litespark.metrics.energy_by_phase import EnergyByPhase
from litespark.metrics.throughput import ThroughputMeter
from litespark.tasks.pretrain import Pretrain
from tests.metrics.fake_meter import FakeMeter
from tests.training.small_runs import SmallRun


class Clock:
    """Seconds; stands in for `time.perf_counter`."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def drive(self, run: SmallRun) -> SmallRun:
        """Let the run's throughput meter read this clock."""
        run.throughput.meter = ThroughputMeter(0, self)
        return run

    def slowed(self, function, seconds: float):
        """`function`, each call of which takes a set time."""

        def slowly(*arguments):
            self.now += seconds
            return function(*arguments)

        return slowly

    def __deepcopy__(self, memo):
        return self


class TimedTask(Pretrain):
    """Pre-training whose micro-batches take `seconds` in turn, the last for all that follow, and validation batches."""

    def __init__(self, clock: Clock, seconds: list[float], validation: float = 0.0) -> None:
        self.clock, self.seconds, self.validation = clock, list(seconds), validation

    def loss(self, model, batch):
        self.clock.now += self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        return super().loss(model, batch)

    def token_losses(self, model, batch):
        self.clock.now += self.validation
        return super().token_losses(model, batch)


def metered(folder, clock: Clock, phases, *, meter=None, minimum=5.0, log_every=1) -> EnergyMonitor:
    """An energy monitor that reads 100 W, or `meter`."""
    by_phase = EnergyByPhase(meter or FakeMeter([100.0], clock), minimum)
    return EnergyMonitor(by_phase, log_every=log_every, phases=phases, journal=EnergyJournal(folder / "energy.jsonl"))


def rows_of(run: SmallRun) -> list[dict]:
    """What was logged."""
    run.metrics.save()
    return [json.loads(line) for line in (run.metrics.folder / "metrics.jsonl").read_text().splitlines()]
