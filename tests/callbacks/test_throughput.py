"""Tokens, times and utilisation of windows, on a clock that the test moves: on a CPU, and on a device with events."""

from types import SimpleNamespace

import pytest
import torch

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.metrics_logger import MetricsLogger
from litespark.callbacks.phases import Phases
from litespark.callbacks.throughput import ThroughputMonitor
from litespark.mesh import Mesh
from litespark.metrics import names
from litespark.metrics.mfu import MfuMeter, Rates
from litespark.metrics.throughput import ThroughputMeter
from litespark.planning.flops import model_flops_per_token
from litespark.training.checkpoint import state
from tests.callbacks.fake_time import TimedTask, rows_of
from tests.stand_in_device import stand_in
from tests.training.small_runs import LENGTH, batches, small_flops, small_llama, small_run, training_module

# ------------------------------------------------------------------ whole runs on a CPU


def test_mfu_is_the_closed_formula_of_a_step_of_several_micro_batches(tmp_path, clock):
    peak = 1e6
    module = training_module(steps=1, sequences=4, task=TimedTask(clock, [0.5]))
    run = clock.drive(small_run(tmp_path, module, accumulate=2, peak=peak))
    run.trainer.fit(module, batches(2))
    loader = iter(batches(2).train_dataloader())
    pairs, tokens = sum(next(loader).attention_pairs for _ in range(2)), 4 * LENGTH
    # of the keys that a token sees, within its document
    causal, full = (model_flops_per_token(small_llama(), keys) * tokens / peak for keys in (pairs / tokens, LENGTH))
    (row,) = rows_of(run)
    assert row[names.STEP_MS_MEDIAN] == pytest.approx(1000)
    assert row[names.TOKENS_PER_SECOND] == pytest.approx(tokens / 1.0)
    assert row[names.MFU_CAUSAL] == pytest.approx(causal, rel=1e-9)
    assert row[names.MFU_FULL] == pytest.approx(full, rel=1e-9)
    assert row[names.HFU_CAUSAL] == pytest.approx(causal, rel=1e-9)  # nothing is recomputed
    assert names.MFU_MEASURED_PEAK not in row


def test_validation_and_saving_take_no_training_time(tmp_path, clock, monkeypatch):
    phases, seen = Phases(), []
    phases.listen(lambda before, after: seen.append(after))
    checkpointer = Checkpointer(tmp_path / "checkpoints", every_steps=2, keep=2, about={}, phases=phases)
    module = training_module(steps=4, sequences=2, task=TimedTask(clock, [1.0], validation=10.0))
    run = small_run(tmp_path, module, log_every=4, validate_every=2, phases=phases, callbacks=[checkpointer])
    clock.drive(run)
    monkeypatch.setattr(state, "write", clock.slowed(state.write, 100))
    run.trainer.fit(module, batches(2))
    assert clock.now == pytest.approx(1000 + 4 + 2 * 3 * 10 + 2 * 100)
    assert run.throughput.summary().train_seconds == pytest.approx(4)
    assert run.throughput.summary().step_ms_p95 == pytest.approx(1000, rel=1e-2)
    assert seen == [*["train", "evaluate", "train", "checkpoint"] * 2, "train", "idle"]
    # the last validation of a run comes after its training, and leaves the run in the phase that it was in
    run.throughput.on_validation_start(run.trainer, module)
    run.throughput.on_validation_end(run.trainer, module)
    assert seen[-2:] == ["evaluate", "idle"]


def test_waiting_for_batches_has_its_share(tmp_path, clock):
    module = training_module(steps=3, sequences=2, task=TimedTask(clock, [3.0]))
    run, data = clock.drive(small_run(tmp_path, module)), batches(2)
    data._training.read = clock.slowed(data._training.read, 1.0)
    run.trainer.fit(module, data)
    # one second of four; the batch that is fetched before the first step is not part of one
    assert [row[names.DATA_WAIT_SHARE] for row in rows_of(run)] == pytest.approx([0.25, 0.25, 0.25])


def test_a_disturbed_probe_is_repeated_at_the_end_and_until_then_its_share_is_withheld(tmp_path, clock):
    module = training_module(steps=4, sequences=2, task=TimedTask(clock, [1.0]))
    run = clock.drive(small_run(tmp_path, module))
    run.throughput.mfu = MfuMeter(Rates(None, None, 1.0), small_flops, lambda: 1e12)
    run.trainer.fit(module, batches(2))
    assert {row.get(names.MFU_MEASURED_PEAK) for row in rows_of(run)} == {None}
    assert run.throughput.mfu.measured_peak == 1e12
    assert run.throughput.summary().train_seconds == pytest.approx(4)


