"""The progress line fits the terminal and has every figure at 80 columns."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from litespark.callbacks import progress
from litespark.callbacks.metrics_logger import MetricsLogger
from litespark.callbacks.phases import Phases
from litespark.callbacks.progress import ProgressBar
from litespark.metrics import names

PER_STEP = 1000
MEASURED = {
    names.TRAIN_LOSS: 3.14159,
    names.VALIDATION_LOSS: 3.5,
    names.TOKENS_PER_SECOND: 12345.6,
    names.MFU_MEASURED_PEAK: 0.4321,
    names.JOULES_PER_TOKEN: 0.01234,
}
# as long as the figures of a long run on many devices are
LONG = {**MEASURED, names.TRAIN_LOSS: 12.3456, names.TOKENS_PER_SECOND: 1234567.8, names.MFU_CAUSAL: 0.6543}


@pytest.fixture
def now(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.seconds, seconds=50.0)
    monkeypatch.setattr(progress, "time", clock)
    return clock


def bar(folder, *, terminal=False, width=300, notes=(), latest=()):
    metrics = MetricsLogger(folder)
    metrics.latest.update(latest)
    shown = ProgressBar(metrics, phases=Phases(), model="tiny", place="a CPU, fp32", notes=notes)
    shown.console = Console(file=io.StringIO(), force_terminal=terminal, width=width)
    return shown


def start(shown, step=0, steps=100, zero=True):
    module = SimpleNamespace(
        steps_taken=step,
        tokens_seen=step * PER_STEP,
        planned_steps=steps,
        planned_tokens=steps * PER_STEP,
        finished=False,
        mesh=SimpleNamespace(is_first=zero),
    )
    trainer = SimpleNamespace()
    shown.on_train_start(trainer, module)

    def take(step):
        module.steps_taken, module.tokens_seen, module.finished = step, step * PER_STEP, step >= steps
        shown.on_train_batch_end(trainer, module, None, None, 0)

    return take


def shown_at(width, folder, now, latest, step=20, steps=100):
    line = bar(folder, terminal=True, width=width, latest=latest)
    take = start(line, steps=steps)
    now.seconds += 30
    take(step)
    line._stop()
    console = Console(file=io.StringIO(), width=width)
    console.print(line)
    (text,) = console.file.getvalue().splitlines()
    return text.rstrip()


@pytest.mark.parametrize("latest, steps", [(MEASURED, 100), (LONG, 240_000)])
@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_the_line_fits_the_terminal_and_from_eighty_columns_on_has_every_figure(tmp_path, now, width, latest, steps):
    text = shown_at(width, tmp_path, now, latest, steps=steps)
    assert len(text) <= width
    for part in (f"20/{steps}", "loss ", " tokens/s", "MFU ", "J/token", " left"):
        assert part in text or width < 80


def test_more_columns_hold_more_words_and_a_bar(tmp_path, now):
    assert shown_at(80, tmp_path, now, MEASURED) == (
        "step 20/100  loss 3.142  12,346 tokens/s  MFU 43.2%  0.0123 J/token  2:00 left"
    )
    wide = shown_at(120, tmp_path, now, MEASURED)
    assert wide.startswith("step 20/100  loss 3.142  validation 3.500  12,346 tokens/s  MFU 43.2%  0.0123 J/token")
    assert "━━" in wide
    assert "of the measured peak" in shown_at(200, tmp_path, now, MEASURED)
    assert shown_at(40, tmp_path, now, MEASURED) == "20/100  loss 3.142  2:00 left"


def test_without_a_terminal_the_start_is_told_and_then_a_line_now_and_then_and_at_the_end(tmp_path, now):
    shown = bar(tmp_path, notes=["J/token: not measured, RAPL is for root only"])
    take = start(shown, step=3)
    assert shown.forms()[0] == "step 3/100  J/token n/a"  # what is not measured is left out, of energy it is said
    for step in (*range(4, 9), 100):
        now.seconds += 6
        take(step)
    lines = shown.console.file.getvalue().splitlines()
    assert lines[:2] == [
        "tiny, 100 steps (3 taken), 100,000 tokens, a CPU, fp32",
        "J/token: not measured, RAPL is for root only",
    ]
    assert [line.split("  ")[0] for line in lines[2:]] == [f"step {step}/100" for step in (5, 7, 100)]
    other_rank = bar(tmp_path, notes=["a reason"])
    start(other_rank, zero=False)(1)
    assert other_rank.console.file.getvalue() == ""
