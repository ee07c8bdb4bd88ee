"""The status line says what is measured, and why energy is not."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from litespark.callbacks import progress
from litespark.callbacks.metrics_logger import MetricsLogger
from litespark.callbacks.progress import ProgressBar
from litespark.metrics import names
from tests.training.small_runs import batches, small_run, training_module


@pytest.fixture
def now(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.seconds, seconds=50.0)
    monkeypatch.setattr(progress, "time", clock)
    return clock


def bar(folder, *, no_energy=None, terminal=False, **latest):
    metrics = MetricsLogger(folder)
    metrics.latest.update(latest)
    shown = ProgressBar(metrics, no_energy=no_energy)
    shown.console = Console(file=io.StringIO(), force_terminal=terminal, soft_wrap=True, width=300)
    return shown


def start(shown, step=0, steps=100, zero=True):
    module = SimpleNamespace(steps_taken=step, planned_steps=steps)
    trainer = SimpleNamespace(is_global_zero=zero)
    shown.on_train_start(trainer, module)

    def take(step):
        module.steps_taken = step
        shown.on_train_batch_end(trainer, module, None, None, 0)

    return take


def test_everything_measured_is_shown_with_the_time_left(tmp_path, now):
    values = {
        names.TRAIN_LOSS: 3.14159,
        names.VALIDATION_LOSS: 3.5,
        names.TOKENS_PER_SECOND: 12345.6,
        names.MFU_CAUSAL: 0.4321,
        names.JOULES_PER_TOKEN: 0.01234,
    }
    shown = bar(tmp_path, **values)
    start(shown)
    now.seconds += 30
    assert shown.status(10, 100) == (
        "loss 3.142 · validation 3.500 · 12,346 tokens/s · MFU 43.2% · 0.0123 J/token · 4:30 left"
    )
    now.seconds += 36000
    assert shown.status(50, 100).endswith("10:00:30 left")


def test_what_is_not_measured_is_left_out_and_energy_is_said(tmp_path, now):
    shown = bar(tmp_path)
    start(shown)
    assert shown.status(0, 100) == "J/token n/a"


def test_without_a_known_peak_the_measured_one_is_named(tmp_path, now):
    shown = bar(tmp_path, **{names.MFU_MEASURED_PEAK: 0.5})
    start(shown)
    assert "MFU 50.0% of the measured peak" in shown.status(0, 100)


def test_the_reason_for_no_energy_is_said_once(tmp_path, now):
    shown = bar(tmp_path, no_energy="RAPL is for root only")
    take = start(shown)
    for step in range(1, 4):
        now.seconds += 11
        take(step)
    text = shown.console.file.getvalue()
    assert text.count("J/token: not measured, RAPL is for root only") == 1
    assert text.count("J/token n/a") == 3


def test_without_a_terminal_a_line_comes_now_and_then_and_at_the_end(tmp_path, now):
    shown = bar(tmp_path)
    take = start(shown, steps=5)
    for step in range(1, 6):
        now.seconds += 6
        take(step)
    lines = shown.console.file.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 2/5", "step 4/5", "step 5/5"]


def test_after_a_resume_the_time_left_counts_the_steps_of_this_process(tmp_path, now):
    shown = bar(tmp_path)
    start(shown, step=90)
    now.seconds += 10
    assert shown.status(95, 100).endswith("0:10 left")


def test_a_terminal_gets_a_bar_that_is_taken_down(tmp_path, now):
    shown = bar(tmp_path, terminal=True)
    take = start(shown, steps=4)
    take(3)
    assert shown._bar.tasks[0].completed == 3
    shown.on_exception(None, None, RuntimeError())
    assert shown._bar is None
    assert "3/4" in shown.console.file.getvalue()


def test_other_ranks_are_silent(tmp_path, now):
    shown = bar(tmp_path, no_energy="a reason")
    take = start(shown, zero=False)
    now.seconds += 60
    take(1)
    assert shown.console.file.getvalue() == ""


def test_a_real_run_shows_loss_speed_and_mfu(tmp_path):
    module = training_module(steps=3, rows=2)
    run = small_run(tmp_path, module, peak=1e12)
    shown = ProgressBar(run.metrics, no_energy="a reason")
    shown.console = Console(file=io.StringIO(), soft_wrap=True)
    run.trainer.callbacks.append(shown)
    run.trainer.fit(module, batches(2))
    last = shown.console.file.getvalue().splitlines()[-1]
    assert last.startswith("step 3/3  loss ")
    for part in ("tokens/s", "MFU", "J/token n/a", "0:00 left"):
        assert part in last