def test_a_checkpoint_within_a_window_holds_the_steps_of_that_window(tmp_path, clock):
    phases = Phases()
    checkpointer = Checkpointer(tmp_path / "checkpoints", every_steps=3, keep=9, about={}, phases=phases)
    module = training_module(steps=8, sequences=2, task=TimedTask(clock, [1.0]))
    run = clock.drive(small_run(tmp_path, module, log_every=4, phases=phases, callbacks=[checkpointer]))
    run.trainer.fit(module, batches(2))
    (tmp_path / "resumed").mkdir()
    again = training_module(steps=8, sequences=2, task=TimedTask(clock, [1.0]))
    resumed = clock.drive(small_run(tmp_path / "resumed", again, log_every=4))
    state = tmp_path / "checkpoints" / "step-00000003"
    resumed.trainer.fit(again, batches(2), ckpt_path=state, weights_only=True)
    for summary in (run.throughput.summary(), resumed.throughput.summary()):
        assert (summary.steps, summary.tokens, summary.train_seconds) == (8, 8 * 2 * LENGTH, pytest.approx(8))


# ------------------------------------------------------------------ on a device that computes while the host goes on


@pytest.fixture
def loop(tmp_path, monkeypatch, clock):
    """A loop of steps on a device of the test's clock: `take(seconds, …)` takes as many."""
    device = stand_in(monkeypatch, now=staticmethod(clock), peak=3 * 2**30)
    phases, logger = Phases(), MetricsLogger(tmp_path)
    meter = MfuMeter(Rates(None, None, None), small_flops)
    monitor = ThroughputMonitor(mfu=meter, log_every=3, warmup_steps=0, phases=phases)
    monitor.meter = ThroughputMeter(0, clock)
    trainer = SimpleNamespace(loggers=[logger], train_dataloader=SimpleNamespace(wait_seconds=0.0))
    module = SimpleNamespace(
        device=torch.device("cpu"), steps_taken=0, tokens_seen=0, finished=False,
        last_step=(16, 15, 72), read_window=dict, check_finite=lambda: None, mesh=Mesh(), validation={},
        trainer=trainer,
    )  # fmt: skip
    monitor.on_train_start(trainer, module)

    def take(*all_seconds):
        for seconds in all_seconds:
            clock.now += seconds
            module.steps_taken += 1
            module.tokens_seen += 16
            monitor.on_train_batch_end(trainer, module, None, None, 0)

    return SimpleNamespace(**locals())


def test_each_step_has_the_time_between_its_marks_and_the_host_waits_once_in_a_window(loop):
    loop.device.calls.clear()
    loop.take(1.0, 2.0, 6.0)
    assert loop.device.calls == ["mark", "mark", "mark", "synchronise", "peak"]
    assert loop.logger.latest[names.STEP_MS_MEDIAN] == pytest.approx(2000)
    assert loop.logger.latest[names.STEP_MS_P95] == pytest.approx(5600)
    assert loop.logger.latest[names.TOKENS_PER_SECOND] == pytest.approx(48 / 9)
    assert loop.logger.latest[names.PEAK_MEMORY_GIB] == 3.0
    # the first step of the next window begins where the last one ended, and another device is fuller
    loop.module.mesh.gather = lambda value: [value, 5 * 2**30]
    loop.take(4.0, 4.0, 4.0)
    assert loop.logger.latest[names.STEP_MS_P95] == pytest.approx(4000)
    assert loop.logger.latest[names.PEAK_MEMORY_GIB] == 5.0


def test_a_validation_within_a_window_is_in_no_step_and_a_checkpoint_holds_what_came_before(loop):
    loop.take(1.0)
    loop.monitor.on_validation_start(loop.trainer, loop.module)
    loop.clock.now += 100
    loop.monitor.on_validation_end(loop.trainer, loop.module)
    loop.take(1.0)
    with loop.phases.during("checkpoint"):
        loop.clock.now += 50
        state = loop.monitor.state_dict()
    assert (state["all"]["steps"], state["all"]["seconds"]) == (2, pytest.approx(2))
    loop.take(1.0)
    assert loop.logger.latest[names.STEP_MS_P95] == pytest.approx(1000)
    assert loop.logger.latest[names.TOKENS_PER_SECOND] == pytest.approx(48 / 3)
    assert loop.monitor.summary().steps == 3


def test_a_step_whose_micro_batches_have_rollouts_between_has_all_the_time_that_it_trains(loop):
    for _ in range(3):
        for _ in range(2):
            loop.clock.now += 0.5  # before a rollout
            with loop.phases.during("rollout"):
                loop.clock.now += 100
        loop.take(1.0)
    assert loop.logger.latest[names.STEP_MS_MEDIAN] == pytest.approx(2000)
    assert loop.logger.latest[names.TOKENS_PER_SECOND] == pytest.approx(48 / 6)
