"""Tokens, times and utilisation of windows, on a clock that the test moves."""

import json
import logging
from types import SimpleNamespace

import pytest
from litespark.callbacks.mfu import Rates, ThroughputMonitor

from litespark.callbacks import mfu
from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.phases import Phases
from litespark.metrics import names
from litespark.metrics.hardware import PeakFlops
from tests.callbacks.fake_time import Clock, TimedTask, slow_batches
from tests.training.small_runs import LENGTH, batches, small_llama, small_run, training_module


@pytest.fixture
def clock(monkeypatch):
    return Clock().install(monkeypatch)


def rows_of(run):
    run.metrics.save()
    return [json.loads(line) for line in (run.metrics.folder / "metrics.jsonl").read_text().splitlines()]


def test_windows_divide_counted_tokens_by_their_own_seconds(tmp_path, clock):
    module = training_module(steps=4, rows=2, task=TimedTask(clock, [1.0, 1.0, 1.0, 5.0]))
    run = clock.drive(small_run(tmp_path, module, log_every=2))
    run.trainer.fit(module, batches(2))
    first, second = rows_of(run)
    tokens = 2 * 2 * LENGTH
    assert first[names.TOKENS_PER_SECOND] == pytest.approx(tokens / 2)
    assert second[names.TOKENS_PER_SECOND] == pytest.approx(tokens / 6)
    assert second[names.STEP_MS_MEDIAN] == pytest.approx(3000)
    assert second[names.STEP_MS_P95] == pytest.approx(4800)  # between 1 s and 5 s
    assert run.throughput.summary().tokens_per_second == pytest.approx(2 * tokens / 8)
    assert run.throughput.summary().steps == 4


def test_a_step_of_several_micro_batches_is_one_step(tmp_path, clock):
    module = training_module(steps=2, rows=6, task=TimedTask(clock, [1.0]))
    run = clock.drive(small_run(tmp_path, module, accumulate=3))
    run.trainer.fit(module, batches(2))
    assert [row[names.STEP_MS_MEDIAN] for row in rows_of(run)] == pytest.approx([3000, 3000])
    assert run.throughput.summary().train_seconds == pytest.approx(6)


def test_validation_and_saving_take_no_training_time(tmp_path, clock, monkeypatch):
    phases = Phases()
    checkpointer = Checkpointer(tmp_path / "checkpoints", every_steps=2, keep=2, about={}, phases=phases)
    module = training_module(steps=4, rows=2, task=TimedTask(clock, [1.0], validation=10.0))
    run = small_run(tmp_path, module, log_every=4, validate_every=2, phases=phases, callbacks=[checkpointer])
    clock.drive(run)
    save = run.trainer.save_checkpoint

    def save_slowly(*arguments, **named):
        clock.now += 100
        save(*arguments, **named)

    monkeypatch.setattr(run.trainer, "save_checkpoint", save_slowly)
    run.trainer.fit(module, batches(2))
    assert clock.now == pytest.approx(1000 + 4 + 2 * 3 * 10 + 2 * 100)
    assert run.throughput.summary().train_seconds == pytest.approx(4)
    assert run.throughput.summary().step_ms_p95 == pytest.approx(1000, rel=1e-2)
    assert phases.current == "idle"


def test_after_a_validation_the_run_is_in_the_phase_that_it_was_in_before(tmp_path, clock):
    phases, seen = Phases(), []
    phases.listen(lambda before, after: seen.append(after))
    module = training_module(steps=2, rows=2, task=TimedTask(clock, [1.0], validation=1.0))
    run = clock.drive(small_run(tmp_path, module, validate_every=1, phases=phases))
    run.trainer.fit(module, batches(2))
    assert seen == ["train", "evaluate", "train", "evaluate", "train", "idle"]
    # the last validation of a run comes after its training
    run.throughput.on_validation_start(run.trainer, module)
    run.throughput.on_validation_end(run.trainer, module)
    assert seen[-2:] == ["evaluate", "idle"]


