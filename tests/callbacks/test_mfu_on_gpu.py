"""The GPU's way through the throughput monitor, with a stand-in for CUDA's events: steps are timed without waiting."""

from types import SimpleNamespace

import pytest
import torch
from litespark.callbacks.mfu import Rates, ThroughputMonitor

from litespark.callbacks.metrics_logger import MetricsLogger
from litespark.callbacks.phases import Phases
from litespark.metrics import names
from litespark.metrics.throughput import ThroughputMeter
from litespark.training.host_group import HostGroup
from tests.callbacks.fake_time import Clock
from tests.training.small_runs import LENGTH, small_llama


class Device:
    """A GPU on the test's clock; counts how often the host waits for it."""

    def __init__(self, clock, monkeypatch):
        self.waits, self.allocated = 0, 3 * 2**30
        device = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = clock.now

            def elapsed_time(self, other):
                assert device.waits, "read before the device was waited for"
                return (other.at - self.at) * 1e3

        def wait(_):
            self.waits += 1

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", wait)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: self.allocated)


@pytest.fixture
def loop(tmp_path, monkeypatch):
    """A loop of steps on such a device: `take(seconds)` takes one."""
    clock = Clock().install(monkeypatch)
    device = Device(clock, monkeypatch)
    phases = Phases()
    monitor = ThroughputMonitor(
        model=small_llama(), seq_len=LENGTH, recompute="none", rates=Rates(None, None, None), log_every=3,
        warmup_steps=0, phases=phases,
    )  # fmt: skip
    monitor.meter = ThroughputMeter(0, clock)
    logger = MetricsLogger(tmp_path)
    trainer = SimpleNamespace(
        world_size=1, is_global_zero=True, loggers=[logger], train_dataloader=SimpleNamespace(wait_seconds=0.0)
    )
    module = SimpleNamespace(
        device=torch.device("cuda"), steps_taken=0, tokens_seen=0, finished=False,
        last_step=(16, 15, 72), read_window=dict, check_finite=lambda: None, host_group=HostGroup(), validation={},
    )  # fmt: skip
    monitor.on_train_start(trainer, module)

    def take(seconds):
        clock.now += seconds
        module.steps_taken += 1
        module.tokens_seen += 16
        monitor.on_train_batch_end(trainer, module, None, None, 0)

    return SimpleNamespace(**locals())


def test_the_host_waits_once_in_a_window(loop):
    at_start = loop.device.waits
    for _ in range(9):
        loop.take(1.0)
    assert loop.device.waits - at_start == 3


def test_each_step_has_the_time_between_its_events(loop):
    for seconds in (1.0, 2.0, 6.0):
        loop.take(seconds)
    assert loop.logger.latest[names.STEP_MS_MEDIAN] == pytest.approx(2000)
    assert loop.logger.latest[names.STEP_MS_P95] == pytest.approx(5600)
    assert loop.logger.latest[names.TOKENS_PER_SECOND] == pytest.approx(48 / 9)
    assert loop.logger.latest[names.PEAK_MEMORY_GIB] == 3.0
    # the first step of the next window begins where the last one ended
    for seconds in (4.0, 4.0, 4.0):
        loop.take(seconds)
    assert loop.logger.latest[names.STEP_MS_P95] == pytest.approx(4000)


def test_a_validation_within_a_window_is_in_no_step(loop):
    loop.take(1.0)
    loop.monitor.on_validation_start(loop.trainer, loop.module)
    loop.clock.now += 100
    loop.monitor.on_validation_end(loop.trainer, loop.module)
    loop.take(1.0)
    loop.take(1.0)
    assert loop.logger.latest[names.STEP_MS_P95] == pytest.approx(1000)
    assert loop.logger.latest[names.TOKENS_PER_SECOND] == pytest.approx(48 / 3)
    assert loop.monitor.summary().steps == 3


def test_a_checkpoint_within_a_window_holds_its_steps(loop):
    loop.take(1.0)
    loop.take(3.0)
    with loop.phases.during("checkpoint"):
        loop.clock.now += 50
        state = loop.monitor.state_dict()
    assert (state["all"]["steps"], state["all"]["seconds"]) == (2, pytest.approx(4))


def test_peak_memory_is_that_of_the_fullest_device(loop):
    loop.module.host_group.gather = lambda value: [value, 5 * 2**30]
    for _ in range(3):
        loop.take(1.0)
    assert loop.logger.latest[names.PEAK_MEMORY_GIB] == 5.0