def test_waiting_for_batches_has_its_share(tmp_path, clock):
    module = training_module(steps=3, rows=2, task=TimedTask(clock, [3.0]))
    run = clock.drive(small_run(tmp_path, module))
    run.trainer.fit(module, slow_batches(clock, 1.0))
    # one second of four; the batch that is fetched before the first step is not part of one
    assert [row[names.DATA_WAIT_SHARE] for row in rows_of(run)] == pytest.approx([0.25, 0.25, 0.25])


def test_without_waiting_the_share_is_zero(tmp_path, clock):
    module = training_module(steps=1, rows=2, task=TimedTask(clock, [3.0]))
    run = clock.drive(small_run(tmp_path, module))
    run.trainer.fit(module, batches(2))
    assert rows_of(run)[0][names.DATA_WAIT_SHARE] == 0.0


def test_mfu_is_the_closed_formula(tmp_path, clock):
    peak = 1e6
    module = training_module(steps=1, rows=4, task=TimedTask(clock, [0.5]))
    run = clock.drive(small_run(tmp_path, module, accumulate=2, peak=peak))
    data = batches(2)
    run.trainer.fit(module, data)
    model = small_llama()
    # 6 a matmul parameter; 12·H·Dh a layer and visible key (measurement of attention: causal, within documents)
    width, head_dim = model.hidden_size, model.hidden_size // model.num_heads
    block = (
        2 * width * model.num_heads * head_dim
        + 2 * width * model.num_kv_heads * head_dim
        + 3 * width * model.intermediate_size
    )
    matmul = model.num_layers * block + model.vocab_size * width
    loader = iter(batches(2).train_dataloader())
    pairs = sum(next(loader).attention_pairs for _ in range(2))
    tokens = 4 * LENGTH
    per_key = 12 * model.num_layers * model.num_heads * head_dim
    causal = (6 * matmul * tokens + per_key * pairs) / 1.0 / peak
    full = (6 * matmul + per_key * LENGTH) * tokens / 1.0 / peak
    (row,) = rows_of(run)
    assert row[names.TOKENS_PER_SECOND] == pytest.approx(tokens / 1.0)
    assert row[names.MFU_CAUSAL] == pytest.approx(causal, rel=1e-9)
    assert row[names.MFU_FULL] == pytest.approx(full, rel=1e-9)
    assert row[names.HFU_CAUSAL] == pytest.approx(causal, rel=1e-9)  # nothing is recomputed
    assert names.MFU_MEASURED_PEAK not in row


def monitor(rates, recompute="none", probe=None):
    return ThroughputMonitor(
        model=small_llama(), seq_len=LENGTH, recompute=recompute, rates=rates, log_every=1, warmup_steps=0,
        phases=Phases(), probe=probe,
    )  # fmt: skip


def test_utilisation_is_shared_among_devices_and_recompute_counts_for_hardware_only():
    peak = PeakFlops("card", "bf16", 1e9, "test")
    one = monitor(Rates(peak, None, 5e8), "full").utilisations(1e3, 4.0)
    assert one[names.MFU_MEASURED_PEAK] == pytest.approx(2 * one[names.MFU_CAUSAL])
    # the forward pass of the blocks, a third of their six, again
    assert 1.1 < one[names.HFU_CAUSAL] / one[names.MFU_CAUSAL] < 4 / 3
    two = monitor(Rates(peak, None, 5e8), "full")
    two._world_size = 2
    for name, value in two.utilisations(1e3, 4.0).items():
        if name == names.MEASURED_PEAK_FLOPS:  # of one device
            continue
        assert value == pytest.approx(one[name] / 2)


def test_without_a_peak_utilisation_is_absent():
    assert set(monitor(Rates(None, None, None)).utilisations(1e3, 4.0).values()) == {None}


def test_above_the_peak_of_its_precision_a_run_has_no_mfu_and_that_is_said_once(caplog):
    peak = PeakFlops("card", "bf16", 1e3, "test")
    impossible = monitor(Rates(peak, peak, None))
    with caplog.at_level(logging.WARNING):
        assert set(impossible.utilisations(1e6, 4.0).values()) == {None}
        impossible.utilisations(1e6, 4.0)
    assert caplog.text.count("more than the device can do") == 1


def test_fp8_may_pass_the_peak_of_bf16_and_reach_twice_the_probe_in_it():
    tokens, keys = 1e3, 4.0
    flops = monitor(Rates(None, None, None))._flops(tokens, keys)[0]
    bf16, fp8 = PeakFlops("card", "bf16", flops / 1.5, "test"), PeakFlops("card", "fp8", flops / 0.75, "test")
    values = monitor(Rates(bf16, fp8, flops / 1.8, most_of_measured=2.0)).utilisations(tokens, keys)
    assert values[names.MFU_CAUSAL] == pytest.approx(1.5)
    assert values[names.MFU_MEASURED_PEAK] == pytest.approx(1.8)


def test_a_disturbed_probe_is_repeated_and_until_then_its_share_is_withheld(tmp_path, clock, monkeypatch):
    peaks = [2.0, 1e12, 3.0]  # at a step, at another step, at the end
    module = training_module(steps=4, rows=2, task=TimedTask(clock, [1.0]))
    run = clock.drive(small_run(tmp_path, module))
    run.throughput.probe = lambda: peaks.pop(0)
    run.throughput.measured_peak, run.throughput._probed = 1.0, clock.now
    monkeypatch.setattr(mfu, "time", SimpleNamespace(monotonic=lambda: 20 * clock.now, perf_counter=clock))
    run.throughput._probed = 20 * clock.now
    run.trainer.fit(module, batches(2))
    # two steps make 40 s, and sooner than half a minute after the last probe there is none
    shares = [row.get(names.MFU_MEASURED_PEAK) for row in rows_of(run)]
    assert [share is None for share in shares] == [True, True, True, False]
    assert 0 < shares[-1] < 1
    assert peaks == []
    assert run.throughput.measured_peak == 1e12
    assert run.throughput.summary().train_seconds == pytest.approx(4)


def test_a_checkpoint_within_a_window_holds_the_steps_of_that_window(tmp_path, clock):
    phases = Phases()
    checkpointer = Checkpointer(tmp_path / "checkpoints", every_steps=3, keep=9, about={}, phases=phases)
    module = training_module(steps=8, rows=2, task=TimedTask(clock, [1.0]))
    run = clock.drive(small_run(tmp_path, module, log_every=4, phases=phases, callbacks=[checkpointer]))
    run.trainer.fit(module, batches(2))
    (tmp_path / "resumed").mkdir()
    again = training_module(steps=8, rows=2, task=TimedTask(clock, [1.0]))
    resumed = clock.drive(small_run(tmp_path / "resumed", again, log_every=4))
    state = tmp_path / "checkpoints" / "step-00000003" / "state.ckpt"
    resumed.trainer.fit(again, batches(2), ckpt_path=state, weights_only=True)
    for meter in (run.throughput, resumed.throughput):
        summary = meter.summary()
        assert (summary.steps, summary.counts.tokens) == (8, 8 * 2 * LENGTH)
        assert summary.train_seconds == pytest.approx(8)


def test_the_summary_of_a_run_that_stops_within_a_window_counts_its_steps(tmp_path, clock):
    class Stop(TimedTask):
        def loss(self, model, batch):
            if clock.now >= 1003:
                raise RuntimeError("planted")
            return super().loss(model, batch)

    module = training_module(steps=8, rows=2, task=Stop(clock, [1.0]))
    run = clock.drive(small_run(tmp_path, module, log_every=2))
    with pytest.raises(RuntimeError, match="planted"):
        run.trainer.fit(module, batches(2))
    assert (run.throughput.summary().steps, run.throughput.summary().train_seconds) == (3, pytest.approx(3))
